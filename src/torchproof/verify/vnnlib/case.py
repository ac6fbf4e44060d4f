"""A property in disjunctive normal form: boxes of inputs, each with rows over the outputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torchproof.core.errors import InputError
from torchproof.verify.vnnlib.names import Tensor

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Case:
    """Fulfilled by x in [low, high] with rows @ y <= limits, in all m rows.

    low, high (n,), rows (m, K) over the outputs, limits (m,); mixed (m, n) is added where a row is
    over inputs too: mixed @ x + rows @ y <= limits. Strict comparisons have the next float64 as
    their limit. The arrays are float64 and cannot be written to.
    """

    low: Vector
    high: Vector
    rows: Vector
    limits: Vector
    mixed: Vector | None = None

    def beyond(self, x: Vector, y: Vector) -> tuple[float, float]:
        """How far x (n,) is outside the box, and how far rows are above their limits, at the point.

        Both are at most 0 exactly where the case is fulfilled; nan counts as infinitely far.
        """
        box = _largest(np.maximum(self.low - x, x - self.high))
        with np.errstate(invalid="ignore", over="ignore"):
            left = self.rows @ y if self.mixed is None else self.rows @ y + self.mixed @ x
            return box, _largest(left - self.limits)


@dataclass(frozen=True, eq=False)
class Property:
    """What must never be: the property is violated where any of its cases is fulfilled.

    Cases over one box stand together and share its arrays. `infeasible` cases, whose box is empty,
    are left out: without any case the property holds trivially. `tensors` are the declared input
    and output of VNN-LIB 2.0, None in 1.0. Inputs and outputs are flat, in C order.
    """

    inputs: int
    outputs: int
    cases: tuple[Case, ...]
    infeasible: int = 0
    tensors: tuple[Tensor, Tensor] | None = None

    @property
    def trivial(self) -> bool:
        """Whether it holds whatever the network: no case can be fulfilled."""
        return not self.cases

    def boxes(self) -> tuple[tuple[Case, ...], ...]:
        """The cases, grouped by their box."""
        groups: list[list[Case]] = []
        for case in self.cases:
            if not groups or groups[-1][0].low is not case.low:
                groups.append([])
            groups[-1].append(case)
        return tuple(map(tuple, groups))

    def __str__(self) -> str:
        parts = f"{self.inputs} inputs, {self.outputs} outputs, {len(self.cases)} cases"
        parts += f" over {len(self.boxes())} boxes"
        if self.infeasible:
            parts += f", {self.infeasible} infeasible ones left out"
        return parts + (": holds trivially" if self.trivial else "")


def violated(
    property: Property,
    x: ArrayLike,
    y: ArrayLike,
    *,
    input_atol: float = 0.0,
    output_atol: float = 0.0,
) -> bool:
    """Whether a point x (n,) with the outputs y (K,), of any shape in C order, violates a property.

    Everything is worked out in float64. A box is larger by `input_atol` on every side, every limit
    by `output_atol`. A nan is never a violation. Raises InputError for other sizes, and for
    tolerances below 0.
    """
    point, answer = flat(x, property.inputs, "inputs"), flat(y, property.outputs, "outputs")
    if not (0.0 <= input_atol < np.inf and 0.0 <= output_atol < np.inf):
        given = f"tolerances of {input_atol} and {output_atol}"
        raise InputError(given, "finite ones, at least 0", "leave them out for an exact answer")
    inside = {}
    for case in property.cases:
        key = id(case.low)
        if key not in inside:
            near = (point >= case.low - input_atol) & (point <= case.high + input_atol)
            inside[key] = bool(near.all())
        if inside[key] and case.beyond(point, answer)[1] <= output_atol:
            return True
    return False


def flat(values: ArrayLike, size: int, what: str) -> Vector:
    """The values as (size,) in float64; raises InputError for another number of them."""
    vector = np.asarray(values, dtype=np.float64).reshape(-1)
    if vector.size != size:
        given = f"{vector.size} {what}, shape {np.shape(values)}"
        raise InputError(given, f"{size} {what}", "use the network of this property")
    return vector


def _largest(values: Vector) -> float:
    """The largest value: -inf of none, inf where one is nan."""
    if not values.size:
        return -np.inf
    top = float(values.max())
    return np.inf if np.isnan(top) else top
