"""Where semidefinite bounds begin: propagated bounds, and the problems about their intervals."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.core.threats import AnyThreat
from torchproof.verify.bounds import BOUNDS, Pass, graph_of
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.interval import Interval
from torchproof.verify.programme.solve import Clock
from torchproof.verify.sdp.lifted import Lifted, relus

MIDDLE = "best"  # the members of BOUNDS whose intervals are intersected


class Start(NamedTuple):
    """One example: its problems, a row for each margin; propagated: (K - 1,) bounds of these;
    walked: rows that were walked for them.
    """

    lifted: Lifted
    propagated: Tensor
    walked: int
    clock: Clock


def starts(
    model: nn.Module | Graph, x: Tensor, y: Tensor, threat: AnyThreat, time_limit: float | None
) -> Iterator[Start]:
    """Of each example, in float64; a Linf ball cut with the pixel box is a box, other sets are
    replaced by the smallest box around them, but for the propagated bounds.

    Raises ModelError for operations other than affine ones and ReLUs, InputError for a graph that
    is not in float64.
    """
    x = x.detach().double().clone()
    with torch.inference_mode(False), torch.no_grad():
        graph = _graph(model, x)
        relus(graph)
        inside, y = InputSet.of(x, threat), y.to(x.device)
        for row in range(len(x)):
            one, clock = torch.tensor([row], device=x.device), Clock(time_limit)
            passes = [Pass.of(graph, inside.take(one), bound) for bound in BOUNDS[MIDDLE]]
            classes = passes[0].walk.reference[graph.output].shape[-1]
            rows = rows_of(y[one], classes).to(x)
            lower = torch.stack([p.lower(rows) for p in passes]).amax(0)[0]
            intervals = {n: _met([p.intervals[n] for p in passes]) for n in graph.live}
            walked = sum(p.walk.walked for p in passes)
            yield Start(Lifted.of(graph, intervals, rows[0]), lower, walked, clock)


def _graph(model: nn.Module | Graph, x: Tensor) -> Graph:
    if not isinstance(model, Graph):
        return graph_of(copy.deepcopy(model).double().requires_grad_(False), x)
    floating = {c.dtype for c in model.constants.values() if c.is_floating_point()}
    if others := floating - {torch.float64}:
        given = f"a graph in {', '.join(map(str, others))} for a semidefinite bound"
        remedy = "trace copy.deepcopy(model).double() with x.double()"
        raise InputError(given, "one in float64", remedy)
    return model


def _met(intervals: list[Interval]) -> Interval:
    lower = torch.stack([i.lower for i in intervals]).amax(0)
    upper = torch.stack([i.upper for i in intervals]).amin(0)
    # bounds that have met may cross by float noise
    return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))
