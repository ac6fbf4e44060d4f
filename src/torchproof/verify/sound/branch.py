"""Branch and bound whose margins hold in real arithmetic (see `bab` and `hinges`)."""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.core.norms import Linf
from torchproof.verify.bab import ROOT
from torchproof.verify.clock import OutOfTime, limit
from torchproof.verify.graph import Graph
from torchproof.verify.hinge_parts import Neurons
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.relu_split import Split, Tree
from torchproof.verify.sound.hinges import SoundBounder
from torchproof.verify.sound.passes import Pass, better
from torchproof.verify.sound.search import slopes_of
from torchproof.verify.sound.walk import Sum


@torch.no_grad()
def branched(
    graph: Graph, inside: InputSet, y: Tensor, seconds: float | None = None
) -> tuple[Sum, int, Tensor | None]:
    """(K - 1,) bounds of one example's margins and their errors, rows walked, and a counterexample
    if one is met: the passes of `bab`, then the least over the parts of a tree of splits.
    """
    rows = rows_of(y, graph.run(inside.x)[graph.output].shape[-1]).to(inside.x)
    best, walked = Sum(torch.full_like(rows[0, :, 0], -torch.inf), rows.new_zeros(len(rows[0]))), 0
    with limit(seconds):
        try:
            for bound in ROOT:
                passed = Pass.of(graph, inside, bound)
                slopes = slopes_of(passed.walk, rows, bound.steps) if bound.steps else {}
                value, error = passed.lower(rows, slopes)
                best = better(Sum(value[0], error[0]), best)
                walked += passed.walk.walked
                if bool(_sure(best).all()):
                    return best, walked, None
            open_ = (~_sure(best)).nonzero()[:, 0]
            bounder = bounder_of(passed, rows[0, open_])
            split = Tree(bounder, falsify=isinstance(inside.ball.norm, Linf)).run()
        except OutOfTime:
            return best, walked, None
    return _with(best, open_, split), walked + split.walked, split.x


def bounder_of(passed: Pass, rows: Tensor) -> SoundBounder:
    """Of parts of the set of a pass over one example, for each of the rows (Q, K)."""
    limits = rows.new_zeros(len(rows), 1)
    neurons = Neurons.of(passed.usual())
    return SoundBounder(neurons, passed.walk.inside, rows[:, None], limits, sound=passed)


def _sure(found: Sum) -> Tensor:
    return found.value - found.error > 0


def _with(best: Sum, open_: Tensor, split: Split) -> Sum:
    """The bounds, with those of the tree where it has closed all parts."""
    value, error = best.value.clone(), best.error.clone()
    closed = split.lower - split.error > 0
    value[open_[closed]], error[open_[closed]] = split.lower[closed], split.error[closed]
    return Sum(value, error)
