"""A programme while it is written: variables, and rows of inequalities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

U = 2.0**-53  # of float64


class Form(NamedTuple):
    """factor * v[which] + constant, entry by entry: arrays of one shape. doubt: how far the network
    itself may be from there, because it is rounded.
    """

    which: np.ndarray
    factor: np.ndarray
    constant: np.ndarray
    doubt: np.ndarray

    def at(self, where: Any) -> Form:
        return Form(*(part[where] for part in self))

    def shaped(self, *shape: int) -> Form:
        return Form(*(part.reshape(shape) for part in self))

    def spread(self, shape: Sequence[int]) -> Form:
        return Form(*(np.broadcast_to(part, shape) for part in self))

    def put(self, where: np.ndarray, other: Form) -> None:
        """Overwrites the entries where a mask holds."""
        for mine, part in zip(self, other, strict=True):
            mine[where] = part

    @classmethod
    def zeros(cls, *shape: int) -> Form:
        return cls(np.zeros(shape, dtype=np.int64), *(np.zeros(shape) for _ in range(3)))

    def value(self, v: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.factor * v[self.which] + self.constant
        return found


@dataclass(frozen=True)
class Programme:
    """least <= matrix @ v <= most, low <= v <= high, whole numbers where `integer` holds; matrix:
    sparse (rows, variables). Every low and high is finite; least is -inf or equal to most. slack:
    (rows,) how much the network itself may break a row by, because it is rounded.
    """

    matrix: Any
    least: np.ndarray
    most: np.ndarray
    low: np.ndarray
    high: np.ndarray
    integer: np.ndarray
    slack: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """(variables,) the largest absolute values."""
        found: np.ndarray = np.maximum(np.abs(self.low), np.abs(self.high))
        return found

    @property
    def ties(self) -> np.ndarray:
        """Rows that are equations."""
        found: np.ndarray = self.least == self.most
        return found


@dataclass
class Draft:
    """Collects variables and rows; `done` makes a Programme of what there is so far."""

    count: int = 0
    _low: list[np.ndarray] = field(default_factory=list)
    _high: list[np.ndarray] = field(default_factory=list)
    _integer: list[np.ndarray] = field(default_factory=list)
    _rows: list[Any] = field(default_factory=list)
    _least: list[np.ndarray] = field(default_factory=list)
    _most: list[np.ndarray] = field(default_factory=list)
    _slack: list[np.ndarray] = field(default_factory=list)
    _made: Programme | None = None

    def variables(self, low: np.ndarray, high: np.ndarray, integer: bool = False) -> Form:
        """New variables in [low, high], each (n,)."""
        index = np.arange(self.count, self.count + len(low))
        self.count += len(low)
        self._low.append(low)
        self._high.append(high)
        self._integer.append(np.full(len(low), integer))
        self._made = None
        return Form(index, np.ones(len(low)), np.zeros(len(low)), np.zeros(len(low)))

    @property
    def sizes(self) -> np.ndarray:
        """(variables,) the largest absolute values so far."""
        found: np.ndarray = np.maximum(np.abs(_joined(self._low)), np.abs(_joined(self._high)))
        return found

    def at_most(
        self, terms: Sequence[tuple[np.ndarray | float, Form]], limit: np.ndarray | float
    ) -> np.ndarray:
        """sum_t <weight_t, form_t> <= limit for n rows; forms (n,), or (n, k) and summed over k.
        Answers the places of the rows.

        Weights and limits may be a few operations away from those with which the rows hold.
        """
        matrix, constant, slack = self._summed(terms, limit)
        return self._add(matrix, np.full(len(constant), -np.inf), limit - constant, slack)

    def equal(
        self, terms: Sequence[tuple[np.ndarray | float, Form]], value: np.ndarray | float
    ) -> None:
        matrix, constant, slack = self._summed(terms, value)
        self._add(matrix, value - constant, value - constant, slack)

    def define(self, form: Form, matrix: Any, constant: np.ndarray, doubt: np.ndarray) -> None:
        """form = matrix @ v + constant, but for `doubt`, for new variables (n,) and a sparse
        matrix.
        """
        own = sparse.csr_array(
            (form.factor, (np.arange(len(constant)), form.which)), (len(constant), self.count)
        )
        self._add(own - _widened(matrix, self.count), constant, constant, doubt)

    def _summed(
        self, terms: Sequence[tuple[np.ndarray | float, Form]], limit: np.ndarray | float
    ) -> tuple[Any, np.ndarray, np.ndarray]:
        """The matrix, what constants add up to, and the slack of the rows."""
        size, sizes = len(terms[0][1].which), self.sizes
        rows, columns, data = [], [], []
        constant, doubt, total, count = np.zeros(size), np.zeros(size), np.zeros(size), 0
        for weight, form in terms:
            index = form.which.reshape(size, -1)
            weights = np.broadcast_to(weight, form.which.shape).reshape(size, -1)
            rows.append(np.repeat(np.arange(size), index.shape[1]))
            columns.append(index.ravel())
            data.append((weights * form.factor.reshape(size, -1)).ravel())
            constant += (weights * form.constant.reshape(size, -1)).sum(1)
            far = np.abs(form.factor) * sizes[form.which] + np.abs(form.constant)
            total += (np.abs(weights) * far.reshape(size, -1)).sum(1)
            doubt += (np.abs(weights) * form.doubt.reshape(size, -1)).sum(1)
            count += index.shape[1]
        slack = doubt + (64 + 8 * count) * U * (total + np.abs(limit))
        places = (np.concatenate(rows), np.concatenate(columns))
        made = sparse.csr_array((np.concatenate(data), places), (size, self.count))
        return made, constant, slack

    def _add(
        self, matrix: Any, least: np.ndarray, most: np.ndarray, slack: np.ndarray
    ) -> np.ndarray:
        matrix.eliminate_zeros()
        first = sum(map(len, self._slack))
        self._rows.append(matrix)
        self._slack.append(slack)
        self._least.append(least)
        self._most.append(most)
        self._made = None
        return np.arange(first, first + len(slack))

    def done(self) -> Programme:
        """What has been written so far."""
        if self._made is None:
            self._made = self._whole()
        return self._made

    def _whole(self) -> Programme:
        wide = [_widened(block, self.count) for block in self._rows]
        matrix = sparse.vstack(wide, format="csr") if wide else sparse.csr_array((0, self.count))
        return Programme(
            matrix, _joined(self._least), _joined(self._most), _joined(self._low),
            _joined(self._high), _joined(self._integer).astype(bool), _joined(self._slack),
        )  # fmt: skip


def _widened(matrix: Any, columns: int) -> Any:
    shape = (matrix.shape[0], columns)
    return sparse.csr_array((matrix.data, matrix.indices, matrix.indptr), shape)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0)
