"""LMIVerify (Fazlyab, Morari, Pappas 2019): multipliers of quadratic constraints on the input, on
the ReLUs and on the answer, in one linear matrix inequality.

Input, in a box: Gamma_ij >= 0 of (x_i - l_i) (u_j - x_j) >= 0, all pairs. ReLUs: nu >= 0 of h >= z,
eta >= 0 of h >= 0, lambda of h (h - z) = 0, and lambda_ij >= 0 of
(h_i - h_j) ((z_i - z_j) - (h_i - h_j)) >= 0, all pairs: one function, of slopes in [0, 1], made
both.
The paper lets nu or eta take any sign where a ReLU's sign is settled, which is to put in z or 0, as
is done here. There is no box of h, and the margin's bound is what is maximised.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import Tensor, nn

from torchproof.core.threats import AnyThreat
from torchproof.verify.bounds import Margins
from torchproof.verify.graph import Graph
from torchproof.verify.sdp.solver import by_multipliers, check_size, solved
from torchproof.verify.sdp.written import Product, Written


def lmi_margins(
    model: nn.Module | Graph, x: Tensor, y: Tensor, threat: AnyThreat, *,
    pairs: bool = True, time_limit: float | None = None,
) -> Margins:  # fmt: skip
    """(B, K - 1) lower bounds of z_y - z_t over the threat around x (B, C, H, W), t != y in order:
    a matrix inequality each, through cvxpy, never below the propagated bounds that it begins with.

    pairs: with lambda_ij, of which there are as many as pairs of ReLUs with one of open sign. What
    is proved, time_limit, sets and errors are those of `sdp_margins`; the box of h, which the
    method does not use, bounds the trace by which a negative eigenvalue counts.
    """
    return solved(model, x, y, threat, time_limit, partial(products, pairs=pairs), by_multipliers)


def products(written: Written, pairs: bool = True) -> list[Product]:
    """Gamma_ij, eta, nu, lambda, and lambda_ij with `pairs`."""
    bent = ~written.settled
    on, off = written.on[bent], written.off[bent]
    check_size(len(written), written.inputs**2)
    unit = np.eye(len(written))[1 : 1 + written.inputs]
    below, above = (written.t + unit) / 2, (written.t - unit) / 2
    count = len(unit)
    box = Product(np.repeat(below, count, 0), np.tile(above, (count, 1)))
    own = written.offs.on[bent], written.offs.off[bent]
    linear = [written.with_one(on, own[0]), written.with_one(off, own[1])]
    made = [box, *linear, Product(on, off, True, own)]
    return [*made, *_pairs(written)] if pairs else made


def _pairs(written: Written) -> list[Product]:
    first, second = np.triu_indices(len(written.settled), 1)
    open_ = ~(written.settled[first] & written.settled[second])
    first, second = first[open_], second[open_]
    if not len(first):
        return []
    check_size(len(written), len(first))
    after = written.after[first] - written.after[second]
    before = written.before[first] - written.before[second]
    doubts = written.offs.doubts
    far, near = (part[first] + part[second] for part in (doubts.before, doubts.after))
    return [Product(after, before - after, off=(near, far + near))]
