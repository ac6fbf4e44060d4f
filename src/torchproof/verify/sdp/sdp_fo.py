"""SDP-FO (Dathathri et al. 2020): the dual of the semidefinite relaxation by first-order steps.

For multipliers that leave y^T A y at most the margin on the network (`products`), any kappa and
any s that is at most the smallest eigenvalue of A + diag(kappa),

    margin >= (s - kappa_0) + sum_i min(s - kappa_i, 0),

because y^T A y >= sum_i (s - kappa_i) y_i^2, y_0^2 = 1 and y_i^2 <= 1. The paper has the same with
min(s, 0), a factor 1/2 of its scaling, and kappa >= 0 everywhere. What is added here: kappa_0 of
any sign, ReLUs of settled sign put in, the triangle and the box of what goes into a ReLU as further
constraints, and a start at the multipliers of CROWN, whose bound is the first value.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor, nn

from torchproof.core.errors import ModelError
from torchproof.core.threats import AnyThreat
from torchproof.verify.bounds import Margins
from torchproof.verify.graph import Graph
from torchproof.verify.programme.solve import Clock, Value
from torchproof.verify.sdp.climb import KRYLOV, SMALL, Climb
from torchproof.verify.sdp.doubts import Doubting, Doubts, Offs, Part, error
from torchproof.verify.sdp.eigenvalue import dual_value, proved
from torchproof.verify.sdp.lifted import Lifted
from torchproof.verify.sdp.products import GAP, OFF, ON, ONE_OF, WITHIN, Quadratic, crown
from torchproof.verify.sdp.starting import Start, starts

MOST = 8192  # rows of the largest matrix that is factorised for a certificate
TRIAL = 64  # columns that are built to see how long it takes


def sdp_fo_margins(
    model: nn.Module | Graph, x: Tensor, y: Tensor, threat: AnyThreat, *,
    steps: int = 1000, time_limit: float | None = None, every: bool = False,
) -> Margins:  # fmt: skip
    """(B, K - 1) lower bounds of z_y - z_t over the threat around x (B, C, H, W), t != y in order,
    never below the propagated bounds that it begins with; any graph of affine operations and ReLUs.

    steps: of Adam on the multipliers, each with a few products with the matrix, which is never
    built for that; it ends early when every margin looks positive. time_limit: seconds for each
    example, of which what the certificate will take is kept apart; margins that have none left
    keep the propagated bound. every: also the margins that propagation has shown to be positive.

    What is certified: the matrix of the best multipliers is built in float64 and its smallest
    eigenvalue is bounded by a Cholesky factorisation that runs to its end, with its a-priori
    rounding error (`eigenvalue.proved`); Lanczos only guides the search. Rounding in the matrix's
    own entries is not accounted for here, but in sound arithmetic (`verify.sound`). Linf sets are
    taken as they are, others by their box.

    Raises ModelError for other nonlinear operations, and for more than 8191 entries of the input
    and open ReLUs; InputError for a graph that is not in float64.
    """
    found, walked = [], 0
    for start in starts(model, x, y, threat, time_limit):
        lower, _, rows = improved(start, steps, every)
        found.append(lower)
        walked += rows
    return Margins(torch.stack(found), walked)


def improved(
    start: Start, steps: int = 1000, every: bool = False, doubting: Doubting | None = None
) -> tuple[Tensor, Tensor, int]:
    """(K - 1,) bounds of an example, how far they may be above what holds in real arithmetic, NaN
    for those that have not become better, and the rows that were walked.
    """
    lower, error, walked = start.propagated.clone(), start.propagated * torch.nan, start.walked
    wanted = torch.arange(len(lower)) if every else (lower <= 0).nonzero()[:, 0].cpu()
    if len(wanted) and bool(start.lifted.open.any()):
        problem = start.lifted.take(wanted.to(lower.device))
        with torch.inference_mode(False), torch.no_grad():
            proofs, rows = _bounds(problem, lower[wanted], steps, start.clock, every, doubting)
        for place, proof in zip(wanted.tolist(), proofs, strict=True):
            if proof.bound - proof.error > float(lower[place]):
                lower[place], error[place] = proof
        walked += rows
    return lower, error, walked


def _bounds(
    lifted: Lifted, known: Tensor, steps: int, clock: Clock, every: bool,
    doubting: Doubting | None,
) -> tuple[list[Value], int]:  # fmt: skip
    """P certified bounds, -inf where there is no hope or was no time; rows that were walked."""
    size = int(lifted.mask.sum(1).max())
    if size > MOST:
        raise ModelError(
            f"{size - 1} entries of the input and open ReLUs for one certificate",
            f"at most {MOST - 1}",
            "use alpha-crown, or a smaller eps, which leaves fewer ReLUs open",
        )
    reserve = len(lifted) * _cost(lifted, size)
    seconds, found = clock.left - reserve, [Value(-torch.inf, 0.0)] * len(known)
    if seconds <= 0:
        return found, 0
    begun, climb = time.monotonic(), Climb.of(lifted)
    while climb.made < steps and (spent := time.monotonic() - begun) < seconds:
        climb.step(max(climb.made / steps, spent / seconds))
        if not every and bool((climb.best > climb.scale[:, 0]).all()):
            break
    climb.look()
    for place in (climb.best > known).nonzero()[:, 0].tolist():
        if clock.left > reserve / len(lifted) / 2:
            one = lifted.take(torch.tensor([place], device=lifted.rows.device))
            found[place] = certified(one, climb.multipliers[place], climb.kappa[place], doubting)
    rows = lifted.mask.shape[1]
    return found, climb.made * len(lifted) * (rows if rows <= SMALL else KRYLOV)


def certified(
    lifted: Lifted, multipliers: Tensor, kappa: Tensor, doubting: Doubting | None = None
) -> Value:
    """What multipliers (5, M) and kappa (N,) prove of a single problem; signs are mended."""
    kept, allowed = lifted.mask[0], multipliers.clamp_min(0)
    allowed[ONE_OF] = multipliers[ONE_OF]
    matrix = Quadratic(lifted).matrix(allowed[None], kept) + torch.diag(kappa[kept])
    if not bool(matrix.isfinite().all()):
        return Value(-torch.inf, 0.0)
    guess = float(torch.linalg.eigvalsh(matrix)[0])
    off = _error(lifted, kept, allowed, kappa[kept], doubting(lifted)) if doubting else 0.0
    return Value(dual_value(kappa[kept], proved(matrix, guess)), off)


def _error(
    lifted: Lifted, kept: Tensor, multipliers: Tensor, kappa: Tensor, doubts: Doubts
) -> float:
    """How far the matrix of multipliers (5, M) may be off on the box."""
    sizes = {name: t.cpu().numpy() for name, t in Quadratic(lifted).sizes(kept).items()}
    offs, m = Offs.of(lifted, doubts, sizes), multipliers.cpu().numpy()
    on, off, low, high = (sizes[name] for name in ("on", "off", "low", "high"))
    one, none = np.ones_like(on), np.zeros_like(on)
    parts = [
        Part(m[ON], one, none, on, offs.on), Part(m[OFF], one, none, off, offs.off),
        Part(m[GAP], one, none, low + on, offs.low + offs.on),
        Part(m[ONE_OF], on, offs.on, off, offs.off),
        Part(m[WITHIN], low, offs.low, high, offs.high),
    ]  # fmt: skip
    margin = Part(np.ones(1), np.ones(1), np.zeros(1), sizes["margin"][None],
                  np.array([doubts.margin]))  # fmt: skip
    return error(parts, margin, kappa.cpu().numpy(), doubts.times)


def _cost(lifted: Lifted, size: int) -> float:
    """Seconds that one certificate will take, from the second of two small trials of its parts."""
    if size <= SMALL:
        return 0.05
    one = lifted.take(torch.zeros(1, dtype=torch.long, device=lifted.rows.device))
    some = one.mask[0] & (one.mask[0].cumsum(0) <= TRIAL)
    multipliers = crown(Quadratic(one))
    part = torch.eye(size // 4, dtype=lifted.rows.dtype, device=lifted.rows.device)
    for _ in range(2):
        begun = time.monotonic()
        Quadratic(one).matrix(multipliers, some)
        built = time.monotonic()
        proved(part, float(torch.linalg.eigvalsh(part)[0]))
        solved = time.monotonic()
    return (built - begun) * size / TRIAL + (solved - built) * 4**3
