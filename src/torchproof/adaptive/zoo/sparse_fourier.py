"""An L0-robust sparse Fourier transform (Bafna, Murtagh and Vyas 2018): images are taken for a few
cosines and a few wild pixels, and only the cosines are shown to the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.predictor import Declared, DefendedPredictor
from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import Attack, EveryTarget
from torchproof.attack.fmn import fmn
from torchproof.attack.minimum import ByLength
from torchproof.attack.starts import Zero
from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.core.objectives import Margin, TargetedMargin
from torchproof.core.threats import Threat
from torchproof.data.dataset import Dataset
from torchproof.nn.cnn import SmallCNN
from torchproof.train.loop import fit
from torchproof.train.settings import Settings
from torchproof.train.standard import Standard

SHARE = 0.05  # of the coefficients that are kept
WILD = 0.04  # of the pixels that may be wild
ROUNDS = 10
EPOCHS = 8


def cosines(n: int) -> Tensor:
    """(n, n) orthonormal discrete cosine transform of type II: row k is the k-th cosine."""
    k, t = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    rows = torch.cos(math.pi * (2 * t + 1) * k / (2 * n)) * math.sqrt(2 / n)
    rows[0] /= math.sqrt(2)
    return rows.float()


def largest(x: Tensor, count: int) -> Tensor:
    """x (B, ...) with all but the `count` largest entries of each row put to 0."""
    flat = x.flatten(1)
    places = flat.abs().topk(count, dim=1).indices
    return torch.zeros_like(flat).scatter(1, places, flat.gather(1, places)).view_as(x)


class Cosines(nn.Module):
    """Images (B, C, H, W) to coefficients and back, channel by channel."""

    rows: Tensor
    columns: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rows", cosines(height))
        self.register_buffer("columns", cosines(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.rows @ x @ self.columns.T

    def back(self, c: Tensor) -> Tensor:
        return self.rows.T @ c @ self.columns


class SparseFourier(nn.Module):
    """Iterative hard thresholding (Bafna et al. 2018, algorithm 1) of images y = F^-1 c + e with
    `kept` coefficients c and `wild` pixels e, the latter starting from 0:

        c <- the `kept` largest of F (y - e);  e <- the `wild` largest of y - F^-1 c

    Answers F^-1 c after `rounds` rounds, without gradient: it was a step before the network.
    rounds = 1 or wild = 0 is the plain projection on the `kept` largest coefficients.
    """

    def __init__(self, height: int, width: int, kept: int, wild: int, rounds: int = ROUNDS) -> None:
        super().__init__()
        self.transform = Cosines(height, width)
        self.kept, self.wild, self.rounds = kept, wild, rounds

    @torch.no_grad()
    def forward(self, y: Tensor) -> Tensor:
        return self.transform.back(self.parts(y)[0])

    @torch.no_grad()
    def parts(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients c, and the pixels e that the last of them were computed without."""
        e, c = torch.zeros_like(y), torch.zeros_like(y)
        for number in range(self.rounds):
            c = largest(self.transform(y - e), self.kept)
            if self.wild and number < self.rounds - 1:
                e = largest(y - self.transform.back(c), self.wild)
        return c, e


class Projection(nn.Module):
    """What a `SparseFourier` does to the image at hand once it has chosen its coefficients: a
    projection on them, with its slope (BPDA).
    """

    def __init__(self, sparse: SparseFourier) -> None:
        super().__init__()
        self.sparse = sparse

    def forward(self, y: Tensor) -> Tensor:
        transform = self.sparse.transform
        chosen = self.sparse.parts(y.detach())[0] != 0
        return transform.back(transform(y) * chosen)


def _network(data: Dataset, seed: int) -> nn.Module:
    channels, _, size = data.x.shape[1:]
    with forked(keys.seed_of(seed, "weights"), torch.device("cpu")):
        net = SmallCNN(channels, size, len(data.classes))
    for _ in fit(net, data, Standard(), Settings.of(epochs=EPOCHS, lr=0.05, seed=seed)):
        pass
    return net.eval()


def train(material: Material, seed: int) -> tuple[DefendedPredictor, nn.Module]:
    """A network trained on images of few coefficients behind the transform, and the same trained
    on the images themselves.
    """
    data = material.train
    channels, height, width = data.x.shape[1:]
    numbers = channels * height * width
    kept, wild = max(4, int(SHARE * numbers)), max(1, int(WILD * numbers))
    plain = SparseFourier(height, width, kept, 0, 1)
    sparse = plain(data.x).clamp(0, 1)
    made = Dataset.of(sparse, data.y, data.classes, data.name, data.split)
    defended = DefendedPredictor(
        _network(made, seed),
        preprocess={"fourier": SparseFourier(height, width, kept, wild)},
        declared=Declared(non_differentiable=True),
    )
    return defended, _network(data, seed)


def _nearest(attack: Attack) -> Attack:
    """Kept is the win of fewest pixels, not the surest one."""
    return replace(attack, wrap=lambda oracle: ByLength(oracle))


def naive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    pixels = int(threat.eps)
    greedy = pgd(threat, pixels + 5, 1 / pixels, Margin(), Zero())
    network, why = defended.without("fourier"), "found on the network alone, then shown"
    return (
        Attempt("PGD", greedy, why="the whole as it stands: the transform has no gradient"),
        Attempt("greedy, on the network", _nearest(greedy), network, why + " to the whole"),
        Attempt("FMN, on the network", _nearest(fmn(threat, 60)), network, why + " to the whole"),
    )


def adaptive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    sparse = defended.preprocess["fourier"]
    assert isinstance(sparse, SparseFourier)
    on = defended.substituted("fourier", Projection(sparse))
    steps = 2 * int(threat.eps)
    towards = pgd(threat, steps, objective=TargetedMargin(), start=Zero())
    why = "the slope of the projection on the coefficients that were chosen"
    return (
        Attempt("BPDA, every target", EveryTarget(towards, 9), on, why=why),
        Attempt("BPDA, identity", EveryTarget(towards, 3), defended.substituted("fourier"),
                why="as if the transform changed nothing"),
    )  # fmt: skip


DEFENCE = Defence(
    name="sparse-fourier",
    source="Bafna, Murtagh and Vyas 2018",
    read="abstract and a review of the algorithm and the experiments; how it was broken, in a "
    "summary of Tramer et al. 2020",
    reconstructed="network, training, shares of coefficients and pixels, number of rounds; the "
    "fewest pixels are found by greedy steps and by FMN instead of JSMA and CW-L0; that those saw "
    "the network alone is from memory",
    data="mnist",
    threat="l0:20",
    flags=("zero-gradients", "gradient-free-wins", "active-test-fails", "surrogate-wins"),
    why="the choice of coefficients cuts the gradient, though what follows is a linear projection",
    train=train,
    naive=naive,
    adaptive=adaptive,
)
