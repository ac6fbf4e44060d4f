"""How well a measure ranks networks by how they generalise: Kendall's tau, the granulated tau and
the conditional mutual information of Jiang et al. 2020.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from torchproof.core import keys
from torchproof.core.errors import InputError

Settings = Sequence[Mapping[str, Hashable]]
"""One network's hyper-parameters by name, the seed among them."""


def kendall(measure: Sequence[float], gap: Sequence[float]) -> float | None:
    """Kendall's tau-b, which allows for ties; None where one of the two does not vary.

    Raises InputError for less than two networks, other lengths and values that are NaN.
    """
    a, b = (_signs(values) for values in _checked(measure, gap))
    size = math.sqrt(int(a.astype(bool).sum()) * int(b.astype(bool).sum()))
    return float((a * b).sum()) / size if size else None


def concordance(measure: Sequence[float], gap: Sequence[float]) -> float:
    """The mean of sign(mu - mu') sign(g - g') over pairs, ties counting 0 (Jiang et al. 2020):
    tau-a.
    """
    one, other = _checked(measure, gap)
    n = len(one)
    return float((_signs(one) * _signs(other)).sum()) / (n * (n - 1))


def interval(
    measure: Sequence[float], gap: Sequence[float], draws: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """The 95 % percentile interval of tau-b over draws of networks with replacement; None where
    tau is. Networks of one seed or setting are no independent draws: read it as a lower estimate.
    """
    one, other = _checked(measure, gap)
    if kendall(measure, gap) is None:
        return None
    n, key = len(one), keys.mix(seed, "bootstrap")
    rows = keys.integers(key, 0, n, (draws, n))[0].numpy()
    a, b = _signs(one[rows]), _signs(other[rows])  # (draws, n, n)
    size = np.sqrt(np.abs(a).sum((1, 2)) * np.abs(b).sum((1, 2)))
    varies = size > 0
    found = (a * b).sum((1, 2))[varies] / size[varies]
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True)
class Granulated:
    """psi: axis -> the mean tau-a along that axis alone, all other settings fixed; mean: Psi, over
    the axes.
    """

    axes: tuple[tuple[str, float], ...]
    mean: float


def granulated(
    measure: Sequence[float], gap: Sequence[float], settings: Settings, axes: Sequence[str]
) -> Granulated:
    """Does the measure rank networks that differ in one hyper-parameter (Jiang et al. 2020)? What
    is in `settings` and not in `axes`, such as the seed, is held fixed.

    Raises InputError where an axis never varies alone.
    """
    _checked(measure, gap, settings)
    found = []
    for axis in axes:
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for number, setting in enumerate(settings):
            groups[tuple((k, v) for k, v in sorted(setting.items()) if k != axis)].append(number)
        lines = [rows for rows in groups.values() if len(rows) > 1]
        if not lines:
            given = f"networks that never differ in {axis!r} alone"
            raise InputError(given, "two networks that do", "leave that axis out")
        along = [concordance([measure[i] for i in r], [gap[i] for i in r]) for r in lines]
        found.append((axis, statistics.fmean(along)))
    return Granulated(tuple(found), statistics.fmean(value for _, value in found))


@dataclass(frozen=True)
class Information:
    """What the order by the measure tells of the order by the gap, as a share of what is to be
    told: 0 nothing, 1 all. given: axes -> that share once the settings of both networks in these
    axes are known, None where nothing is then left to tell; least: the smallest of them.

    Plug-in estimates from few pairs are too high, the more so the more axes are given.
    """

    given: tuple[tuple[tuple[str, ...], float | None], ...]
    least: float | None


def mutual_information(
    measure: Sequence[float], gap: Sequence[float], settings: Settings, axes: Sequence[str],
    most: int = 2,
) -> Information:  # fmt: skip
    """I(V_mu, V_g | U_S) / H(V_g | U_S) over ordered pairs of networks, V the sign of the
    difference, U_S the settings of both in the axes S, for all S of at most `most` axes; `least` is
    their minimum (Jiang et al. 2020). Ties are a third value of V.
    """
    _checked(measure, gap, settings)
    found = []
    for size in range(min(most, len(axes)) + 1):
        for chosen in itertools.combinations(axes, size):
            found.append((chosen, _share(measure, gap, settings, chosen)))
    known = [value for _, value in found if value is not None]
    return Information(tuple(found), min(known) if known else None)


def _share(
    measure: Sequence[float], gap: Sequence[float], settings: Settings, axes: Sequence[str]
) -> float | None:
    pairs = [
        (
            tuple((settings[i][a], settings[j][a]) for a in axes),
            (measure[i] > measure[j]) - (measure[i] < measure[j]),
            (gap[i] > gap[j]) - (gap[i] < gap[j]),
        )
        for i, j in itertools.permutations(range(len(measure)), 2)
    ]
    known = _entropy(u for u, _, _ in pairs)
    gaps = _entropy((u, g) for u, _, g in pairs) - known
    measures = _entropy((u, m) for u, m, _ in pairs) - known
    both = _entropy(pairs) - known
    return max(0.0, gaps + measures - both) / gaps if gaps > 1e-12 else None


def _entropy(values: Iterable[Hashable]) -> float:
    counts = Counter(values).values()
    total = sum(counts)
    return -sum(c / total * math.log(c / total) for c in counts)


def _signs(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., n) to (..., n, n); compared, since infinities have no difference."""
    one, other = values[..., :, None], values[..., None, :]
    signs: NDArray[np.float64] = (one > other).astype(float) - (one < other)
    return signs


def _checked(
    measure: Sequence[float], gap: Sequence[float], settings: Settings | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    one, other = np.asarray(measure, dtype=float), np.asarray(gap, dtype=float)
    lengths = {len(one), len(other)} | ({len(settings)} if settings is not None else set())
    if len(lengths) > 1 or len(one) < 2 or bool(np.isnan(one).any() or np.isnan(other).any()):
        given = f"{len(one)} values of a measure for {len(other)} gaps"
        remedy = "give one number of each per network, without NaN"
        raise InputError(given, "as many of both, at least two", remedy)
    return one, other
