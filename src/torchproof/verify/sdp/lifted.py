"""A ReLU network and its input box as quadratics in one vector, which every semidefinite bound
reads.

y = (t, w): t is the number 1, and w the entries of the input and of the ReLUs whose sign is open,
each moved and scaled so that its box is [-1, 1]. ReLUs whose sign is settled are put in: z or 0.
What a network ties down is then products of two linear forms of y, each >= 0 or = 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchproof.core.errors import ModelError
from torchproof.verify.graph import Graph, Node, Values
from torchproof.verify.interval import Interval
from torchproof.verify.operators import nonlinear


class Forms(NamedTuple):
    """Linear forms of y, one row for each problem: t (P,), what goes into every ReLU and comes out
    of it (P, M), the margin (P,).
    """

    t: Tensor
    before: Tensor
    after: Tensor
    margin: Tensor


@dataclass(frozen=True)
class Lifted:
    """P problems about one graph. box: (P, D) of the input; low, high: (P, M) of what goes into the
    ReLUs, in the order of the graph, `sizes` entries each; rows: (P, K) of the answer, the margins.
    """

    graph: Graph
    shape: tuple[int, ...]
    box: Interval
    low: Tensor
    high: Tensor
    rows: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, graph: Graph, intervals: Mapping[str, Interval], rows: Tensor) -> Lifted:
        """One problem for each of the rows (P, K); intervals: of one example (1, ...), or of P.

        Raises ModelError for a graph with other nonlinear operations than ReLUs.
        """
        box = intervals[graph.input]
        around = [intervals[graph.inputs(node)[0]] for node in relus(graph)]
        low, high = (
            torch.cat([getattr(i, end).flatten(1) for i in around], 1)
            if around
            else rows.new_zeros(len(rows), 0)
            for end in ("lower", "upper")
        )
        count, shape = len(rows), tuple(box.lower.shape[1:])
        flat = Interval(*(e.flatten(1).expand(count, -1) for e in (box.lower, box.upper)))
        sizes = tuple(i.lower[0].numel() for i in around)
        return cls(graph, shape, flat, low.expand(count, -1), high.expand(count, -1), rows, sizes)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: Tensor) -> Lifted:
        """Some of the problems, which may come more than once."""
        box = Interval(self.box.lower[places], self.box.upper[places])
        low, high, rows = (t[places] for t in (self.low, self.high, self.rows))
        return replace(self, box=box, low=low, high=high, rows=rows)

    @cached_property
    def passing(self) -> Tensor:
        """(P, M) ReLUs that let everything pass."""
        return self.low >= 0

    @cached_property
    def open(self) -> Tensor:
        """(P, M) ReLUs whose sign is open."""
        return (self.low < 0) & (self.high > 0)

    @cached_property
    def radius(self) -> Tensor:
        """(P, D + M) of the entries of w; 0 for those that are settled."""
        width = self.box.width.clamp_min(0)
        return torch.cat([width, torch.where(self.open, self.high, 0.0)], 1) / 2

    @cached_property
    def centre(self) -> Tensor:
        """(P, D + M)."""
        middle = self.box.lower + self.box.width.clamp_min(0) / 2
        return torch.cat([middle, self.radius[:, middle.shape[1] :]], 1)

    @cached_property
    def mask(self) -> Tensor:
        """(P, 1 + D + M) entries of y that there are."""
        one = torch.ones(len(self), 1, dtype=torch.bool, device=self.low.device)
        return torch.cat([one, self.radius > 0], 1)

    def forms(self, y: Tensor) -> Forms:
        """Of y (P, 1 + D + M)."""
        t, moved = y[:, :1], self.radius * y[:, 1:]
        before, margin = (a - b for a, b in zip(self._run(moved), self._zero, strict=True))
        middle_before, middle_margin = self._middle
        before = before + t * middle_before
        opened = moved[:, self.box.lower.shape[1] :] + t * self._opened
        after = torch.where(self.passing, before, opened)
        return Forms(t[:, 0], before, after, margin + t[:, 0] * middle_margin)

    def back(self, forms: Forms) -> Tensor:
        """The transpose of `forms`."""
        through = torch.where(self.passing, forms.after, 0.0)
        own = forms.after - through
        (rows,) = self._transpose((forms.before + through, forms.margin))
        middle_before, middle_margin = self._middle
        t = forms.t + ((forms.before + through) * middle_before).sum(1)
        t = t + forms.margin * middle_margin + (own * self._opened).sum(1)
        inputs = self.box.lower.shape[1]
        rows = torch.cat([rows[:, :inputs], rows[:, inputs:] + own], 1)
        return torch.cat([t[:, None], self.radius * rows], 1)

    @cached_property
    def _opened(self) -> Tensor:
        return self.centre[:, self.box.lower.shape[1] :]

    @cached_property
    def _middle(self) -> tuple[Tensor, Tensor]:
        """What goes into the ReLUs, and the margin, at the middle of the box."""
        return self._run(self.centre)

    @cached_property
    def _linear(self) -> tuple[tuple[Tensor, Tensor], Any]:
        at, back = torch.func.vjp(self._run, torch.zeros_like(self.radius))[:2]
        return at, back

    @property
    def _zero(self) -> tuple[Tensor, Tensor]:
        return self._linear[0]

    def _transpose(self, rows: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = self._linear[1](rows)
        return found

    def _run(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The network with ReLUs that are settled, or numbers of their own (P, D + M)."""
        graph, count, first = self.graph, len(values), 0
        inputs = self.box.lower.shape[1]
        known: Values = {**graph.constants, graph.input: values[:, :inputs].view(-1, *self.shape)}
        before, passing, opened = [], self.passing.to(values.dtype), values[:, inputs:]
        for node in graph.nodes:
            if node.kind != "relu" or node.name not in graph.live:
                known[node.name] = node.answer(known)
                continue
            z = known[graph.inputs(node)[0]]
            part = slice(first, first + z[0].numel())
            before.append(z.reshape(count, -1))
            known[node.name] = (
                passing[:, part].view_as(z) * z + opened[:, part].reshape(z.shape)
            )  # fmt: skip
            first = part.stop
        margin = (known[graph.output].reshape(count, -1) * self.rows).sum(1)
        return torch.cat([opened[:, :0], *before], 1), margin


def relus(graph: Graph) -> tuple[Node, ...]:
    """In the order in which they run. Raises ModelError for other nonlinear operations."""
    bent = [n for n in graph.nodes if n.name in graph.live and nonlinear(n, graph)]
    others = [n for n in bent if n.kind != "relu"]
    if others:
        told = "; ".join(f"{n.kind} at {n.where!r}" for n in others)
        raise ModelError(
            f"a network with {told}, for a semidefinite bound",
            "affine operations and ReLUs alone",
            "use crown or alpha-crown, which bound every operation",
        )
    return tuple(bent)
