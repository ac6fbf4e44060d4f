"""Slopes found in the middle, and branch and bound, in sound arithmetic: against exact rational
numbers.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.core.norms import Linf
from torchproof.core.threats import Threat, parse
from torchproof.evaluate import certified
from torchproof.verify import bounded, graph_of
from torchproof.verify.bab import ROOT, bab_margins
from torchproof.verify.bounds import BOUNDS
from torchproof.verify.graph import Graph
from torchproof.verify.hinge_bounds import Parts
from torchproof.verify.hinge_parts import Neurons
from torchproof.verify.hinge_renewal import Renewal
from torchproof.verify.inputs import InputSet
from torchproof.verify.sound import sound_margins
from torchproof.verify.sound.branch import bounder_of
from torchproof.verify.sound.hinges import SoundBounder
from torchproof.verify.sound.passes import Pass

D = torch.float64
Rows = list[list[Fraction]]
EPS = 0.3


def network(seed: int, *widths: int, leak: float = 0.0) -> nn.Sequential:
    g = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for n, m in pairwise(widths):
        layer = nn.Linear(n, m).double()
        layer.weight.data = torch.randn(m, n, generator=g, dtype=D) / n**0.5 * 1.5
        layer.bias.data = torch.randn(m, generator=g, dtype=D) * 0.3
        layers += [layer, nn.LeakyReLU(leak) if leak else nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval().requires_grad_(False)


def exact(t: Tensor) -> list[Fraction]:
    return [Fraction(v) for v in t.double().flatten().tolist()]


def weights(net: nn.Sequential) -> list[tuple[Rows, list[Fraction]]]:
    return [([exact(row) for row in m.weight], exact(m.bias))
            for m in net if isinstance(m, nn.Linear)]  # fmt: skip


def box(x: Tensor) -> tuple[list[Fraction], list[Fraction]]:
    low = [max(Fraction(0), v - Fraction(EPS)) for v in exact(x)]
    high = [min(Fraction(1), v + Fraction(EPS)) for v in exact(x)]
    return low, high


Line = tuple[list[Fraction], list[Fraction], list[Fraction]]
"""Slopes below and above of a layer's neurons, and intercepts above."""


def back(
    layers: list[tuple[Rows, list[Fraction]]], lines: list[Line], row: list[Fraction], depth: int,
    ends: tuple[list[Fraction], list[Fraction]], more: dict[int, list[Fraction]] | None = None,
) -> Fraction:  # fmt: skip
    """A row at the answer of layer `depth` - 1, walked back; more: rows at what ReLUs read."""
    total = Fraction(0)
    for i in reversed(range(depth)):
        if more and i in more:
            row = [a + b for a, b in zip(row, more[i], strict=True)]
        w, b = layers[i]
        total += sum((a * v for a, v in zip(row, b, strict=True)), Fraction(0))
        row = [sum((a * w[k][j] for k, a in enumerate(row)), Fraction(0)) for j in range(len(w[0]))]
        if i:
            below, above, at = lines[i - 1]
            total += sum((a * at[j] for j, a in enumerate(row) if a < 0), Fraction(0))
            row = [a * (below[j] if a > 0 else above[j]) for j, a in enumerate(row)]
    low, high = ends
    return total + sum((min(a * lo, a * hi) for a, lo, hi in zip(row, low, high, strict=True)),
                       Fraction(0))  # fmt: skip


def lines_of(passed: Pass, graph: Graph) -> list[Line]:
    found = []
    for node in graph.nodes:
        if node.name in passed.walk.lines:
            held = passed.walk.lines[node.name].lines
            assert not bool(held.low_at.any())
            found.append((exact(held.low[0]), exact(held.high[0]), exact(held.high_at)))
    return found


@pytest.mark.parametrize("leak", [0.0, 0.1])
def test_bounds_in_the_middle_by_slopes_of_their_own_hold_exactly(leak: float) -> None:
    """Each end of an interval is below what its row is with the slopes that were found for it."""
    net = network(1, 4, 6, 6, 5, 3, leak=leak)
    x = torch.rand(1, 1, 1, 4, generator=torch.Generator().manual_seed(1), dtype=D)
    graph, layers, ends = graph_of(net, x), weights(net), box(x)
    kept: dict[str, list[tuple[Tensor, dict[str, Tensor]]]] = {}

    def told(name: str, places: tuple[Tensor, ...], slopes: dict[str, Tensor]) -> Any:
        kept.setdefault(name, []).append((places[1], slopes))
        return slopes

    inside = InputSet.of(x, Threat(Linf(), EPS))
    (bound,) = BOUNDS["alpha-crown-full"]
    passed = Pass.of(graph, inside, bound, told=told)
    lines, bent = lines_of(passed, graph), [n for n in graph.nodes if n.name in passed.curved]
    usual, narrower = Pass.of(graph, inside, BOUNDS["alpha-crown"][0]), 0
    checked, answers = 0, ends
    for layer, node in enumerate(bent):
        z, before = passed.intervals[node.refs[0]], usual.intervals[node.refs[0]]
        narrower += int((z.width < before.width - 1e-9).sum())
        forward = moved(*layers[layer], *answers)
        after = passed.intervals[node.name]
        answers = exact(after.lower), exact(after.upper)
        walked: dict[tuple[int, int], Fraction] = {}
        for entries, slopes in kept.get(node.refs[0], []):
            for r in range(2 * len(entries)):
                j, sign = int(entries[r % len(entries)]), 1 if r < len(entries) else -1
                own = [
                    with_slopes(lines[i], passed.walk.lines[n.name].free, slopes[n.name][r])
                    for i, n in enumerate(bent[:layer])
                ]
                unit = [Fraction(sign * (k == j)) for k in range(len(layers[layer][1]))]
                walked[j, sign] = back(layers, own, unit, layer + 1, ends)
        for j, (lo, hi) in enumerate(zip(exact(z.lower), exact(z.upper), strict=True)):
            assert lo <= max(forward[j][0], walked.get((j, 1), forward[j][0]))
            assert -hi <= max(-forward[j][1], walked.get((j, -1), -forward[j][1]))
        checked += len(walked)
    assert checked > 10 and narrower > 3


def moved(
    w: Rows, b: list[Fraction], low: list[Fraction], high: list[Fraction]
) -> list[tuple[Fraction, Fraction]]:
    """Intervals after an affine layer."""
    pairs = [[sorted((a * lo, a * hi)) for a, lo, hi in zip(row, low, high, strict=True)]
             for row in w]  # fmt: skip
    return [(sum((p[0] for p in row), at), sum((p[1] for p in row), at))
            for row, at in zip(pairs, b, strict=True)]  # fmt: skip


def with_slopes(line: Line, free: Tensor | None, place: Tensor) -> Line:
    """The lines below with slopes from the free one to 1, as float64 has them."""
    assert free is not None
    least = free[0].nan_to_num(1.0)
    chosen = torch.maximum(least + (1 - least) * place, least).clamp_max(1.0)
    below = [a if closed else b for a, b, closed in
             zip(line[0], exact(chosen), free[0].isnan().tolist(), strict=True)]  # fmt: skip
    return below, line[1], line[2]


@pytest.mark.parametrize("leak", [0.0, 0.1])
def test_the_bound_of_a_part_is_within_its_error_of_the_exact_one(leak: float) -> None:
    """Random signs, slopes and multipliers, and bounds that were renewed in the part."""
    net = network(2, 4, 7, 7, 7, 3, leak=leak)
    x = torch.rand(1, 1, 1, 4, generator=torch.Generator().manual_seed(3), dtype=D)
    graph, layers, ends = graph_of(net, x), weights(net), box(x)
    passed = Pass.of(graph, InputSet.of(x, Threat(Linf(), EPS)), ROOT[1])
    neurons = Neurons.of(passed.usual())
    goal = torch.tensor([[[0.0, 1.0, -1.0]]], dtype=D)
    bounder = SoundBounder(neurons, passed.walk.inside, goal, goal.new_zeros(1, 1), walked=10**6,
                           sound=passed)  # fmt: skip
    roots, draw = lines_of(passed, graph), torch.Generator().manual_seed(4)
    for trial in range(12):
        parts = bounder.root()
        parts.signs[0] = torch.randint(-1, 2, parts.signs[0].shape, generator=draw)
        parts.slopes = torch.rand(parts.slopes.shape, generator=draw)
        parts.weights = torch.rand(parts.weights.shape, generator=draw) * 0.3
        if trial % 2:
            Renewal(bounder).renew(parts)
        value, error = (Fraction(float(part)) for part in bounder.proven(parts))
        lines, more = of_part(parts, bounder, roots)
        row = [Fraction(0), Fraction(1), Fraction(-1)]
        true = back(layers, lines, row, len(layers), ends, more)
        assert abs(value - true) <= error < Fraction(1, 10**11)


def of_part(
    parts: Parts, bounder: SoundBounder, roots: list[Line]
) -> tuple[list[Line], dict[int, list[Fraction]]]:
    """The lines of one part, upper ones with the exact least intercepts, and its multipliers."""
    neurons, lines, more = bounder.neurons, [], {}
    for i, piece in enumerate(neurons.pieces):
        below, above, at = map(list, roots[i])
        extra = [Fraction(0)] * len(below)
        for j, u in zip(
            piece.index.tolist(), range(piece.where.start, piece.where.stop), strict=True
        ):
            least, sign = Fraction(float(neurons.least[u])), int(parts.signs[0, u])
            lo, hi = (Fraction(float(t[0, u])) for t in (parts.low, parts.high))
            place = parts.slopes[0, u].double()
            if sign:
                below[j] = above[j] = Fraction(1) if sign > 0 else least
                at[j] = Fraction(0)
                extra[j] = -sign * Fraction(float(parts.weights[0, u]))
                continue
            free = neurons.least[u]
            below[j] = Fraction(float(torch.maximum(free + (1 - free) * place, free).clamp_max(1)))
            low, high = parts.low[0, u], parts.high[0, u]
            slope = torch.maximum(((high - free * low) / (high - low)).clamp_max(1.0), free)
            above[j] = Fraction(float(slope))
            at[j] = max((least - above[j]) * lo, (1 - above[j]) * hi)
        lines.append((below, above, at))
        more[i] = extra
    return lines, more


def least_exactly(net: nn.Sequential, low: Fraction, high: Fraction, row: list[int]) -> Fraction:
    """The least of a row of the answer on an interval of one number: at an end of a piece."""
    pieces = [(low, high, [(Fraction(1), Fraction(0))])]  # where every entry is a t + b
    *inner, (w, b) = weights(net)
    for v, c in inner:
        cut = []
        for start, end, z in pieces:
            lines = [(sum((k * a for k, (a, _) in zip(one, z, strict=True)), Fraction(0)),
                      sum((k * d for k, (_, d) in zip(one, z, strict=True)), at))
                     for one, at in zip(v, c, strict=True)]  # fmt: skip
            roots = {-d / a for a, d in lines if a and start < -d / a < end}
            for lo, hi in pairwise(sorted({start, end, *roots})):
                middle = (lo + hi) / 2
                on = [(a, d) if a * middle + d > 0 else (Fraction(0), Fraction(0))
                      for a, d in lines]  # fmt: skip
                cut.append((lo, hi, on))
        pieces = cut
    goal = [sum((r * one[j] for r, one in zip(row, w, strict=True)), Fraction(0))
            for j in range(len(w[0]))]  # fmt: skip
    at = sum((r * v for r, v in zip(row, b, strict=True)), Fraction(0))
    return min(at + sum((k * (a * t + d) for k, (a, d) in zip(goal, z, strict=True)), Fraction(0))
               for start, end, z in pieces for t in (start, end))  # fmt: skip


@pytest.mark.parametrize("method", ["alpha-crown-full", "bab"])
def test_no_certificate_rests_on_rounding(method: str) -> None:
    """Numbers around 1e6, margins around 1e-10: float64 alone certifies networks that are wrong
    somewhere in the set.
    """
    x, about = torch.full((1, 1, 1, 1), 0.5, dtype=D), Threat(Linf(), 0.25)
    y, fooled = torch.tensor([0]), 0
    net = network(0, 1, 4, 4, 2)
    graph = graph_of(net, x)
    plain = bab_margins if method == "bab" else None
    for seed in range(8):
        for old, new in zip(net.parameters(), network(seed, 1, 4, 4, 2).parameters(), strict=True):
            old.copy_(new * 300)
        last = net[-1]
        last.bias.zero_()
        least = least_exactly(net, Fraction(1, 4), Fraction(3, 4), [1, -1])
        last.bias[1] = np.nextafter(float(least), np.inf)
        truth = least_exactly(net, Fraction(1, 4), Fraction(3, 4), [1, -1])
        assert truth < 0  # by very little
        usual = (plain(graph, x, y, about, time_limit=0.4) if plain else
                 bounded(graph, x, y, about, method))  # fmt: skip
        fooled += bool(usual.lower > 0)
        found = sound_margins(graph, x, y, about, method, 0.4)
        assert Fraction(float(found.lower)) - Fraction(float(found.error)) <= truth
    assert fooled >= 1 or method != "bab"


def narrow(seed: int, room: float) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network whose least margin over 20,000 inputs around an image is `room`; these inputs."""
    net = network(seed, 4, 12, 12, 2)
    x = torch.full((1, 1, 2, 2), 0.5, dtype=D)
    g = torch.Generator().manual_seed(seed)
    near = x + EPS * (2 * torch.rand(20_000, 1, 2, 2, dtype=D, generator=g) - 1)
    z = net(near)
    net[-1].bias[0] -= (z[:, 0] - z[:, 1]).min() - room
    return net, x, near


@pytest.mark.parametrize("room", [0.15, -0.05])
def test_branch_and_bound_decides_what_it_decides_without(room: float) -> None:
    split = 0
    for seed in range(3):
        net, x, near = narrow(seed, room)
        graph, y, about = graph_of(net, x), torch.tensor([0]), Threat(Linf(), EPS)
        usual = bab_margins(graph, x, y, about, time_limit=10).lower
        found = sound_margins(graph, x, y, about, "bab", 10)
        sure = found.lower - found.error
        root = sound_margins(graph, x, y, about, "alpha-crown-full")
        split += bool(sure > 0) and bool(root.lower - root.error <= 0)
        z = net(near)
        assert float((z[:, 0] - z[:, 1]).min()) >= float(sure)
        assert bool(found.error > 0) and float(found.error) < 1e-11
        if room > 0:
            assert bool(usual > 0) and bool(sure > 0)
        else:
            (at,) = found.found
            assert at is not None and int(net(at[None]).argmax()) == 1
    assert split >= 2 or room < 0


class Pooled(nn.Module):
    """Leaky ReLUs and residual sums, with other nonlinear operations between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 3, 3, 1, 1), nn.Conv2d(3, 3, 3, 1, 1)
        self.act, self.pool, self.f = nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.a(x))
        h = torch.clamp(self.act(self.b(h) - 0.2) + h, -0.5, 0.6)
        logits: Tensor = self.f(self.pool(h).flatten(1))
        return logits


@pytest.mark.parametrize("norm", ["linf:0.1", "l2:0.4"])
def test_parts_beside_other_nonlinear_operations(norm: str) -> None:
    """The same bounds as without errors, but for these."""
    torch.manual_seed(1)
    net, x = Pooled().double().eval().requires_grad_(False), torch.rand(1, 1, 4, 4, dtype=D)
    inside, graph = InputSet.of(x, parse(norm)), graph_of(net, x)
    passed = Pass.of(graph, inside, ROOT[1])
    bounder = bounder_of(passed, torch.tensor([[1.0, -1.0]], dtype=D))
    parts = bounder.root().take(torch.zeros(8, dtype=torch.long))
    parts.signs[:] = torch.randint(-1, 2, parts.signs.shape)
    parts.signs[torch.rand(parts.signs.shape) < 0.7] = 0
    parts.slopes, parts.weights = torch.rand(parts.slopes.shape), torch.rand(parts.weights.shape)
    assert len(bounder.neurons) > 5 and len(passed.walk.lines) > len(bounder.neurons.pieces)
    value, error = bounder.proven(parts)
    usual = bounder.quick(parts).lower
    assert bool((error > 0).all()) and float(error.max()) < 1e-11
    assert torch.allclose(value, usual, rtol=0, atol=1e-9)
    closed = replace(parts, lower=torch.ones_like(value))  # as a search may say
    settled = bounder.settled(closed)
    assert torch.equal(settled.closed, value > error)
    assert bool((settled.lower - settled.error <= value - error).all())


@pytest.mark.parametrize("method", ["alpha-crown-full", "cascade"])
def test_certify_reports_an_error_bound(method: str) -> None:
    net = network(5, 6, 12, 12, 3).float()
    x = torch.rand(4, 1, 2, 3, generator=torch.Generator().manual_seed(2))
    told = certified.certify(net, (x, net(x).argmax(1)), parse("linf:0.05"), method, timeout=5)
    assert told.sound and any(row.status == "certified" for row in told.examples)
    for row in told.examples:
        if row.status == "certified":
            assert row.margin is not None and row.error_bound is not None
            assert 0 < row.error_bound < row.margin and row.error_bound < 1e-9
    plain = certified.certify(net, (x, net(x).argmax(1)), parse("linf:0.05"), method, timeout=5,
                              sound=False)  # fmt: skip
    assert [r.status for r in plain.examples] == [r.status for r in told.examples]
