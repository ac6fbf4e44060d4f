"""How numbers are written: shares with intervals, counts, durations, threats. Text, no markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchproof.core.metrics import clopper_pearson
from torchproof.evaluate.record import ThreatRecord

NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}
LEVEL = 0.95


@dataclass(frozen=True)
class Share:
    """A fraction of n examples with its 95 % interval [low, high]; all three in [0, 1]."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def counted(cls, hits: int, n: int) -> Share:
        """`hits` of `n`, with the exact interval of Clopper and Pearson (1934)."""
        low, high = clopper_pearson(hits, n, LEVEL)
        return cls(hits / n, low, high, n)

    @classmethod
    def measured(cls, fraction: float, n: int) -> Share:
        """A fraction of `n` examples, given as a number: it is shown as given."""
        low, high = clopper_pearson(round(fraction * n), n, LEVEL)
        return cls(fraction, low, high, n)

    @property
    def hits(self) -> int:
        """How many of the n."""
        return round(self.value * self.n)

    @property
    def percent(self) -> str:
        """`71.2`: one decimal up to a thousand examples, two above, where a hundredth counts."""
        return self.written(self.value)

    @property
    def interval(self) -> str:
        """`67.0 to 75.1`, in percent."""
        return f"{self.written(self.low)} to {self.written(self.high)}"

    @property
    def said(self) -> str:
        """`71.2 % (95 % interval 67.0 to 75.1 %, n = 500)`."""
        return f"{self.percent} % (95 % interval {self.interval} %, n = {count(self.n)})"

    def written(self, fraction: float) -> str:
        """A fraction in percent, to as many decimals as n is worth."""
        return f"{100 * fraction:.{1 if self.n <= 1000 else 2}f}"


def count(number: float) -> str:
    """`1,234,567`."""
    return f"{number:,.0f}"


def plain(number: float) -> str:
    """At most four significant digits: `0.03137`, `0.15`."""
    return f"{number:.4g}"


def duration(seconds: float) -> str:
    """`0.84 s`, `12.3 s`, `4 min 05 s`, `2 h 03 min`."""
    if seconds < 99.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def norm(part: ThreatRecord) -> str:
    """`L∞` for linf; a norm without a sign of its own as it is named."""
    return NORMS.get(part.norm.lower(), part.norm)


def eps(part: ThreatRecord) -> str:
    """`8/255 (0.03137)`, or `0.15` where text and number say the same."""
    if part.eps is None:
        return part.eps_text or "not given"
    number = plain(part.eps)
    return f"{part.eps_text} ({number})" if "/" in part.eps_text else number


def threat(parts: Sequence[ThreatRecord]) -> str:
    """`L∞, ε = 8/255 (0.03137)`; several are joined by `and`, for their per-example union."""
    return " and ".join(f"{norm(part)}, ε = {eps(part)}" for part in parts)
