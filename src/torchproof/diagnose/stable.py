"""Symmetric alpha-stable laws: draws, tails, and four estimators of alpha with their intervals.

SaS(1) has the characteristic function exp(-|t|^alpha), 0 < alpha <= 2; alpha = 2 is N(0, 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.errors import InputError

LEAST = 1000  # draws below which no estimator answers
FLOOR = 2.2e-16  # what the authors' code adds to every modulus before the logarithm
PARTS = 20  # a sample is cut into so many parts where an estimator has no interval of its own
_NODES = 2000
_ONE = 1e-3  # nearer to alpha = 1 the Cauchy law is used


@dataclass(frozen=True)
class Estimate:
    """An estimated tail index and its 95 % interval, from n numbers; alpha = 2 is Gaussian, and
    readings are not cut off there.
    """

    alpha: float
    low: float
    high: float
    n: int


def stable(alpha: float, key: Tensor, count: int) -> Tensor:
    """(P, count) draws of SaS(1), float64, one row per key of `core.keys` (P,), by Chambers,
    Mallows and Stuck (1976). Raises InputError unless 0 < alpha <= 2.
    """
    if not 0 < alpha <= 2:
        raise InputError(f"alpha = {alpha}", "a number in (0, 2]", "2 is the Gaussian law")
    angle = (_fine(key, count, 0) - 0.5) * math.pi
    if abs(alpha - 1) < 1e-12:
        return angle.tan_()
    wait = -_fine(key, count, 2).log_()
    bend = (((1 - alpha) * angle).cos() / wait).pow_((1 - alpha) / alpha)
    return (alpha * angle).sin() / angle.cos().pow_(1 / alpha) * bend


def _fine(key: Tensor, count: int, stream: int) -> Tensor:
    """(P, count) uniform numbers in (0, 1) of 46 bits, which the far tail needs."""
    high = keys.uniform(key, 0, (count,), stream, torch.float64)
    low = keys.uniform(key, 0, (count,), stream + 1, torch.float64)
    return high.sub_(2.0**-24).add_(low, alpha=2.0**-23)


def survival(t: Any, alpha: float) -> Any:
    """P(|X| > t) of SaS(1), an array like t (t > 0): the mean over the angle of Chambers, Mallows
    and Stuck's formula, given which the modulus is a power of an exponential (Zolotarev's
    integral).
    """
    t = np.asarray(t, dtype=float)
    if abs(alpha - 1) < _ONE:
        return 1 - 2 / math.pi * np.arctan(t)
    u = (np.arange(_NODES) + 0.5) / _NODES
    both = u**3 + (1 - u) ** 3  # nodes crowd at both ends, where t near 0 and the far tail are made
    v, short = math.pi / 2 * (1 - u) ** 3 / both, math.pi / 2 * u**3 / both  # short = pi / 2 - v
    log_a = np.log(np.sin(alpha * v)) - np.log(np.sin(short)) / alpha
    log_a += (1 - alpha) / alpha * np.log(np.cos((1 - alpha) * v))
    power = np.clip((np.log(t)[..., None] - log_a) * alpha / (alpha - 1), -700, 700)
    left = np.exp(-np.exp(power))  # P(W > w) of the exponential W
    mean = (left * 3 * (u * (1 - u) / both) ** 2).mean(-1)
    return mean if alpha > 1 else 1 - mean


def modulus_quantile(share: float, alpha: float) -> float:
    """The t with P(|X| <= t) = share, of SaS(1), by bisection."""
    low, high = -20.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        if survival(math.exp(middle), alpha) > 1 - share:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def group_size(count: int) -> int:
    """K1, the draws that are summed: the largest divisor of K not above sqrt(K), as published; the
    whole part of sqrt(K), and less than K1 draws left out, where that divisor is below half of it.
    """
    root = math.isqrt(count)
    divisor = next(k for k in range(root, 0, -1) if count % k == 0)
    return divisor if 2 * divisor >= root else root


def slopes(x: Tensor, group: int, floor: float = 0.0) -> Tensor:
    """(..., K2) terms whose mean is 1/alpha, of draws x (..., K): (ln|Y_i| - the mean of ln|X| in
    block i) / ln K1, Y_i the sum of block i of K1 = `group` draws.
    """
    blocks = x.shape[-1] // group
    x = x[..., : blocks * group].reshape(*x.shape[:-1], blocks, group)
    tiny = torch.finfo(x.dtype).tiny
    whole = x.sum(-1).abs().add(floor).clamp_min(tiny).log()
    single = x.abs().add_(floor).clamp_min_(tiny).log_().mean(-1)
    return (whole - single).double() / math.log(group)


def mohammadi(
    x: Tensor, group: int | None = None, clusters: int | None = None, floor: float = FLOOR
) -> Estimate:
    """Mohammadi, Mohammadpour and Ogata 2015, the estimator of Simsekli et al. 2019, of x (K,):

        1/alpha = (mean over blocks of ln|Y_i| - mean of ln|X_i|) / ln K1.

    The terms of the blocks are independent for independent draws, which gives the interval (in
    1/alpha, by Student's t); clusters: take the means of so many consecutive bunches of blocks for
    independent instead. Raises InputError for less than LEAST draws, and for what is not finite.
    """
    _check(x)
    group = group_size(len(x)) if group is None else group
    if not 2 <= group <= len(x) // 2:
        raise InputError(f"group = {group}", f"from 2 to {len(x) // 2}", "leave it out")
    terms = slopes(x, group, floor)
    bunches = terms if clusters is None else _bunched(terms, clusters)
    middle = float(terms.mean())
    half = _half(bunches)
    return Estimate(
        _inverse(middle), _inverse(middle + half), _inverse(middle - half), len(terms) * group
    )


def mcculloch(x: Tensor) -> Estimate:
    """McCulloch 1986: alpha whose (q.95 - q.05) / (q.75 - q.25) is that of x (K,); not above 2.

    The table of the symmetric law is calculated, not quoted, from alpha 0.2 on.
    """
    return _by_parts(x, _from_quantiles)


def characteristic(x: Tensor) -> Estimate:
    """Alpha from the empirical characteristic function of x (K,): the slope of ln(-ln|phi(t)|)
    over ln t at ten t from 0.1 to 1, of draws divided by half their interquartile range
    (Koutrouvelis 1980 in the form of Kogon and Williams 1998).
    """
    return _by_parts(x, _from_characteristic)


def hill(x: Tensor, share: float = 0.05) -> Estimate:
    """Hill 1975 on the largest `share` of |x| (K,). Reads an index well above 2 for stable laws
    with alpha near 2, whose power tail begins only further out (McCulloch 1997): a cross-check of
    power tails, no estimator of alpha.
    """
    _check(x)
    k = int(share * len(x))
    if k < 20:
        remedy = f"give {math.ceil(20 / share)} draws or more"
        raise InputError(f"the largest {k} of {len(x)}", "at least 20", remedy)
    top = x.abs().double().topk(k + 1).values
    alpha = _inverse(float((top[:k] / top[k].clamp_min(1e-300)).log().mean()))
    spread = 1.96 / math.sqrt(k)
    return Estimate(alpha, alpha / (1 + spread), alpha / (1 - spread), len(x))


def gaussian_reading(scales: Tensor, group: int) -> float:
    """What `mohammadi` reads off independent Gaussian numbers of standard deviations `scales` (M,)
    in this order: 1/alpha = (mean over blocks of ln sqrt(sum of s^2) - mean of ln s) / ln K1.

    Ours, and exact but for chance. For scales in random order and large K1 it tends to
    1/2 + D / ln K1 with D = 1/2 ln E[s^2] - E[ln s] >= 0; equal scales, and scales that are sorted,
    read 2.
    """
    blocks = len(scales) // group
    s = scales[: blocks * group].double().reshape(blocks, group)
    whole = 0.5 * s.square().sum(1).log().mean()
    return math.log(group) / float(whole - s.log().mean())


def _check(x: Tensor) -> None:
    if x.ndim != 1 or len(x) < LEAST:
        given = f"draws of shape {tuple(x.shape)}"
        raise InputError(given, f"at least {LEAST} in one row", f"give {LEAST} or more")
    if not bool(x.isfinite().all()):
        raise InputError("draws with NaN or infinity", "finite numbers", "look where they are made")


def _inverse(slope: float) -> float:
    return 1 / slope if slope > 0 else math.inf


def _bunched(terms: Tensor, clusters: int) -> Tensor:
    """(min(clusters, K2),) means of consecutive terms."""
    parts = torch.tensor_split(terms, min(clusters, len(terms)))
    return torch.stack([part.mean() for part in parts])


def _half(values: Tensor) -> float:
    from scipy.special import stdtrit  # late: a third of a second

    n = len(values)
    return float(stdtrit(n - 1, 0.975)) * float(values.std()) / math.sqrt(n)


def _by_parts(x: Tensor, estimator: Callable[[Any], Any]) -> Estimate:
    """What the estimator makes of the whole, and an interval from its spread over PARTS
    consecutive parts; the few draws that do not fill a part are left out.
    """
    _check(x)
    parts = x.detach().cpu().double().numpy()[: len(x) // PARTS * PARTS].reshape(PARTS, -1)
    lower, upper = np.quantile(parts, (0.25, 0.75))
    if upper <= lower:
        remedy = "drop exact zeros before estimating"
        raise InputError("draws of which half are equal", "a continuous law", remedy)
    whole, *each = estimator(parts)
    half = _half(torch.tensor(each, dtype=torch.float64))
    return Estimate(float(whole), float(whole) - half, float(whole) + half, parts.size)


def _from_quantiles(parts: Any) -> list[float]:
    """Alpha of all parts (PARTS, n) together, then of each."""
    alphas, ratios = _ratios()
    found = []
    for x in (parts.ravel(), *parts):
        low, lower, upper, high = np.quantile(x, (0.05, 0.25, 0.75, 0.95))
        found.append(math.log(max((high - low) / max(upper - lower, 1e-300), 1.0)))
    return [float(np.interp(ratio, ratios, alphas)) for ratio in found]


@lru_cache(maxsize=1)
def _ratios() -> tuple[Any, Any]:
    """Alpha, falling, and the logarithm of the ratio of quantiles, rising."""
    alphas = np.linspace(2, 0.2, 61)
    ratios = [math.log(modulus_quantile(0.9, a) / modulus_quantile(0.5, a)) for a in alphas]
    return alphas, np.asarray(ratios)


def _from_characteristic(parts: Any) -> list[float]:
    """Alpha of all parts (PARTS, n) together, then of each, in the scale of all."""
    lower, middle, upper = np.quantile(parts, (0.25, 0.5, 0.75))
    z = (parts - middle) / ((upper - lower) / 2)
    at = np.linspace(0.1, 1, 10)
    phi = np.stack([np.exp(1j * t * z).mean(1) for t in at])
    modulus = np.abs(np.concatenate([phi.mean(1, keepdims=True), phi], 1))
    heights = np.log(-np.log(np.clip(modulus, 1e-12, 1 - 1e-12)))
    return [float(slope) for slope in np.polyfit(np.log(at), heights, 1)[0]]
