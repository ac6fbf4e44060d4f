"""RecurJac (Zhang et al. 2019): the Jacobian by linear bounds that keep signs.

The derivative of <row, answer> by the input is itself what a network of slopes answers: every
nonlinear node multiplies what comes back, g, with its slope s' in [a, b]. Where the sign of g is
known, s' g lies between the lines a g and b g, and g need not be bounded by a number: its own
expression is put in its place (the merging of sec. 3.2), down to the row. Where the sign is not
known, s' g is bounded by numbers (as in the paper) or, with `chords`, by the chords of its envelope
(Shi et al. 2022), which lie within.

The expression of one input entry walks forward through the graph, as a tangent does. Deviations: g
in the middle is bounded by intervals, not by walks of its own, and the result is intersected with
the interval Jacobian, so that it is never looser than Fast-Lip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from torchproof.verify.clock import look
from torchproof.verify.forward import forwarded
from torchproof.verify.graph import Node
from torchproof.verify.interval import Interval
from torchproof.verify.lipschitz.jacobian import Steepness
from torchproof.verify.lipschitz.local import Local
from torchproof.verify.memory import entries

ENTRIES = 2**20  # of the largest tensor of tangents: larger ones are slower on a CPU


def largest(steepness: Steepness, rows: Tensor, example: Tensor, chords: bool = False) -> Tensor:
    """(R, *x) the largest absolute values of the derivatives of <row, answer>."""
    back = dict(steepness.back(rows, example))
    whole = back[steepness.graph.input]
    size = whole.lower[0].numel()
    open_ = (whole.width.flatten(1) > 0).nonzero()  # only these can become tighter
    low, high = whole.lower.flatten(1).clone(), whole.upper.flatten(1).clone()
    most = max(steepness.single[name].numel() for name in steepness.graph.live)
    unit = torch.eye(size, dtype=rows.dtype, device=rows.device)
    for part in torch.split(open_, max(1, min(ENTRIES, entries()) // most)):
        if not len(part):
            break
        row, entry = part.unbind(1)
        start = unit[entry].view(len(part), *whole.lower.shape[1:])
        ends = [
            _walked(_Ahead(steepness, back, rows, example, row, chords), sign * start)
            for sign in (1.0, -1.0)
        ]
        low[row, entry] = torch.maximum(low[row, entry], ends[0])
        high[row, entry] = torch.minimum(high[row, entry], -ends[1])
    return torch.maximum(low.abs(), high.abs()).view_as(whole.lower)


RECUR_JAC = Local(largest)
CHORDS = Local(partial(largest, chords=True))


@dataclass(frozen=True)
class _Ahead:
    """What a walk needs: derivatives `back` (R, ...) by node, and the rows (T,) that are meant."""

    steepness: Steepness
    back: Mapping[str, Interval]
    rows: Tensor
    example: Tensor
    row: Tensor
    chords: bool


def _walked(ahead: _Ahead, start: Tensor) -> Tensor:
    """(T,) lower bounds of <start, derivative by the input>."""
    graph = ahead.steepness.graph
    tangents = {graph.input: start}
    total = start.new_zeros(len(start))
    for node in graph.nodes:
        names = graph.inputs(node) if node.name in graph.live else ()
        if node.name not in ahead.back or not names:
            continue
        look()
        if node.name in ahead.steepness.slopes:
            tangents[node.name], added = _bent(ahead, node, [tangents[n] for n in names])
            total = total + added
        else:
            moved = forwarded(node, names, ahead.steepness.single)
            tangents[node.name] = moved(*(tangents[name][:, None] for name in names))[:, 0]
    last = tangents.get(graph.output, start)
    return total + (last * ahead.rows[ahead.row]).flatten(1).sum(1)


def _bent(ahead: _Ahead, node: Node, given: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The coefficients of g, and what the intercepts add: <t, s' g> from below for tangents t."""
    back, spread = ahead.back[node.name], node.kind == "row_max"
    g = Interval(back.lower[ahead.row], back.upper[ahead.row])
    wide = Interval(g.lower.unsqueeze(-1), g.upper.unsqueeze(-1)) if spread else g
    passed, total = torch.zeros_like(g.lower), g.lower.new_zeros(len(g.lower))
    for tangent, k in zip(given, ahead.steepness.slopes[node.name], strict=True):
        of = ahead.example[ahead.row]
        low, low_at, high, high_at = _lines(k.lower[of], k.upper[of], wide, ahead.chords)
        up, down = tangent.clamp_min(0), tangent.clamp_max(0)
        moved = up * low + down * high
        passed = passed + (moved.sum(-1) if spread else moved)
        total = total + (up * low_at + down * high_at).flatten(1).sum(1)
    return passed, total


def _lines(
    a: Tensor, b: Tensor, g: Interval, chords: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Slopes and intercepts of lines in g below and above s' g, for s' in [a, b]."""
    corners = torch.stack([end * side for end in (g.lower, g.upper) for side in (a, b)])
    least, most = corners.amin(0), corners.amax(0)
    zero = torch.zeros_like(least)
    low, high, low_at, high_at = zero, zero, least, most
    if chords:  # the lower envelope min(a g, b g) is concave, the upper one convex
        width = g.width.clamp_min(torch.finfo(zero.dtype).tiny)
        first = [torch.minimum(a * end, b * end) for end in (g.lower, g.upper)]
        second = [torch.maximum(a * end, b * end) for end in (g.lower, g.upper)]
        low, high = (first[1] - first[0]) / width, (second[1] - second[0]) / width
        low_at, high_at = first[0] - low * g.lower, second[0] - high * g.lower
    up, down = g.lower >= 0, g.upper <= 0
    signed = up | down | (a == b)
    low = torch.where(signed, torch.where(up, a, b), low)
    high = torch.where(signed, torch.where(up, b, a), high)
    return (
        low, torch.where(signed, zero, low_at), high, torch.where(signed, zero, high_at)
    )  # fmt: skip
