"""The checks that decide whether gradient noise may be called heavy-tailed, and the curve of its
tail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchproof.diagnose.stable import (
    LEAST,
    Estimate,
    characteristic,
    modulus_quantile,
    mohammadi,
    slopes,
    survival,
)

SUMS = (10, 100, 1000)
LEVELLED = 20
_AT = np.logspace(-2, 3, 51)
_REJECT = 0.752  # 5 % of the test of Anderson and Darling, mean and variance estimated (Stephens)


@dataclass(frozen=True)
class TailCurve:
    """Shares of moduli above `at` medians of the modulus: of the pooled noise, of Gaussian noise of
    the same covariance, and of the noise that `level` makes of it.

    alpha: of the stable law fitted to the levelled noise by its characteristic function;
    stable_distance, gaussian_distance: the largest difference of its shares from those of that law
    and of the Gaussian (Kolmogorov's).
    """

    at: tuple[float, ...]
    pooled: tuple[float, ...]
    gaussian: tuple[float, ...]
    levelled: tuple[float, ...]
    alpha: float
    stable_distance: float
    gaussian_distance: float


def level(columns: Tensor, made: torch.Generator) -> Tensor:
    """(K,) noise of columns (P, m) freed of what else is read as a heavy tail.

    Batches are shuffled apart for every column, so that columns do not move together, and
    subtracted from each other in pairs, which leaves alpha as it is and needs no mean; zeros are
    left out, and each column is divided by the median modulus of the rest: a heavy tail would take
    a mean or a standard deviation along. Columns with less than LEVELLED such numbers are left out.
    """
    order = torch.rand(columns.shape, generator=made).argsort(0).to(columns.device)
    mixed = columns.gather(0, order)
    half = len(mixed) // 2
    gaps = mixed[:half] - mixed[half : 2 * half]
    gaps = torch.where(gaps == 0, torch.nan, gaps)
    gaps = gaps[:, gaps.isfinite().sum(0) >= min(LEVELLED, half)]
    flat = (gaps / gaps.abs().nanmedian(0).values).flatten()
    return flat[flat.isfinite()]


def scaling(x: Tensor) -> tuple[Estimate, ...]:
    """The published estimator of x (K,) with each of SUMS that leaves 20 sums."""
    if len(x) < LEAST:
        return ()
    return tuple(mohammadi(x, group=g, floor=0.0) for g in SUMS if len(x) >= max(20 * g, LEAST))


def median_reading(columns: Tensor) -> Estimate:
    """The median over columns (P, m) of alpha, each estimated from its P numbers; the interval is
    that of a median of independent columns, which those of gradients are not.
    """
    group = math.isqrt(len(columns))
    found = slopes(columns.T.contiguous(), group).mean(1).sort().values
    m, half = len(found), 0.98 * math.sqrt(len(found))
    low = float(found[max(0, int(m / 2 - half))])
    high = float(found[min(m - 1, int(m / 2 + half))])
    middle = float(found[m // 2])
    alpha, least, most = (1 / v if v > 0 else math.inf for v in (middle, high, low))
    return Estimate(alpha, least, most, columns.numel())


def gaussian_share(columns: Tensor) -> float:
    """The share of columns (P, m) that the test of Anderson and Darling (1954) does not reject as
    Gaussian at 5 %, mean and variance estimated.
    """
    n = len(columns)
    z = columns.double()
    z = ((z - z.mean(0)) / z.std(0)).sort(0).values
    weight = (2 * torch.arange(1, n + 1, dtype=z.dtype, device=z.device) - 1)[:, None]
    both = torch.special.log_ndtr(z) + torch.special.log_ndtr(-z.flip(0))
    square = (-n - (weight * both).sum(0) / n) * (1 + 0.75 / n + 2.25 / n**2)
    return float((square <= _REJECT).double().mean())


def curve_of(pooled: Tensor, levelled: Tensor, gaussian: Tensor) -> TailCurve:
    """The curve of the three samples (K,)."""
    seen = _above(levelled)
    alpha = min(2.0, max(0.3, _fitted(levelled)))
    stable_law, normal = (
        survival(_AT * modulus_quantile(0.5, a), a) for a in (alpha, 2.0)
    )  # fmt: skip
    return TailCurve(
        at=tuple(_AT.tolist()), pooled=tuple(_above(pooled).tolist()),
        gaussian=tuple(_above(gaussian).tolist()), levelled=tuple(seen.tolist()), alpha=alpha,
        stable_distance=float(np.abs(seen - stable_law).max()),
        gaussian_distance=float(np.abs(seen - normal).max()),
    )  # fmt: skip


def _fitted(levelled: Tensor) -> float:
    return characteristic(levelled).alpha if len(levelled) >= LEAST else 2.0


def _above(x: Tensor) -> Any:
    modulus = x.abs().cpu().numpy()
    if not len(modulus):
        return np.zeros_like(_AT)
    place = np.histogram(modulus / np.median(modulus), bins=[0, *_AT, np.inf])[0]
    return 1 - np.cumsum(place)[:-1] / len(modulus)


def objections(
    readings: Mapping[str, Estimate], scales: tuple[Estimate, ...], curve: TailCurve
) -> tuple[str, ...]:
    """What speaks against heavy tails, in words; nothing where the noise may be called so."""
    said: list[str] = []
    filtered = readings["filtered"]
    if filtered.high >= 2:
        said.append(f"the reading {_text(filtered)} does not exclude 2")
    own, other = readings["standardised"], readings["correlated_standardised"]
    if not below(own, other):
        said.append(
            f"every coordinate divided by its standard deviation, the noise reads {_text(own)}, "
            f"Gaussian noise that moves together alike {_text(other)}"
        )
    own, other = readings["per_coordinate"], readings["gaussian_per_coordinate"]
    if own.alpha >= other.low:
        said.append(
            f"coordinate by coordinate the noise reads {own.alpha:.2f}, Gaussian noise "
            f"{other.low:.2f} to {other.high:.2f}"
        )
    if scales and _changes(scales):
        path = ", ".join(f"{e.alpha:.2f}" for e in scales)
        said.append(f"sums of {', '.join(map(str, SUMS[: len(scales)]))} read {path}, "
                    "where a stable law below 2 keeps its index")  # fmt: skip
    if curve.stable_distance >= curve.gaussian_distance:
        said.append("a stable law fits the levelled noise no better than the Gaussian one")
    return tuple(said)


def _changes(scales: tuple[Estimate, ...]) -> bool:
    first, last = scales[0], scales[-1]
    return last.high >= 2 or below(first, last) or below(last, first)


def below(one: Estimate, other: Estimate) -> bool:
    """Is the first index less than the second by more than both intervals together?"""
    gap = other.alpha - one.alpha
    return gap > math.hypot(one.high - one.alpha, other.alpha - other.low)


def _text(found: Estimate) -> str:
    return f"{found.alpha:.2f} ({found.low:.2f} to {found.high:.2f})"
