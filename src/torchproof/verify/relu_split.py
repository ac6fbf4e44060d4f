"""Branch and bound over the signs of hinge neurons (beta-CROWN, Wang et al. 2021).

Parts of the set that bounds cannot decide are split where it promises most: of the neurons whose
lines lose most, a few are tried with both signs, and the one whose worse half is best is taken
(kFSB, De Palma et al. 2021). Complete for hinges: one without open neurons is a linear programme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from torchproof.verify.bounds import Pass
from torchproof.verify.clock import OutOfTime, limit, look
from torchproof.verify.falsify import descended
from torchproof.verify.hinge_bounds import Bounder, Parts
from torchproof.verify.hinge_leaf import leaf
from torchproof.verify.hinge_parts import Neurons
from torchproof.verify.hinge_renewal import Renewal
from torchproof.verify.memory import waiting as waiting_room
from torchproof.verify.question import Verdict

STEPS, ROOT_STEPS, TRIED = 5, 40, 3  # of the search for slopes and multipliers; candidates
MOST, ENTRIES = 1024, 2**21  # parts that are bounded at once, entries of their largest tensor
NEAR, DESCENT = 4, 10  # inputs that a search goes on from, its steps


@dataclass(frozen=True)
class Split:
    """verdict over all questions: "sat" where any has an input, x; lower: (Q,) what the
    rows @ y less their limits, in shares of a sum of 1 that may differ from part to part, are above
    everywhere: above 0, the question is answered with no; error: (Q,) how far that may be above
    what holds, 0 where it is not asked. walked: rows that were walked back.
    """

    verdict: Verdict
    x: Tensor | None
    parts: int
    lower: Tensor
    error: Tensor
    walked: int


def split_hinges(
    passed: Pass,
    rows: Sequence[Tensor],
    limits: Sequence[Tensor],
    seconds: float | None = None,
    falsify: bool = True,
) -> Split:
    """Can an input of the set that `passed` bounds, of one example, lead to rows @ y <= limits in
    every row of a question? rows: (M, K) and limits: (M,) of each. falsify: tries inputs of the
    box on the way; leave it out where the set is none. "unknown" where parts outgrow the memory, or
    a part without open neurons is not decided; "timeout" after so many seconds.
    """
    most = max(map(len, rows))  # a row twice does not change the question
    padded = [torch.cat([r, r[-1:].expand(most - len(r), -1)]) for r in rows]
    ends = [torch.cat([b, b[-1:].expand(most - len(b))]) for b in limits]
    neurons = Neurons.of(passed)
    bounder = Bounder(neurons, passed.walk.inside, torch.stack(padded), torch.stack(ends))
    with limit(seconds):
        return Tree(bounder, falsify).run()


@dataclass
class Tree:
    """What is known so far. lower, error: (Q,) of the parts that are closed, the one with the least
    difference; found: an input; renew: whether bounds are renewed in parts.
    """

    bounder: Bounder
    falsify: bool
    renew: bool = True
    lower: Tensor = field(init=False)
    error: Tensor = field(init=False)
    parts: int = 0
    found: Tensor | None = None
    stuck: bool = False
    renewal: Renewal = field(init=False)

    def __post_init__(self) -> None:
        self.renewal = Renewal(self.bounder)
        self.lower = torch.full_like(self.bounder.limits[:, 0], torch.inf)
        self.error = torch.zeros_like(self.lower)

    def run(self) -> Split:
        now, waiting, steps = self.bounder.root(), list[Parts](), ROOT_STEPS
        verdict: Verdict | None = None
        try:
            while len(now) and self.found is None:
                look()
                halves = now if steps == ROOT_STEPS else _halves(now)
                open_, steps = self._settled(halves, steps), STEPS
                if sum(part.nbytes for part in waiting) > waiting_room():
                    verdict = "unknown"
                    break
                now = _last([*waiting, open_], waiting, max(1, self._batch // 2))
        except OutOfTime:
            verdict = "timeout"
        for parts in (*waiting, now):
            self._count(parts)
        if self.found is not None:
            verdict, self.lower = "sat", torch.full_like(self.lower, -torch.inf)
        elif verdict is None:
            verdict = "unknown" if self.stuck else "unsat"
        walked = self.bounder.walked + self.renewal.walked
        return Split(verdict, self.found, self.parts, self.lower, self.error, walked)

    def _settled(self, parts: Parts, steps: int) -> Parts:
        """Those of the parts that bounds leave open, with the neurons that they are split at."""
        open_ = parts.take(slice(0, 0))
        for first in range(0, len(parts), self._batch):
            part = parts.take(slice(first, first + self._batch))
            made = self.bounder.bounded(part, steps)
            self.parts += len(part)
            settled = self.bounder.settled(made.parts)
            closed = settled.closed
            self._close(settled.take(closed))
            rest, scores = settled.take(~closed), made.scores[~closed]
            if made.lowest is not None and self.falsify and len(rest):
                self._try(rest.question, made.lowest[~closed])
            if self.found is not None:
                break
            rest.age += 1
            if self.renew:
                self.renewal.renew(rest)
            split = (rest.signs == 0).any(1)
            self._leaves(rest.take(~split))
            rest, scores = rest.take(split), scores[split]
            rest.choice = self._choice(rest, scores)
            open_ = open_.joined(rest)
        return open_

    def _close(self, parts: Parts) -> None:
        """Parts that no input in question is in."""
        self._count(parts)

    def _count(self, parts: Parts) -> None:
        """Takes parts' bounds into the account of their questions."""
        sure, known = parts.lower - parts.error, self.lower - self.error
        least = known.scatter_reduce(0, parts.question, sure, "amin")
        some = parts.take((sure == least[parts.question]) & (sure < known[parts.question]))
        self.lower.scatter_reduce_(0, some.question, some.lower, "amin", include_self=False)
        self.error.scatter_reduce_(0, some.question, some.error, "amax", include_self=False)

    def _try(self, question: Tensor, x: Tensor) -> None:
        """Runs inputs x (N, ...) through the network, and goes on from the nearest; keeps one that
        answers its question.
        """
        graph = self.bounder.neurons.passed.walk.graph
        with torch.no_grad():
            y = graph.run(x)[graph.output].flatten(1)
        rows, limits = self.bounder.rows[question], self.bounder.limits[question]
        gap = ((y[:, None] @ rows.mT)[:, 0] - limits).amax(1)
        near = gap.topk(min(NEAR, len(gap)), largest=False).indices
        box = self.bounder.inside.box()
        found = descended(graph, x[near], rows[near], limits[near], box.lower, box.upper, DESCENT)
        self.found = None if found is None else found[0]

    def _leaves(self, parts: Parts) -> None:
        """Parts without open neurons: closed by a linear programme, or not at all."""
        for i in range(len(parts)):
            look()
            part = parts.take(slice(i, i + 1))
            made = leaf(self.bounder, part) if self.bounder.neurons.complete else None
            settled = None if made is None else self.bounder.settled(made.part)
            if settled is not None and bool(settled.closed):
                self._close(settled)
                continue
            if made is not None and self.falsify:
                self._try(part.question, made.x)
            self._count(part)
            self.stuck = True

    def _choice(self, parts: Parts, scores: Tensor) -> Tensor:
        """(N,) of the neurons with the best scores, the one whose worse half has the best bound."""
        if not len(parts):
            return parts.choice
        count = min(TRIED, scores.shape[1])
        tried = scores.masked_fill(parts.signs != 0, -1.0).topk(count).indices
        gains = self.lower.new_full(tried.shape, -torch.inf)
        for i in range(count):
            look()
            halves = _halves(replace(parts, choice=tried[:, i]))
            both = self.bounder.quick(halves).lower.clamp_max(0.0).view(2, -1)
            gain = both.amin(0) + 1e-3 * both.sum(0)
            is_open = parts.signs.gather(1, tried[:, i : i + 1])[:, 0] == 0
            gains[:, i] = torch.where(is_open, gain, gains[:, i])
        return tried.gather(1, gains.argmax(1, keepdim=True))[:, 0]

    @property
    def _batch(self) -> int:
        """Parts that are bounded at once."""
        walk = self.bounder.neurons.passed.walk
        largest: int = max(walk.reference[name].numel() for name in walk.graph.live)
        return min(MOST, max(2, ENTRIES // largest))


def _last(parts: list[Parts], waiting: list[Parts], count: int) -> Parts:
    """The last of the parts, about so many; the rest goes into `waiting`."""
    waiting[:] = parts
    now = waiting.pop()
    while waiting and len(now) < count:
        now = waiting.pop().joined(now)
    if len(now) > count:
        waiting.append(now.take(slice(None, -count)))
    return now.take(slice(-count, None))


def _halves(parts: Parts) -> Parts:
    """The parts with their neurons above 0, then those with them below."""
    halves, place = parts.joined(parts), parts.choice[:, None]
    above, below = (torch.full_like(parts.signs[:, :1], sign) for sign in (1, -1))
    signs = (parts.signs.scatter(1, place, above), parts.signs.scatter(1, place, below))
    return replace(halves, signs=torch.cat(signs))
