"""Of `reproduce tail-index`: what is kept of its parts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import groupby

from pydantic import ConfigDict

from torchproof.diagnose.tail_index import Tails, TailTrack
from torchproof.report.tail_index_plots import READINGS
from torchproof.reproduce.figures import Figures

ALPHAS = (1.2, 1.5, 1.8, 2.0)
WITHIN = {"published": 0.03, "characteristic": 0.05}  # of the true index, mean of 20 sets
COVERED = 0.9


class _Figures(Figures):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Cell(_Figures):
    """One network: accuracy on n test images, on its training images (fitted), and the tails of its
    noise, or why there are none.
    """

    data: str
    loss: str
    width: int
    seed: int
    n: int
    accuracy: float
    fitted: float
    tails: Tails | None
    refused: str = ""

    def __str__(self) -> str:
        if self.tails is None:
            return f"accuracy {self.accuracy:.3f}; {self.refused}"
        read = ", ".join(f"{k} {getattr(self.tails, k).alpha:.2f}" for k in READINGS)
        return f"accuracy {self.accuracy:.3f}, zeros {self.tails.zeros:.3f}, {read}"


class Track(_Figures):
    """Tails over the training of one network."""

    data: str
    seed: int
    found: TailTrack

    def __str__(self) -> str:
        return ", ".join(f"{t.filtered.alpha:.2f}" for t in self.found.tails)


class Synthetic(_Figures):
    """means[estimator][alpha]: its readings of 20 sets; covered[alpha]: intervals of the published
    one that hold alpha, of `repetitions`; scales: by the deviation of their logarithm, reading and
    theory; zeros: by their share, reading with and without them; together: the reading of equal
    coordinates.
    """

    draws: int
    repetitions: int
    covered: dict[str, int]
    means: dict[str, dict[str, tuple[float, ...]]]
    scales: dict[str, tuple[float, float]]
    zeros: dict[str, tuple[float, float]]
    together: float

    def __str__(self) -> str:
        return ", ".join(f"{k}: {v} of {self.repetitions} cover" for k, v in self.covered.items())

    @property
    def sound(self) -> bool:
        """Are the estimators as near as they should be, and the intervals as honest?"""
        near = all(
            abs(statistics.fmean(self.means[kind][f"{a}"]) - a) <= most
            for kind, most in WITHIN.items()
            for a in ALPHAS
        )
        return near and all(v >= COVERED * self.repetitions for v in self.covered.values())


class Exit(_Figures):
    """Mean exit times by driver and well, and what theory predicts."""

    seed: int
    walkers: int
    means: dict[str, float]
    predicted: dict[str, float]

    def __str__(self) -> str:
        return ", ".join(f"{v:.1f}" for v in self.means.values())

    def ratio(self, alpha: float, what: str) -> float:
        """The mean over the two other wells of time at the larger over time at the smaller `what`,
        half width or height.
        """

        def time(width: str, height: str) -> float:
            return self.means[f"alpha {alpha}, half width {width}, height {height}"]

        if what == "half width":
            return statistics.fmean(time("2", h) / time("1", h) for h in ("0.5", "1"))
        return statistics.fmean(time(w, "1") / time(w, "0.5") for w in ("1", "2"))


def groups(cells: Sequence[Cell]) -> list[tuple[str, list[tuple[int, list[Tails]]]]]:
    """(data and loss) -> (width -> tails of all seeds that have them), as the cells come."""

    def name(cell: Cell) -> str:
        return f"{cell.data}, {cell.loss}"

    found = []
    for what in dict.fromkeys(name(c) for c in cells):
        own = sorted((c for c in cells if name(c) == what and c.tails), key=lambda c: c.width)
        by = [
            (w, [c.tails for c in each if c.tails]) for w, each in groupby(own, lambda c: c.width)
        ]
        found.append((what, by))
    return found
