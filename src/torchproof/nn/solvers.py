"""Solvers of dz/dt = f(t, z): explicit Runge-Kutta methods of a fixed step, and dopri5, which
chooses its steps.

All are called with (field, z, start, end, h, measured), z of shape (B, ...), and answer with z(end)
and the integrals (B,) of the mean |f| over all dimensions but the first, by the solver's own
quadrature; None unless `measured`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, MissingExtra
from torchproof.core.expression import parse

Field = Callable[[Any, Tensor], Tensor]
"""(t, z (B, ...)) -> dz/dt, same shape; t is a number or a tensor of one."""

Solved = tuple[Tensor, Tensor | None]


class Solver(Protocol):
    """What solves from `start` to `end`; h: length of a step, for solvers of a fixed one."""

    def __call__(
        self, field: Field, z: Tensor, start: float, end: float, h: float, measured: bool = False
    ) -> Solved: ...


def grid(start: float, end: float, h: float) -> Iterator[tuple[float, float]]:
    """Steps (t, length) of h each from `start` to `end`; the last is as short as it has to be."""
    count = math.ceil((end - start) / h - 1e-9)  # no step of the length of a rounding error
    for i in range(count):
        now = start + i * h
        yield now, (end - now if i == count - 1 else h)


def speed(slope: Tensor) -> Tensor:
    """(B,) mean |f| over all dimensions but the first, in at least float32."""
    wide = slope.to(torch.promote_types(slope.dtype, torch.float32))
    return wide.abs().flatten(1).mean(1)


@dataclass(frozen=True)
class RungeKutta:
    """An explicit Runge-Kutta method by its tableau: nodes c, rows a, weights b (Butcher 1964)."""

    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    def __call__(
        self, field: Field, z: Tensor, start: float, end: float, h: float, measured: bool = False
    ) -> Solved:
        total = z.new_zeros(z.shape[0]) if measured else None
        for now, step in grid(start, end, h):
            slopes: list[Tensor] = []
            for node, row in zip(self.nodes, self.rows, strict=True):
                at = _moved(z, step, row, slopes)
                slopes.append(field(now + node * step, at))
            z = _moved(z, step, self.weights, slopes)
            if total is not None:
                speeds = [speed(k) for k in slopes]
                total = _moved(total, step, self.weights, speeds)
        return z, total


def _moved(z: Tensor, step: float, factors: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """z + step * sum_i factors_i slopes_i."""
    for factor, slope in zip(factors, slopes, strict=True):
        z = z + step * factor * slope if factor else z
    return z


EULER = RungeKutta((0.0,), ((),), (1.0,))
MIDPOINT = RungeKutta((0.0, 0.5), ((), (0.5,)), (0.0, 1.0))
RK4 = RungeKutta(
    (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)
)


@dataclass(frozen=True)
class Dopri5:
    """The pair of orders 5 and 4 of Dormand and Prince (1980) of the package torchdiffeq.

    tolerance: of the error of a step, relative and absolute; adjoint: gradients from the adjoint
    equation solved backwards (Chen et al. 2018), which are not those of the steps taken; else by
    backpropagation through them. Steps depend on the input, so each row is solved for itself: no
    answer depends on the rest of the batch, at the price of as many solutions as rows. h does
    nothing. Raises InputError for a tolerance that is not > 0, MissingExtra without torchdiffeq.
    """

    tolerance: float = 1e-3
    adjoint: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < math.inf:
            given = f"tolerance = {self.tolerance!r}"
            raise InputError(given, "a finite number > 0", "0.001 is usual")
        _torchdiffeq()

    def __call__(
        self, field: Field, z: Tensor, start: float, end: float, h: float, measured: bool = False
    ) -> Solved:
        if end <= start or not len(z):
            return z, z.new_zeros(len(z)) if measured else None
        ends, totals = zip(
            *(self._row(field, row, start, end) for row in torch.split(z, 1)), strict=True
        )
        return torch.cat(ends), torch.cat(totals) if measured else None

    def _row(self, field: Field, z: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
        """One row (1, ...); the integral is solved for whether or not it is wanted, because it
        takes part in the choice of steps.
        """

        def both(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            slope = field(t, state[0])
            return slope.to(z.dtype), speed(slope).to(z.dtype)

        times = torch.tensor([start, end], dtype=torch.float64, device=z.device)
        more: dict[str, Any] = {"rtol": self.tolerance, "atol": self.tolerance, "method": "dopri5"}
        package, state = _torchdiffeq(), (z, z.new_zeros(1))
        if self.adjoint:
            weights = tuple(field.parameters()) if isinstance(field, nn.Module) else ()
            found = package.odeint_adjoint(both, state, times, adjoint_params=weights, **more)
        else:
            found = package.odeint(both, state, times, **more)
        return found[0][-1], found[1][-1]


def _torchdiffeq() -> Any:
    try:
        return importlib.import_module("torchdiffeq")
    except Exception as error:  # whatever a package that does not fit this environment raises
        raise MissingExtra(
            f"the solver dopri5 without torchdiffeq ({type(error).__name__}: {error})",
            "the package of the extra `ode`",
            "pip install 'torchproof[ode]', or choose a solver of a fixed step, such as rk4",
        ) from error


SOLVERS: dict[str, Callable[..., Solver]] = {
    "euler": lambda: EULER,
    "midpoint": lambda: MIDPOINT,
    "rk4": lambda: RK4,
    "dopri5": Dopri5,
}
"""Name -> solver; errors of orders h, h^2, h^4, and below a tolerance."""


def solver_of(text: str) -> Solver:
    """The solver that `text` names, such as "rk4" or "dopri5(tolerance=0.01)"; raises UnknownName,
    InputError, MissingExtra.
    """
    made = parse(text, SOLVERS)
    if not callable(made):
        raise InputError(f"solver {text!r}", "a solver", f"choose one of {', '.join(SOLVERS)}")
    solver: Solver = made
    return solver
