"""What is asked of a network: can an input of a box lead to an answer of a polyhedron?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from torchproof.core.errors import InputError

Verdict = Literal["unsat", "sat", "timeout", "unknown"]
"""unsat: no input does (proved); sat: one does, and is given; timeout, unknown: neither."""


@dataclass(frozen=True)
class Question:
    """Is there x with low <= x <= high, entry by entry, and rows @ y <= limits in every row, y the
    answer to x?

    low, high: (...) of the input's shape; rows: (M, K); limits: (M,). Raises InputError for shapes
    that do not fit, and for an empty box.
    """

    low: Tensor
    high: Tensor
    rows: Tensor
    limits: Tensor

    def __post_init__(self) -> None:
        fits = self.low.shape == self.high.shape and self.rows.shape[:1] == self.limits.shape
        if not fits or not len(self.rows):
            shapes = [tuple(t.shape) for t in (self.low, self.high, self.rows, self.limits)]
            expected = "low and high alike, rows (M, K), limits (M,), M >= 1"
            raise InputError(f"low, high, rows, limits of shapes {shapes}", expected, "mend them")
        if not bool((self.low <= self.high).all()):
            raise InputError("an empty box", "low <= high in every entry", "leave the question out")

    def met(self, y: Tensor) -> Tensor:
        """(B,) whether answers y (B, K) are in the polyhedron."""
        return (y @ self.rows.T <= self.limits).all(1)


@dataclass(frozen=True)
class Answer:
    """verdict; x: the input found, for "sat"; parts: boxes that were bounded."""

    verdict: Verdict
    x: Tensor | None
    parts: int


def certainly_not(lower: Tensor, limits: Tensor) -> Tensor:
    """(B,) whether lower bounds (B, M) of rows @ y leave no answer within the limits."""
    return (lower > limits).any(1)


def nearest(question: Question, x: Tensor, y: Tensor) -> Tensor | None:
    """One of x (B, ...) whose answer y (B, K) is in the polyhedron, or None."""
    found = question.met(y).nonzero()[:, 0]
    return x[found[0]].clone() if len(found) else None
