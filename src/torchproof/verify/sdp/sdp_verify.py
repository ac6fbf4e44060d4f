"""SDPVerify (Raghunathan, Steinhardt, Liang 2018): the lifted matrix P of y y^T, relaxed to any
positive semidefinite one, solved as it stands.

Constraints, for ReLUs of open sign, with P_00 = 1: h >= 0, h >= z, h h = h z, and P_ii <= 1, which
is h h <= u h in the variables of `lifted`, for the input and every h. These are the paper's. Added:
the triangle h <= u (z - l) / (u - l), without which the relaxation is not at least as tight as the
linear programme where -l and u differ, and (z - l) (u - z) >= 0 for every ReLU. ReLUs of settled
sign are put in.
"""

from __future__ import annotations

from torch import Tensor, nn

from torchproof.core.threats import AnyThreat
from torchproof.verify.bounds import Margins
from torchproof.verify.graph import Graph
from torchproof.verify.sdp.solver import by_matrix, solved
from torchproof.verify.sdp.written import Product, Written


def sdp_margins(
    model: nn.Module | Graph, x: Tensor, y: Tensor, threat: AnyThreat, *,
    time_limit: float | None = None,
) -> Margins:  # fmt: skip
    """(B, K - 1) lower bounds of z_y - z_t over the threat around x (B, C, H, W), t != y in order:
    a semidefinite programme each, through cvxpy, never below the propagated bounds that it begins
    with.

    Nothing rests on the solver: from its multipliers the dual matrix is built again in float64, its
    smallest eigenvalue s is bounded by `eigenvalue.proved`, and where s < 0 the bound loses |s|
    times the trace that P has at most on the box, its number of rows. time_limit: seconds for each
    example in equal shares, but for what writing a programme down takes; programmes that have none
    left leave the propagated bounds. Linf sets are taken as they are, others by their box.

    Raises MissingExtra without cvxpy; ModelError for operations other than affine ones and ReLUs,
    and for networks too large for a solver (about 140 entries of the input and open ReLUs);
    InputError for a graph that is not in float64.
    """
    return solved(model, x, y, threat, time_limit, products, by_matrix)


def products(written: Written) -> list[Product]:
    """h >= 0, h >= z, the triangle, h (h - z) = 0, (z - l) (u - z) >= 0."""
    bent = ~written.settled
    on, off, low = written.on[bent], written.off[bent], written.low[bent]
    s = written.offs
    own = s.on[bent], s.off[bent], s.on[bent] + s.low[bent]
    pairs = zip((on, off, low - on), own, strict=True)
    return [
        *(written.with_one(factor, doubt) for factor, doubt in pairs),
        Product(on, off, True, own[:2]),
        Product(written.low, written.high, off=(s.low, s.high)),
    ]
