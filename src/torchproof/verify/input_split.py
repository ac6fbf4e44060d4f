"""Branch and bound over the input: boxes that bounds cannot decide are halved.

Complete for few inputs (up to about twenty). Each box is bounded by CROWN, intersected with
intervals; the same planes cut off what cannot be in question any more (Clip-and-Verify, Zhou et al.
2025), say which side to halve, and where a counterexample would lie. Where halving does not help,
because deep layers lose what shrinking boxes gain, lines are optimised in the middle too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchproof.verify.bounds import Bound, Pass
from torchproof.verify.clock import OutOfTime, limit, look
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet
from torchproof.verify.memory import waiting
from torchproof.verify.question import Answer, Question, certainly_not, nearest

BATCH, MOST = 512, 2_000_000  # boxes bounded at once, and kept at most
CROWN = Bound("linear", "linear")
SHARP = Bound("linear", "linear", steps=3, middle_steps=3)
"""Takes about nine times as long. On ACAS Xu it closes few of the boxes that CROWN leaves open, or
nearly all of them, which is a matter of the network and the region."""
TRIED, PAUSE = 8, 8  # boxes of a trial; batches without one after trials that failed, at most
MANY, WORTH = 64, 0.75  # open boxes for which a trial is made; the share of them to be closed


@dataclass
class Boxes:
    """low, high: (N, ...)."""

    low: Tensor
    high: Tensor

    def pop(self, count: int) -> Boxes:
        """The last of them, which are left out here."""
        taken = Boxes(self.low[-count:], self.high[-count:])
        self.low, self.high = self.low[:-count], self.high[:-count]
        return taken

    def push(self, more: Boxes) -> None:
        self.low = torch.cat([self.low, more.low])
        self.high = torch.cat([self.high, more.high])


@torch.no_grad()
def split_inputs(
    graph: Graph, question: Question, seconds: float | None = None, batch: int = BATCH
) -> Answer:
    """Decides the question, or says "timeout" after so many seconds, "unknown" where the boxes are
    too many.
    """
    todo, parts = Boxes(question.low[None], question.high[None]), 0
    sharper = Sharper(graph, question)
    try:
        with limit(seconds):
            while len(todo.low):
                look()
                if len(todo.low) > MOST or 2 * todo.low.nbytes > waiting():
                    return Answer("unknown", None, parts)
                boxes = todo.pop(batch)
                parts += len(boxes.low)
                planes = _planes(graph, boxes, question)
                found = _counterexample(graph, boxes, planes, question)
                if found is not None:
                    return Answer("sat", found, parts)
                todo.push(_rest(boxes, planes, question, sharper))
    except OutOfTime:
        return Answer("timeout", None, parts)
    return Answer("unsat", None, parts)


def _rest(boxes: Boxes, planes: Planes, question: Question, sharper: Sharper) -> Boxes:
    """What bounds leave open of the boxes, cut by planes and halved."""
    open_ = ~certainly_not(planes.lower, question.limits)
    left = Boxes(boxes.low[open_], boxes.high[open_])
    if not len(left.low):
        return left
    planes = planes.take(open_)
    clipped = _clipped(left, planes, question)
    alive = (clipped.low <= clipped.high).flatten(1).all(1)
    left, slopes = Boxes(clipped.low[alive], clipped.high[alive]), planes.slopes[alive]
    # halves of those would be more boxes than there were
    if len(left.low) > max(MANY, len(boxes.low) // 2):
        still = ~sharper.closed(left)
        left, slopes = Boxes(left.low[still], left.high[still]), slopes[still]
    return _halved(left, slopes)


@dataclass
class Sharper:
    """Closes boxes with SHARP, where it closes most of a few that it tries first. wait: batches
    until the next trial; pause: how many there were before this one.
    """

    graph: Graph
    question: Question
    wait: int = 0
    pause: int = 0

    def closed(self, boxes: Boxes) -> Tensor:
        """(N,) those of the boxes that have no input in question; none where it is not tried."""
        found = torch.zeros(len(boxes.low), dtype=torch.bool, device=boxes.low.device)
        if self.wait:
            self.wait -= 1
            return found
        order = torch.arange(len(found), device=found.device).flip(0)
        for some in (order[:TRIED], order[TRIED:]):  # the last are the first to be taken up again
            found[some] = self._bounded(boxes.low[some], boxes.high[some])
            if int(found[some].sum()) < WORTH * len(some):
                self.wait = self.pause = min(PAUSE, 2 * self.pause + 1)
                return found
        self.pause = 0
        return found

    def _bounded(self, low: Tensor, high: Tensor) -> Tensor:
        rows = self.question.rows.expand(len(low), -1, -1)
        if not len(low):
            return torch.zeros(0, dtype=torch.bool, device=low.device)
        lower = Pass.of(self.graph, InputSet.between(low, high), SHARP).lower(rows)
        return certainly_not(lower, self.question.limits)


@dataclass(frozen=True)
class Planes:
    """rows @ y >= at + <slopes, x - middle> in each box; lower: (N, M) the least of that."""

    at: Tensor
    slopes: Tensor
    lower: Tensor

    def take(self, which: Tensor) -> Planes:
        return Planes(self.at[which], self.slopes[which], self.lower[which])


def _planes(graph: Graph, boxes: Boxes, question: Question) -> Planes:
    inside = InputSet.between(boxes.low, boxes.high)
    walk = Pass.of(graph, inside, CROWN).walk
    n, m = len(boxes.low), len(question.rows)
    example = torch.arange(n).repeat_interleave(m)
    answer = walk.reference[graph.output].shape[1:]
    rows = question.rows.repeat(n, 1).reshape(n * m, *answer)
    at, slopes = walk.plane({graph.output: rows}, example)
    if slopes is None:  # the answer does not depend on the input
        slopes = rows.new_zeros(n * m, *boxes.low.shape[1:])
    lower = at + inside.lowest(slopes, example)
    shape = boxes.low.shape[1:]
    return Planes(at.view(n, m), slopes.view(n, m, *shape), lower.view(n, m))


def _counterexample(
    graph: Graph, boxes: Boxes, planes: Planes, question: Question
) -> Tensor | None:
    """Tries the middle of each box, and the corner at which its planes are lowest together."""
    total = planes.slopes.sum(1)
    corner = torch.where(total > 0, boxes.low, boxes.high)
    middle = boxes.low + (boxes.high - boxes.low) / 2
    for x in (middle, corner):
        found = nearest(question, x, graph.run(x)[graph.output].flatten(1))
        if found is not None:
            return found
    return None


def _clipped(boxes: Boxes, planes: Planes, question: Question) -> Boxes:
    """The boxes without what every row's plane puts beyond its limit: a_i d_i <= limit - at - (the
    least of the other terms).
    """
    low, high = boxes.low.flatten(1), boxes.high.flatten(1)
    middle = low + (high - low) / 2
    for row in range(planes.slopes.shape[1]):
        a = planes.slopes[:, row].flatten(1)
        terms = torch.minimum(a * (low - middle), a * (high - middle))
        rest = terms.sum(1, keepdim=True) - terms
        room = (question.limits[row] - planes.at[:, row])[:, None] - rest
        edge = middle + room / torch.where(a == 0, torch.ones_like(a), a)
        high = torch.where((a > 0) & (edge < high), edge, high)  # NaN cuts nothing
        low = torch.where((a < 0) & (edge > low), edge, low)
    shape = boxes.low.shape
    return Boxes(low.view(shape), high.view(shape))


def _halved(boxes: Boxes, slopes: Tensor) -> Boxes:
    """Both halves of each box, cut where width times slope is largest."""
    low, high = boxes.low.flatten(1), boxes.high.flatten(1)
    width = high - low
    reach = slopes.flatten(2).abs().amax(1) * width
    reach = torch.where(reach.sum(1, keepdim=True) > 0, reach, width)
    side = reach.argmax(1, keepdim=True)
    middle = (low + width / 2).gather(1, side)
    left, right = high.scatter(1, side, middle), low.scatter(1, side, middle)
    shape = (-1, *boxes.low.shape[1:])
    return Boxes(torch.cat([low, right]).view(shape), torch.cat([left, high]).view(shape))
