"""Bounds of what neurons read, renewed in the parts of branch and bound: a split near the input
narrows what later neurons read, or settles their signs too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from torchproof.verify.bounds import behind
from torchproof.verify.clock import look
from torchproof.verify.hinge_bounds import Bounder, Parts
from torchproof.verify.hinge_parts import Piece
from torchproof.verify.starts import at_once

ROWS = 512  # of a part: with more, renewing takes longer than it brings
SHARE = 3  # rows walked to renew, for each that is walked to bound and takes gradients too


@dataclass
class Renewal:
    """Renews the bounds of parts as long as that takes no more rows than SHARE times those of the
    bounder. walked: rows so far.
    """

    bounder: Bounder
    walked: int = 0

    @cached_property
    def later(self) -> tuple[Piece, ...]:
        """The neurons whose bounds a split may change: those with others before them."""
        graph = self.bounder.neurons.passed.walk.graph
        return tuple(p for p in self.bounder.neurons.pieces if behind(graph, p.before)[0])

    @torch.no_grad()
    def renew(self, parts: Parts) -> None:
        """Those with most splits since the last time first, in place: what neurons read, and the
        signs that this settles.
        """
        for chosen in self._chosen(parts):
            some = parts.take(chosen)
            for piece in self.later:
                self._narrow(some, piece)
            some.age.zero_()
            parts.put(chosen, some)

    def _chosen(self, parts: Parts) -> Iterator[Tensor]:
        """Places of the parts that there is room for, those together that are walked together."""
        rows = torch.zeros_like(parts.age)
        for piece in self.later:
            rows += 2 * (parts.signs[:, piece.where] == 0).sum(1)
        order = parts.age.argsort(descending=True, stable=True)
        order = order[(rows[order] > 0) & (rows[order] <= ROWS)]
        total = rows[order].cumsum(0)
        order = order[total <= SHARE * self.bounder.walked - self.walked]
        each = at_once(self.bounder.neurons.passed.walk)
        groups = (total[: len(order)] - 1).div(each, rounding_mode="floor")
        for group in sorted(set(groups.tolist())):
            yield order[groups == group]

    def _narrow(self, parts: Parts, piece: Piece) -> None:
        """Walks back from a piece's open neurons in every part, whose splits are in the lines."""
        look()
        root = self.bounder.neurons.passed.walk
        part, unit = (parts.signs[:, piece.where] == 0).nonzero().T
        if not len(part):
            return
        place = (parts.high > -parts.low).to(parts.low.dtype)
        shape, entry = root.reference[piece.before].shape[1:], piece.index[unit, None]
        row = parts.low.new_zeros(len(part), int(shape.numel())).scatter_(1, entry, 1.0)
        rows, example = torch.cat([row, -row]).view(-1, *shape), part.repeat(2)
        at = self.bounder.least(parts, place, {piece.before: rows}, example)
        self.walked += len(example)
        places = (part, unit + piece.where.start)
        low = torch.maximum(parts.low[places], at[: len(part)])
        high = torch.minimum(parts.high[places], -at[len(part) :])
        parts.low[places], parts.high[places] = low, high
        settled = torch.where(low >= 0, 1, torch.where(high <= 0, -1, 0))
        parts.signs[places] = settled.to(parts.signs)
