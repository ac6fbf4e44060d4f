"""LP-full: every neuron in its convex hull, all of them at once (Weng et al. 2018, Salman et al.
2019), solved as a linear programme.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from torchproof.core.threats import AnyThreat
from torchproof.verify.bounds import Margins
from torchproof.verify.graph import Graph
from torchproof.verify.programme.example import START, Example, by_example
from torchproof.verify.programme.solve import Answer, least


def lp_margins(
    model: nn.Module | Graph, x: Tensor, y: Tensor, threat: AnyThreat, *,
    middle: str = START, time_limit: float | None = None,
) -> Margins:  # fmt: skip
    """(B, K - 1) lower bounds of z_y - z_t over the threat around x (B, C, H, W), t != y in order:
    a linear programme each, never below the propagated bounds that it begins with.

    middle: where bounds before nonlinear operations come from, a name of BOUNDS (all of its members
    intersected), or "lp" for two linear programmes for each neuron that is not settled. time_limit:
    seconds for each example; programmes that have none left leave the propagated bounds, and
    propagation that has none knows nothing (-inf). ReLU-like hinges by their triangle, maxima by
    rows x_i <= y and a plane above, other activations by their two lines; balls of Linf, L1 and L0
    by their convex hull, of L2 by tangents, in rounds. A bound is the dual value of the solver's
    multipliers in float64, for L2 over the ball itself, and not the solver's word.

    Raises UnknownName for a middle; ModelError for operations without a rule; InputError for a
    graph that is not in float64, and for an L0 ball without a box.
    """
    return by_example(model, x, y, threat, lp_bounds, middle, time_limit)


def lp_bounds(example: Example) -> np.ndarray:
    """(K - 1,) bounds of one example."""
    found: np.ndarray = np.maximum(example.propagated, [a.bound for a in lp_answers(example)])
    return found


def lp_answers(example: Example) -> list[Answer]:
    """About each margin of one example."""
    written, clock = example.relaxed, example.clock
    return [written.least(t, least, clock.left) for t in range(len(example.propagated))]
