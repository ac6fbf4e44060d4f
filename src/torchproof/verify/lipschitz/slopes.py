"""How steep a nonlinear operation is: the least and the largest derivative on an interval."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchproof.core.errors import ModelError
from torchproof.verify.graph import Node
from torchproof.verify.interval import Interval
from torchproof.verify.relax import Curve, Hinge, Largest, Product, Relaxation

FAR = (2.0**10, 2.0**20)  # where a slope that has a limit has reached it


def slopes(known: Relaxation, inputs: Sequence[Interval]) -> tuple[Interval, ...]:
    """Of every live input, an interval (B, ...) that holds the derivative on these intervals (at a
    kink, all of Clarke's).
    """
    if isinstance(known, Product):
        x, y = inputs
        return y, x
    z = inputs[0]
    if isinstance(known, Hinge):
        zero = torch.zeros_like(z.lower)
        below, above = zero + known.slope, zero + 1.0
        return (Interval(torch.where(z.lower >= 0, above, below),
                         torch.where(z.upper <= 0, below, above)),)  # fmt: skip
    if isinstance(known, Curve):
        return (_curve(known, z),)
    assert isinstance(known, Largest)
    gamma, best = z.lower.max(-1, keepdim=True)
    first = torch.zeros_like(z.lower).scatter_(-1, best, 1.0)
    rival = z.upper.scatter(-1, best, -torch.inf).amax(-1, keepdim=True)
    alone = gamma >= rival
    possible = (~(z.upper < gamma)).to(gamma.dtype)  # what is not known is possible
    return (Interval(torch.where(alone, first, torch.zeros_like(first)),
                     torch.where(alone, first, possible)),)  # fmt: skip


def steepest(known: Relaxation, node: Node, like: Tensor) -> float:
    """The Lipschitz constant of an operation wherever its input is, for every lp norm.

    1 for hinges and maxima, 1/4 for a sigmoid; like: an input of it (1, ...), for operations that
    differ from entry to entry. Raises ModelError for one that has none, such as a
    product or a square.
    """
    if isinstance(known, (Hinge, Largest)):
        return 1.0
    if isinstance(known, Curve) and not known.bounded:
        ends = torch.stack([torch.full_like(like[0], end, dtype=torch.float64) for end in FAR])
        far = _curve(known, Interval(-ends, ends))
        size = torch.maximum(far.lower.abs(), far.upper.abs()).flatten(1).amax(1)
        if bool(torch.isfinite(size).all()) and float((size[1] - size[0]).abs()) < 1e-5:
            return float(size.max())
    raise ModelError(
        f"{node.kind} at {node.where!r}, which has no Lipschitz constant",
        "operations that are nowhere steeper than some number",
        "ask for a local method such as fast-lip, or for bounds",
    )


def _curve(known: Curve, z: Interval) -> Interval:
    """Between breaks the slope is monotone: its extremes are at ends and on both sides of
    breaks.
    """
    places = [z.lower, z.upper]
    for b in known.breaks:
        step = 4 * torch.finfo(z.lower.dtype).eps * max(1.0, abs(b))
        places += [torch.full_like(z.lower, at).clamp(z.lower, z.upper)
                   for at in (b - step, b, b + step)]  # fmt: skip
    found = _slope(known, torch.stack(places))
    return Interval(found.amin(0), found.amax(0))


def _slope(known: Curve, z: Tensor) -> Tensor:
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(known.function(at).sum(), at)
    return slope
