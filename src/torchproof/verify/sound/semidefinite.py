"""Semidefinite bounds that hold in real arithmetic: the value of multipliers is proved by an
eigenvalue with its own rounding bound (`sdp.eigenvalue`), on intervals that hold; here is what the
forms in the matrix are off by.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torchproof.verify.graph import Graph, Values
from torchproof.verify.inputs import InputSet
from torchproof.verify.programme.solve import Clock
from torchproof.verify.sdp import lmi_verify, sdp_verify
from torchproof.verify.sdp.doubts import Doubts
from torchproof.verify.sdp.lifted import Lifted, relus
from torchproof.verify.sdp.sdp_fo import improved
from torchproof.verify.sdp.solver import by_matrix, by_multipliers, values
from torchproof.verify.sdp.starting import MIDDLE, Start
from torchproof.verify.sound.affine import Affine, affine, inexact, magnitude, spread
from torchproof.verify.sound.constants import doubts
from torchproof.verify.sound.programmes import Begun
from torchproof.verify.sound.rounding import charge, outward
from torchproof.verify.sound.walk import Sum


@dataclass
class Forms:
    """What linear forms of y are off by (`doubts.Doubting`).

    They come from runs of the network, one for each entry of y, less one at 0, and one at the
    middle: every operation adds at most its roundings times the absolute values that it adds up,
    those of the offsets once for each run. Backward it is the same.
    """

    graph: Graph
    single: Values
    known: dict[str, Affine] = field(default_factory=dict)

    def __call__(self, lifted: Lifted) -> Doubts:
        graph, single, like = self.graph, self.single, lifted.box.lower
        constants = {k: v for k, v in single.items() if k not in graph.live}
        strange, inputs = doubts(graph, constants)[0], like.shape[1]
        size = (lifted.centre.abs() + lifted.radius)[0]
        sizes = {graph.input: size[:inputs].view_as(single[graph.input])}
        offset = {graph.input: torch.zeros_like(sizes[graph.input])}
        off, times, first = dict(offset), {graph.input: 0}, inputs
        before, after, runs = [], [], float(lifted.mask.sum()) + 3
        for node in graph.nodes:
            if node.name not in graph.live:
                continue
            names = graph.inputs(node)
            times[node.name] = 8 + sum(times[n] for n in names)
            if node.kind == "relu":
                part = slice(first, first + sizes[names[0]].numel())
                before.append(self._doubt(names[0], sizes, offset, off, times, runs))
                passing = lifted.passing[0, part.start - inputs : part.stop - inputs]
                passing = passing.view_as(sizes[names[0]])
                own = size[part].view_as(passing)
                sizes[node.name] = torch.where(passing, sizes[names[0]], own)
                offset[node.name] = torch.where(passing, offset[names[0]], 0.0)
                off[node.name] = torch.where(passing, off[names[0]], 0.0)
                after.append(self._doubt(node.name, sizes, offset, off, times, runs))
                first = part.stop
                continue
            if node.name not in self.known:
                self.known[node.name] = affine(node, graph, single)
            known = self.known[node.name]
            given = {n: sizes[n] for n in names}
            times[node.name] += known.forward + known.backward
            sizes[node.name] = magnitude(node, given, constants)
            offset[node.name] = magnitude(node, {n: offset[n] for n in names}, constants)
            off[node.name] = spread(node, {n: off[n] for n in names}, constants)
            doubt = inexact(node, given, constants, strange)
            if doubt is not None:
                off[node.name] = off[node.name] + 2 * doubt
        last = self._doubt(graph.output, sizes, offset, off, times, runs).reshape(-1)
        far = lifted.rows[0].abs()
        most = times[graph.output] + 2 * max(v.numel() for v in sizes.values()) + 64
        total = charge(most) * (
            sizes[graph.output].reshape(-1) + runs * offset[graph.output].reshape(-1)
        )
        into, out = (torch.cat([size[:0], *(p.reshape(-1) for p in parts)]).cpu().numpy()
                     for parts in (before, after))  # fmt: skip
        return Doubts(into, out, float(far @ (last + total)), most)

    def _doubt(
        self, name: str, sizes: dict[str, Tensor], offset: dict[str, Tensor],
        off: dict[str, Tensor], times: dict[str, int], runs: float,
    ) -> Tensor:  # fmt: skip
        return charge(times[name] + 16) * (sizes[name] + runs * offset[name]) + off[name]


def semidefinite_margins(
    graph: Graph, inside: InputSet, y: Tensor, method: str, seconds: float | None
) -> tuple[Sum, int]:
    """(B, K - 1) bounds of margins, and their errors, never below the propagated ones; rows that
    were walked. method: sdp, lmi or sdp-fo; seconds: for each example.
    """
    relus(graph)
    forms, found, walked = Forms(graph, graph.run(inside.x[:1])), [], 0
    with torch.inference_mode(False), torch.no_grad():
        for row in range(len(y)):
            one, clock = torch.tensor([row], device=inside.x.device), Clock(seconds)
            begun = Begun.of(graph, inside.take(one), y[one], MIDDLE)
            box = {graph.input: outward(begun.intervals[graph.input], 8)}
            lifted = Lifted.of(graph, begun.intervals | box, begun.rows)
            start = Start(lifted, begun.known.sure, begun.walked, clock)
            best, rows = _improved(begun.known, start, method, forms)
            found.append(best)
            walked += rows
    return Sum(*(torch.stack(part) for part in zip(*found, strict=True))), walked


def _improved(known: Sum, start: Start, method: str, forms: Forms) -> tuple[Sum, int]:
    value, error = (t.clone() for t in known)
    if method == "sdp-fo":
        lower, off, walked = improved(start, doubting=forms)
        taken = ~off.isnan()
        return Sum(torch.where(taken, lower, value), torch.where(taken, off, error)), walked
    products, solve = PROGRAMMES[method]
    for t, found in enumerate(values(start, products, solve, forms)):
        if found.bound - found.error > float(start.propagated[t]):
            value[t], error[t] = found
    return Sum(value, error), start.walked


PROGRAMMES: dict[str, Any] = {
    "sdp": (sdp_verify.products, by_matrix), "lmi": (lmi_verify.products, by_multipliers),
}  # fmt: skip
"""Which products are relaxed, and how their multipliers are found."""
METHODS = ("sdp", "lmi", "sdp-fo")
