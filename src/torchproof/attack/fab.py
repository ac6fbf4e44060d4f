"""FAB-T: the nearest point across one linearised class boundary, step by step (Croce and Hein
2020b).

The oracle's loss must be z_t - z_y (`TargetedMargin`), whose zero set is the boundary. One forward
and one backward per step: the boundary's plane is taken where the model was asked, also when the
point is then drawn back towards the original.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.pgd import check_steps
from torchproof.attack.search import Search, State
from torchproof.attack.starts import Start, Zero
from torchproof.core.errors import InputError
from torchproof.core.norms import L1, L2, Linf, Norm, bound, fill
from torchproof.core.sets import Ball, Set


def _along(norm: Norm, w: Tensor, gap: Tensor, room: Tensor) -> Tensor:
    """Along the norm's steepest direction u: min(l |u|, room), (P, D).

    Its product with |w| is concave, increasing and piecewise linear in l, so Newton from l = 0
    reaches the root from below in finitely many steps, without sorting.
    """
    size = norm.steepest(w).abs_()
    edge = (room + torch.finfo(w.dtype).tiny) / size  # where each coordinate meets the box
    far = fill(w.abs() * size, edge, gap)
    return torch.minimum(size * far[:, None], room)


def _greedily(norm: Norm, w: Tensor, gap: Tensor, room: Tensor) -> Tensor:
    """L1: the largest |w| first, each up to its box, the last one in part (fractional knapsack).

    A few coordinates are usually enough, so no more are sorted than the row with the most needs.
    """
    limits = torch.finfo(w.dtype)
    size, gap = w.abs(), gap[:, None].clamp_min(limits.tiny)
    for count in (min(256, w.shape[1]), w.shape[1]):
        value, index = size.topk(count, dim=1)
        # no coordinate has to go beyond gap / |w|, which keeps rooms without bound finite
        most = torch.where(value > 0, gap / value, 0.0).clamp_max(limits.max)
        take = torch.minimum(room.gather(1, index), most)
        gain = value * take
        total = gain.cumsum(1)
        if bool((total[:, -1:] >= gap).all()):
            break
    before = total - gain
    rest = most * (1 - before / gap).clamp(0, 1)
    return torch.zeros_like(w).scatter_(1, index, torch.minimum(take, rest))


# How a norm reaches a plane: (norm, w, gap, room) to the size of each coordinate's move.
MOVES: dict[type[Norm], Callable[[Norm, Tensor, Tensor, Tensor], Tensor]] = {
    Linf: _along,
    L2: _along,
    L1: _greedily,
}


def to_plane(norm: Norm, d: Tensor, w: Tensor, b: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The move e of least norm with <w, d + e> = b and low <= d + e <= high; the box's corner when
    none reaches b.

    d, w, low, high: (P, D); b: (P,); norm one of `MOVES`.
    """
    gap = b - (w * d).sum(1)
    towards = w * gap.sign()[:, None]
    side = torch.copysign(torch.ones_like(towards), towards)
    room = bound(towards, low - d, high - d)
    return MOVES[type(norm)](norm, w, gap.abs(), room).mul_(side)


@dataclass(frozen=True)
class FAB(Search):
    """d' = (1 - a)(d + eta e) + a eta e0, with e, e0 the moves from d and from 0 to the plane (eq.
    9-10).

    a = min(|e| / (|e| + |e0|), alpha_max); a misclassified point is first drawn back to beta d.
    Deviation: the plane is not linearised anew after drawing back, which saves a third of the
    evaluations. The search leaves the ball on its way; only points inside count. Norms: those of
    `MOVES`, Linf, L2 and L1.
    """

    steps: int = 100
    start: Start = field(default_factory=Zero)
    eta: float = 1.05
    beta: float = 0.9
    alpha_max: float = 0.1

    wanders: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"box", "boundary"})
    norms: ClassVar[frozenset[type[Norm]] | None] = frozenset(MOVES)

    def __post_init__(self) -> None:
        check_steps(self.steps)

    @property
    def random(self) -> bool:
        return self.start.random

    def init(self, set: Set, key: Tensor) -> State:
        require_norm(self, set)
        return State(self.start(set, key), key.new_zeros(len(key)))

    def step(self, set: Set, key: Tensor, state: State, point: Point) -> State:
        ball, d, w = (
            require_norm(self, set),
            state.delta.flatten(1),
            self._gradient(point).flatten(1),
        )
        low, high = ball.low.flatten(1), ball.high.flatten(1)
        b = (w * d).sum(1) - point.loss
        d = d * torch.where(point.won, self.beta, 1.0)[:, None]
        move = to_plane(ball.norm, d, w, b, low, high)
        move0 = to_plane(ball.norm, torch.zeros_like(d), w, b, low, high)
        far, far0 = ball.norm.length(move), ball.norm.length(move0)
        a = (far / (far + far0).clamp_min(1e-12)).clamp(0, self.alpha_max)[:, None]
        nxt = torch.lerp(d.add_(move, alpha=self.eta), move0.mul_(self.eta), a).clamp_(low, high)
        return State(nxt.reshape(state.delta.shape), state.t + 1)

    def _gradient(self, point: Point) -> Tensor:
        grad: Any = point.grad
        return grad  # type: ignore[no-any-return]


def require_norm(search: Search, set: Set) -> Ball:
    """The set as a ball of one of `search.norms`; raises InputError naming them otherwise."""
    known = search.norms or frozenset()
    if isinstance(set, Ball) and type(set.norm) in known:
        return set
    given = type(set.norm).__name__ if isinstance(set, Ball) else type(set).__name__
    names = sorted(n.__name__ for n in known)
    raise InputError(
        f"{type(search).__name__} on a set of kind {given}",
        f"a ball of norm {' or '.join(names)}",
        f"choose another attack for {given}, or extend {type(search).__name__}.norms",
    )
