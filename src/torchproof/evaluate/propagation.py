"""The verifier of evaluations that propagates bounds through the network."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, unknown
from torchproof.core.sites import Model
from torchproof.core.threats import AnyThreat
from torchproof.evaluate.certificate import Proof
from torchproof.verify import graph_of
from torchproof.verify.clock import OutOfTime, limit
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import refuse_outside
from torchproof.verify.methods import METHODS, SECONDS
from torchproof.verify.sound import METHODS as SOUND
from torchproof.verify.sound import sound_margins, uncovered


class Bounded(NamedTuple):
    """lower: (B, K - 1) bounds of margins; error: how far they may be above what holds in real
    arithmetic, (B, K - 1), None where that is not accounted for; rows: walks back; found: as
    of `Margins`.
    """

    lower: Tensor
    error: Tensor | None
    rows: int
    found: tuple[Tensor | None, ...] = ()

    @property
    def sure(self) -> Tensor:
        """(B, K - 1) what the margins are at least, with the error taken off."""
        return self.lower if self.error is None else self.lower - self.error


class _Kept(NamedTuple):
    """copied: the model as it was when its graph was made."""

    model: nn.Module
    copied: nn.Module
    graph: Graph
    covered: bool

    def of(self, model: nn.Module) -> bool:
        """Is it the same object, with the same parameters and buffers as then?"""
        now, then = ([*m.parameters(), *m.buffers()] for m in (model, self.copied))
        return (
            self.model is model
            and len(now) == len(then)
            and all(torch.equal(a.to(b), b) for a, b in zip(now, then, strict=True))
        )


@dataclass
class Propagation:
    """Certifies by bounds on margins, `method` a name of METHODS.

    Bounds are computed in float64 on a copy of the model; they are about the network in real
    arithmetic. With `sound` the rounding of float64 is taken off, where that is known: for the
    methods of `verify.sound` and the operations that it covers. seconds: for each example;
    methods that keep no limit of their own have that many times the batch, after which nothing is
    known of it. Raises UnknownName for a method, InputError for a model that is no `nn.Module` and
    for x outside the pixel box, ModelError for operations without a rule.
    """

    method: str = "best"
    sound: bool = True
    seconds: float = SECONDS
    _graphs: dict[int, _Kept] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("bound", self.method, METHODS)
        if not self.seconds > 0:
            given = f"{self.seconds} seconds for each example"
            raise InputError(given, "more than none", f"leave it out for {SECONDS:g}")

    def __call__(self, model: Model, x: Tensor, y: Tensor, threat: AnyThreat) -> Proof:
        found = self.margins(model, x, y, threat)
        return Proof((found.sure > 0).all(1), 1, -(-found.rows // max(len(x), 1)))

    def margins(self, model: Model, x: Tensor, y: Tensor, threat: AnyThreat) -> Bounded:
        """Lower bounds (B, K - 1) of the margins, and the rows that they cost; -inf where the time
        was over.
        """
        refuse_outside(x, threat)
        kept, x = self._graph(model, x), x.double()
        own = METHODS[self.method].timed
        try:
            with limit(None if own else self.seconds * len(x)):
                return self._bounded(kept, x, y, threat)
        except OutOfTime:
            with torch.no_grad():
                nothing = torch.full_like(kept.graph.run(x)[kept.graph.output][:, 1:], -torch.inf)
            return Bounded(nothing, None, 0)

    def ready(self, model: Model, x: Tensor) -> None:
        """Reads the graph of a model for inputs like x (B, ...); raises what `margins` would raise
        about it, whether or not there is anything to bound.
        """
        METHODS[self.method].ready()
        self._graph(model, x)

    def _bounded(self, kept: _Kept, x: Tensor, y: Tensor, threat: AnyThreat) -> Bounded:
        known = METHODS[self.method]
        method = known.same or self.method
        if self.sound and method in SOUND and kept.covered:
            limit_ = self.seconds if known.timed else None
            return Bounded(*sound_margins(kept.graph, x, y, threat, method, limit_))
        found = known(kept.graph, x, y, threat, seconds=self.seconds)
        return Bounded(found.lower, None, found.rows, found.found)

    def _graph(self, model: Model, x: Tensor) -> _Kept:
        """The graph of a copy in float64, made anew where parameters or buffers have changed."""
        if not isinstance(model, nn.Module):
            given = f"a {type(model).__name__} for a verifier"
            raise InputError(given, "an nn.Module", "wrap the function in a module")
        kept = self._graphs.get(id(model))
        if kept is None or not kept.of(model):
            copied = copy.deepcopy(model).double().eval().requires_grad_(False)
            with torch.inference_mode(False), torch.no_grad():
                graph = graph_of(copied, x.double())
                kept = _Kept(model, copied, graph, not uncovered(graph, x))
            self._graphs[id(model)] = kept
        return kept
