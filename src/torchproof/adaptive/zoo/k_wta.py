"""k-winners-take-all (Xiao, Zhong and Zheng 2020): the largest activations of a layer pass, all
others become 0, so that the network is discontinuous nearly everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.predictor import DefendedPredictor, Inside
from torchproof.attack.catalogue import pgd, square
from torchproof.attack.combine import Attack, Restarts
from torchproof.attack.nes import NES
from torchproof.attack.oracle import Oracle
from torchproof.attack.pgd import PGD
from torchproof.attack.scheduled import Scheduled
from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.core.objectives import Margin
from torchproof.core.schedules import Cosine
from torchproof.core.threats import Threat
from torchproof.train.loop import fit
from torchproof.train.settings import Settings
from torchproof.train.standard import Standard

SHARE = 0.03
CHANNELS, HIDDEN = 16, 256
EPOCHS = 8


class Winners(nn.Module):
    """Keeps the k = share * D largest of an image's D activations (B, ...), and what equals the
    smallest of them; their signs do not matter.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        k = max(1, int(self.share * flat.shape[1]))
        least = flat.topk(k, dim=1).values[:, -1:]
        return x * (flat >= least).view_as(x)


def network(
    activation: Callable[[], nn.Module], like: Tensor, classes: int, seed: int
) -> nn.Module:
    """Two layers of activations between images like `like` (C, H, W) and the logits."""
    channels, height, width = like.shape
    half = ((height + 1) // 2) * ((width + 1) // 2)
    with forked(keys.seed_of(seed, "weights"), torch.device("cpu")):
        return nn.Sequential(
            nn.Conv2d(channels, CHANNELS, 5, stride=2, padding=2), activation(), nn.Flatten(),
            nn.Linear(CHANNELS * half, HIDDEN), activation(), nn.Linear(HIDDEN, classes),
        )  # fmt: skip


def train(material: Material, seed: int) -> tuple[DefendedPredictor, nn.Module]:
    """The network of winners, and the same of ReLUs."""
    data, made = material.train, []
    kinds: tuple[Callable[[], nn.Module], ...] = (lambda: Winners(SHARE), nn.ReLU)
    for activation in kinds:
        net = network(activation, data.x[0], len(data.classes), seed)
        for _ in fit(net, data, Standard(), Settings.of(epochs=EPOCHS, lr=0.05, seed=seed)):
            pass
        made.append(net.eval())
    inside = {"k-wta": Inside(Winners, plain=lambda module: nn.ReLU())}
    return DefendedPredictor(made[0], inside=inside), made[1]


def naive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    return (Attempt("PGD-40", pgd(threat, 40), why="gradients by autograd, as in the paper"),)


def adaptive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    def differences(oracle: Oracle) -> Oracle:
        few, many = (NES(oracle, pairs, threat.eps, 256) for pairs in (50, 400))
        return Scheduled((few, many), (0.4, 1.0))

    search = PGD(40, 0.2, schedule=Cosine())
    estimated = Attack(threat, Margin(), search, wrap=differences)
    lucky = Restarts(pgd(threat, 40, 0.1, Margin()), 20)
    return (
        Attempt(
            "ES-PGD", estimated, why="the slope of the margin over the whole ball, from values"
        ),
        Attempt("PGD-40, 20 starts", lucky, why="many of the pieces are tried"),
        Attempt("Square", square(threat, 2000), why="no gradient at all"),
    )


DEFENCE = Defence(
    name="k-wta",
    source="Xiao, Zhong and Zheng 2020",
    read="the settings of the attack that broke it (Tramer et al. 2020), in a published notebook",
    reconstructed="network, training, the share of winners, the numbers of samples; the published "
    "network is deeper and was also trained adversarially, this one is not",
    data="mnist",
    threat="linf:0.2",
    flags=(
        "unstable-predictions", "misleading-gradients", "gradient-free-wins", "active-test-fails",
    ),
    why="the set of winners changes within any small step, so a gradient holds nowhere else",
    train=train,
    naive=naive,
    adaptive=adaptive,
)  # fmt: skip
