"""Integer programmes with what an ordinary verifier does not tell: where its solver was.

The network's own margins at the solver's points are reached in the set, so that no bound of any
method may be above them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchproof.core.threats import AnyThreat
from torchproof.verify.clock import OutOfTime, limit
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet
from torchproof.verify.milp import CLEAR, enough
from torchproof.verify.programme.example import Example, Written, prepared
from torchproof.verify.programme.integer import least_integer
from torchproof.verify.programme.solve import Answer, Clock, least


class Reached(NamedTuple):
    """(K - 1,) lower bounds of the margins of one example, and margins that are attained in the
    set, infinite where nothing is known.
    """

    lower: np.ndarray
    upper: np.ndarray


def reached(
    graph: Graph, x: Tensor, y: Tensor, threat: AnyThreat, middle: str, seconds: float,
    to_the_end: bool = False,
) -> Reached:  # fmt: skip
    """Bounds of one example x (1, ...): propagated, by linear programmes, then by integers, each
    for the margins that are still open. to_the_end: every margin is minimised; otherwise a search
    ends when the sign of its margin is known, and all of them when one is negative.
    """
    maps, clock = prepared(graph, x), Clock(seconds)
    margins = maps.shape(maps.graph.output)[-1] - 1
    lower, upper = np.full(margins, -np.inf), np.full(margins, np.inf)
    try:
        with limit(seconds), torch.no_grad():
            example = Example.of(maps, InputSet.of(x, threat), y, middle, clock)
            lower[:] = example.propagated
            _search(example, lower, upper, to_the_end)
    except OutOfTime:
        pass  # what is known by now
    return Reached(lower, upper)


def _search(example: Example, lower: np.ndarray, upper: np.ndarray, to_the_end: bool) -> None:
    """Writes better bounds over those (K - 1,) that are known; raises OutOfTime."""
    clock = example.clock
    for t in _open(lower, to_the_end):
        answer = example.relaxed.least(t, least, clock.left)
        lower[t] = max(lower[t], answer.bound)
        _attained(example, example.relaxed, answer, upper)
    left = _open(lower, to_the_end) if clock.left > 0 else []
    for turn, t in enumerate(left):
        if upper.min() < -CLEAR and not to_the_end:
            break
        share, written = clock.left / (len(left) - turn), example.exact
        rest = () if to_the_end else (enough(written, t),)
        answer = written.least(t, least_integer, share, *rest)
        lower[t] = max(lower[t], answer.bound)
        _attained(example, written, answer, upper)


def _open(lower: np.ndarray, to_the_end: bool) -> list[int]:
    order: list[int] = np.argsort(lower, kind="stable").tolist()
    return order if to_the_end else [t for t in order if not lower[t] > 0]


def _attained(example: Example, written: Written, answer: Answer, upper: np.ndarray) -> None:
    """The network's margins at the solver's point, brought into the set."""
    if answer.point is None:
        return
    inside, graph = example.inside, example.maps.graph
    delta = inside.ball.project(written.input(answer.point) - inside.x)
    with torch.no_grad():
        logits = graph.run(inside.x + delta)[graph.output][0].numpy()
    np.minimum(upper, example.rows @ logits, out=upper)
