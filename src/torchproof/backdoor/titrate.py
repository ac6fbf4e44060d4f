"""Noise-response analysis: how sure a network is of answers that noise has changed.

Erichson, Taylor, Wu and Mahoney 2021 (arXiv 2008.00123): titrate images with noise of growing
strength, and count the answers that change with high confidence,

    x_j(sigma) = x_j + sigma * xi_j,  xi_j ~ N(0, I),  nothing clipped
    T_gamma(sigma) = (1/N) #{j: argmax p_j != y_j and max p_j > gamma},  p_j = softmax f(x_j(sigma))

with y_j the network's own answer at sigma = 0. Forward passes only; sigma in input units. The
published text leaves open whether T is divided by N or by the number of changed answers; both are
given, and the one by N is meant where nothing is said. Target guess: our reading, see `Titration`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from torchproof.attack.untouched import home, untouched
from torchproof.core import keys
from torchproof.core.checks import check_images, check_labels, check_logits
from torchproof.core.errors import InputError

SIGMAS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
GAMMA = 0.95
MODERATE = (0.5, 1.0)
"""The noise at which clean and trojaned networks differ; far above, all networks are sure."""


@dataclass(frozen=True)
class Setting:
    """What a curve was measured with. n: images; reference: what counts as unchanged; draws: noise
    per image and sigma; clip: were noisy images cut to [0, 1].
    """

    n: int
    gamma: float
    reference: Literal["own prediction", "label"]
    draws: int
    clip: bool
    seed: int


@dataclass(frozen=True)
class Titration:
    """The response of one network to noise, one entry per sigma.

    share: T, confident changed answers among all; share_of_flips: among the changed ones, 0 where
    there are none. histogram: answers by class, (sigmas, K) counts. flips: the same of confident
    changed answers only. area: the mean of T over log sigma. sigma_50: where T first reaches one
    half, between two sigmas linear in log sigma; None where it never does.
    """

    sigmas: tuple[float, ...]
    share: tuple[float, ...]
    share_of_flips: tuple[float, ...]
    histogram: tuple[tuple[int, ...], ...]
    flips: tuple[tuple[int, ...], ...]
    area: float
    sigma_50: float | None
    setting: Setting

    @property
    def classes(self) -> int:
        """K, the number of the network's answers."""
        return len(self.histogram[0])

    def within(self, low: float, high: float) -> tuple[int, ...]:
        """Which sigmas lie in [low, high]; raises InputError where none does."""
        found = tuple(i for i, s in enumerate(self.sigmas) if low <= s <= high)
        if not found:
            given = f"noise from {low:g} to {high:g} for a curve at {self.sigmas}"
            raise InputError(given, "at least one measured sigma", "measure at such sigmas too")
        return found

    def target(self, low: float = MODERATE[0], high: float = MODERATE[1]) -> int | None:
        """The class that most confident changed answers lead to at such noise, the lowest of
        equals: where a backdoor would lead. A clean network has such a class too. None where no
        answer changes with confidence.
        """
        rows = self.within(low, high)
        sums = [sum(self.flips[i][k] for i in rows) for k in range(self.classes)]
        return sums.index(max(sums)) if any(sums) else None

    def concentration(self) -> tuple[float, ...]:
        """The share of the most frequent answer at each sigma."""
        return tuple(max(row) / sum(row) for row in self.histogram)


def titrate(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    sigmas: Sequence[float] = SIGMAS,
    gamma: float = GAMMA,
    *,
    y: Tensor | None = None,
    draws: int = 1,
    clip: bool = False,
    seed: int = 0,
    batch_size: int = 256,
) -> Titration:
    """The titration curve of `model` from the images x (N, C, H, W).

    y: labels (N,) to compare with instead of the network's own answers. The noise is keyed by
    (seed, row of x, draw) and is the same at every sigma and for every network, so that curves are
    compared pairwise. clip cuts noisy images to [0, 1], which the method does not do.

    Raises InputError for images, labels and settings that cannot be meant, ModelError for answers
    that are no finite logits (N, K).
    """
    _check(x, y, sigmas, gamma, draws)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    with untouched(model, seed), torch.no_grad():
        where = home(model, x.device)
        for first in range(0, len(x), batch_size):
            part = x[first : first + batch_size].to(where)
            ids = torch.arange(first, first + len(part), device=where)
            label = None if y is None else y[first : first + batch_size].to(where)
            rows.append(_responses(model, part, ids, label, sigmas, (gamma, draws, clip, seed)))
    answered, changed, confident = (
        _tuples(torch.stack(part).sum(0)) for part in zip(*rows, strict=True)
    )
    total = len(x) * draws
    share = tuple(sum(row) / total for row in confident)
    of_flips = tuple(
        sum(sure) / max(1, sum(every)) for sure, every in zip(confident, changed, strict=True)
    )
    setting = Setting(
        len(x), gamma, "own prediction" if y is None else "label", draws, clip, seed
    )  # fmt: skip
    return Titration(
        tuple(map(float, sigmas)), share, of_flips, answered, confident,
        area(sigmas, share), sigma_50(sigmas, share), setting,
    )  # fmt: skip


def _responses(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    ids: Tensor,
    y: Tensor | None,
    sigmas: Sequence[float],
    how: tuple[float, int, bool, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Counts by class (sigmas, K) of one batch: all answers, changed ones, confident changed
    ones.
    """
    gamma, draws, clip, seed = how
    before = _logits(model, x)
    reference = before.argmax(1) if y is None else y
    counts = torch.zeros(3, len(sigmas), before.shape[1], dtype=torch.int64, device=x.device)
    for draw in range(draws):
        key = keys.mix(seed, "titration", ids)
        noise = keys.normal(key, draw, tuple(x.shape[1:])).to(x.dtype)
        for row, sigma in enumerate(sigmas):
            noisy = x + sigma * noise
            p = _logits(model, noisy.clamp(0, 1) if clip else noisy).softmax(1)
            sure, answer = p.max(1)
            flipped = answer != reference
            for kind, mask in enumerate(
                (torch.ones_like(flipped), flipped, flipped & (sure > gamma))
            ):
                counts[kind, row] += answer[mask].bincount(minlength=p.shape[1])
    return counts[0], counts[1], counts[2]


def _logits(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Finite logits (B, K) in at least float32; raises ModelError."""
    logits = model(x)
    check_logits(logits, len(x))
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def area(sigmas: Sequence[float], share: Sequence[float]) -> float:
    """The mean of a curve over log sigma, by trapezia; of one point, its value."""
    points = [(math.log(s), t) for s, t in zip(sigmas, share, strict=True) if s > 0]
    if len(points) == 1:
        return points[0][1]
    whole = sum((b - a) * (s + t) / 2 for (a, s), (b, t) in pairwise(points))
    return whole / (points[-1][0] - points[0][0])


def sigma_50(sigmas: Sequence[float], share: Sequence[float]) -> float | None:
    """Where a curve first reaches one half, linear in log sigma between points; None: nowhere."""
    points = [(s, t) for s, t in zip(sigmas, share, strict=True) if s > 0]
    if points[0][1] >= 0.5:
        return float(points[0][0])
    for (a, s), (b, t) in pairwise(points):
        if t >= 0.5:
            return float(a * (b / a) ** ((0.5 - s) / (t - s)))
    return None


def noise_images(n: int, shape: tuple[int, int, int], seed: int = 0, std: float = 0.05) -> Tensor:
    """n images (n, C, H, W) of noise N(0, std^2), each stretched to fill [0, 1]: base images where
    no real ones are at hand. Known to mislead: see docs/backdoor/scan.md.
    """
    if n < 1 or std <= 0:
        given = f"{n} noise images of standard deviation {std}"
        raise InputError(given, "n >= 1 and std > 0", "400 images with 0.05 are usual")
    key = keys.mix(seed, "noise images", torch.arange(n))
    flat = std * keys.normal(key, 0, shape).flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return ((flat - low) / (high - low)).reshape(n, *shape)


def _tuples(counts: Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(int, row)) for row in counts.tolist())


def _check(x: Tensor, y: Tensor | None, sigmas: Sequence[float], gamma: float, draws: int) -> None:
    check_images(x)
    if y is not None:
        check_labels(y, len(x))
    ordered = all(a < b for a, b in pairwise(sigmas))
    if not sigmas or not ordered or not (sigmas[0] >= 0 and math.isfinite(sigmas[-1])):
        raise InputError(f"sigmas {tuple(sigmas)}", "ascending finite numbers >= 0", "sort them")
    if sigmas[-1] == 0:
        raise InputError("no noise but 0", "at least one sigma > 0", "see titrate.SIGMAS")
    if not 0 < gamma < 1:
        raise InputError(f"gamma = {gamma}", "a confidence between 0 and 1", "0.95 is usual")
    if draws < 1:
        raise InputError(f"draws = {draws}", "a whole number >= 1", "one is usual")
