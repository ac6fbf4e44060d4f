"""One example on its way to a verdict: bounds in the middle, programmes, objectives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn

from torchproof.core.errors import unknown
from torchproof.core.threats import AnyThreat
from torchproof.verify.bounds import BOUNDS, Margins, Pass, graph_of, members
from torchproof.verify.clock import OutOfTime, limit
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.interval import Interval
from torchproof.verify.programme.draft import Programme, U
from torchproof.verify.programme.encode import Encoding, Solve, met
from torchproof.verify.programme.integer import Enough
from torchproof.verify.programme.maps import Maps
from torchproof.verify.programme.solve import Answer, Clock, least

START = "best"  # the bounds that linear programmes begin with
MIDDLES = (*BOUNDS, "lp")


@dataclass
class Example:
    """An example (1, ...) of label y. intervals: of every live node, the intersection of those of
    the propagated bounds; propagated: (K - 1,) their bounds of the margins; passes: theirs.
    """

    maps: Maps
    inside: InputSet
    clock: Clock
    intervals: dict[str, Interval]
    rows: np.ndarray
    propagated: np.ndarray
    passes: list[Pass]
    middle: str

    @classmethod
    def of(cls, maps: Maps, inside: InputSet, y: Tensor, middle: str, clock: Clock) -> Example:
        """middle: a name of BOUNDS, or "lp" for two linear programmes for each neuron that they may
        help. Raises UnknownName for any other.
        """
        if middle not in MIDDLES:
            raise unknown("bound for the middle", middle, MIDDLES)
        start = START if middle == "lp" else middle
        passes = members(start, partial(Pass.of, maps.graph, inside))
        rows = rows_of(y, maps.shape(maps.graph.output)[-1]).double()
        lower = torch.stack([p.lower(rows) for p in passes]).amax(0)
        intervals = {name: met([p.intervals[name] for p in passes]) for name in maps.graph.live}
        return cls(maps, inside, clock, intervals, rows[0].numpy(), lower[0].numpy(), passes,
                   middle)  # fmt: skip

    @property
    def walked(self) -> int:
        return sum(p.walk.walked for p in self.passes)

    @cached_property
    def relaxed(self) -> Written:
        """The network with all integers left out; with the middle "lp" it tightens intervals."""
        tighten = self._tighten if self.middle == "lp" else None
        return Written.of(self, exact=False, tighten=tighten)

    @cached_property
    def exact(self) -> Written:
        """With integers, and with the tangents of the input set that have been found without."""
        made = Written.of(self, exact=True, tighten=None)
        found, own = self.relaxed.encoding.tangents, made.encoding.tangents
        if found is not None and own is not None:
            for where, a in found.touched:
                own.touch(where, a)
        return made

    def _tighten(self, encoding: Encoding, name: str, wanted: np.ndarray) -> None:
        if set(self.maps.to(name).parts) == {self.maps.graph.input}:
            return  # affine in the input: bounds are exact
        before = self.intervals[name]
        self.intervals[name] = encoding.sharpened(
            name, before, wanted, least, lambda _: self.clock.left
        )


@dataclass(frozen=True)
class Written:
    """A network's programme, and margins (K - 1,) = objectives @ v + constants, off by `doubts`."""

    encoding: Encoding
    objectives: np.ndarray
    constants: np.ndarray
    doubts: np.ndarray

    @classmethod
    def of(
        cls, example: Example, exact: bool,
        tighten: Callable[[Encoding, str, np.ndarray], None] | None,
    ) -> Written:  # fmt: skip
        maps = example.maps
        encoding = Encoding.of(maps, example.inside, example.intervals, exact, tighten)
        linear = encoding.linear(maps.graph.output)
        objectives = (linear.matrix.T @ example.rows.T).T
        far = np.abs(example.rows)
        total = far @ (abs(linear.matrix) @ encoding.draft.sizes + np.abs(linear.constant))
        doubts = far @ linear.doubt + 2 * (far.shape[1] + 8) * U * total
        return cls(encoding, objectives, example.rows @ linear.constant, doubts)

    @property
    def programme(self) -> Programme:
        return self.encoding.draft.done()

    def least(
        self, margin: int, solve: Solve, seconds: float, enough: Enough | None = None
    ) -> Answer:
        """The answer about one margin, its constant added."""
        found = self.encoding.least(self.objectives[margin], solve, seconds, enough)
        bound = found.bound + float(self.constants[margin])
        error = found.error + float(self.doubts[margin]) + 8 * U * abs(bound)
        return found._replace(bound=bound, error=error if np.isfinite(bound) else 0.0)

    def input(self, v: np.ndarray) -> Tensor:
        """The input (1, ...) of a point of the programme."""
        maps = self.encoding.maps
        flat_input = torch.from_numpy(self.encoding.forms[maps.graph.input].value(v))
        return flat_input.view(1, *maps.shape(maps.graph.input))


def by_example(
    model: nn.Module | Graph, x: Tensor, y: Tensor, threat: AnyThreat,
    bounds: Callable[[Example], np.ndarray], middle: str, time_limit: float | None,
) -> Margins:  # fmt: skip
    """`bounds` (K - 1,) of every example, with what propagation cost; arguments as in
    `lp_margins`. Where these are out of time, the propagated ones; -inf where propagation was.
    """

    def work(maps: Maps, inside: InputSet, y: Tensor, clock: Clock) -> tuple[np.ndarray, int]:
        example = None
        try:
            with limit(clock.left):
                example = Example.of(maps, inside, y, middle, clock)
                return bounds(example), example.walked
        except OutOfTime:
            if example is None:
                return np.full(maps.shape(maps.graph.output)[-1] - 1, -np.inf), 0
            return example.propagated, example.walked

    return each(model, x, y, threat, work, time_limit)


def each(
    model: nn.Module | Graph, x: Tensor, y: Tensor, threat: AnyThreat,
    work: Callable[[Maps, InputSet, Tensor, Clock], tuple[np.ndarray, int]],
    time_limit: float | None,
) -> Margins:  # fmt: skip
    """Bounds (K - 1,) and rows walked, from `work` on every example (1, ...) with a clock of its
    own, in float64.
    """
    x = x.detach().cpu().double().clone()
    maps, found, walked = prepared(model, x), [], 0
    with torch.inference_mode(False), torch.no_grad():
        inside, y = InputSet.of(x, threat), y.cpu()
        for row in range(len(x)):
            one = torch.tensor([row])
            bounds, rows = work(maps, inside.take(one), y[one], Clock(time_limit))
            found.append(torch.from_numpy(bounds))
            walked += rows
    return Margins(torch.stack(found), walked)


def prepared(model: nn.Module | Graph, x: Tensor) -> Maps:
    """The maps of a copy of the model in float64. Raises ModelError for operations without a rule,
    InputError for a graph of another type.
    """
    with torch.inference_mode(False), torch.no_grad():
        if isinstance(model, Graph):
            constants = {name: value.cpu() for name, value in model.constants.items()}
            return Maps.of(replace(model, constants=constants), x)
        double = copy.deepcopy(model).cpu().double().requires_grad_(False)
        return Maps.of(graph_of(double, x), x)
