"""Bounds of many parts at once, slopes and multipliers optimised (beta-CROWN, Wang et al. 2021).

Whatever the slopes in [0, 1], the multipliers >= 0 and the shares of a question's rows, a bound
holds: the best of all steps counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from torchproof.verify.adam import uphill
from torchproof.verify.clock import OutOfTime
from torchproof.verify.hinge_parts import Neurons
from torchproof.verify.inputs import InputSet

RATES, DECAY = (0.1, 0.3, 0.1), 0.95
"""Of Adam: rates of slopes, multipliers (in units of the rows at hinges) and shares; per step."""


@dataclass
class Parts:
    """N parts. question: (N,) the one they are about; signs: (N, U) as in `Neurons.lines`; slopes,
    weights: (N, U) places of lower lines, and multipliers; shares: (N, M) of the question's rows,
    at least 0 and of any sum; lower: (N,) what the shared rows are above, less their limits;
    choice: (N,) the neuron to be split at; low, high: (N, U) bounds of what open neurons read; age:
    (N,) splits since these were renewed; error: (N,) how far `lower` may be above what holds, 0
    where that is not asked or the part is open.
    """

    question: Tensor
    signs: Tensor
    slopes: Tensor
    weights: Tensor
    shares: Tensor
    lower: Tensor
    choice: Tensor
    low: Tensor
    high: Tensor
    age: Tensor
    error: Tensor

    def __len__(self) -> int:
        return len(self.question)

    @property
    def closed(self) -> Tensor:
        """(N,) whether no input of the part can lead to an answer in question."""
        return self.lower > 0

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.tensors())

    def take(self, which: Tensor | slice) -> Parts:
        return Parts(*(part[which] for part in self.tensors()))

    def put(self, which: Tensor, other: Parts) -> None:
        """Writes other parts over these, in the places `which`."""
        for own, new in zip(self.tensors(), other.tensors(), strict=True):
            own[which] = new

    def copy(self) -> Parts:
        return Parts(*(part.clone() for part in self.tensors()))

    def joined(self, other: Parts) -> Parts:
        pairs = zip(self.tensors(), other.tensors(), strict=True)
        return Parts(*(torch.cat(pair) for pair in pairs))

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, part.name) for part in fields(self))


@dataclass(frozen=True)
class Bounded:
    """parts: with what was found; scores: (N, U) how much a split of each neuron may bring; lowest:
    (N, ...) the corners of the set's box at which the planes are lowest; None where the input has
    no part in them.
    """

    parts: Parts
    scores: Tensor
    lowest: Tensor | None


@dataclass
class _Ask:
    """Variables (N, U), (N, U), (N, M), and what comes of them: bounds (N,), planes at the input,
    and the intercepts of the lines, whose gradients are the rows at the hinges.
    """

    variables: list[Tensor]
    lower: Tensor = field(init=False)
    at_input: Tensor | None = None
    lows: dict[str, Tensor] = field(default_factory=dict)
    highs: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Bounder:
    """rows: (Q, M, K) of the answer, for each question; limits: (Q, M); inside: one example;
    walked: how many rows were walked back.
    """

    neurons: Neurons
    inside: InputSet
    rows: Tensor
    limits: Tensor
    walked: int = 0

    def root(self) -> Parts:
        """The whole set, for each question; not bounded yet."""
        count, device = len(self.limits), self.limits.device
        signs = torch.zeros(count, len(self.neurons), dtype=torch.int8, device=device)
        slopes = self.neurons.initial().expand(count, -1).float().clone()
        shares, number = torch.ones_like(self.limits), torch.arange(count, device=device)
        least = torch.full_like(self.limits[:, 0], -torch.inf)
        weights, reads = torch.zeros_like(slopes), (self.neurons.low, self.neurons.high)
        low, high = (end.expand(count, -1).clone() for end in reads)
        age = torch.zeros_like(number)
        error = torch.zeros_like(least)
        return Parts(number, signs, slopes, weights, shares, least, number, low, high, age, error)

    def settled(self, parts: Parts) -> Parts:
        """The parts, of which those that are closed count as such."""
        return parts

    def least(
        self, parts: Parts, place: Tensor, start: Mapping[str, Tensor], example: Tensor
    ) -> Tensor:
        """(R,) what rows at some nodes are above in the parts `example`, (R,) places among them;
        place: (N, U) of lower lines.
        """
        root = self.neurons.passed.walk
        lines = self.neurons.lines(parts.signs, place, (parts.low, parts.high))
        walk = replace(root, reference=self.neurons.reference(len(parts)), lines=lines)
        at, at_input = walk.plane(start, example)
        if at_input is None:
            return at
        return at + self.inside.lowest(at_input, torch.zeros_like(example))

    def quick(self, parts: Parts) -> Parts:
        """Bounds as the variables are."""
        with torch.no_grad():
            ask = self._asked(parts, self._variables(parts))
        return replace(parts, lower=torch.maximum(parts.lower, ask.lower))

    @torch.enable_grad()
    def bounded(self, parts: Parts, steps: int) -> Bounded:
        """Bounds after so many steps, less where a limit on time ends it; parts that close are left
        alone from then on.
        """
        found, scores = parts.copy(), torch.zeros_like(parts.signs, dtype=torch.float32)
        lowest: Tensor | None = self.inside.x.repeat(len(parts), *[1] * (self.inside.x.dim() - 1))
        live = torch.arange(len(parts), device=parts.lower.device)
        variables = self._variables(parts)
        moments = [(torch.zeros_like(v), torch.zeros_like(v)) for v in variables]
        for step in range(steps + 1):
            try:
                ask = self._asked(found.take(live), [v.requires_grad_() for v in variables])
            except OutOfTime:
                break
            _keep(found, live, ask)
            keep = ~found.closed[live]
            if step == steps or not bool(keep.any()):
                scores[live] = self._scores(found.take(live), ask).to(scores)
                if lowest is None or ask.at_input is None:
                    return Bounded(found, scores, None)
                lowest[live] = self._corner(ask.at_input.detach())
                break
            if step == 0:
                up, down = self._at_hinges(ask)
                size = (up - down).mean(1, keepdim=True)
            variables = self._moved(ask, moments, step, size)
            variables, live, size = [v[keep] for v in variables], live[keep], size[keep]
            moments = [(first[keep], second[keep]) for first, second in moments]
        return Bounded(found, scores, lowest)

    def _variables(self, parts: Parts) -> list[Tensor]:
        return [
            v.to(self.rows.dtype, copy=True) for v in (parts.slopes, parts.weights, parts.shares)
        ]

    def _asked(self, parts: Parts, variables: list[Tensor]) -> _Ask:
        """The bounds of N parts, each an example of its own."""
        place, weight, share = variables
        ask, count, neurons = _Ask(variables), len(parts), self.neurons
        root, graph = neurons.passed.walk, neurons.passed.walk.graph
        lines = neurons.lines(parts.signs, place, (parts.low, parts.high))
        ask.highs = {piece.node: lines[piece.node].high_at for piece in neurons.pieces}
        ask.lows = {piece.node: lines[piece.node].low_at for piece in neurons.pieces}
        if torch.is_grad_enabled():
            for high in ask.highs.values():
                high.requires_grad_()
        share = share / share.sum(1, keepdim=True)
        rows = (share[:, None] @ self.rows[parts.question])[:, 0]
        start = {graph.output: rows.view(-1, *root.reference[graph.output].shape[1:])}
        for name, extra in neurons.rows(-parts.signs * weight, parts.signs != 0).items():
            start[name] = start[name] + extra if name in start else extra
        walk = replace(root, reference=neurons.reference(count), lines=lines)
        each = torch.arange(count, device=rows.device)
        at, ask.at_input = walk.plane(start, each)
        self.walked += count
        ask.lower = at - (share * self.limits[parts.question]).sum(1)
        if ask.at_input is not None:
            ask.lower = ask.lower + self.inside.lowest(ask.at_input, torch.zeros_like(each))
        return ask

    def _moved(
        self, ask: _Ask, moments: list[tuple[Tensor, Tensor]], step: int, size: Tensor
    ) -> list[Tensor]:
        """The variables one step on, the first with step 0; writes over the moments."""
        rates = (RATES[0], RATES[1] * size, RATES[2])
        ends = ((0.0, 1.0), (0.0, None), (1e-6, None))
        slants = _slants(ask.lower, ask.variables)
        return [
            uphill(v.detach(), slants[i], moments[i], step + 1, rates[i] * DECAY**step).clamp(
                *ends[i]
            )
            for i, v in enumerate(ask.variables)
        ]

    def _scores(self, parts: Parts, ask: _Ask) -> Tensor:
        """(N, U) what the lines of a neuron may lose in the bounds: above it at 0, below it at the
        end that loses less (as BaBSR, Bunel et al. 2020, on intercepts alone).
        """
        neurons, (up, down) = self.neurons, self._at_hinges(ask)
        rest = (1 - neurons.least) * ask.variables[0].detach()
        below = torch.minimum(rest * -parts.low, (1 - neurons.least - rest) * parts.high)
        gap = neurons.upper(parts.low, parts.high)[1]
        return (up.abs() * below + down.abs() * gap) * (parts.signs == 0)

    def _at_hinges(self, ask: _Ask) -> tuple[Tensor, Tensor]:
        """(N, U) the rows' positive and negative parts at the open hinges."""
        names = list(ask.lows)
        if not names:
            return ask.lower.new_zeros(len(ask.lower), 0), ask.lower.new_zeros(len(ask.lower), 0)
        slants = _slants(ask.lower, [*ask.lows.values(), *ask.highs.values()])
        up, down = (dict(zip(names, part, strict=True)) for part in
                    (slants[: len(names)], slants[len(names) :]))  # fmt: skip
        return self.neurons.gathered(up), self.neurons.gathered(down)

    def _corner(self, at_input: Tensor) -> Tensor:
        """(N, ...) where planes of slopes (N, ...) are lowest in the set's box."""
        box = self.inside.box()
        return torch.where(at_input > 0, box.lower, box.upper)


def _keep(found: Parts, live: Tensor, ask: _Ask) -> None:
    """Puts what is better than before into the parts found."""
    lower = ask.lower.detach()
    better = lower > found.lower[live]
    found.lower[live] = torch.where(better, lower, found.lower[live])
    kept = (found.slopes, found.weights, found.shares)
    for before, now in zip(kept, ask.variables, strict=True):
        before[live] = torch.where(better[:, None], now.detach().to(before), before[live])


def _slants(lower: Tensor, variables: list[Tensor]) -> list[Tensor]:
    """Gradients, 0 for what has no part in the bounds."""
    found = torch.autograd.grad(lower.sum(), variables, allow_unused=True, retain_graph=True)
    pairs = zip(found, variables, strict=True)
    return [torch.zeros_like(v) if slant is None else slant for slant, v in pairs]
