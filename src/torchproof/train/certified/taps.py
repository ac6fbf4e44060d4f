"""Intervals up to a layer, adversaries behind it (Mao, Mueller, Fischer and Vechev 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.train.certified.bounding import margins, worst_logits
from torchproof.train.certified.latent import Cut, Latent, cuts
from torchproof.train.certified.sabr import SABR
from torchproof.train.certified.traces import trace_of
from torchproof.train.method import Batch, cross_entropy
from torchproof.verify import bounds
from torchproof.verify.bounds import Pass
from torchproof.verify.graph import Values
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.interval import Interval

POINT = "pivot "


@dataclass(frozen=True)
class TAPS(SABR):
    """TAPS: CE(-a, y) CE(-m, y), m the lower bounds of the margins by intervals, a the margins at
    points of the box that intervals give behind the `depth`-th ReLUs, where PGD makes each of them
    small (Mao et al. 2023, sec. 3). STAPS: lam < 1, the same over the small boxes of SABR.

    depth: by default all ReLUs but the last; scale: of the gradient of the first factor (authors: 4
    on MNIST); link: the share of a box next to each of its ends within which points pass gradients
    on to that end, from none to all of it, 0.5 (sec. 3.3). steps, length: also of PGD in the box,
    one for each margin, from a random point, of which the best is taken. Up to the end of the ramp
    it is SABR, or IBP. Raises InputError for numbers that cannot be meant.
    """

    lam: float = 1.0
    depth: int | None = None
    scale: float = 4.0
    link: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.link <= 1 and 0 < self.scale < math.inf):
            given = f"link = {self.link!r}, scale = {self.scale!r}"
            raise InputError(given, "a share in (0, 1] and a number > 0", "0.5 and 4 are usual")
        whole = isinstance(self.depth, int) and not isinstance(self.depth, bool)
        if self.depth is not None and not (whole and self.depth >= 1):
            remedy = "leave it out for all layers of ReLUs but the last"
            raise InputError(f"depth = {self.depth!r}", "a whole number >= 1", remedy)

    @property
    def passes(self) -> int:
        return 2 + super().passes

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        ready = super().prepare(model, batch)
        if self.share(batch) < 1:
            return ready
        graph = trace_of(model, batch.x).now(model, ready, stopping=False)
        x, threat = self.region(ready, 1.0)
        with torch.autocast(x.device.type, enabled=False), torch.no_grad():
            plain = {name: value.detach() for name, value in graph.constants.items()}
            cut = cuts(replace(graph, constants=plain), self.depth)[-1]
            boxes = Pass.of(cut.head, InputSet.of(x, threat), bounds.IBP).intervals
            search = _Search(cut, {name: boxes[name] for name in cut.frontier}, ready)
            points = search.points(self.steps, self.length)
        drawn = {POINT + name: value for name, value in points.items()}
        rows = search.count * (self.steps + 1)
        spent = (ready.spent[0] + rows, ready.spent[1] + rows)
        return replace(ready, drawn={**ready.drawn, **drawn}, spent=spent)

    def bounded(self, model: nn.Module, batch: Batch, share: float) -> Tensor:
        if share < 1:
            return super().bounded(model, batch, share)
        x, threat = self.region(batch, share)
        passed = self.bounds(model, batch, x, threat)
        graph = trace_of(model, x).now(model, batch, stopping=False)
        cut = cuts(graph, self.depth)[-1]
        with torch.autocast(x.device.type, enabled=False):
            linked = {
                name: _linked(batch.drawn[POINT + name], passed.intervals[name], self.link)
                for name in cut.frontier
            }
            reached = _reached(cut, _references(cut, x, linked), linked, batch.y)
            attacked = cross_entropy(worst_logits(reached, batch.y), batch)
            bound = cross_entropy(worst_logits(margins(passed, batch.y), batch.y), batch)
        faster = attacked + (self.scale - 1) * (attacked - attacked.detach())
        return faster * bound


def _references(cut: Cut, x: Tensor, points: Mapping[str, Tensor]) -> Values:
    """The answers to each image as often as there are points (B, P, ...) for it."""
    many = next(iter(points.values())).shape[1]
    return cut.graph.run(x.repeat_interleave(many, 0))


def _reached(cut: Cut, reference: Values, points: Mapping[str, Tensor], y: Tensor) -> Tensor:
    """(B, K - 1) margins, the t-th of them at the t-th point of (B, K - 1, ...)."""
    logits = cut.answer(reference, {name: value.flatten(0, 1) for name, value in points.items()})
    logits = logits.view(len(y), -1, logits.shape[-1])
    return (rows_of(y, logits.shape[-1]).to(logits) * logits).sum(2)


def _linked(point: Tensor, box: Interval, link: float) -> Tensor:
    """Points (B, P, ...) of a box (B, ...) as they are, with gradients for its ends: all of it at
    an end, less the further off, none beyond the share `link` of the box.
    """
    low, high = box.lower.unsqueeze(1), box.upper.unsqueeze(1)
    with torch.no_grad():
        reach = (link * (high - low)).clamp_min(torch.finfo(point.dtype).tiny)
        up, down = (1 - (high - point) / reach), (1 - (point - low) / reach)
        up, down = up.clamp(0, 1), down.clamp(0, 1)
    return point + up * (high - high.detach()) + down * (low - low.detach())


@dataclass(frozen=True)
class _Search:
    """The search for points of boxes at which margins are small."""

    cut: Cut
    boxes: dict[str, Interval]
    batch: Batch

    @property
    def count(self) -> int:
        """Of points, for all images."""
        classes = self.cut.graph.run(self.batch.x[:1])[self.cut.graph.output].shape[-1]
        return len(self.batch.x) * (int(classes) - 1)

    def points(self, steps: int, length: float) -> Latent:
        """(B, K - 1, ...) by nodes: where PGD, with steps of `length` in units of half a box, found
        the least of each margin.
        """
        batch, many = self.batch, self.count // max(len(self.batch.x), 1)
        now = self._start(many)
        best, least = now, batch.x.new_full((len(batch.x), many), torch.inf)
        reference = _references(self.cut, batch.x, now)
        for step in range(steps + 1):
            leaves = {name: value.detach().requires_grad_() for name, value in now.items()}
            with torch.enable_grad():
                found = _reached(self.cut, reference, leaves, batch.y)
                total = found.sum()
            better = found.detach() < least
            least = torch.where(better, found.detach(), least)
            best = {n: torch.where(_like(better, v), now[n], v) for n, v in best.items()}
            if step < steps:
                grads = torch.autograd.grad(total, list(leaves.values()))
                now = self._moved(now, dict(zip(leaves, grads, strict=True)), length)
        return best

    def _start(self, many: int) -> Latent:
        key = keys.mix(self.batch.seed, "pivot", self.batch.ids).to(self.batch.x.device)
        found = {}
        for name, box in self.boxes.items():
            shape, dtype = (many, *box.lower.shape[1:]), box.lower.dtype
            drawn = keys.uniform(keys.mix(key, name), 0, shape, dtype=dtype)
            found[name] = box.lower.unsqueeze(1) + box.width.unsqueeze(1) * drawn
        return found

    def _moved(self, now: Latent, grad: Latent, length: float) -> Latent:
        after = {}
        for name, box in self.boxes.items():
            low, high = box.lower.unsqueeze(1), box.upper.unsqueeze(1)
            step = length * (high - low) / 2 * grad[name].sign()
            after[name] = torch.minimum(torch.maximum(now[name] - step, low), high)
        return after


def _like(mask: Tensor, value: Tensor) -> Tensor:
    return mask.view(*mask.shape, *(1,) * (value.dim() - 2))
