"""The search for the largest ratio |f(x + e) - f(x)| / |e|: noise and gradient ascent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import untouched
from torchproof.core import keys
from torchproof.core.norms import L2
from torchproof.core.values import expand
from torchproof.diagnose.lipschitz_bound import Layer, Softmax

FIRST, LAST = 4.0, 0.25  # how far a step turns, from the first to the last


class Reader:
    """f: inputs (B, ...) to answers (B, D), of a network left as it is."""

    def __init__(self, model: nn.Module, output: str) -> None:
        self.model = model
        self.module: nn.Module = model
        if output == "softmax":
            self.module = Softmax(model)
        elif output != "logits":
            self.module = Layer(model, output)

    def __call__(self, x: Tensor) -> Tensor:
        answer: Tensor = self.module(x)
        return answer.flatten(1).to(torch.promote_types(answer.dtype, torch.float32))

    def still(self) -> AbstractContextManager[None]:
        """A context in which the model stays as it is."""
        return untouched(self.model)


@dataclass(frozen=True, eq=False)
class Pair:
    """A batch in the model's own precision, for searching, and in float64, for what is told."""

    quick: Reader
    precise: Reader
    x: Tensor
    at: Tensor
    ids: Tensor
    box: tuple[float, float] | None
    seed: int

    def along(
        self, radii: Sequence[float], draws: int, steps: int, starts: int
    ) -> tuple[Tensor, Tensor]:
        """(R, B) sampled and attacked ratios."""
        sampled, attacked = [], []
        before: Tensor | None = None
        with self.quick.still(), self.precise.still():
            for number, r in enumerate(radii):
                noise = self.best(r, (self.noise(r, number, d) for d in range(draws)))
                sampled.append(self.ratio(noise, r))
                first = [noise] if before is None else [noise, before]
                drawn = [self.direction(number, s) for s in range(starts)]
                tried = [self.climbed(r, start, steps) for start in (*first, *drawn)]
                ratios = torch.stack([sampled[-1], *(self.ratio(t, r) for t in tried)])
                chosen = ratios.argmax(0)
                attacked.append(ratios.amax(0))
                rows = torch.arange(len(self.x), device=self.x.device)
                before = torch.stack([noise, *tried])[chosen, rows]
        return torch.stack(sampled), torch.stack(attacked)

    @property
    def room(self) -> tuple[Tensor, Tensor]:
        """How far every value may go down and up."""
        low, high = (-math.inf, math.inf) if self.box is None else self.box
        return (low - self.x).clamp_max(0), (high - self.x).clamp_min(0)

    def key(self, what: str, number: int, draw: int) -> Tensor:
        """(B,) random keys of these examples for one purpose."""
        return keys.mix(self.seed, what, self.ids, number, draw)

    def noise(self, r: float, number: int, draw: int) -> Tensor:
        """(B, C, H, W) noise of L2 length r, cut to the room that the images have."""
        shape = tuple(self.x.shape[1:])
        u = 2 * keys.uniform(self.key("noise", number, draw), 0, shape, dtype=self.x.dtype) - 1
        return (r * L2().steepest(u)).clamp(*self.room)

    def direction(self, number: int, draw: int) -> Tensor:
        """(B, C, H, W) random directions of L2 length 1."""
        return L2().random(self.key("start", number, draw), self.x)

    @torch.no_grad()
    def best(self, r: float, changes: Iterable[Tensor]) -> Tensor:
        """Of each point's changes that with the largest ratio, in quick arithmetic."""
        clean, best = self.quick(self.x), torch.zeros_like(self.x)
        top = torch.full_like(clean[:, 0], -1.0)
        for e in changes:
            ratio = _over((self.quick(self.x + e) - clean).norm(dim=1), L2().length(e))
            better = ratio > top
            best, top = torch.where(expand(better, e), e, best), torch.where(better, ratio, top)
        return best

    def climbed(self, r: float, start: Tensor, steps: int) -> Tensor:
        """Gradient ascent on the ratio, over the sphere of radius r cut with the box.

        A step turns the change towards the gradient of |f(x + e) - f(x)| and takes the point of
        ball and box that lies farthest that way; without a box and with large steps this is the
        power method. The best point seen is returned.
        """
        low, high = self.room
        radius = self.x.new_full((len(self.x),), r)
        with torch.no_grad():
            clean = self.quick(self.x)
        e = L2().maximiser(start, radius, low, high)
        best, top = e, torch.full_like(clean[:, 0], -1.0)
        for step in range(steps + 1):
            asked = e.detach().requires_grad_()
            with torch.enable_grad():
                size = _length(self.quick(self.x + asked) - clean)
                (slope,) = torch.autograd.grad(size.sum(), asked)
            ratio = _over(size.detach(), L2().length(e))
            better = ratio > top
            best, top = torch.where(expand(better, e), e, best), torch.where(better, ratio, top)
            turn = FIRST * (LAST / FIRST) ** (step / max(steps, 1))
            e = L2().maximiser(L2().steepest(e) + turn * L2().steepest(slope), radius, low, high)
        return best

    @torch.no_grad()
    def ratio(self, e: Tensor, r: float) -> Tensor:
        """(B,) |f(x + e) - f(x)| / |e| in float64, with e brought into box and radius."""
        change = e.double()
        change = change * expand((r / L2().length(change).clamp_min(r)), change)
        moved = self.at + change
        moved = moved if self.box is None else moved.clamp(*self.box)
        gap = (self.precise(moved) - self.precise(self.at)).norm(dim=1)
        return _over(gap, L2().length(moved - self.at))


def _length(d: Tensor) -> Tensor:
    """(B,) lengths, with a gradient of 0 at 0."""
    size = d.square().sum(1)
    tiny = torch.finfo(d.dtype).tiny
    return size.clamp_min(tiny).sqrt()


def _over(gap: Tensor, length: Tensor) -> Tensor:
    """The ratio; 0 where there is no change."""
    some = length > 0
    return torch.where(some, gap / torch.where(some, length, torch.ones_like(length)), 0.0)
