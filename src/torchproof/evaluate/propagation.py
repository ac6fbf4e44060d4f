"""The verifier of evaluations that propagates bounds through the network."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, unknown
from torchproof.core.sites import Model
from torchproof.core.threats import AnyThreat
from torchproof.evaluate.certificate import Proof
from torchproof.verify import Margins, graph_of
from torchproof.verify.graph import Graph
from torchproof.verify.methods import METHODS


@dataclass
class Propagation:
    """Certifies by bounds on margins, `method` a name of METHODS.

    Bounds are computed in float64 on a copy of the model; they are about the network in real
    arithmetic, and rounding of float64 is not accounted for. Raises UnknownName for a method,
    InputError for a model that is no `nn.Module`, ModelError for operations without a rule.
    """

    method: str = "best"
    _graphs: dict[int, tuple[Model, Graph]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("bound", self.method, METHODS)

    def __call__(self, model: Model, x: Tensor, y: Tensor, threat: AnyThreat) -> Proof:
        margins = self.margins(model, x, y, threat)
        return Proof((margins.lower > 0).all(1), 1, -(-margins.rows // max(len(x), 1)))

    def margins(self, model: Model, x: Tensor, y: Tensor, threat: AnyThreat) -> Margins:
        """Lower bounds (B, K - 1) of the margins, and the rows that they cost."""
        return METHODS[self.method](self._graph(model, x), x.double(), y, threat)

    def _graph(self, model: Model, x: Tensor) -> Graph:
        """The graph of a copy in float64, made once for each model."""
        if not isinstance(model, nn.Module):
            given = f"a {type(model).__name__} for a verifier"
            raise InputError(given, "an nn.Module", "wrap the function in a module")
        kept = self._graphs.get(id(model))
        if kept is None or kept[0] is not model:
            copied = copy.deepcopy(model).double().eval().requires_grad_(False)
            with torch.inference_mode(False), torch.no_grad():
                kept = (model, graph_of(copied, x.double()))
            self._graphs[id(model)] = kept
        return kept[1]
