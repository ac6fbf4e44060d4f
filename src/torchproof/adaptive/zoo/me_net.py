"""ME-Net (Yang, Zhang, Katabi and Xu 2019): pixels are dropped at random, and the image is put
together again from what is left by matrix estimation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.predictor import Declared, DefendedPredictor
from torchproof.adaptive.zoo.descent import descend
from torchproof.attack.catalogue import averaged, pgd
from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.core.objectives import Margin
from torchproof.core.threats import Threat
from torchproof.nn.cnn import SmallCNN

KEPT = (0.4, 0.6)  # between these lies the share of pixels that is kept
CUT = 0.15  # singular values below this share of the largest are left out
SAMPLES = 20
EPOCHS = 8


class MatrixEstimation(nn.Module):
    """Images (B, C, H, W), a random share p of their pixels kept, to estimates of the whole: the
    kept pixels over p, less their small singular values, clipped to [0, 1] (universal singular
    value thresholding, Chatterjee 2015, with a threshold relative to the largest value).

    The mask is drawn anew at each call, p for each image from `kept`, the same pixels in all
    channels. Without gradient: it was a step before the network.
    """

    def __init__(self, kept: tuple[float, float] = KEPT, cut: float = CUT) -> None:
        super().__init__()
        self.kept, self.cut = kept, cut

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        low, high = self.kept
        share = low + (high - low) * torch.rand(len(x), 1, 1, 1, device=x.device, dtype=x.dtype)
        mask = torch.rand(len(x), 1, *x.shape[2:], device=x.device, dtype=x.dtype) < share
        return self.estimate(x * mask / share)

    def estimate(self, w: Tensor) -> Tensor:
        """The matrices w (B, C, H, W) on their strong right singular vectors, clipped to [0, 1]."""
        squares, vectors = torch.linalg.eigh(w.transpose(2, 3) @ w)
        strong = squares >= self.cut**2 * squares.amax(-1, keepdim=True)
        strong = vectors * strong[..., None, :]
        made: Tensor = w @ strong @ strong.transpose(2, 3)
        return made.clamp(0, 1)


def _network(material: Material, before: nn.Module, seed: int) -> nn.Module:
    data = material.train
    channels, _, size = data.x.shape[1:]
    with forked(keys.seed_of(seed, "weights"), torch.device("cpu")):
        net = SmallCNN(channels, size, len(data.classes))

    def entropy(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(before(x)), y)

    return descend(net, entropy, data, epochs=EPOCHS, seed=seed)


def train(material: Material, seed: int) -> tuple[DefendedPredictor, nn.Module]:
    """A network trained on estimates, a new mask each time, behind the estimation; and the same
    trained on the images themselves.
    """
    defended = DefendedPredictor(
        _network(material, MatrixEstimation(), seed),
        preprocess={"estimation": MatrixEstimation()},
        declared=Declared(random=True, non_differentiable=True),
    )
    return defended, _network(material, nn.Identity(), seed)


def naive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    why = "the whole as it stands: the estimation has no gradient"
    return (Attempt("PGD-40", pgd(threat, 40), why=why),)


def adaptive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    on = defended.substituted("estimation")
    return (
        Attempt(
            "BPDA, EOT", averaged(pgd(threat, 50, objective=Margin()), SAMPLES), on,
            why="as if the estimation changed nothing, the mean over masks, its best iterate",
        ),
        Attempt(
            "BPDA", pgd(threat, 100), on,
            why="one mask a step, as in the paper's last tables",
        ),
    )  # fmt: skip


DEFENCE = Defence(
    name="me-net",
    source="Yang, Zhang, Katabi and Xu 2019",
    read="abstract and introduction; how it was broken, in a summary of Tramer et al. 2020 and of "
    "their published notebook",
    reconstructed="network, training (not adversarial, unlike the one that was broken), shares of "
    "pixels, the threshold of the estimation; the naive attack, which does not see through the "
    "estimation: images found on a network without it transfer, so all that forms here is a cut "
    "gradient",
    data="mnist",
    threat="linf:0.15",
    flags=(
        "random", "zero-gradients", "surrogate-wins", "gradient-free-wins", "active-test-fails",
    ),
    why="the estimation cuts the gradient, and its masks are drawn anew each time",
    train=train,
    naive=naive,
    adaptive=adaptive,
)  # fmt: skip
