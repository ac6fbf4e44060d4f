"""The family of bounds by propagation: which lines, where the bounds in the middle come from.

No order holds among IBP, CROWN-IBP and CROWN: the default asks them all, and intersects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from torchproof.core.errors import ModelError, unknown
from torchproof.core.norms import Linf
from torchproof.core.threats import AnyThreat
from torchproof.verify.alpha import optimised
from torchproof.verify.clock import look
from torchproof.verify.domain import OutsideDomain, by_example
from torchproof.verify.graph import Graph, Node, Values, bind, traced
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.interval import Interval
from torchproof.verify.linear import Walk
from torchproof.verify.operators import AFFINE, APART, check, nonlinear, relaxation, try_on
from torchproof.verify.relax import Hinge, Relaxation
from torchproof.verify.rewrite import rewritten
from torchproof.verify.starts import at_once, starts

T = TypeVar("T")


@dataclass(frozen=True)
class Bound:
    """A member of the family. middle: where bounds before nonlinear operations come from;
    parallel: lower lines of hinges parallel to the upper ones; meet: intersect with intervals, in
    the middle and at the end; last: what bounds the margins; steps, middle_steps: of the search for
    slopes, at the end and in the middle.
    """

    middle: Literal["interval", "linear"]
    last: Literal["interval", "linear"]
    parallel: bool = False
    meet: bool = True
    steps: int = 0
    middle_steps: int = 0


IBP = Bound("interval", "interval")
CROWN_IBP = Bound("interval", "linear", meet=False)
CROWN = Bound("linear", "linear", meet=False)
FAST_LIN = Bound("linear", "linear", parallel=True, meet=False)

BOUNDS: dict[str, tuple[Bound, ...]] = {
    "ibp": (IBP,),
    "crown-ibp": (CROWN_IBP,),
    "fast-lin": (FAST_LIN,),
    "crown": (CROWN,),
    "alpha-crown": (Bound("linear", "linear", steps=20),),
    "alpha-crown-full": (Bound("linear", "linear", steps=20, middle_steps=10),),
    "best": (IBP, CROWN_IBP, FAST_LIN, CROWN, Bound("linear", "linear")),
}
"""ibp: Gowal et al. 2019, with margins merged into the last layers; crown-ibp: Zhang et al. 2020;
fast-lin: Weng et al. 2018, the same as the dual of Wong and Kolter 2018; crown: Zhang et al. 2018,
the same as DeepPoly (Singh et al. 2019) on ReLU; alpha-crown: Xu et al. 2021, intersected with
intervals, slopes optimised for the margins, or (full) for every bound in the middle too; best: the
largest of those without optimised slopes, and of CROWN with intervals intersected everywhere, which
alone is not always the best (its slopes differ).
"""


def graph_of(model: nn.Module, x: Tensor) -> Graph:
    """The model's graph, in operations that all have rules; raises ModelError, InputError."""
    plain, one = traced(model, x), x[:1].detach()
    graph = rewritten(plain)
    check(graph)
    try_on(graph, one)
    rows = torch.cat([one, one * 0.5, one * 0.25])
    with torch.no_grad():
        found, expected = (g.run(rows)[g.output] for g in (graph, plain))
    near = 1e-3 * float(expected.abs().max().clamp_min(1e-3))
    if found.shape != expected.shape or not float((found - expected).abs().max()) <= near:
        raise ModelError(
            f"a network whose operations, rewritten, answer {found.flatten()[:3].tolist()} and not "
            f"{expected.flatten()[:3].tolist()}",
            "the same answers",
            "bound it in float64; if they still differ, a rule of torchproof is wrong: report it",
        )
    return graph


class Margins(NamedTuple):
    """lower: (B, K - 1) bounds of z_y - z_t, t != y in order; rows: walks back through the graph, a
    backward pass of one example each. found: of methods that meet counterexamples, for each example
    an input (...) that the graph gives a margin <= 0, or None.
    """

    lower: Tensor
    rows: int
    found: tuple[Tensor | None, ...] = ()


def margins(
    model: nn.Module | Graph,
    x: Tensor,
    y: Tensor,
    threat: AnyThreat,
    method: str = "best",
) -> Tensor:
    """(B, K - 1) lower bounds of z_y - z_t over the threat around x (B, C, H, W), t != y in order.

    An example whose bounds are all positive is classified as y everywhere in the set. Computed in
    the dtype of the model; float rounding is not accounted for. Raises UnknownName for a method,
    ModelError for operations without a rule, InputError for x outside the pixel box.
    """
    return bounded(model, x, y, threat, method).lower


def bounded(
    model: nn.Module | Graph, x: Tensor, y: Tensor, threat: AnyThreat, method: str = "best"
) -> Margins:
    """`margins`, with what they cost."""
    if method not in BOUNDS:
        raise unknown("bound", method, BOUNDS)
    graph = model if isinstance(model, Graph) else graph_of(model, x)
    with torch.no_grad():
        inside = InputSet.of(x, threat)

        def one(bound: Bound, some: InputSet, labels: Tensor) -> tuple[Tensor, int]:
            passed = Pass.of(graph, some, bound)
            classes = passed.walk.reference[graph.output].shape[-1]
            return passed.lower(rows_of(labels, classes).to(x.dtype)), passed.walk.walked

        found = members(method, lambda bound: by_example(inside, y, partial(one, bound)))
        best = torch.stack([margins for margins, _ in found]).amax(0)
        return Margins(best, sum(walked for _, walked in found))


def members(method: str, one: Callable[[Bound], T]) -> list[T]:
    """one(bound) for every member of a method but those whose bounds leave the domain of a
    function, such as a logarithm; raises OutsideDomain, the last one, where all do.
    """
    found: list[T] = []
    bounds = BOUNDS[method]
    for bound in bounds:
        try:
            found.append(one(bound))
        except OutsideDomain:
            if bound is bounds[-1] and not found:
                raise
    return found


@dataclass
class Pass:
    """A graph walked once forward over a set: intervals of every live node, lines of the nonlinear
    ones.
    """

    bound: Bound
    walk: Walk
    intervals: dict[str, Interval]
    curved: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, graph: Graph, inside: InputSet, bound: Bound) -> Pass:
        made = cls(bound, Walk.of(graph, inside), {graph.input: inside.box()})
        for node in graph.nodes:
            if node.name in graph.live:
                look()
                made._visit(node)
        return made

    def lower(self, rows: Tensor) -> Tensor:
        """(B, S) lower bounds of the rows (B, S, K) of the answer."""
        (many, count), most = rows.shape[:2], at_once(self.walk)
        start = rows.reshape(many, count, *self.walk.reference[self.walk.graph.output].shape[1:])
        found = []
        for part in torch.split(torch.arange(many, device=rows.device), most):
            each = max(1, most // len(part))  # rows of every example at once
            own = torch.split(start[part].transpose(0, 1), each)
            parts = [self._last(r.flatten(0, 1), part.repeat(len(r))) for r in own]
            found.append(torch.cat(parts).view(count, len(part)).T)
        whole = torch.cat(found)  # numbers beyond the dtype say nothing
        return torch.where(whole.isfinite(), whole, -torch.inf)

    def _last(self, rows: Tensor, example: Tensor) -> Tensor:
        start = {self.walk.graph.output: rows}
        stops = {n: v for n, v in self.intervals.items() if n in self.curved}
        if self.bound.last == "interval":
            return self.walk.lower(start, example, stops)
        found = optimised(self.walk, start, example, self.bound.steps)
        if self.bound.meet:
            found = torch.maximum(found, self.walk.lower(start, example, stops))
        return found

    def _visit(self, node: Node) -> None:
        graph, arguments = self.walk.graph, self._arguments(node)
        if not nonlinear(node, graph):
            self.intervals[node.name] = AFFINE[node.kind](node, arguments)
            return
        known = relaxation(node, arguments)
        if self.bound.parallel and isinstance(known, Hinge):
            known = replace(known, parallel=True)
        names = graph.inputs(node)
        try:
            self._tighten(names, known)
            inputs = [self.intervals[name] for name in names]
            if "linear" in (self.bound.middle, self.bound.last):
                self.walk.hold(node, known.lines(inputs), known.free(inputs))
            self.curved.add(node.name)
            self.intervals[node.name] = known.range(inputs)
        except ModelError as error:
            given = f"{error.given}, at {node.where!r}"
            raise type(error)(given, error.expected, error.remedy) from error

    def _arguments(self, node: Node) -> Sequence[Any]:
        values: Values = {**self.walk.reference, **self.intervals}
        found: Sequence[Any] = bind(node.args, values)
        return found

    def _tighten(self, names: Sequence[str], known: Relaxation) -> None:
        """Walks back from the entries of the inputs for which it may make a difference."""
        for name in names:
            before = self.intervals[name]
            open_ = sought(self.walk.graph, name, before, known, self.bound, self.walk.inside)
            if open_ is not None:
                meet = self.bound.meet or known.bounded
                self.intervals[name] = self._walked(name, before, open_, meet)

    def _walked(self, name: str, before: Interval, open_: Tensor, meet: bool) -> Interval:
        lower, upper = before.lower.clone(), before.upper.clone()
        for start in starts(self.walk, name, open_.expand(before.lower.shape)):
            both, many = {name: torch.cat([start.rows, -start.rows])}, len(start.rows)
            steps = self.bound.middle_steps
            found = optimised(start.walk, both, start.example.repeat(2), steps)
            lower[start.places], upper[start.places] = found[:many], -found[many:]
            if start.walk is not self.walk:
                self.walk.walked += start.walk.walked
        after = Interval(lower, upper)
        after = after.meet(before) if meet else after
        # bounds that have met may cross by float noise
        return Interval(
            torch.minimum(after.lower, after.upper), torch.maximum(after.lower, after.upper)
        )


def sought(
    graph: Graph, name: str, before: Interval, known: Relaxation, bound: Bound, inside: InputSet
) -> Tensor | None:
    """(B, ...) which entries that a nonlinear operation reads are to be bounded by walks back; None
    where its interval `before` does. Walks are exact where no such operation is behind.
    """
    curved, mixing = behind(graph, name)
    sharp = mixing <= 1 and isinstance(inside.ball.norm, Linf)
    if not curved and not sharp:
        return torch.ones_like(before.lower, dtype=torch.bool)
    return known.open([before]) if curved and bound.middle == "linear" else None


def behind(graph: Graph, name: str) -> tuple[bool, int]:
    """Whether nonlinear operations lead to the node, and how many affine ones that mix entries:
    with none or one of these, intervals from a box are exact.
    """
    seen, todo = set[str](), [name]
    while todo:
        current = todo.pop()
        if current not in seen and current in graph.by_name:
            seen.add(current)
            todo += graph.inputs(graph.by_name[current])
    nodes = [graph.by_name[n] for n in seen]
    mixing = sum(n.kind not in APART and len(graph.inputs(n)) == 1 for n in nodes)
    joining = sum(len(graph.inputs(n)) > 1 for n in nodes)
    return any(nonlinear(n, graph) for n in nodes), mixing + 2 * joining
