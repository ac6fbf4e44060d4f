"""Of `reproduce adaptive`: what is stored of a defence, and what became of it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from torchproof.core.metrics import clopper_pearson
from torchproof.reproduce.figures import Figures

FORMS, CLOSE, LOW = 0.20, 0.05, 0.10  # naive above base; hand-made near base, or below
NEAR = 0.10  # adapt above hand-made
NOT_FORMED = "the defence did not form"

_TINY = 1e-9  # shares are sums of fractions


def at_least(value: float, least: float) -> bool:
    return value >= least - _TINY


def above(value: float, most: float) -> bool:
    return value > most + _TINY


Marks = tuple[bool, ...]


class Tried(Figures):
    """One attempt: on how many examples that nothing before had broken, and how many it broke."""

    name: str
    asked: int
    won: int


class Attacked(Figures):
    """A model under attacks, example by example. clean: answered correctly, and accepted; naive:
    left standing by the naive evaluation; all: by the stronger attacks too.
    """

    clean: Marks
    naive: Marks
    all: Marks
    tried: tuple[Tried, ...]
    seconds: float


class Debugged(Figures):
    """What `adapt` found. robust: examples left standing; flags: names; found, problems: of the
    active test of the naive attack, informative: does it say anything; spent: samples; code: of
    the sources of the workbench; refused: why it gave up, "" where it did not; nothing is found
    then, and what the naive attacks leave is left.
    """

    clean: Marks
    robust: Marks
    flags: tuple[str, ...]
    suspect: str | None
    best: str
    found: int
    problems: int
    informative: bool
    passes: bool
    spent: int
    seconds: float
    code: str
    refused: str = ""


class Control(Figures):
    """A network without a defence that was trained adversarially elsewhere."""

    name: str
    threat: str
    debugged: Debugged

    @property
    def quiet(self) -> bool:
        """No flag, and the active test says something and is passed."""
        told = self.debugged
        return not told.flags and told.informative and told.passes


@dataclass(frozen=True)
class Cell:
    """A defence at one seed: the naive and the hand-made attacks on it, `adapt`, and its base under
    the naive attacks and under stronger ones.
    """

    attacked: Attacked
    debugged: Debugged
    base: Attacked


KINDS = ("clean", "naive", "adapt", "hand-made", "base")


@dataclass(frozen=True)
class Broken:
    """All seeds of one defence; right: the flags that are right for it."""

    name: str
    right: tuple[str, ...]
    cells: tuple[Cell, ...]

    def marks(self, kind: str) -> list[Marks]:
        """Per seed what is left standing by `kind` of KINDS, or "base, naive"."""
        places = {
            "clean": lambda c: c.attacked.clean, "naive": lambda c: c.attacked.naive,
            "adapt": lambda c: c.debugged.robust, "hand-made": lambda c: c.attacked.all,
            "base": lambda c: c.base.all, "base, naive": lambda c: c.base.naive,
        }  # fmt: skip
        return [places[kind](cell) for cell in self.cells]

    def share(self, kind: str) -> float:
        return statistics.fmean(sum(marks) / len(marks) for marks in self.marks(kind))

    def interval(self, kind: str) -> tuple[float, float]:
        """Of Clopper and Pearson, all seeds together."""
        marks = self.marks(kind)
        return clopper_pearson(sum(map(sum, marks)), sum(map(len, marks)))

    @property
    def gain(self) -> float:
        """By how much the naive evaluation exceeds the base."""
        return self.share("naive") - self.share("base")

    @property
    def formed(self) -> bool:
        return at_least(self.gain, FORMS)

    @property
    def short(self) -> float:
        """How far above both 5 points over the base and 10 % the hand-made attacks leave it."""
        return self.share("hand-made") - max(self.share("base") + CLOSE, LOW)

    @property
    def broken(self) -> bool:
        """Within 5 points of the base, or below 10 %?"""
        left = self.share("hand-made")
        return not above(left - self.share("base"), CLOSE) or not at_least(left, LOW)

    @property
    def near(self) -> bool:
        """Is `adapt` at most 10 points above the hand-made attacks?"""
        return not above(self.share("adapt") - self.share("hand-made"), NEAR)

    @property
    def raised(self) -> list[tuple[str, str]]:
        """The flags, the right ones first: name, and the words for it, with the number of seeds
        where it was not raised at all.
        """
        every = [flag for cell in self.cells for flag in cell.debugged.flags]
        names = sorted(dict.fromkeys(every), key=lambda n: (n not in self.right, -every.count(n)))
        seeds = len(self.cells)
        often = {
            n: "" if every.count(n) == seeds else f" ({every.count(n)}/{seeds})" for n in names
        }
        return [(name, name + often[name]) for name in names]

    @property
    def hits(self) -> list[int]:
        """Per seed: was a right flag raised?"""
        return [int(bool(set(self.right) & set(cell.debugged.flags))) for cell in self.cells]

    @property
    def flagged(self) -> bool:
        """At most seeds."""
        return 2 * sum(self.hits) > len(self.cells)

    @property
    def reading(self) -> str:
        """What became of it, in a few words."""
        if not self.formed:
            return f"{NOT_FORMED}, {self.gain * 100:+.1f} points over the base"
        return "broken" if self.broken else f"falls short by {100 * self.short:.1f} points"
