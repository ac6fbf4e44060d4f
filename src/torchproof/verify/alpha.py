"""alpha-CROWN (Xu et al. 2021): lower lines of hinges with optimised slopes, every row its own.

Any slope between the lower piece's and 1 holds, so every step of the search gives bounds that hold;
the best of all steps counts, row by row.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from torchproof.verify.adam import uphill
from torchproof.verify.linear import Walk

RATE, DECAY = 0.25, 0.98  # of Adam, per step


def optimised(
    walk: Walk,
    start: Mapping[str, Tensor],
    example: Tensor,
    steps: int,
    enough: float = torch.inf,
) -> Tensor:
    """`walk.lower(start, example)` with optimised slopes, (R,); rows that reach `enough` are left
    alone from then on.
    """
    names = [n for n, held in walk.lines.items() if held.free is not None]
    if steps < 2 or not names:
        return walk.lower(start, example)
    best = torch.full_like(example, -torch.inf, dtype=walk.inside.x.dtype)
    live = torch.arange(len(example), device=example.device)
    slopes = {name: _initial(walk, name, example) for name in names}
    moments = {name: (torch.zeros_like(s), torch.zeros_like(s)) for name, s in slopes.items()}
    for step in range(1, steps + 1):
        rows = {name: row[live] for name, row in start.items()}
        last = step == steps
        asked = {name: slope.requires_grad_(not last) for name, slope in slopes.items()}
        with torch.set_grad_enabled(not last):
            found = walk.lower(rows, example[live], slopes=asked)
        if not (last or found.requires_grad):  # no hinge is before these rows
            return found
        best[live] = torch.maximum(best[live], found.detach())
        keep = best[live] < enough
        if last or not bool(keep.any()):
            break
        ones, asked_ = torch.ones_like(found), list(asked.values())
        slants = torch.autograd.grad(found, asked_, ones, allow_unused=True)
        for name, slant in zip(names, slants, strict=True):
            slopes[name] = slopes[name].detach()
            if slant is not None:  # a node behind the start has no part in it
                moved = uphill(slopes[name], slant, moments[name], step, RATE * DECAY ** (step - 1))
                slopes[name] = moved.clamp_(0, 1)
        if not bool(keep.all()):
            live = live[keep]
            slopes = {name: slope[keep] for name, slope in slopes.items()}
            moments = {name: (m[keep], v[keep]) for name, (m, v) in moments.items()}
    return best


def _initial(walk: Walk, name: str, example: Tensor) -> Tensor:
    """The slopes that are held, as places between the free slope and 1."""
    held = walk.lines[name]
    assert held.free is not None
    place = (held.low[0] - held.free) / (1 - held.free).clamp_min(1e-6)
    return place.nan_to_num(0.0).clamp(0, 1)[example].contiguous()
