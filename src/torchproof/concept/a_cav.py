"""A-CAV (Soni et al. 2020, arXiv 2002.03549): concept classifiers trained with an adversarial
margin in activation space.

Only the abstract is known to us. That margins between concept and random examples grow by
adversarial training of the concept classifier is the paper's; loss, budget and side are our
reading of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from torchproof.concept.cav import Array, Cav, both
from torchproof.core.errors import InputError

Side = Literal["concept", "random", "both"]
Norm = Literal["linf", "l2"]
STEPS = 500  # of L-BFGS, at most
TOLERANCE = 1e-9  # of the loss, relative, between two steps


@dataclass(frozen=True)
class Margin:
    """The adversarial margin: activations of one side, or of both, are moved against their label
    by up to eps (in units of the activations, every entry for linf, in all for l2). eps = 0: none.
    """

    eps: float = 0.05
    side: Side = "concept"
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        if not (np.isfinite(self.eps) and self.eps >= 0):
            raise InputError(f"eps = {self.eps}", "a number >= 0", "0 trains without a margin")
        for name, known in (("side", Side), ("norm", Norm)):
            if getattr(self, name) not in get_args(known):
                expected = f"one of {', '.join(get_args(known))}"
                raise InputError(f"{name} {getattr(self, name)!r}", expected, "choose one of them")

    def each(self, y: Array) -> Array:
        """(N,) budgets of examples with labels y (N,), 1 or -1."""
        hit = np.ones(len(y), bool) if self.side == "both" else (y > 0) == (self.side == "concept")
        return np.where(hit, self.eps, 0.0)

    def length(self, w: Array) -> float:
        """What a budget of 1 can change w . a by: the dual norm of w (D,)."""
        return float(np.abs(w).sum() if self.norm == "linf" else np.linalg.norm(w))


def loss(a: Array, y: Array, w: Array, b: float, margin: Margin, decay: float = 0.0) -> float:
    """mean_i softplus(-(y_i (w . a_i + b) - eps_i ||w||_*)) + decay / 2 ||w||^2: the largest
    logistic loss of a linear classifier in the balls around activations a (N, D), in closed form.
    """
    left = y * (a @ w + b) - margin.each(y) * margin.length(w)
    return float(np.logaddexp(0, -left).mean() + decay / 2 * w @ w)


def worst(a: Array, y: Array, w: Array, margin: Margin) -> Array:
    """(N, D) the points of the balls where that loss is reached; for linf those of one step of the
    fast gradient sign method.
    """
    way = np.sign(w) if margin.norm == "linf" else w / (np.linalg.norm(w) or 1.0)
    moved: Array = a - (margin.each(y) * y)[:, None] * way
    return moved


def a_cav(
    concept: Tensor, random: Tensor, margin: Margin | None = None, decay: float = 0.01
) -> Cav:
    """The minimum of `loss` between activations (N, D) and (M, D): it is convex, so that nothing is
    drawn. margin: by default `Margin()`; `Margin(0)` is plain logistic regression. `converged` says
    whether L-BFGS reached it within `STEPS` steps.

    Raises InputError as `both` does, and for a decay that is not positive (the minimum is then at
    infinity where the examples can be separated).
    """
    margin = Margin() if margin is None else margin
    if not (np.isfinite(decay) and decay > 0):
        raise InputError(f"decay = {decay}", "a number > 0", "0.01 is usual")
    a, y = both(concept, random)
    how = _smooth if margin.norm == "l2" else _split
    w, b, converged = how(a, y, margin, decay)
    if not w.any():
        given = f"a margin of {margin.eps:g}, at which no direction separates the examples"
        raise InputError(given, "a margin that leaves a classifier", "choose a smaller eps")
    return Cav.of(w, b, converged)


def _split(a: Array, y: Array, margin: Margin, decay: float) -> tuple[Array, float, bool]:
    """linf: w = p - q with p, q >= 0 makes ||w||_1 = sum(p + q) smooth in them (at the minimum no
    entry of both is positive).
    """
    from scipy.optimize import minimize  # late: it takes as long as a fifth of torch
    from scipy.special import expit

    n, d = a.shape
    eps = margin.each(y)

    def of(at: Array) -> tuple[float, Array]:
        w, total, b = at[:d] - at[d:-1], at[:-1].sum(), at[-1]
        left = y * (a @ w + b) - eps * total
        pull = expit(-left) / n
        slope = decay * w - (pull * y) @ a
        cost = pull @ eps
        grown = np.concatenate([slope + cost, cost - slope, [-pull @ y]])
        return float(np.logaddexp(0, -left).mean() + decay / 2 * w @ w), grown

    bounds = [(0.0, None)] * (2 * d) + [(None, None)]
    found = minimize(
        of, np.zeros(2 * d + 1), jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxiter": STEPS, "ftol": TOLERANCE},
    )  # fmt: skip
    at = found.x
    return at[:d] - at[d:-1], float(at[-1]), bool(found.success)


def _smooth(a: Array, y: Array, margin: Margin, decay: float) -> tuple[Array, float, bool]:
    """l2: only the length of w is not smooth, and only at 0. The minimum lies in the span of the
    examples, so coordinates in an orthonormal basis of it do.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    n = len(a)
    basis = np.linalg.svd(a, full_matrices=False)[2]
    inside, eps = a @ basis.T, margin.each(y)

    def of(at: Array) -> tuple[float, Array]:
        w, b = at[:-1], at[-1]
        length = float(np.linalg.norm(w))
        left = y * (inside @ w + b) - eps * length
        pull = expit(-left) / n
        way = w / length if length > 0 else np.zeros_like(w)
        slope = decay * w - (pull * y) @ inside + (pull @ eps) * way
        return float(np.logaddexp(0, -left).mean() + decay / 2 * w @ w), np.append(slope, -pull @ y)

    start = np.append(y @ inside / n, 0.0)  # not at 0, where the length has no gradient
    found = minimize(
        of, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS, "ftol": TOLERANCE}
    )
    return basis.T @ found.x[:-1], float(found.x[-1]), bool(found.success)
