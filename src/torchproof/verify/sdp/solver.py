"""Semidefinite programmes through cvxpy, and the multipliers that it finds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchproof.core.errors import MissingExtra, ModelError
from torchproof.core.threats import AnyThreat
from torchproof.verify.bounds import Margins
from torchproof.verify.graph import Graph
from torchproof.verify.programme.solve import Value
from torchproof.verify.sdp.doubts import Doubting
from torchproof.verify.sdp.starting import Start, starts
from torchproof.verify.sdp.written import Product, Written

MOST, DENSE = 2**24, 90
"""Entries of all constraints' matrices that are taken on; rows of the largest matrix for Clarabel
(interior points, memory with the fourth power), above which it is SCS (first order).
"""

Multipliers = tuple[list[np.ndarray], np.ndarray]
"""Of each product's rows, and kappa (n,) of y_i^2 <= 1."""


def cvxpy() -> Any:
    """The package. Raises MissingExtra where it is absent or does not load."""
    try:
        import cvxpy as found
    except Exception as error:  # whatever a broken installation may raise
        raise MissingExtra(
            f"a semidefinite programme (cvxpy: {error})",
            "the packages cvxpy and clarabel",
            "pip install 'torchproof[sdp]', or use sdp_fo_margins, which needs neither",
        ) from error
    return found


def check_size(n: int, rows: int) -> None:
    """Raises ModelError for matrices (n, n) of that many constraints that solvers cannot hold, or
    not begin within a few seconds.
    """
    if rows * n * n > MOST:
        raise ModelError(
            f"a network with {n - 1} inputs and open ReLUs, {rows} constraints or more, for a "
            "semidefinite solver",
            f"at most {MOST} entries in their matrices, not {rows * n * n}",
            "use sdp_fo_margins, lmi_margins with pairs=False, or a smaller eps",
        )


Solve = Callable[[Written, Sequence[Product], float], "Multipliers | None"]


def solved(
    model: nn.Module | Graph, x: Tensor, y: Tensor, threat: AnyThreat, time_limit: float | None,
    products: Callable[[Written], list[Product]], solve: Solve,
) -> Margins:  # fmt: skip
    """What a solver's multipliers prove of every margin, and the propagated bounds."""
    found, walked = [], 0
    for start in starts(model, x, y, threat, time_limit):
        bounds = torch.tensor([v.bound for v in values(start, products, solve)])
        found.append(torch.maximum(start.propagated, bounds.to(start.propagated)))
        walked += start.walked
    return Margins(torch.stack(found), walked)


def values(
    start: Start, products: Callable[[Written], list[Product]], solve: Solve,
    doubting: Doubting | None = None,
) -> list[Value]:  # fmt: skip
    """What a solver's multipliers prove of every margin of an example, in the time that it has."""
    cvxpy()
    found, count = [], len(start.lifted)
    for place, size in enumerate(start.lifted.mask.sum(1).tolist()):
        check_size(size, size)  # before anything of that size is made
        one = start.lifted.take(torch.tensor([place], device=start.lifted.rows.device))
        written, bound = Written.of(one, doubting), Value(-np.inf, 0.0)
        if start.clock.left > 0:
            share = start.clock.left / (count - place)
            bound = proven(written, products(written), solve, share)
        found.append(bound)
    return found


def proven(
    written: Written, products: list[Product], solve: Solve, seconds: float = np.inf
) -> Value:
    """The bound of one margin, -inf where the solver leaves no multipliers."""
    kept = [product for product in products if len(product.left)]
    check_size(len(written), sum(len(product.left) for product in kept))
    found = solve(written, kept, seconds)
    return Value(-np.inf, 0.0) if found is None else written.bound(kept, *found)


def by_matrix(
    written: Written, products: Sequence[Product], seconds: float
) -> Multipliers | None:  # fmt: skip
    """The least <objective, P> over P >= 0 (semidefinite), P_00 = 1, P_ii <= 1 and the products;
    None where the solver ends without multipliers.
    """
    cp, n = cvxpy(), len(written)
    lifted = cp.Variable((n, n), symmetric=True)
    flat = cp.vec(lifted, order="C")
    ties, rows = [], [_sparse(product.coefficients()) @ flat for product in products]
    for product, row in zip(products, rows, strict=True):
        ties.append(row == 0 if product.zero else row >= 0)
    one, box = lifted[0, 0] == 1, cp.diag(lifted)[1:] <= 1
    objective = cp.Minimize(_sparse(written.objective.reshape(1, -1)) @ flat)
    _solve(cp, cp.Problem(objective, [lifted >> 0, one, box, *ties]), n, seconds)
    if any(tie.dual_value is None for tie in (one, box, *ties)):
        return None
    # cvxpy adds the multiplier of an equation, and subtracts that of an inequality
    found = [(-1 if p.zero else 1) * np.atleast_1d(tie.dual_value)
             for p, tie in zip(products, ties, strict=True)]  # fmt: skip
    kappa = np.concatenate([np.atleast_1d(one.dual_value), np.atleast_1d(box.dual_value)])
    return found, kappa


def by_multipliers(
    written: Written, products: Sequence[Product], seconds: float
) -> Multipliers | None:  # fmt: skip
    """The largest b with A(multipliers) - b e_0 e_0^T >= 0 (semidefinite), kappa being -b at 0 and
    0 elsewhere; None where the solver ends without an answer.
    """
    cp, n = cvxpy(), len(written)
    bound, flat = cp.Variable(), written.objective.reshape(-1)
    found = [cp.Variable(len(p.left), nonneg=not p.zero) for p in products]
    corner = np.zeros(n * n)
    corner[0] = 1.0
    value = flat - corner * bound
    for product, multiplier in zip(products, found, strict=True):
        value = value - _sparse(product.coefficients().T) @ multiplier
    matrix = cp.reshape(value, (n, n), order="C")
    _solve(cp, cp.Problem(cp.Maximize(bound), [(matrix + matrix.T) / 2 >> 0]), n, seconds)
    if bound.value is None or any(m.value is None for m in found):
        return None
    kappa = np.zeros(n)
    kappa[0] = -float(bound.value)
    return [np.atleast_1d(m.value) for m in found], kappa


def _sparse(matrix: np.ndarray) -> Any:
    from scipy import sparse

    return sparse.csr_matrix(matrix)


def _solve(cp: Any, problem: Any, size: int, seconds: float) -> None:
    """Whatever its status: what counts are the multipliers that it leaves behind."""
    direct = size <= DENSE and "CLARABEL" in cp.installed_solvers()
    options: dict[str, Any] = {"solver": cp.CLARABEL if direct else cp.SCS}
    if np.isfinite(seconds):
        options["time_limit" if direct else "time_limit_secs"] = seconds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            problem.solve(**options)
        except cp.error.SolverError:
            return
