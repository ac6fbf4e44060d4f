"""Linear terms over inputs and outputs, and the tree of `and` and `or` over their comparisons.

Variables are numbers: input i is i, output j is ~j. Everything is in float64: a number is read as
the nearest one, so that no float64 point is lost, and a strict comparison is the one with the next
float64, which the same float64 points fulfil.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from torchproof.core.errors import InputError
from torchproof.verify.vnnlib.text import Wrong

MOST_CASES = 200_000
"""Cases of the disjunctive normal form; the largest property of a competition has 120,000."""

MOST_PARTS = 2_000_000
"""Comparisons over all cases of the disjunctive normal form."""

FLAT: Final = "divide the property into several files, each with some of its cases"


@dataclass(slots=True)
class Linear:
    """The sum of constants times variables, and of a constant; no variable has the constant 0."""

    terms: dict[int, float]
    constant: float

    def add(self, other: Linear, sign: float) -> None:
        """Adds another one, `sign` times, to this one."""
        self.constant += sign * other.constant
        for variable, factor in other.terms.items():
            total = self.terms.get(variable, 0.0) + sign * factor
            if total == 0.0:
                self.terms.pop(variable, None)
            else:
                self.terms[variable] = total

    def times(self, factor: float) -> Linear:
        """This one times a constant."""
        if factor == 0.0:
            return Linear({}, 0.0)
        return Linear({v: factor * f for v, f in self.terms.items()}, factor * self.constant)


def product(one: Linear, other: Linear) -> Linear:
    """The product of two terms; raises Wrong where both have variables."""
    if one.terms and other.terms:
        remedy = "write terms with one variable each; products of variables are not linear"
        given = "a nonlinear term, the product of two variables"
        raise Wrong(given, "products with a constant", remedy, InputError)
    return one.times(other.constant) if one.terms else other.times(one.constant)


@dataclass(frozen=True, slots=True)
class Row:
    """terms <= limit, over more than one input or over outputs."""

    terms: dict[int, float]
    limit: float


@dataclass(frozen=True, slots=True)
class Edge:
    """One input's bound."""

    input: int
    value: float
    upper: bool


@dataclass(slots=True)
class Conjunction:
    """A conjunction: bounds of inputs, rows, disjunctions. `never`: it has a false constant.

    `cases` and `parts` are sizes of its disjunctive normal form, known after `measure`.
    """

    edges: list[Edge] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    choices: list[Disjunction] = field(default_factory=list)
    never: bool = False
    cases: int = 1
    parts: int = 1

    def at_most_zero(self, term: Linear, strict: bool) -> None:
        """Adds term <= 0, or < 0 where it is strict; raises Wrong for a number beyond float64."""
        limit, terms = 0.0 - term.constant, term.terms
        if not all(map(math.isfinite, (limit, *terms.values()))):
            raise Wrong("a number beyond float64", "finite numbers", "scale the comparison")
        if strict:
            limit = math.nextafter(limit, -math.inf)
        if not terms:
            self.never |= limit < 0.0
        elif len(terms) == 1 and min(terms) >= 0:
            ((variable, factor),) = terms.items()
            self.edges.append(_edge(variable, factor, 0.0 - term.constant, strict))
        else:
            self.rows.append(Row(terms, limit))

    def measure(self) -> None:
        """Counts the cases; raises Wrong where they are too many to list."""
        cases, parts = 1, 1 + len(self.rows)
        for choice in self.choices:
            parts = parts * choice.cases + choice.parts * cases
            cases *= choice.cases
            check(cases, parts)
        self.cases, self.parts = cases, parts


@dataclass(slots=True)
class Disjunction:
    """A disjunction of conjunctions."""

    members: list[Conjunction] = field(default_factory=list)
    cases: int = 0
    parts: int = 0

    def measure(self) -> None:
        """Counts the cases; raises Wrong where they are too many to list."""
        self.cases = sum(m.cases for m in self.members)
        self.parts = sum(m.parts for m in self.members)
        check(self.cases, self.parts)


def _edge(variable: int, factor: float, limit: float, strict: bool) -> Edge:
    """The bound with exactly the float64 numbers x of factor * x <= limit, or < limit."""
    value, upper = limit / factor + 0.0, factor > 0.0
    if not math.isfinite(value):
        raise Wrong("a bound beyond float64", "finite numbers", "scale the comparison")
    if strict or abs(factor) != 1.0:
        # the quotient is rounded to one of the two neighbours of the true one
        exact, rounded = Fraction(limit) / Fraction(factor), Fraction(value)
        if (rounded == exact and strict) or (rounded != exact and (rounded > exact) == upper):
            value = math.nextafter(value, -math.inf if upper else math.inf)
    return Edge(variable, value, upper)


def check(cases: int, parts: int) -> None:
    """Raises Wrong for a disjunctive normal form beyond MOST_CASES or MOST_PARTS."""
    if cases > MOST_CASES:
        given = "a formula of more cases than can be listed, one for each choice at every `or`"
        raise Wrong(given, f"at most {MOST_CASES:,}", FLAT, InputError)
    if parts > MOST_PARTS:
        given = "a formula whose cases have more comparisons than can be listed"
        raise Wrong(given, f"at most {MOST_PARTS:,} over all cases", FLAT, InputError)


Place = Conjunction | Disjunction
"""Where comparisons are put."""


def branch(place: Place | None, head: str) -> tuple[Place, bool]:
    """Where the parts of an `and` or `or` go, and whether that is new: like in like is flat."""
    if isinstance(place, Conjunction):
        if head == "and":
            return place, False
        choice = Disjunction()
        place.choices.append(choice)
        return choice, True
    assert place is not None
    if head == "or":
        return place, False
    member = Conjunction()
    place.members.append(member)
    return member, True


def compare(place: Place | None, head: str, left: Linear, right: Linear) -> None:
    """Puts a comparison of two terms where it belongs; `left` is used up."""
    left.add(right, -1.0)
    if head == "!=":
        _either(place, left)
        return
    where, new = branch(place, "and")
    assert isinstance(where, Conjunction)
    if head in ("<=", "<", "=", "=="):
        where.at_most_zero(left, strict=head == "<")
    if head in (">=", ">", "=", "=="):
        where.at_most_zero(left.times(-1.0), strict=head == ">")
    if new:
        where.measure()


def _either(place: Place | None, difference: Linear) -> None:
    """Puts difference != 0 where it belongs: below zero, or above."""
    choice, new = branch(place, "or")
    for sign in (1.0, -1.0):
        member, _ = branch(choice, "and")
        assert isinstance(member, Conjunction)
        member.at_most_zero(difference.times(sign), strict=True)
        member.measure()
    if new:
        choice.measure()
