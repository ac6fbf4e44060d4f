"""The loss along directions in the space of the weights: curves (Wu, Xia and Wang 2020, section 3)
and planes (Li et al. 2018), for the robust and the clean loss.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.untouched import untouched
from torchproof.core import keys
from torchproof.core.checks import check
from torchproof.core.errors import InputError, unknown
from torchproof.core.objectives import CrossEntropy
from torchproof.core.sites import Weights
from torchproof.core.threats import Threat
from torchproof.diagnose.joint_ascent import JointAscent, worst_weights
from torchproof.diagnose.weight_balls import ball, chosen, matrices

RADII = tuple(i / 10 for i in range(-10, 11))
PLANE = tuple(i / 5 for i in range(-5, 6))
KINDS = ("random", "adversarial")
XI = 0.003  # of the ball in which adversarial directions are looked for


@dataclass(frozen=True)
class Landscape:
    """g(a), the loss at w + a d, in nats: losses[j][i] along direction j at radii[i]."""

    radii: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]

    @property
    def mean(self) -> tuple[float, ...]:
        """Over the directions."""
        return tuple(statistics.fmean(column) for column in zip(*self.losses, strict=True))

    @property
    def rise(self) -> float:
        """The mean of g over the radii, minus the smallest value of the mean curve: 0 is flat."""
        return statistics.fmean(self.mean) - min(self.mean)


@dataclass(frozen=True)
class Plane:
    """The loss at w + a d + b e, in nats: losses[i][j] at a = radii[i], b = radii[j]; axes: the
    kinds of d and e.
    """

    axes: tuple[str, str]
    radii: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Landscapes:
    """The loss around the weights, on the first n images: along random directions and the one that
    raises it most, clean and attacked, and both on one plane of two random directions.
    """

    clean: Landscape
    robust: Landscape
    clean_worst: Landscape
    robust_worst: Landscape
    clean_plane: Plane
    plane: Plane
    n: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Looked:
    """Images, and how their loss is measured on a moved network."""

    x: Tensor
    y: Tensor
    threat: Threat | None
    steps: int
    run: Run

    def loss(self, model: nn.Module) -> float:
        """The mean cross-entropy of the images, attacked anew where there is a threat."""
        x, y, run = self.x, self.y, self.run
        if self.threat is not None:
            attack = Attack(self.threat, CrossEntropy(), PGD(self.steps, 0.25))
            value = attack(model, x, y, run=run).value
            assert isinstance(value, Tensor)  # a Threat perturbs images
            x = x + value.to(x)
        total = 0.0
        with torch.no_grad(), untouched(model, run.seed, x.device):
            for start in range(0, len(x), run.slots):
                rows = slice(start, start + run.slots)
                total += float(F.cross_entropy(model(x[rows]), y[rows], reduction="sum"))
        return total / len(x)

    def direction(self, kind: str, model: nn.Module, seed: int) -> dict[str, Tensor]:
        if kind == "random":
            return random_direction(model, seed)
        return adversarial_direction(model, self.x, self.y, self.threat, seed=seed)


def weight_landscape(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat | None, *,
    radii: Sequence[float] = RADII, directions: int = 3, steps: int = 10, seed: int = 0,
    slots: int = 256, along: str = "random",
) -> Landscape:  # fmt: skip
    """The mean cross-entropy of images attacked by PGD, made anew for every moved network; of the
    images themselves where threat is None.

    x (N, C, H, W) in [0, 1], y (N,); along: random directions, drawn normally and rescaled filter
    by filter to the length of the filters (Li et al. 2018), zero for biases and normalisation
    layers, with radii in units of those lengths; or adversarial ones, each the worst weights of a
    small ball from another start, with radii in lengths of the tensors: the loss rises much earlier
    there, a tenth of the usual radii shows it. steps: of PGD, of eps / 4, without a random start's
    keys changing between networks. The weights come back bit for bit. Images are attacked again at
    every radius, since those of the unmoved network make the curve look flat. Raises InputError for
    radii that are not finite and counts below 1, UnknownName for other directions.
    """
    looked = _looked(x, y, threat, radii, steps, seed, slots, (along,))
    if directions < 1:
        raise InputError(f"directions = {directions}", "a whole number >= 1", "3 are usual")
    losses = []
    for number in range(directions):
        direction = looked.direction(along, model, keys.seed_of(seed, "direction", number))
        line = []
        for a in radii:
            with moved(model, direction, a):
                line.append(looked.loss(model))
        losses.append(tuple(line))
    return Landscape(tuple(float(a) for a in radii), tuple(losses))


def weight_plane(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat | None, *,
    radii: Sequence[float] = PLANE, axes: tuple[str, str] = ("random", "random"), steps: int = 10,
    seed: int = 0, slots: int = 256,
) -> Plane:  # fmt: skip
    """The loss on the plane through w along two directions, each random or adversarial; otherwise
    as `weight_landscape`, whose direction 0 is the first of the axes, and direction 1 the second.

    len(radii) ** 2 networks are measured.
    """
    looked = _looked(x, y, threat, radii, steps, seed, slots, axes)
    first, second = (
        looked.direction(kind, model, keys.seed_of(seed, "direction", number))
        for number, kind in enumerate(axes)
    )
    losses = []
    for a in radii:
        line = []
        for b in radii:
            with moved(model, first, a), moved(model, second, b):
                line.append(looked.loss(model))
        losses.append(tuple(line))
    return Plane((axes[0], axes[1]), tuple(float(a) for a in radii), tuple(losses))


def _looked(
    x: Tensor, y: Tensor, threat: Threat | None, radii: Sequence[float], steps: int, seed: int,
    slots: int, kinds: Sequence[str],
) -> _Looked:  # fmt: skip
    check(x, y)
    if not radii or not all(math.isfinite(a) for a in radii):
        raise InputError(f"radii {radii!r}", "finite numbers", "write (-1, -0.5, 0, 0.5, 1)")
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("direction", kind, KINDS)
    run = Run(keys.seed_of(seed, "landscape"), slots=slots, patience=math.inf, last=True)
    return _Looked(x, y, threat, steps, run)


def random_direction(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Name of a weight matrix or kernel (`matrices`) -> normal direction with the length of the
    weight, filter by filter (first index).
    """
    out = {}
    origin = Weights(matrices(model)).origin(model, torch.empty(0))
    for number, (name, leaf) in enumerate(sorted(origin.items())):
        weight = leaf[0]
        key = keys.mix(seed, torch.tensor([number]))
        drawn = keys.normal(key, 0, tuple(weight.shape), dtype=torch.float64)[0].to(weight)
        scale = weight.flatten(1).norm(dim=1) / drawn.flatten(1).norm(dim=1)
        out[name] = drawn * scale.reshape(-1, *[1] * (weight.dim() - 1))
    return out


def adversarial_direction(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat | None, *, xi: float = XI,
    steps: int = 20, seed: int = 0,
) -> dict[str, Tensor]:  # fmt: skip
    """Parameter name -> v / xi, where v are the worst weights within xi of the length of every
    tensor (as for worst-case flatness), found by joint ascent on x, y as one batch.

    At a = xi the network is the worst that was found; |v_l| <= |w_l|.
    """
    within = ball("layer", xi, chosen(model))
    search = JointAscent(steps, 0.25, stride_of_weights=0.25)
    shift, _ = worst_weights(model, x, y, threat, within, search, 1, Run(seed))
    return {name: v / xi for name, v in shift.items()}


@contextmanager
def moved(model: nn.Module, direction: Mapping[str, Tensor], a: float) -> Iterator[None]:
    """w + a d inside the block, w bit for bit afterwards."""
    parameters = dict(model.named_parameters())
    saved = {name: parameters[name].detach().clone() for name in direction}
    with torch.no_grad():
        for name, d in direction.items():
            parameters[name].add_(d, alpha=a)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in saved.items():
                parameters[name].copy_(value)
