"""What is known before the units of a network that switch."""

from __future__ import annotations

from torchproof.core.errors import ModelError
from torchproof.verify.bounds import Pass
from torchproof.verify.interval import Interval

SWITCHING = ("relu", "leaky_relu", "prelu")


def switching(passed: Pass) -> list[Interval]:
    """The intervals (B, ...) before each layer of ReLUs and their like; raises ModelError for a
    network without any.
    """
    graph = passed.walk.graph
    nodes = [node for node in graph.nodes if node.kind in SWITCHING and node.name in graph.live]
    if not nodes:
        remedy = "leave the regulariser out, or choose activation='relu'"
        raise ModelError("a network without ReLUs", "ReLU, leaky ReLU or PReLU", remedy)
    return [passed.intervals[graph.inputs(node)[0]] for node in nodes]
