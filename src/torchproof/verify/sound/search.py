"""Slopes of lower lines by search (alpha-CROWN, Xu et al. 2021), for walks in sound arithmetic.

Any slope from the free one to 1 holds, so that the search need not pay for what it rounds: it goes
through the same lines without charges, and its slopes are then walked with once more, paying.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from torchproof.verify.alpha import optimised
from torchproof.verify.inputs import InputSet
from torchproof.verify.sound.walk import Held, Walk
from torchproof.verify.starts import at_once


@dataclass
class _Recording:
    """A walk as a search asks for it, which keeps the slopes that bounded every row best."""

    walk: Walk
    best: Tensor | None = None
    slopes: dict[str, Tensor] = field(default_factory=dict)

    @property
    def lines(self) -> Mapping[str, Held]:
        return self.walk.lines

    @property
    def inside(self) -> InputSet:
        return self.walk.inside

    def lower(
        self, start: Mapping[str, Tensor], example: Tensor,
        slopes: Mapping[str, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        found = self.walk.lower(start, example, slopes=slopes).value
        if slopes is not None:
            value = found.detach()
            kept = value > (torch.full_like(value, -torch.inf) if self.best is None else self.best)
            for name, slope in slopes.items():
                before, now = self.slopes.get(name), slope.detach()
                where = kept.view(-1, *[1] * (slope.dim() - 1))
                self.slopes[name] = now if before is None else torch.where(where, now, before)
            self.best = value if self.best is None else torch.maximum(self.best, value)
        return found


def searched(
    walk: Walk, start: Mapping[str, Tensor], example: Tensor, steps: int
) -> dict[str, Tensor]:
    """Slopes (R, ...) with which `walk.lower(start, example, slopes=...)` is large; none without
    steps or without lines that leave a choice.
    """
    if steps < 2:
        return {}
    recording = _Recording(replace(walk, doubt={}))
    optimised(cast(Any, recording), start, example, steps)
    walk.walked = recording.walk.walked
    return recording.slopes


def slopes_of(walk: Walk, rows: Tensor, steps: int) -> dict[str, Tensor]:
    """Slopes (B, S, ...) for rows (B, S, K) of the answer."""
    example = torch.arange(len(rows), device=rows.device).repeat_interleave(rows.shape[1])
    output = walk.graph.output
    start = rows.flatten(0, 1).reshape(-1, *walk.single[output].shape[1:])
    places = torch.arange(len(start), device=rows.device)
    parts = [
        searched(walk, {output: start[some]}, example[some], steps)
        for some in torch.split(places, at_once(cast(Any, walk)))
    ]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return {name: s.view(*rows.shape[:2], *s.shape[1:]) for name, s in joined.items()}
