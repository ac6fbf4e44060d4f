"""Graphs of networks that are being trained: traced once, with the parameters that are there now.

Bounds are those of the network in eval mode. What batch norm normalises with are the running
statistics at the time of `prepare`, which the batch carries, so that bounds are a function of
(model, batch) whatever forward passes do to the statistics in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from torchproof.attack.untouched import untouched
from torchproof.core.asides import listening
from torchproof.core.errors import ModelError
from torchproof.train.method import Batch
from torchproof.verify import graph_of
from torchproof.verify.graph import Graph
from torchproof.verify.operators import nonlinear

_STATISTICS = "statistics of "
# Nonlinear operations whose bounds have gradients.
GRADED = ("relu", "leaky_relu", "prelu", "row_max", "mul")


@dataclass(frozen=True)
class Trace:
    """A graph; places: constant -> name of the parameter or buffer; shape: of one input; classes:
    K.
    """

    graph: Graph
    places: dict[str, str]
    shape: torch.Size
    classes: int

    @classmethod
    def of(cls, model: nn.Module, x: Tensor) -> Trace:
        """Leaves the model as it was; raises ModelError for operations without a rule, or whose
        bounds have no gradients.
        """
        apart = torch.autocast(x.device.type, enabled=False)
        deaf = listening()  # what blocks tell meanwhile is nobody's business
        alone = untouched(model, 0, x.device)
        with alone, torch.inference_mode(False), torch.no_grad(), apart, deaf:
            graph = graph_of(model, x[:1])
            classes = model(x[:1]).shape[-1]
        _require_gradients(graph)
        names = {id(value): name for name, value in _tensors(model).items()}
        places = {c: names[id(v)] for c, v in graph.constants.items() if id(v) in names}
        return cls(graph, places, x.shape[1:], classes)

    @cached_property
    def cut(self) -> Graph:
        """The graph whose nonlinear answers are constants."""
        nodes = tuple(
            replace(node, call=partial(_detached, node.call))
            if nonlinear(node, self.graph) and node.name in self.graph.live
            else node
            for node in self.graph.nodes
        )
        return replace(self.graph, nodes=nodes)

    def fits(self, model: nn.Module, x: Tensor) -> bool:
        """Are the parameters still those that were traced?"""
        own, known = _tensors(model), self.graph.constants
        return x.shape[1:] == self.shape and all(
            own.get(name) is known[constant]
            for constant, name in self.places.items()
            if isinstance(known[constant], nn.Parameter)
        )

    def now(self, model: nn.Module, batch: Batch, stopping: bool) -> Graph:
        """The graph with the model's tensors, and the statistics that the batch was prepared with.

        stopping: for walks that stop at nonlinear nodes. The reference there then has no part in
        the bounds' gradients, and none is worked out.
        """
        own = _tensors(model)
        for name, value in batch.drawn.items():
            if name.startswith(_STATISTICS):
                own[name.removeprefix(_STATISTICS)] = value[0]
        now = {constant: own[name] for constant, name in self.places.items()}
        graph = self.cut if stopping else self.graph
        return replace(graph, constants={**graph.constants, **now})


_kept: WeakKeyDictionary[nn.Module, Trace] = WeakKeyDictionary()


def trace_of(model: nn.Module, x: Tensor) -> Trace:
    """The trace of a model for inputs like x (B, ...), made once for as long as the model lives."""
    known = _kept.get(model)
    if known is None or not known.fits(model, x):
        known = _kept[model] = Trace.of(model, x)
    return known


def _detached(call: Callable[..., Any], *args: Any) -> Tensor:
    answer: Tensor = call(*args)
    return answer.detach()


def _require_gradients(graph: Graph) -> None:
    nodes = [n for n in graph.nodes if n.name in graph.live and nonlinear(n, graph)]
    strange = "; ".join(f"{n.kind} at {n.where!r}" for n in nodes if n.kind not in GRADED)
    if strange:
        remedy = "train a network of ReLUs, leaky ReLUs and max-pooling on bounds"
        raise ModelError(strange, "operations whose bounds have gradients", remedy)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False))}  # fmt: skip


def statistics(model: nn.Module, rows: int) -> dict[str, Tensor]:
    """What batch norm normalises with in eval mode, (rows, C) equal values each, to be kept in
    `Batch.drawn`.
    """
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        for name in ("running_mean", "running_var"):
            value = getattr(module, name, None) if isinstance(module, _NormBase) else None
            if value is not None:
                key = f"{_STATISTICS}{path}.{name}" if path else f"{_STATISTICS}{name}"
                found[key] = value.detach().clone().expand(rows, *value.shape)
    return found


def follow(model: nn.Module, x: Tensor) -> None:
    """Moves the running statistics of a network in train mode on images x (B, C, H, W), for losses
    that have no forward pass of their own.
    """
    if any(m.training and m.track_running_stats for m in _norms(model)):
        with torch.no_grad():
            model(x)


def _norms(model: nn.Module) -> list[_NormBase]:
    return [m for m in model.modules() if isinstance(m, _NormBase)]
