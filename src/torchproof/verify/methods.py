"""Every way to bound margins by its name."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from torch import Tensor

from torchproof.core.threats import AnyThreat
from torchproof.verify.bounds import BOUNDS, Margins, bounded
from torchproof.verify.graph import Graph
from torchproof.verify.lp import lp_margins
from torchproof.verify.milp import milp_margins

SECONDS = 60.0  # for the programmes of one example


class Method(Protocol):
    """From a graph in float64, images (B, ...), labels (B,) and a threat to bounds of margins."""

    def __call__(self, model: Graph, x: Tensor, y: Tensor, threat: AnyThreat, /) -> Margins: ...


METHODS: dict[str, Method] = {
    **{name: partial(bounded, method=name) for name in BOUNDS},
    "lp": partial(lp_margins, time_limit=SECONDS),
    "milp": partial(milp_margins, time_limit=SECONDS),
}
"""BOUNDS, and lp: a linear programme for each margin; milp: with integers as well."""

ASSUMED: dict[str, tuple[str, ...]] = {
    "milp": ("margins above the linear programme's rest on the dual bounds of HiGHS, less its "
             "tolerances",),
}  # fmt: skip
"""What a method assumes beyond the others."""
