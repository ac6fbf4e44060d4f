"""RefineZono (Singh et al. 2019b): a zonotope whose bounds in the middle are refined by programmes,
with integers for the first layers, without for later ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from torchproof.core.threats import AnyThreat
from torchproof.verify.bounds import Margins
from torchproof.verify.clock import OutOfTime, limit
from torchproof.verify.graph import Graph, Node
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.interval import Interval
from torchproof.verify.programme.encode import Encoding
from torchproof.verify.programme.example import each
from torchproof.verify.programme.integer import least_integer
from torchproof.verify.programme.maps import Maps
from torchproof.verify.programme.solve import Clock, least
from torchproof.verify.zonotope import Sweep


def refine_zono_margins(
    model: nn.Module | Graph, x: Tensor, y: Tensor, threat: AnyThreat, *,
    layers: int = 1, time_limit: float | None = None,
) -> Margins:  # fmt: skip
    """(B, K - 1) lower bounds of z_y - z_t by a zonotope, never below those of
    `zonotope.margins`.

    Before every nonlinear layer but those that are affine in the input, where bounds are exact, two
    linear programmes for each open entry; in the first `layers` of these then two with integers for
    each that is still open. time_limit: seconds for each example, a layer has an equal share of
    what is left. A bound that has no time stays the zonotope's.

    Deviations: programmes begin with the intervals of the zonotope, met with plain ones; no neuron
    is chosen before others. Raises like `lp_margins`.
    """

    def work(maps: Maps, inside: InputSet, y: Tensor, clock: Clock) -> tuple[np.ndarray, int]:
        rows = rows_of(y, maps.shape(maps.graph.output)[-1]).double()
        refiner = Refiner(Encoding.begun(maps, inside, layers > 0), clock, layers)
        found = [
            Sweep.of(maps.graph, inside, refine=refine).lower(rows)[0].numpy()
            for refine in (None, refiner)
        ]
        return np.maximum(*found), 0

    return each(model, x, y, threat, work, time_limit)


@dataclass
class Refiner:
    """Follows a sweep over one example, writes what it has passed into programmes. layers: that
    are still to be refined with integers; passed: nonlinear nodes so far; over: no time is left,
    and nothing more is refined.
    """

    encoding: Encoding
    clock: Clock
    layers: int
    passed: int = 0
    over: bool = False

    def __call__(self, node: Node, intervals: dict[str, Interval]) -> None:
        try:
            with limit(self.clock.left):
                if not self.over:
                    self._step(node, intervals)
        except OutOfTime:
            self.over = True

    def _step(self, node: Node, intervals: dict[str, Interval]) -> None:
        maps, refined = self.encoding.maps, False
        own = self.clock.part(1 / (len(maps.bends) - self.passed))
        for name in maps.graph.inputs(node):
            if set(maps.to(name).parts) != {maps.graph.input}:  # else bounds are exact
                refined = True
                self._refine(node, name, intervals, own)
        self.passed += 1
        self.layers -= int(refined and self.layers > 0)
        self.encoding.exact = self.layers > 0
        self.encoding.write(node, intervals)

    def _refine(self, node: Node, name: str, intervals: dict[str, Interval], clock: Clock) -> None:
        ways = [(least, lambda left: clock.left)]
        if self.layers > 0:
            ways.append((least_integer, lambda left: clock.left / left))
        for solve, seconds in ways:
            wanted = self.encoding.open(node, name, intervals)
            intervals[name] = self.encoding.sharpened(name, intervals[name], wanted, solve, seconds)
