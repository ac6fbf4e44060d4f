"""Complete verification of piecewise linear networks by integers: one for each neuron whose sign is
open (Tjeng et al. 2019), after bounds and linear programmes have settled what they can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from torchproof.core.threats import AnyThreat
from torchproof.verify.bounds import Margins
from torchproof.verify.clock import OutOfTime, limit
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet
from torchproof.verify.lp import lp_bounds
from torchproof.verify.programme.example import START, Example, Written, by_example, prepared
from torchproof.verify.programme.integer import Enough, least_integer
from torchproof.verify.programme.maps import Maps
from torchproof.verify.programme.solve import NOTHING, Answer, Clock, least

CLEAR = 1e-5  # a margin below this many under zero is worth a look at its input
SURE = 1e-9  # a margin above this is more than roundings of it


@dataclass(frozen=True)
class Verdict:
    """certified: every margin is above `margin` > 0 (weak bounds of some of them may be what is
    reported); broken: `found` (C, H, W), of the set, is given another class by the network itself;
    undecided: `why`. seconds: all that it took.
    """

    status: Literal["certified", "broken", "undecided"]
    margin: float
    found: Tensor | None = None
    why: str = ""
    seconds: float = 0.0


def milp_margins(
    model: nn.Module | Graph, x: Tensor, y: Tensor, threat: AnyThreat, *,
    middle: str = START, time_limit: float | None = None,
) -> Margins:  # fmt: skip
    """(B, K - 1) lower bounds of z_y - z_t like `lp_margins`, each solved with integers as well:
    up to tolerances the least margin itself for hinges and maxima.

    time_limit: seconds for each example, in equal shares of what is left for each of its margins.
    """
    return by_example(model, x, y, threat, _bounds, middle, time_limit)


def _bounds(example: Example) -> np.ndarray:
    bounds = lp_bounds(example)
    answers = integer_answers(example, list(range(len(bounds))))
    found: np.ndarray = np.maximum(bounds, [a.bound for a in answers])
    return found


def integer_answers(example: Example, places: list[int]) -> list[Answer]:
    """About the margins at these places, with integers, each in an equal share of the time left."""
    found = []
    for turn, t in enumerate(places):
        share = example.clock.left / (len(places) - turn)
        try:
            late = example.clock.left <= 0
            found.append(NOTHING if late else example.exact.least(t, least_integer, share))
        except OutOfTime:
            found.append(NOTHING)
    return found


def milp_verify(
    model: nn.Module, x: Tensor, y: Tensor, threat: AnyThreat, time_limit: float | None = None, *,
    middle: str = START,
) -> list[Verdict]:  # fmt: skip
    """A verdict for each example: propagated bounds, then linear programmes, then integers, each
    for the margins that are still open, the worst first.

    time_limit: seconds for each example. middle: as for `lp_margins`. A counterexample is run
    through the model itself, in its own dtype. Certified rests on bounds in float64 without an
    account of rounding. Raises like `lp_margins`.
    """
    x, y = x.detach().clone(), y.detach()
    maps = prepared(model, x.cpu().double())
    verdicts = []
    with torch.inference_mode(False), torch.no_grad():
        for row in range(len(x)):
            one, clock = slice(row, row + 1), Clock(time_limit)
            trial = Trial(model, InputSet.of(x[one], threat), int(y[row]))
            inside = InputSet.of(x[one].cpu().double(), threat)
            verdict = trial.broken(x[one] - x[one])
            if verdict is None:
                with limit(clock.left):
                    verdict = _judged(maps, inside, y[one].cpu(), middle, clock, trial)
            verdicts.append(replace(verdict, seconds=clock.spent))
    return verdicts


@dataclass(frozen=True)
class Trial:
    """Runs inputs through the network that is judged."""

    model: Callable[[Tensor], Tensor]
    inside: InputSet
    label: int

    def broken(self, delta: Tensor) -> Verdict | None:
        """The verdict, if x + delta, brought into the set, is given another class."""
        origin = self.inside.x
        delta = self.inside.ball.project(delta.to(origin))
        moved = origin + delta
        if not bool(self.inside.ball.inside(moved - origin).all()):
            return None
        logits = self.model(moved)[0]
        if int(logits.argmax()) == self.label:
            return None
        rest = torch.cat([logits[: self.label], logits[self.label + 1 :]])
        return Verdict("broken", float(logits[self.label] - rest.max()), moved[0])


def _judged(
    maps: Maps, inside: InputSet, y: Tensor, middle: str, clock: Clock, trial: Trial
) -> Verdict:  # fmt: skip
    bounds = np.full(1, -np.inf)
    try:
        example = Example.of(maps, inside, y, middle, clock)
        bounds = example.propagated.copy()
        return _verdict(example, trial, bounds)
    except OutOfTime:
        return Verdict("undecided", float(bounds.min()), why="no time left")


def _verdict(example: Example, trial: Trial, bounds: np.ndarray) -> Verdict:
    """bounds: (K - 1,) of the margins so far; better ones are written over them."""
    ended = {}
    for t, found, written in _answers(example, bounds):
        bounds[t], ended[t] = max(bounds[t], found.bound), found.status
        if found.point is not None:
            broken = trial.broken(written.input(found.point) - example.inside.x)
            if broken is not None:
                return broken
    margin = float(bounds.min())
    if margin > 0:
        return Verdict("certified", margin)
    if any(ended.get(t, "limit") == "limit" for t in _open(bounds)):
        return Verdict("undecided", margin, why="no time left")
    encoding = example.exact.encoding
    why = "the sign is within tolerances"
    if encoding.tangents is not None:
        why += ", or the tangents of the ball are too few"
    if encoding.relaxed:
        why = f"not complete for {', '.join(sorted(encoding.relaxed))}"
    return Verdict("undecided", margin, why=why)


def _answers(example: Example, bounds: np.ndarray) -> Iterator[tuple[int, Answer, Written]]:
    """About each margin that is open: by linear programmes, then with integers. bounds: those so
    far, which the caller keeps up to date.
    """
    clock = example.clock
    for t in _open(bounds):
        yield t, example.relaxed.least(t, least, clock.left), example.relaxed
    left = _open(bounds) if clock.left > 0 else []
    for turn, t in enumerate(left):
        written = example.exact
        share = clock.left / (len(left) - turn)
        yield t, written.least(t, least_integer, share, enough(written, t)), written


def _open(bounds: np.ndarray) -> list[int]:
    order: list[int] = np.argsort(bounds, kind="stable").tolist()
    return [t for t in order if not bounds[t] > 0]


def enough(written: Written, margin: int) -> Enough:
    """The margin is certainly positive, or clearly negative somewhere."""
    offset, doubt = float(written.constants[margin]), float(written.doubts[margin])
    return lambda bound, best: bound + offset > 2 * doubt + SURE or best + offset < -CLEAR
