"""One example on its way to a verdict: bounds in the middle, programmes, objectives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from torchproof.core.errors import unknown
from torchproof.verify.bounds import BOUNDS, Pass, graph_of
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.interval import Interval
from torchproof.verify.programme.draft import Programme
from torchproof.verify.programme.encode import Encoding
from torchproof.verify.programme.maps import Maps
from torchproof.verify.programme.sets import flat
from torchproof.verify.programme.solve import Answer, Clock, least

START = "best"  # the bounds that linear programmes begin with
MIDDLES = (*BOUNDS, "lp")

Solve = Callable[..., Answer]


@dataclass
class Example:
    """An example (1, ...) of label y. intervals: of every live node, the intersection of those of
    the propagated bounds; propagated: (K - 1,) their bounds of the margins; walked: rows so far.
    """

    maps: Maps
    inside: InputSet
    clock: Clock
    intervals: dict[str, Interval]
    rows: np.ndarray
    propagated: np.ndarray
    walked: int
    middle: str

    @classmethod
    def of(cls, maps: Maps, inside: InputSet, y: Tensor, middle: str, clock: Clock) -> Example:
        """middle: a name of BOUNDS, or "lp" for two linear programmes for each neuron that they may
        help. Raises UnknownName for any other.
        """
        if middle not in MIDDLES:
            raise unknown("bound for the middle", middle, MIDDLES)
        bounds = BOUNDS[START if middle == "lp" else middle]
        passes = [Pass.of(maps.graph, inside, bound) for bound in bounds]
        rows = rows_of(y, maps.shape(maps.graph.output)[-1]).double()
        lower = torch.stack([p.lower(rows) for p in passes]).amax(0)
        walked = sum(p.walk.walked for p in passes)
        intervals = {name: _met([p.intervals[name] for p in passes]) for name in maps.graph.live}
        return cls(maps, inside, clock, intervals, rows[0].numpy(), lower[0].numpy(), walked,
                   middle)  # fmt: skip

    @cached_property
    def relaxed(self) -> Written:
        """The network with all integers left out; with the middle "lp" it tightens intervals."""
        tighten = self._tighten if self.middle == "lp" else None
        return Written.of(self, exact=False, tighten=tighten)

    @cached_property
    def exact(self) -> Written:
        return Written.of(self, exact=True, tighten=None)

    def _tighten(self, encoding: Encoding, name: str, wanted: np.ndarray) -> None:
        """Two programmes for each wanted entry; a bound that has no time stays what it was."""
        if set(self.maps.to(name).parts) == {self.maps.graph.input}:
            return  # affine in the input: bounds are exact
        before, programme, linear = (
            self.intervals[name],
            encoding.draft.done(),
            encoding.linear(name),
        )
        low, high = flat(before.lower).copy(), flat(before.upper).copy()
        for entry in np.nonzero(wanted)[0]:
            row, at = linear.matrix[[entry]].toarray()[0], linear.constant[entry]
            low[entry] = max(low[entry], least(programme, row, self.clock.left).bound + at)
            high[entry] = min(high[entry], at - least(programme, -row, self.clock.left).bound)
        both = (torch.from_numpy(end).view_as(before.lower) for end in (low, high))
        self.intervals[name] = _met([Interval(*both)])


@dataclass(frozen=True)
class Written:
    """A network's programme, and margins (K - 1,) = objectives @ v + constants."""

    encoding: Encoding
    objectives: np.ndarray
    constants: np.ndarray

    @classmethod
    def of(
        cls, example: Example, exact: bool,
        tighten: Callable[[Encoding, str, np.ndarray], None] | None,
    ) -> Written:  # fmt: skip
        maps = example.maps
        encoding = Encoding.of(maps, example.inside, example.intervals, exact, tighten)
        linear = encoding.linear(maps.graph.output)
        objectives = (linear.matrix.T @ example.rows.T).T
        return cls(encoding, objectives, example.rows @ linear.constant)

    @cached_property
    def programme(self) -> Programme:
        return self.encoding.draft.done()

    def least(self, margin: int, solve: Solve, seconds: float, *rest: object) -> Answer:
        """The answer about one margin, its constant added."""
        found = solve(self.programme, self.objectives[margin], seconds, *rest)
        return found._replace(bound=found.bound + float(self.constants[margin]))

    def input(self, v: np.ndarray) -> Tensor:
        """The input (1, ...) of a point of the programme."""
        maps = self.encoding.maps
        flat_input = torch.from_numpy(self.encoding.forms[maps.graph.input].value(v))
        return flat_input.view(1, *maps.shape(maps.graph.input))


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


def _met(intervals: list[Interval]) -> Interval:
    lower = torch.stack([i.lower for i in intervals]).amax(0)
    upper = torch.stack([i.upper for i in intervals]).amin(0)
    # bounds that have met may cross by float noise
    return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))
