"""Euclidean length."""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.norms.levels import within_length
from torchproof.core.norms.linf import Linf
from torchproof.core.norms.norm import Norm, bound, flat
from torchproof.core.values import expand


class L2(Norm):
    """Euclidean length."""

    def length(self, d: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(flat(d), dim=1)
        return length

    def steepest(self, g: Tensor) -> Tensor:
        # float32 squares of very small or large gradients under- or overflow, float64 do not
        length = torch.linalg.vector_norm(flat(g), dim=1, dtype=torch.float64).to(g.dtype)
        return g / expand(length.clamp_min(torch.finfo(g.dtype).tiny), g)

    def project(self, d: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        inside = torch.clamp(d, low, high)
        over = self.length(inside) > radius
        if not bool(over.any()):
            return inside
        rows = over.nonzero()[:, 0]
        d_, low_, high_ = (flat(t)[rows] for t in (d, low, high))
        exact = _clamp_scaled(d_, radius[rows].square(), 1.0, low_, high_)
        inside[rows] = exact.reshape(len(rows), *d.shape[1:])
        return inside

    def maximiser(self, a: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        # scaling a first keeps a^2 away from under- and overflow; only its direction matters
        unit = a / expand(Linf().length(a).clamp_min(torch.finfo(a.dtype).tiny), a)
        edges = (flat(t) for t in (low, high))
        return _clamp_scaled(flat(unit), radius.square(), torch.inf, *edges).reshape(a.shape)

    def support(self, a: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """By the dual: for every t > 0, max <a, d> <= sum_i max_{d_i} (a_i d_i - d_i^2 / 2t)
        + radius^2 / 2t with d_i in the box, d_i = a_i t clipped. So an inexact maximiser, whose t
        is taken, costs tightness and not soundness.
        """
        tiny = torch.finfo(a.dtype).tiny
        with torch.no_grad():  # at the best t, the bound's slope in t is 0
            found = self.maximiser(a, radius, low, high)
            ratio = torch.where(a.abs() > tiny, found / a, torch.zeros_like(a)).abs()
            scale = flat(ratio).amax(1)
        box = flat(torch.maximum(a * low, a * high)).sum(1)
        d = torch.minimum(torch.maximum(a * expand(scale, a), low), high)
        half = 0.5 / scale.clamp_min(tiny)
        dual = flat(a * d - d.square() * expand(half, a)).sum(1) + radius.square() * half
        return torch.where(scale > tiny, torch.minimum(dual, box), box)

    def random(self, key: Tensor, like: Tensor, stream: int = 0) -> Tensor:
        return self.steepest(keys.normal(key, 0, tuple(like.shape[1:]), stream, like.dtype))

    def whole_levels(self, size: Tensor, radius: Tensor, room: Tensor) -> Tensor:
        return within_length(size, radius, room, 2)


def fill(gain: Tensor, edge: Tensor, need: Tensor) -> Tensor:
    """The least level with sum_i gain_i * min(level, edge_i) = need, (P,); a huge one where no
    level is enough.

    gain, edge >= 0: (P, D); need: (P,). The sum is concave, increasing and piecewise linear in the
    level, so Newton from 0 never overshoots and ends on the root after finitely many steps, without
    sorting. Element-wise masks are kept as floats: selecting by bool is ten times slower on a CPU.
    """
    level = torch.zeros_like(need)
    free, part = torch.empty_like(gain), torch.empty_like(gain)
    for _ in range(gain.shape[1] + 1):
        torch.gt(edge, level[:, None], out=free)
        slope = torch.mul(gain, free, out=free).sum(1)
        torch.minimum(edge, level[:, None], out=part)
        missing = need - torch.mul(gain, part, out=part).sum(1)
        step = torch.where(slope > 0, missing / slope, 0.0)
        if bool((step <= level * 1e-6).all()):
            break
        level = level + step.clamp_min(0)
    return torch.where((slope == 0) & (missing > 0), torch.finfo(level.dtype).max, level)


def _clamp_scaled(a: Tensor, square: Tensor, limit: float, low: Tensor, high: Tensor) -> Tensor:
    """clamp(s * a, low, high), (P, D), with the largest s in [0, limit] for which its Euclidean
    length squared is <= `square`: with t = s^2 that length is sum_i min(t a_i^2, b_i^2).
    """
    gain = a.square()
    edge = (bound(a, low, high).square() + torch.finfo(a.dtype).tiny) / gain  # 0 / 0 would be NaN
    scale = fill(gain, edge, square).sqrt().clamp_max(limit)
    return torch.clamp(a * scale[:, None], low, high)
