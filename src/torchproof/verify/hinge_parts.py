"""Parts of a problem: which side of 0 some hinge neurons lie on, and lines that hold there.

beta-CROWN (Wang et al. 2021): with multipliers b >= 0, the least of f where z >= 0 is at least that
of f - b z; where z <= 0, of f + b z. So a split is a row at the neuron, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from torchproof.verify.bounds import Pass
from torchproof.verify.linear import Held


@dataclass(frozen=True)
class Piece:
    """The open neurons of one hinge node. node, before: names of the node and of what it reads;
    index: (n,) places in the flattened answer; where: their places among all open neurons.
    """

    node: str
    before: str
    index: Tensor
    where: slice


@dataclass(frozen=True)
class Neurons:
    """The hinge neurons, U in all, whose sign a pass over one example leaves open.

    least: (U,) slope of the lower piece; low, high: bounds of what the neuron reads.
    """

    passed: Pass
    pieces: tuple[Piece, ...]
    least: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, passed: Pass) -> Neurons:
        pieces, least, low, high, total = [], [], [], [], 0
        for name, held in passed.walk.lines.items():
            if held.free is None:
                continue
            (before,) = passed.walk.graph.inputs(passed.walk.graph.by_name[name])
            free, z = held.free.flatten(), passed.intervals[before]
            index = (~free.isnan()).nonzero()[:, 0]
            pieces.append(Piece(name, before, index, slice(total, total + len(index))))
            total += len(index)
            least.append(free[index])
            low.append(z.lower.flatten()[index])
            high.append(z.upper.flatten()[index])
        empty = next(iter(passed.intervals.values())).lower.new_zeros(0)
        whole = (torch.cat([empty, *parts]) for parts in (least, low, high))
        return cls(passed, tuple(pieces), *whole)

    def __len__(self) -> int:
        return len(self.low)

    @cached_property
    def complete(self) -> bool:
        """Are there no nonlinear operations but hinges?"""
        return all(held.free is not None for held in self.passed.walk.lines.values())

    def upper(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """(R, U) slopes of the upper lines of neurons that read what lies between low < 0 and
        high > 0, and how far these lines are above the hinge at 0.
        """
        chord = (high - self.least * low) / (high - low)
        return chord, (self.least - chord) * low

    def reference(self, count: int) -> dict[str, Any]:
        """That of the pass, for so many parts."""
        walk = self.passed.walk
        return {name: value.expand(count, *value.shape[1:]) if name in walk.graph.live else value
                for name, value in walk.reference.items()}  # fmt: skip

    def initial(self) -> Tensor:
        """(U,) the slopes of the lower lines of the pass, between the least (0) and 1."""
        lows = [self.passed.walk.lines[p.node].low[0].flatten()[p.index] for p in self.pieces]
        low = torch.cat([self.low[:0], *lows])
        return ((low - self.least) / (1 - self.least).clamp_min(1e-6)).clamp(0, 1)

    def lines(self, signs: Tensor, place: Tensor, reads: tuple[Tensor, Tensor]) -> dict[str, Held]:
        """The lines of R parts, each as an example of its own; signs (R, U): 1 above 0, -1 below,
        0 open; place (R, U) in [0, 1]: where between the least slope and 1 open lower lines lie;
        reads: (R, U) bounds of what the neurons read, around 0 where these are open.
        """
        walk, count = self.passed.walk, len(signs)
        side = torch.where(signs > 0, torch.ones_like(self.least), self.least)
        chosen = self.least + (1 - self.least) * place
        chord, gap = self.upper(*reads)
        low = torch.where(signs == 0, chosen, side)
        high = torch.where(signs == 0, chord, side)
        above = torch.where(signs == 0, gap, torch.zeros_like(gap))
        lines = {}
        for name, held in walk.lines.items():
            if held.free is None:
                tensors = (held.low, (held.low_at,), held.high, (held.high_at,))
                low_, low_at, high_, high_at = (_repeated(part, count) for part in tensors)
                lines[name] = Held(low_, low_at[0], high_, high_at[0])
        for piece in self.pieces:
            held, i, u = walk.lines[piece.node], piece.index, piece.where
            z = walk.reference[piece.before].flatten()[i]
            answer = walk.reference[piece.node].flatten()[i]
            lines[piece.node] = Held(
                (filled(held.low[0], i, low[:, u]),),
                filled(held.low_at, i, low[:, u] * z - answer),
                (filled(held.high[0], i, high[:, u]),),
                filled(held.high_at, i, high[:, u] * z + above[:, u] - answer),
            )
        return lines

    def rows(self, values: Tensor, used: Tensor) -> dict[str, Tensor]:
        """Values (R, U) as rows at what the hinges read; used: (R, U) whether they may not be 0."""
        found: dict[str, Tensor] = {}
        for piece in self.pieces:
            part, shape = values[:, piece.where], self.passed.walk.reference[piece.before].shape[1:]
            if bool(used[:, piece.where].any()):
                zero = values.new_zeros(len(values), int(shape.numel()))
                row = zero.index_add(1, piece.index, part).view(-1, *shape)
                found[piece.before] = found[piece.before] + row if piece.before in found else row
        return found

    def gathered(self, dense: Mapping[str, Tensor]) -> Tensor:
        """(R, U) from tensors (R, ...) like the answers of the hinge nodes."""
        parts = [dense[p.node].flatten(1)[:, p.index] for p in self.pieces]
        return torch.cat(parts, 1)


def _repeated(parts: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    return tuple(part.expand(count, *part.shape[1:]) for part in parts)


def filled(root: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """(R, ...) the root's entries, with values (R, n) in some places."""
    dense = root.flatten(1).expand(len(values), -1).to(values.dtype)
    return dense.index_copy(1, index, values).view(-1, *root.shape[1:])
