"""EMPIR (Sen, Ravindran and Raghunathan 2020): an ensemble of networks of different numerical
precision that votes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.predictor import Declared, DefendedPredictor, Inside
from torchproof.adaptive.zoo.descent import descend
from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import Attack, EveryTarget
from torchproof.attack.oracle import Oracle
from torchproof.attack.pgd import PGD
from torchproof.attack.through import Through
from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.core.objectives import CrossEntropy, TargetedMargin
from torchproof.core.threats import Threat

PRECISIONS = (None, (2, 2), (2, 2))  # bits of weights and activations; None: full precision
CHANNELS, HIDDEN = 16, 100
EPOCHS = 8


def rounded(x: Tensor, bits: int) -> Tensor:
    """x in [0, 1] to the nearest of 2^bits equally spaced levels."""
    top = 2**bits - 1
    found: Tensor = (x * top).round() / top
    return found


class Quantiser(nn.Module):
    """Activations clipped to [0, 1] and rounded (DoReFa, Zhou et al. 2016). While it is trained,
    rounding passes the gradient on unchanged; afterwards it has none.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        inside = x.clamp(0, 1)
        exact = rounded(inside, self.bits)
        return inside + (exact - inside).detach() if self.training else exact


class Coarse(nn.Module):
    """A layer with weights w of few bits, 2 rounded(tanh(w) / (2 max |tanh w|) + 1/2) - 1, times
    the mean of |w| (DoReFa; the factor is ours). Trained through the rounding.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, bits: int) -> None:
        super().__init__()
        self.layer, self.bits = layer, bits

    @property
    def weight(self) -> Tensor:
        w = self.layer.weight.tanh()
        share = w / (2 * w.abs().max()) + 0.5
        exact = share + (rounded(share, self.bits) - share).detach()
        return (2 * exact - 1) * self.layer.weight.abs().mean().detach()

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, nn.Conv2d):
            stride, padding = self.layer.stride, self.layer.padding
            return F.conv2d(x, self.weight, self.layer.bias, stride, padding)
        return F.linear(x, self.weight, self.layer.bias)


class Vote(nn.Module):
    """Logits (M, B, K) to votes per class (B, K); the first network, of full precision, decides
    ties. Without gradient.
    """

    @torch.no_grad()
    def forward(self, answers: Tensor) -> Tensor:
        votes = F.one_hot(answers.argmax(2), answers.shape[2]).to(answers)
        return votes.sum(0) + 0.5 * votes[0]


def network(like: Tensor, classes: int, precision: tuple[int, int] | None) -> nn.Module:
    """Four layers for images like `like` (C, H, W), the first and the last of full precision."""
    channels, height, width = like.shape
    rest = 2 * CHANNELS * ((height + 3) // 4) * ((width + 3) // 4)
    middle: list[nn.Module] = [
        nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, stride=2, padding=1), nn.Linear(rest, HIDDEN),
    ]  # fmt: skip
    first = nn.Conv2d(channels, CHANNELS, 3, stride=2, padding=1)
    if precision is None:
        second, third, act = middle[0], middle[1], nn.ReLU
    else:
        second, third = (Coarse(layer, precision[0]) for layer in middle)  # type: ignore[arg-type]
        bits = precision[1]

        def act() -> nn.Module:  # type: ignore[misc]
            return Quantiser(bits)

    return nn.Sequential(
        first, act(), second, act(), nn.Flatten(), third, act(), nn.Linear(HIDDEN, classes)
    )


def _members(
    material: Material, precisions: Sequence[tuple[int, int] | None], seed: int
) -> list[nn.Module]:
    data, made = material.train, []
    for number, precision in enumerate(precisions):
        with forked(keys.seed_of(seed, "weights", number), torch.device("cpu")):
            member = network(data.x[0], len(data.classes), precision)

        def entropy(x: Tensor, y: Tensor, member: nn.Module = member) -> Tensor:
            return F.cross_entropy(member(x), y)

        own = keys.seed_of(seed, "member", number)
        made.append(descend(member, entropy, data, epochs=EPOCHS, seed=own))
    return made


def train(material: Material, seed: int) -> tuple[DefendedPredictor, nn.Module]:
    """One network of full precision and two of two bits, which vote; and three of full precision,
    whose logits are averaged.
    """
    full, *low = _members(material, PRECISIONS, seed)
    others = _members(material, (None,) * len(PRECISIONS), seed)[1:]
    defended = DefendedPredictor(
        [full, *low],
        inside={"quantiser": Inside(Quantiser, plain=lambda module: nn.Hardtanh(0.0, 1.0))},
        combine=Vote(),
        declared=Declared(non_differentiable=True),
    )
    return defended, DefendedPredictor([full, *others])


def naive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    plain = pgd(threat, 40, objective=CrossEntropy())
    return (Attempt("PGD-40", plain, why="the whole as it stands: votes have no gradient"),)


def adaptive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    smooth = defended.substituted("quantiser", nn.Hardtanh(0.0, 1.0)).without("combine")
    loss = TargetedMargin()

    def through(oracle: Oracle) -> Oracle:
        return Through(oracle, smooth, threat.site, loss)

    attack = Attack(threat, loss, PGD(100), wrap=through)
    why = "rounding passes the gradient on, logits are averaged instead of counted (BPDA)"
    return (Attempt("BPDA, every target", EveryTarget(attack, 9), why=why),)


DEFENCE = Defence(
    name="empir",
    source="Sen, Ravindran and Raghunathan 2020",
    read="abstract: networks of several precisions that vote; how it was broken, in a summary of "
    "Tramer et al. 2020",
    reconstructed="networks, training, the quantisation (DoReFa) and its two bits, the rule for "
    "ties, and the naive attack, on the votes themselves: what is found on the mean of the logits "
    "transfers, so all that forms here is a cut gradient",
    data="mnist",
    threat="linf:0.15",
    flags=("zero-gradients", "surrogate-wins", "gradient-free-wins", "active-test-fails"),
    why="neither votes nor rounding have a gradient, though the sums below them have",
    train=train,
    naive=naive,
    adaptive=adaptive,
)
