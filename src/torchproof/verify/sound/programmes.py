"""Linear programmes whose values hold in real arithmetic.

Boxes are those of passes that hold. A row holds at the network's own point but for its slack: the
rounding of its numbers, and how far a composed map is from the network's operations one by one.
Whatever the solver's tolerances are, its multipliers then prove a value (`programme.dual_value`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from torchproof.verify import k_relu
from torchproof.verify.bounds import BOUNDS
from torchproof.verify.clock import OutOfTime, limit
from torchproof.verify.graph import Graph, Values
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.interval import Interval
from torchproof.verify.lp import lp_answers
from torchproof.verify.milp import integer_answers
from torchproof.verify.programme.encode import met
from torchproof.verify.programme.example import START, Example, prepared
from torchproof.verify.programme.maps import Maps
from torchproof.verify.programme.solve import Answer, Clock
from torchproof.verify.sound.affine import Affine, affine, inexact, magnitude, spread
from torchproof.verify.sound.constants import doubts
from torchproof.verify.sound.passes import Pass, better
from torchproof.verify.sound.rounding import charge
from torchproof.verify.sound.search import slopes_of
from torchproof.verify.sound.walk import Sum


@dataclass
class Rounding:
    """How far maps are off that are composed of a graph's affine nodes (`Maps.off`)."""

    constants: Values
    doubts: dict[str, Any]
    known: dict[str, Affine] = field(default_factory=dict)

    @classmethod
    def of(cls, maps: Maps) -> Rounding:
        constants = {k: v for k, v in maps.single.items() if k not in maps.graph.live}
        return cls(constants, doubts(maps.graph, constants)[0])

    def __call__(self, maps: Maps, name: str, sizes: Mapping[str, Tensor]) -> np.ndarray:
        """Every operation between adds at most its roundings times the sum of the absolute values
        of all that is added up to its answer, backward through those behind it or forward.
        """
        graph, most = maps.graph, dict(sizes)
        off = {source: torch.zeros_like(size) for source, size in sizes.items()}
        times = dict.fromkeys(sizes, 0)
        for node in maps.between(name)[0]:
            if node.name not in self.known:
                self.known[node.name] = affine(node, graph, maps.single)
            known, names = self.known[node.name], graph.inputs(node)
            inputs = {n: most[n] for n in names}
            most[node.name] = magnitude(node, inputs, self.constants)
            times[node.name] = 8 + known.forward + known.backward + sum(times[n] for n in names)
            off[node.name] = spread(node, {n: off[n] for n in names}, self.constants)
            doubt = inexact(node, inputs, self.constants, self.doubts)
            if doubt is not None:
                off[node.name] = off[node.name] + 2 * doubt
        found: Tensor = charge(times[name]) * most[name] + off[name]
        return found.reshape(-1).numpy()


class Found(NamedTuple):
    """Of one example: bounds of its margins (K - 1,) and errors; rows that were walked."""

    sums: Sum
    walked: int


def programme_margins(
    graph: Graph, inside: InputSet, y: Tensor, method: str, seconds: float | None
) -> tuple[Sum, int]:
    """(B, K - 1) bounds of margins, and their errors; rows that were walked. method: a name of
    WAYS; seconds: for each example.
    """
    x = inside.x.cpu()
    maps = prepared(graph, x)
    maps = replace(maps, rounding=Rounding.of(maps))
    middle, way = WAYS[method]
    found = []
    with torch.inference_mode(False), torch.no_grad():
        for row in range(len(x)):
            one = torch.tensor([row])
            with limit(seconds):
                own = Clock(seconds)
                found.append(_one(maps, inside.take(one), y[one].cpu(), middle, way, own))
    sums, walked = zip(*found, strict=True)
    value, error = (torch.stack(part).to(inside.x) for part in zip(*sums, strict=True))
    return Sum(value, error), sum(walked)


def _one(
    maps: Maps, inside: InputSet, y: Tensor, middle: str, way: Way, clock: Clock
) -> Found:  # fmt: skip
    try:
        begun = Begun.of(maps.graph, inside, y, START if middle == "lp" else middle)
    except OutOfTime:
        nothing = torch.full(maps.shape(maps.graph.output), -torch.inf).double()[1:]
        return Found(Sum(nothing, torch.zeros_like(nothing)), 0)
    known, passes = begun.known, begun.passes
    example = Example(maps, passes[0].walk.inside, clock, begun.intervals, begun.rows.numpy(),
                      known.sure.numpy(), cast(Any, passes), middle)  # fmt: skip
    try:
        return Found(way(example, known), begun.walked)
    except OutOfTime:
        return Found(known, begun.walked)


class Begun(NamedTuple):
    """One example's passes that hold, the intersection of their intervals; rows (K - 1, K) of its
    margins, and the best that they know of these (K - 1,).
    """

    passes: list[Pass]
    intervals: dict[str, Interval]
    rows: Tensor
    known: Sum

    @property
    def walked(self) -> int:
        return sum(p.walk.walked for p in self.passes)

    @classmethod
    def of(cls, graph: Graph, inside: InputSet, y: Tensor, bounds: str) -> Begun:
        passes = [Pass.of(graph, inside, bound) for bound in BOUNDS[bounds]]
        rows = rows_of(y, passes[0].walk.single[graph.output].shape[-1]).to(inside.x)
        found = []
        for p in passes:
            steps = p.bound.steps
            found.append(p.lower(rows, slopes_of(p.walk, rows, steps) if steps else {}))
        value, error = reduce(better, found)
        intervals = {name: met([p.intervals[name] for p in passes]) for name in graph.live}
        return cls(passes, intervals, rows[0], Sum(value[0], error[0]))


Way = Callable[[Example, Sum], Sum]
"""From an example and the propagated bounds of its margins to better ones."""


def _linear(example: Example, known: Sum) -> Sum:
    return _joined(known, lp_answers(example))


def _groups(example: Example, known: Sum) -> Sum:
    alone = _linear(example, known)
    return _linear(example, alone) if k_relu.join(example) else alone


def _integers(example: Example, known: Sum) -> Sum:
    """With integers only where a margin is open without."""
    alone = _linear(example, known)
    open_ = (alone.value - alone.error <= 0).nonzero()[:, 0].tolist()
    return _joined(alone, integer_answers(example, open_), open_)


def _joined(known: Sum, answers: list[Answer], places: list[int] | None = None) -> Sum:
    """The better of what is known of the margins at these places, and of the answers."""
    value, error = (t.clone() for t in known)
    for t, found in zip(range(len(value)) if places is None else places, answers, strict=True):
        if found.sure > float(value[t] - error[t]):
            value[t], error[t] = found.bound, found.error
    return Sum(value, error)


WAYS: dict[str, tuple[str, Way]] = {
    "lp": ("best", _linear),
    "lp-full": ("lp", _linear),
    "k-relu": ("best", _groups),
    "milp": ("best", _integers),
    "milp-ibp": ("ibp", _integers),
    "milp-alpha": ("alpha-crown-full", _integers),
    "ai2": ("crown", _integers),
}
"""Where bounds in the middle come from, and what is done with them."""
