"""Margins that hold in real arithmetic on the stored weights, with what float64 may have lost."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from importlib import import_module
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, ModelError, unknown
from torchproof.core.threats import AnyThreat
from torchproof.verify.bounds import BOUNDS, Bound, graph_of
from torchproof.verify.graph import Graph, Node, Values, bind
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.operators import AFFINE, nonlinear, relaxation
from torchproof.verify.sound.affine import COVERED, takes_inexact
from torchproof.verify.sound.branch import branched
from torchproof.verify.sound.constants import doubts
from torchproof.verify.sound.lines import STRAIGHT, has_lines
from torchproof.verify.sound.passes import Pass, better
from torchproof.verify.sound.search import slopes_of
from torchproof.verify.sound.walk import Sum
from torchproof.verify.sound.zonotopes import Kind, zonotope_margins

METHODS = ("ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown", "alpha-crown-full", "best",
           "bab", "deepz", "hybrid", "lp", "lp-full", "k-relu", "milp", "milp-ibp", "milp-alpha",
           "ai2", "sdp", "lmi", "sdp-fo", "op-norm", "fast-lip")  # fmt: skip
ASSUMPTION = (
    "real arithmetic on the stored weights; margins hold less error_bound, for float64 operations "
    "that are rounded one by one (sums in any order; no Winograd or Fourier convolutions)"
)


class SoundMargins(NamedTuple):
    """lower - error (B, K - 1) holds in real arithmetic: z_y - z_t, t != y in order; -inf where
    nothing does. rows: walks back through the graph; found: as of `bounds.Margins`.
    """

    lower: Tensor
    error: Tensor
    rows: int
    found: tuple[Tensor | None, ...] = ()


@torch.no_grad()
def sound_margins(
    model: nn.Module | Graph, x: Tensor, y: Tensor, threat: AnyThreat, method: str = "crown",
    seconds: float | None = None,
) -> SoundMargins:  # fmt: skip
    """Bounds of margins over the threat around x (B, C, H, W), certified where lower - error > 0.

    The threat is that around x as it is, with the float64 numbers of its radius and box. A module
    is copied to float64, which changes none of its float32 weights; a Graph has to be in float64.
    seconds: for each example, of branch and bound.
    Raises UnknownName for a method that is none of METHODS, ModelError for operations that are not
    covered, all of them.
    """
    if method not in METHODS:
        raise unknown("method in sound arithmetic", method, METHODS)
    x, graph = x.double(), in_float64(model, x)
    refuse(graph, x)
    inside = InputSet.of(x, threat)
    if method == "bab":
        return _branched(graph, inside, y, seconds)
    if method in ("deepz", "hybrid"):
        return SoundMargins(*_finite(zonotope_margins(graph, inside, y, cast(Kind, method))), 0)
    if method not in BOUNDS:
        best, rows = _solved(graph, inside, y, method, seconds)
        return SoundMargins(*_finite(best), rows)
    found, rows = [], 0
    for bound in BOUNDS[method]:
        one, walked = _bounded(graph, inside, y, bound)
        found.append(one)
        rows += walked
    best = found[0]
    for one in found[1:]:
        best = better(one, best)
    return SoundMargins(*_finite(best), rows)


def _solved(
    graph: Graph, inside: InputSet, y: Tensor, method: str, seconds: float | None
) -> tuple[Sum, int]:
    """By what takes its time to be imported."""
    name, function = LATER.get(method, ("programmes", "programme_margins"))
    module = import_module(f"torchproof.verify.sound.{name}")
    found: tuple[Sum, int] = getattr(module, function)(graph, inside, y, method, seconds)
    return found


LATER = {
    **dict.fromkeys(("sdp", "lmi", "sdp-fo"), ("semidefinite", "semidefinite_margins")),
    **dict.fromkeys(("op-norm", "fast-lip"), ("lipschitz", "lipschitz_margins")),
}
"""The module and function of a method; of others it is that of linear programmes."""


def _finite(found: Sum) -> Sum:
    """Where nothing holds, -inf."""
    known = found.value.isfinite() & ~found.error.isinf()
    value = torch.where(known, found.value, -torch.inf)
    return Sum(value, torch.where(known, found.error, 0.0))


def _branched(graph: Graph, inside: InputSet, y: Tensor, seconds: float | None) -> SoundMargins:
    each = [
        branched(graph, inside.take(torch.tensor([row])), y[row : row + 1], seconds)
        for row in range(len(y))
    ]
    bounds, walked, met = zip(*each, strict=True)
    found = _finite(Sum(*(torch.stack(part) for part in zip(*bounds, strict=True))))
    return SoundMargins(*found, sum(walked), met)


def _bounded(graph: Graph, inside: InputSet, y: Tensor, bound: Bound) -> tuple[Sum, int]:
    passed = Pass.of(graph, inside, bound)
    rows = rows_of(y, passed.walk.single[graph.output].shape[-1]).to(inside.x.dtype)
    slopes = slopes_of(passed.walk, rows, bound.steps) if bound.steps else {}
    return passed.lower(rows, slopes), passed.walk.walked


def in_float64(model: nn.Module | Graph, x: Tensor) -> Graph:
    """The graph of a copy; raises InputError for a graph of another precision."""
    if isinstance(model, nn.Module):
        copied = copy.deepcopy(model).double().eval().requires_grad_(False)
        return graph_of(copied, x.double())
    try:
        model.run(x[:1].double())
    except RuntimeError as error:
        given = f"a graph that does not take float64 ({' '.join(str(error).split())[:200]})"
        raise InputError(given, "one in float64", "trace model.double()") from error
    return model


def refuse(graph: Graph, x: Tensor) -> None:
    """Raises ModelError for operations whose rounding is not known, all of them."""
    strange = uncovered(graph, x)
    if strange:
        told = "; ".join(f"{n.kind} at {n.where!r}" for n in strange)
        raise ModelError(
            f"operations whose rounding is not accounted for: {told}",
            f"relu, leaky_relu, prelu, row_max, {', '.join(sorted(COVERED | STRAIGHT))}",
            "ask for bounds without an error bound (--no-sound)",
        )


def uncovered(graph: Graph, x: Tensor) -> list[Node]:
    """The nodes without a rule in sound arithmetic."""
    values = graph.run(x[:1].double())
    constants = {k: v for k, v in values.items() if k not in graph.live}
    inexact, strange = doubts(graph, constants)
    for node in graph.nodes:
        if node.name in graph.live and not _covered(node, graph, values, inexact):
            strange.append(node)
    return strange


def _covered(node: Node, graph: Graph, values: Values, inexact: Mapping[str, object]) -> bool:
    kinds = [node.named.get("dtype"), *(a for a in node.args if isinstance(a, torch.dtype))]
    if values[node.name].dtype != torch.float64 or set(kinds) - {None, torch.float64}:
        return False
    doubtful = any(name in inexact for name in node.refs)
    if nonlinear(node, graph):
        known = relaxation(node, bind(node.args, values))
        return has_lines(node.kind, known) and not doubtful
    return node.kind in COVERED and node.kind in AFFINE and (not doubtful or takes_inexact(node))
