"""Bounds of 24 networks hold, no point of the set is beyond them, for any norm; and are tight."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.attack import Run
from torchproof.attack.catalogue import pgd
from torchproof.core.norms import L0, Norm
from torchproof.core.sets import Ball
from torchproof.core.threats import Threat
from torchproof.verify import BOUNDS
from torchproof.verify.bounds import Pass
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet

Tried = Callable[[nn.Module, Tensor, Threat, int], Tensor]
Load = Callable[[str], tuple[nn.Module, Tensor, dict[str, np.ndarray], Graph]]
About = Callable[[str, bool], Threat]
DRAWS = 10_000
NOISE = 2e-5  # of float32 sums
ALONE = ("ibp", "crown-ibp", "fast-lin", "crown")  # their bounds are within those of `best`


@functools.cache
def drawn(norm: Norm, eps: float) -> Tensor:
    """(DRAWS, 1, 6, 6) perturbations of a ball without a box: half of random lengths, half its
    corners (of L0, whose entries may be anything, other random ones).
    """
    noise = torch.randn(DRAWS, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    far = torch.full_like(noise, torch.inf)
    ball = Ball.of(norm, torch.full((DRAWS,), eps), -far, far)
    scale = torch.tensor([0.05, 0.2, 1.0, 9.0]).repeat(DRAWS // 4)[:, None, None, None]
    inner = ball.project(noise * scale)
    if isinstance(norm, L0):
        return inner
    corners = torch.arange(DRAWS) % 2 == 1
    return torch.where(corners[:, None, None, None], ball.maximiser(noise), inner)


def with_and_without(boxed: InputSet, free: InputSet) -> InputSet:
    """One set, of the examples with the box and then of those without: bounded in one pass."""
    one, two = boxed.ball, free.ball
    parts = ("radius", "scale", "low", "high", "floor", "ceiling")
    joined = [torch.cat([getattr(one, part), getattr(two, part)]) for part in parts]
    return InputSet(torch.cat([boxed.x, free.x]), type(one)(one.norm, *joined))


def points(
    net: nn.Module, x: Tensor, boxed: Threat, free: Threat, tried: Tried
) -> tuple[Tensor, Tensor]:
    """(2, N, ...) with the box and without, (N,) around which of x: the clean ones, draws, corners
    that gradients point to, and where PGD ends.
    """
    own = torch.arange(DRAWS) % len(x)
    moved = x[own] + drawn(free.norm, free.eps)
    found = pgd(boxed, 10)(net, x, net(x).argmax(1), run=Run(patience=math.inf)).value
    both = [
        torch.cat([moved.clamp(0, 1), tried(net, x, boxed, 2), x + found]),
        torch.cat([moved, tried(net, x, free, 2), x + found]),
    ]
    return torch.stack(both), torch.cat([own, torch.arange(len(both[0]) - DRAWS) % len(x)])


def test_best_is_the_largest_of_the_members_without_optimised_slopes() -> None:
    assert all(BOUNDS[name][0] in BOUNDS["best"] for name in ALONE)
    assert {*ALONE, "best", "alpha-crown", "alpha-crown-full"} == set(BOUNDS)


def test_nothing_escapes(
    golden: Load, every_net: str, names: list[str], threat: About, tried: Tried
) -> None:
    """The clean point, 10^4 draws of the ball (and the same brought into the box), corners and PGD
    are within the bounds of every member, with and without the box; and by mean width nothing
    stored of auto_LiRPA is tighter than `best` (of conv_bn the statistics are not stored).

    Members without optimised slopes are within `best`, of which they are parts. Those with them
    take turns, which saves half a minute: each on every network for one norm, on six for each.
    """
    net, x, stored, graph = golden(every_net)
    turn = names.index(every_net)
    for place, norm in enumerate(("inf", "2", "1", "0")):
        boxed, free = threat(norm, True), threat(norm, False)
        moved, own = points(net, x, boxed, free, tried)
        z = net(moved.flatten(0, 1)).view(2, len(own), 5)
        inside = InputSet.of(x, boxed)
        if norm != "0":  # which holds everything where there is no box
            inside = with_and_without(inside, InputSet.of(x, free))
        optimised = {0: ["alpha-crown"], 2: ["alpha-crown-full"]}
        for method in ["best", *optimised.get((turn + place) % 4, [])]:
            rows = torch.cat([torch.eye(5), -torch.eye(5)]).expand(len(inside.x), -1, -1)
            found = [Pass.of(graph, inside, bound).lower(rows) for bound in BOUNDS[method]]
            both = torch.stack(found).amax(0).view(-1, len(x), 10)
            for answers, bound in zip(z, both, strict=False):  # of L0, the boxed ones alone
                lower, upper = bound[own].split(5, 1)
                escaped = (answers < lower - NOISE) | (answers > -upper + NOISE)
                assert not bool(escaped.any()), (norm, method)
            if method == "best" and norm != "0":
                assert bool(both[1].isfinite().all())
                width = float((-both[1, :, 5:] - both[1, :, :5]).mean())
                theirs = widths(stored, norm) if every_net != "conv_bn" else {}
                assert all(width <= their + 1e-4 for their in theirs.values()), (width, theirs)


def widths(stored: dict[str, np.ndarray], norm: str) -> dict[str, float]:
    """Mean widths of auto_LiRPA's bounds, by method, where it has some without the box."""
    keys = {method: f"{method}_l{norm}" for method in ("IBP", "CROWN-IBP", "CROWN")}
    return {
        method: float((stored[f"{key}_ub"] - stored[f"{key}_lb"]).mean())
        for method, key in keys.items()
        if f"{key}_lb" in stored
    }


def test_a_bound_that_is_too_tight_is_noticed(golden: Load, threat: About, tried: Tried) -> None:
    """Of an affine network, the points reach what bounds that are exact allow."""
    _, x, _, _ = golden("mlp_relu")
    line = nn.Sequential(nn.Flatten(), nn.Linear(36, 5)).eval().requires_grad_(False)
    for norm in ("inf", "2", "1", "0"):
        boxed, free = threat(norm, True), threat(norm, False)
        moved, own = points(line, x, boxed, free, tried)
        z = line(moved[0])
        inside = InputSet.of(x, boxed).ball
        weight = line[1].weight.view(5, 1, 1, 6, 6)
        for k in range(5):
            most = line(x)[:, k] + inside.support(weight[k].expand(len(x), -1, -1, -1))
            for row in range(len(x)):
                assert float(z[own == row, k].max()) == pytest.approx(float(most[row]), abs=1e-4)
