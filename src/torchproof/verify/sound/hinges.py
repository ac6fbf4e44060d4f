"""Parts of branch and bound in sound arithmetic: where the signs of some neurons are known.

The search goes on in plain float64 and proposes: a part counts as closed when one more walk, with
the slopes and multipliers that were found, leaves something above its own rounding. Multipliers are
taken as the numbers they are, >= 0; the pieces of split neurons are exact; lines of open ones are
drawn from bounds that hold in the part. So the least over the parts less their errors holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from torchproof.verify.hinge_bounds import Bounder, Parts
from torchproof.verify.hinge_parts import Piece, filled
from torchproof.verify.relax import Lines
from torchproof.verify.sound.passes import Pass
from torchproof.verify.sound.rounding import TINY, charge
from torchproof.verify.sound.walk import Held, Sum, Walk


@dataclass
class SoundBounder(Bounder):
    """sound: the pass whose intervals the neurons' are. Of questions with one row each."""

    sound: Pass = field(kw_only=True)

    def settled(self, parts: Parts) -> Parts:
        """Closed parts with a bound and error that say so; those that rounding may have closed are
        open.
        """
        closed = parts.closed.nonzero()[:, 0]
        if not len(closed):
            return parts
        found, some = parts.copy(), parts.take(closed)
        with torch.no_grad():
            value, error = self.proven(some)
        sure = value - error > 0
        found.lower[closed] = torch.where(sure, value, (value - error).clamp_max(0.0))
        found.error[closed] = torch.where(sure, error, torch.zeros_like(error))
        return found

    def least(
        self, parts: Parts, place: Tensor, start: Mapping[str, Tensor], example: Tensor
    ) -> Tensor:
        found = self._walk(parts, place).lower(start, example)
        return found.value - found.error - charge(2) * found.value.abs()

    def proven(self, parts: Parts) -> Sum:
        """(N,) bounds of parts with the slopes and multipliers that they have, and their errors."""
        walk = self._walk(parts, parts.slopes.to(self.rows.dtype))
        output = walk.graph.output
        row = self.rows[parts.question][:, 0].view(-1, *walk.single[output].shape[1:])
        multipliers = -parts.signs * parts.weights.clamp_min(0).to(self.rows.dtype)
        start = {output: row, **self.neurons.rows(multipliers, parts.signs != 0)}
        self.walked += len(parts)
        found = walk.lower(start, torch.arange(len(parts), device=row.device))
        found = found.plus(-self.limits[parts.question][:, 0])
        return found.paid(charge(2) * found.value.abs())

    def _walk(self, parts: Parts, place: Tensor) -> Walk:
        """The pass's walk with the parts as its examples, and their lines at the hinges."""
        root, count = self.sound.walk, len(parts)
        pieces = {piece.node: piece for piece in self.neurons.pieces}

        def each(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {n: v.expand(count, *v.shape[1:]) for n, v in values.items() if n not in pieces}

        zeros = torch.zeros(count, dtype=torch.long, device=place.device)
        made = replace(
            root, inside=root.inside.take(zeros), sizes=_expanded(root.sizes, count),
            doubt=each(root.doubt), offset=each(root.offset), lines={}, walked=0,
        )  # fmt: skip
        for name, held in root.lines.items():
            low, low_at, high, high_at = held.lines
            if name in pieces:
                own = self._lines(parts, place, pieces[name])
                index, zero = pieces[name].index, place.new_zeros(count, len(pieces[name].index))
                lines = Lines(
                    (filled(low[0], index, own[0]),), filled(low_at, index, zero),
                    (filled(high[0], index, own[1]),), filled(high_at, index, own[2]),
                )  # fmt: skip
                made.hold(made.graph.by_name[name], lines, None)
            else:
                sides = (_repeated(part, count) for part in (low, (low_at,), high, (high_at,)))
                low, (low_at,), high, (high_at,) = sides
                made.lines[name] = Held(Lines(low, low_at, high, high_at), None)
        return made

    def _lines(self, parts: Parts, place: Tensor, piece: Piece) -> tuple[Tensor, Tensor, Tensor]:
        """(N, n) slopes below and above, and intercepts above, that hold as they are."""
        least, signs = self.neurons.least[piece.where], parts.signs[:, piece.where]
        low, high = parts.low[:, piece.where], parts.high[:, piece.where]
        side = torch.where(signs > 0, 1.0, least)
        below = torch.maximum(least + (1 - least) * place[:, piece.where], least).clamp_max(1.0)
        chord = ((high - least * low) / (high - low)).clamp_max(1.0)
        chord = torch.maximum(chord, least)
        at = torch.maximum((least - chord) * low, (1 - chord) * high) * (1 + charge(4)) + TINY
        is_open = signs == 0
        return (torch.where(is_open, below, side), torch.where(is_open, chord, side),
                torch.where(is_open, at, 0.0))  # fmt: skip


def _expanded(values: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: value.expand(count, *value.shape[1:]) for name, value in values.items()}


def _repeated(parts: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    return tuple(part.expand(count, *part.shape[1:]) for part in parts)
