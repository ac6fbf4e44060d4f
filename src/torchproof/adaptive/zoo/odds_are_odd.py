"""The odds are odd (Roth, Kilcher and Hofmann 2019): under noise the logits of an adversarial image
move back towards the true class, further than those of a clean one ever do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.predictor import Declared, DefendedPredictor
from torchproof.attack.catalogue import averaged, pgd
from torchproof.attack.combine import EveryTarget
from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.core.matching import Matching
from torchproof.core.objectives import CrossEntropy
from torchproof.core.threats import Threat
from torchproof.core.unaware import Unaware
from torchproof.nn.cnn import SmallCNN
from torchproof.train.loop import fit
from torchproof.train.settings import Settings
from torchproof.train.standard import Standard

SIGMA = 0.25  # of the noise, in input units
DRAWS = 8
EPOCHS = 8


class Odds(nn.Module):
    """The largest standardised shift of the log-odds of another class z against the answer y under
    noise eta ~ N(0, sigma^2):

        max_{z != y} (E_eta[(f_z - f_y)(x + eta) - (f_z - f_y)(x)] - mean_yz) / std_yz

    The expectation is over `draws` fresh draws, mean_yz and std_yz are those of clean images that
    are answered y.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, classes: int, sigma: float, draws: int = DRAWS) -> None:
        super().__init__()
        self.network, self.sigma, self.draws = network, sigma, draws
        self.register_buffer("mean", torch.zeros(classes, classes))
        self.register_buffer("std", torch.ones(classes, classes))

    def shifts(self, x: Tensor, logits: Tensor) -> Tensor:
        """(B, K) mean shift of f_z - f_y for each class z, y the answer."""
        near = x.repeat(self.draws, 1, 1, 1)
        near = near + self.sigma * torch.randn_like(near)
        moved: Tensor = self.network(near).view(self.draws, *logits.shape).mean(0) - logits
        return moved - moved.gather(1, logits.argmax(1, keepdim=True))

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        y = logits.argmax(1)
        odd = (self.shifts(x, logits) - self.mean[y]) / self.std[y]
        return odd.scatter(1, y[:, None], -torch.inf).amax(1)

    @torch.no_grad()
    def learn(self, x: Tensor) -> None:
        """Takes means and standard deviations from clean images (N, C, H, W)."""
        logits = torch.cat([self.network(part) for part in torch.split(x, 256)])
        pieces = zip(torch.split(x, 256), torch.split(logits, 256), strict=True)
        moved = torch.cat([self.shifts(part, answers) for part, answers in pieces])
        y = logits.argmax(1)
        for k in range(len(self.mean)):
            own = moved[y == k]
            if len(own) > 1:
                self.mean[k], self.std[k] = own.mean(0), own.std(0).clamp_min(1e-3)


class Noisy(nn.Module):
    """The defended predictor, with the logits of the noisy image under `noisy`: what the statistic
    is made of, for matching.
    """

    def __init__(self, defended: DefendedPredictor, sigma: float) -> None:
        super().__init__()
        self.defended, self.sigma = defended, sigma

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        near = x + self.sigma * torch.randn_like(x)
        table: dict[str, Tensor] = self.defended(x)
        return {**table, "noisy": self.defended.networks[0](near)}


def train(material: Material, seed: int) -> tuple[DefendedPredictor, nn.Module]:
    """A network with the test beside it, and the network alone."""
    data = material.train
    channels, _, size = data.x.shape[1:]
    cpu = torch.device("cpu")
    with forked(keys.seed_of(seed, "weights"), cpu):
        net = SmallCNN(channels, size, len(data.classes))
    for _ in fit(net, data, Standard(), Settings.of(epochs=EPOCHS, lr=0.05, seed=seed)):
        pass
    test = Odds(net.eval(), len(data.classes), SIGMA)
    with forked(keys.seed_of(seed, "noise"), cpu):
        test.learn(data.x)
    defended = DefendedPredictor(net, reject=test, declared=Declared(random=True, rejects=True))
    return defended.calibrated(material.calibration.x), net


def naive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    unaware = pgd(threat, 20, objective=Unaware(CrossEntropy()))
    return (Attempt("PGD-20, unaware", unaware, why="the network is attacked, not the test"),)


@torch.no_grad()
def _references(defended: DefendedPredictor, material: Material) -> tuple[Tensor, ...]:
    """The logits of correctly answered images, class by class."""
    data = material.calibration
    logits = defended.networks[0](data.x)
    right = logits.argmax(1) == data.y
    return tuple(logits[right & (data.y == k)] for k in range(logits.shape[1]))


def adaptive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    rule, references = defended.rule, _references(defended, material)
    assert rule is not None and isinstance(defended.reject, Odds)
    noisy = pgd(threat, 40, objective=Matching(references, "noisy", rule))
    plain = pgd(threat, 40, objective=Matching(references, "logits", rule))
    aware = pgd(threat, 40, objective=rule)
    return (
        Attempt("matching under noise", averaged(EveryTarget(noisy, 2), 4),
                Noisy(defended, defended.reject.sigma), "logits of another class, noise or none"),
        Attempt("matching", EveryTarget(plain, 2), why="logits of an image of another class"),
        Attempt("aware", averaged(aware, 4), why="the test is a part of the loss"),
    )  # fmt: skip


DEFENCE = Defence(
    name="odds-are-odd",
    source="Roth, Kilcher and Hofmann 2019",
    read="the attack that broke it (Tramer et al. 2020), in a published notebook; the paper's "
    "abstract",
    reconstructed="one kind of noise of one size instead of several, one threshold for all pairs "
    "of classes; the correction of rejected images is left out: they are rejected; at "
    "this size it forms with some seeds and not with others",
    data="fashion-mnist",
    threat="linf:0.2",
    flags=("random", "all-rejected", "other-loss-wins"),
    why="an attack on the network alone makes images that the test tells apart, and the test draws "
    "fresh noise for each answer",
    train=train,
    naive=naive,
    adaptive=adaptive,
)
