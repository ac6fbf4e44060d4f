"""A part without open neurons: the network is affine there, and a linear programme decides it.

The solver only proposes multipliers; the bound is that of `Bounder`, worked out from them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from torchproof.verify.clock import attended, left
from torchproof.verify.hinge_bounds import Bounder, Parts
from torchproof.verify.linear import Walk

PENALTY = 1e4  # of leaving the part, in units of the rows' size


@dataclass(frozen=True)
class Leaf:
    """part: with the shares and multipliers of the programme, and what comes of them; x: (1, ...)
    where it has the worst row lowest.
    """

    part: Parts
    x: Tensor


def leaf(bounder: Bounder, part: Parts) -> Leaf | None:
    """The least of the question's worst row over one part; None where the solver has no answer."""
    neurons, inside = bounder.neurons, bounder.inside
    signs, size = part.signs[0], inside.x.numel()
    place, reads = part.slopes.to(bounder.rows.dtype), (part.low, part.high)
    lines = neurons.lines(part.signs, place, reads)
    walk = replace(neurons.passed.walk, lines=lines)
    split = signs.nonzero()[:, 0]
    one_hot = bounder.rows.new_zeros(len(split), len(signs))
    one_hot[torch.arange(len(split), device=split.device), split] = signs[split].to(one_hot)
    goal = bounder.rows[part.question[0]]
    answer = walk.reference[walk.graph.output].shape[1:]
    at, slopes = _planes(walk, {walk.graph.output: goal.view(-1, *answer)}, size)
    limits = bounder.limits[part.question[0]]
    rows, ends = [np.c_[slopes, -np.ones(len(at)), np.zeros(len(at))]], [limits.cpu().numpy() - at]
    if len(split):
        at_z, slopes_z = _planes(walk, neurons.rows(one_hot, one_hot != 0), size)
        rows.append(np.c_[-slopes_z, np.zeros(len(at_z)), -np.ones(len(at_z))])
        ends.append(at_z)
    box = inside.box()
    low, high = ((t - inside.x).flatten().cpu().numpy() for t in (box.lower, box.upper))
    penalty = PENALTY * max(float(np.abs(slopes).sum(1).max()), 1e-6)
    from scipy.optimize import linprog  # late: a verifier that needs no leaf starts without it

    seconds = max(left(), 0.1)
    solve = partial(
        linprog,
        np.r_[np.zeros(size), 1.0, penalty], A_ub=np.concatenate(rows), b_ub=np.concatenate(ends),
        bounds=[*zip(low, high, strict=True), (None, None), (0, None)],
        options={"time_limit": seconds} if seconds < np.inf else {},
    )  # fmt: skip
    found = attended(solve, seconds)
    if found is None or found.x is None or found.ineqlin.marginals is None:
        return None
    device = inside.x.device
    x = inside.x + torch.from_numpy(found.x[:size]).to(device).view_as(inside.x)
    multipliers = torch.from_numpy(-found.ineqlin.marginals).to(device).clamp_min(0)
    whole = multipliers[: len(at)].sum()
    weights = whole.new_zeros(1, len(signs))
    weights[0, split] = multipliers[len(at) :] / whole
    proposed = replace(part, shares=multipliers[None, : len(at)] / whole, weights=weights)
    return Leaf(bounder.quick(proposed), x)


def _planes(walk: Walk, start: dict[str, Tensor], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and slopes (R, inputs) of rows at some nodes, about the one example."""
    count = len(next(iter(start.values())))
    example = torch.zeros(count, dtype=torch.long, device=next(iter(start.values())).device)
    at, slopes = walk.plane(start, example)
    flat = at.new_zeros(count, size) if slopes is None else slopes.flatten(1)
    return at.detach().cpu().numpy(), flat.detach().cpu().numpy()
