"""The first question of the probes: what do margins and gradients look like around an example?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.grid import on_grid
from torchproof.core.values import expand
from torchproof.evaluate.inquiry import Answer, Inquiry
from torchproof.evaluate.member import PROBES

_DIRECTIONS = 8
_NEAR, _TINY = 1 / 2, 1 / 32  # of a random point of the set
_AUDIBLE = 500  # roundings of the largest logit: a smaller change of the margin is float noise

Ask = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Seen:
    """J points around each of R examples: margins and wins, (J, R)."""

    margins: Tensor
    wins: Tensor


@dataclass(frozen=True)
class _Look:
    """Asks about points around x (R, C, H, W)."""

    inquiry: Inquiry
    ask: Ask
    x: Tensor
    y: Tensor

    def at(self, points: Sequence[Tensor]) -> _Seen:
        """One forward for each of J perturbations (R, C, H, W)."""
        margins, wins = [], []
        with torch.inference_mode():
            for delta in points:
                z = self.ask(self.x + delta)
                margins.append(self.gap(z))
                won = self.inquiry.won(z, self.y)
                wins.append(torch.zeros_like(self.y, dtype=torch.bool) if won is None else won)
        return _Seen(torch.stack(margins), torch.stack(wins))

    def gap(self, z: Tensor) -> Tensor:
        """(R,) the margins at these logits."""
        return self.inquiry.subject.gap(self.inquiry.rows, z)

    def slope(self) -> tuple[Tensor, Tensor, Tensor]:
        """Margins (R,), largest logits (R,), gradients of the margins, zero where they are not
        finite.
        """
        with torch.enable_grad():
            live = self.x.clone().requires_grad_()
            z = self.ask(live)
            top = self.gap(z)
            grad = torch.zeros_like(self.x)
            if top.requires_grad:
                (grad,) = torch.autograd.grad(top.sum(), [live], materialize_grads=True)
        finite = expand(grad.isfinite().flatten(1).all(1), grad)
        grad = torch.where(finite, grad, torch.zeros_like(grad))
        return top.detach(), z.detach().abs().amax(1), grad


def surroundings(inquiry: Inquiry) -> list[Answer]:
    """noise: how many random points of the set win; single: does one step along the gradient of the
    margin win; misled: does a step of the whole radius, and one of a quarter, do no more than the
    median of random steps as long; rough: the change of the margin under noise of half the radius,
    by that under noise of 1/32, by 16 (1 for a linear function).

    None where there is no gradient (misled), or no change above float noise (rough).
    """
    subject = inquiry.subject
    x, y = subject.rows(inquiry.rows)
    ball: Any = inquiry.threat.set(subject.model, x)
    steps, inner = _directions(inquiry, ball, x)
    with subject.asked(PROBES) as ask:
        look = _Look(inquiry, ask, x, y)
        clean, scale, grad = look.slope()
        best = ball.maximiser(grad)
        # only 8-bit images win a quantised evaluation, and shorter steps may be none
        whole = [on_grid(ball, d) if subject.eight_bit else d for d in [*steps, best]]
        far, quarter = look.at(whole), look.at([d / 4 for d in [*steps, best]])
        near, tiny = (look.at([share * d for d in inner]) for share in (_NEAR, _TINY))
    random = [far.wins[:-1]]
    random += [] if subject.eight_bit else [quarter.wins[:-1], near.wins, tiny.wins]
    found = zip(
        torch.cat(random).sum(0).tolist(),
        far.wins[-1].tolist(),
        (_misled(far) & _misled(quarter)).tolist(),
        (grad == 0).flatten(1).all(1).tolist(),
        *_rough(clean, scale, near, tiny),
        strict=True,
    )
    forward, backward = (3 + 4 * _DIRECTIONS) * inquiry.draws, inquiry.draws
    return [
        (
            {"noise": n, "single": s, "misled": None if b else m, "rough": r if h else None},
            forward,
            backward,
        )
        for n, s, m, b, r, h in found
    ]


def _directions(inquiry: Inquiry, ball: Any, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Random corners of the set, and random points of it, keyed by example."""
    key = keys.mix(inquiry.subject.seed, PROBES, inquiry.ids).to(x.device)
    shape = tuple(x.shape[1:])
    corners = [ball.maximiser(keys.normal(key, j, shape, 0, x.dtype)) for j in range(_DIRECTIONS)]
    return corners, [ball.sample(keys.mix(key, j)) for j in range(_DIRECTIONS)]


def _misled(seen: _Seen) -> Tensor:
    """(R,) is the last point, that along the gradient, no better than the median of the others?"""
    return seen.margins[-1] <= seen.margins[:-1].median(0).values


def _rough(
    clean: Tensor, scale: Tensor, near: _Seen, tiny: _Seen
) -> tuple[list[float], list[bool]]:
    """Per example the ratio of changes, and whether it can be told from float noise."""
    wide, narrow = ((seen.margins - clean).abs().mean(0) for seen in (near, tiny))
    ratio = (wide / narrow * (_TINY / _NEAR)).clamp_max(100)
    audible = wide > _AUDIBLE * torch.finfo(clean.dtype).eps * scale
    return ratio.tolist(), audible.tolist()
