"""Branch and bound over signs, against enumeration, grids and the bounds that it begins with."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from torchproof.core.threats import parse
from torchproof.verify import graph_of, margins
from torchproof.verify.bab import ROOT, bab_margins
from torchproof.verify.bounds import Bound, Pass
from torchproof.verify.graph import Graph
from torchproof.verify.hinge_bounds import Bounder
from torchproof.verify.hinge_parts import Neurons
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.relu_split import split_hinges

D = torch.float64


def network(seed: int, *widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for one, two in itertools.pairwise(widths):
            layers += [nn.Linear(one, two), activation()]
    return nn.Sequential(*layers[:-1]).double().eval().requires_grad_(False)


def least(net: nn.Sequential, low: Tensor, high: Tensor, row: Tensor) -> float:
    """The least of row @ net(x) over a box, by a linear programme for each pattern of signs."""
    first, last = net[0], net[2]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    w, b = first.weight.numpy(), first.bias.numpy()
    out, offset = (row @ last.weight).numpy(), float(row @ last.bias)
    found = np.inf
    for signs in itertools.product((0.0, 1.0), repeat=len(b)):
        on = np.array(signs)
        side = np.where(on > 0, -1.0, 1.0)
        solved = linprog((out * on) @ w, A_ub=side[:, None] * w, b_ub=-side * b,
                         bounds=list(zip(low.numpy(), high.numpy(), strict=True)))  # fmt: skip
        if solved.status == 0:
            found = min(found, solved.fun + float((out * on) @ b) + offset)
    return found


def asked(net: nn.Module | Graph, low: Tensor, high: Tensor, bound: Bound = ROOT[1]) -> Pass:
    graph = net if isinstance(net, Graph) else graph_of(net, low[None])
    with torch.no_grad():
        return Pass.of(graph, InputSet.between(low[None], high[None]), bound)


@functools.cache
def solved(seed: int) -> tuple[nn.Sequential, Graph, float]:
    """A network on [-1, 1]^3, its graph, and the least of y_0 - y_1."""
    net, ends = network(seed, 3, 7, 2), torch.ones(3, dtype=D)
    value = least(net, -ends, ends, torch.tensor([1.0, -1.0], dtype=D))
    return net, graph_of(net, ends[None]), value


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("gap", [-0.02, -1e-6, 1e-6, 0.02])
def test_the_verdict_is_that_of_all_patterns(seed: int, gap: float) -> None:
    net, graph, value = solved(seed)
    low, high = torch.full((3,), -1.0, dtype=D), torch.full((3,), 1.0, dtype=D)
    row = torch.tensor([1.0, -1.0], dtype=D)
    passed = asked(graph, low, high)
    split = split_hinges(passed, [row[None]], [torch.tensor([value + gap], dtype=D)], 60)
    assert split.verdict == ("sat" if gap > 0 else "unsat")
    if split.x is None:
        assert 0 < float(split.lower[0]) <= -gap + 1e-9
    else:
        assert float(row @ net(split.x)) <= value + gap
        assert bool((split.x >= low).all() and (split.x <= high).all())


def test_rows_have_to_be_met_together() -> None:
    """y_0 <= a and y_1 <= b, where each alone can be: closed only by both together."""
    net = network(7, 2, 12, 12, 2)
    axis = torch.linspace(-1, 1, 201, dtype=D)
    y = net(torch.cartesian_prod(axis, axis))
    low, high = torch.full((2,), -1.0, dtype=D), torch.full((2,), 1.0, dtype=D)
    passed = asked(net, low, high)
    rows = torch.eye(2, dtype=D)
    span = y.amax(0) - y.amin(0)
    for share, verdict in ((0.1, "unsat"), (0.3, "unsat"), (0.9, "sat")):
        limits = y.amin(0) + share * span
        margin = float((y - limits).amax(1).min())  # how near the grid comes
        assert abs(margin) > 0.02 * float(span.max()), "the grid says too little"
        assert verdict == ("sat" if margin <= 0 else "unsat")
        assert bool((y <= limits).any(0).all())  # each alone can be met
        found = split_hinges(passed, [rows], [limits], 60)
        assert found.verdict == verdict
        assert (found.x is None) == (verdict == "unsat")
        assert found.x is None or bool((net(found.x) <= limits).all())


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU])
def test_every_part_holds_where_its_signs_are(activation: type[nn.Module]) -> None:
    """Random signs, slopes and multipliers: no sample of the part lies below its bounds."""
    net = network(2, 4, 10, 10, 3, activation=activation)
    low, high = torch.full((4,), -0.7, dtype=D), torch.full((4,), 0.7, dtype=D)
    passed = asked(net, low, high)
    neurons = Neurons.of(passed)
    goal = rows_of(torch.tensor([0]), 3).to(D)
    bounder = Bounder(neurons, passed.walk.inside, goal, torch.zeros(1, 2, dtype=D))
    x = low + (high - low) * torch.rand(
        20_000, 4, dtype=D, generator=torch.Generator().manual_seed(0)
    )
    values = passed.walk.graph.run(x)
    open_ = neurons.gathered({p.node: values[p.before] for p in neurons.pieces})
    answers = net(x) @ goal[0].T
    draw = torch.Generator().manual_seed(1)
    for _ in range(40):
        parts = bounder.root()
        pattern = open_[int(torch.randint(len(x), (1,), generator=draw))].sign()
        chosen = torch.rand(pattern.shape, generator=draw) < 0.2
        parts.signs[0] = (pattern * chosen).to(torch.int8)
        parts.slopes = torch.rand(parts.slopes.shape, generator=draw)
        parts.weights = torch.rand(parts.weights.shape, generator=draw) * 0.3
        parts.shares = torch.rand(1, 2, generator=draw, dtype=D)
        bound = float(bounder.quick(parts).lower)
        shared = answers @ parts.shares[0] / parts.shares.sum()
        inside = (open_ * parts.signs[0] >= 0).all(1)
        assert bool(inside.any()) and bool((shared[inside] >= bound - 1e-9).all())


def test_multipliers_change_the_bounds() -> None:
    """What the search finds after a split is better than what was known before it."""
    net = network(5, 4, 16, 16, 2)
    low, high = torch.full((4,), -1.0, dtype=D), torch.full((4,), 1.0, dtype=D)
    passed = asked(net, low, high)
    row = torch.tensor([[1.0, -1.0]], dtype=D)
    bounder = Bounder(
        Neurons.of(passed), passed.walk.inside, row[None], torch.full((1, 1), 100.0, dtype=D)
    )
    root = bounder.root()
    plain = bounder.bounded(root, 0)
    better = bounder.bounded(root, 40)
    assert float(better.parts.lower) > float(plain.parts.lower)
    halves = better.parts.joined(better.parts)
    halves.signs[:, int(better.scores.argmax())] = torch.tensor([1, -1], dtype=torch.int8)
    halves.lower[:] = -torch.inf
    found = bounder.bounded(halves, 40).parts
    assert bool((found.lower >= better.parts.lower - 1e-6).all()) and float(found.weights.max()) > 0
    without = bounder.quick(replace(found, weights=torch.zeros_like(found.weights),
                                    lower=torch.full_like(found.lower, -torch.inf)))  # fmt: skip
    used = found.weights.amax(1) > 0
    assert bool((found.lower > without.lower)[used].all())


@functools.cache
def of_images() -> tuple[nn.Module, Tensor, Graph]:
    """All classes are near at the images' mean."""
    inner = network(3, 6, 14, 14, 3)
    net = nn.Sequential(nn.Flatten(), inner).eval()
    x = torch.rand(4, 1, 2, 3, dtype=D, generator=torch.Generator().manual_seed(2))
    inner[-1].bias -= net(x).mean(0)
    return net, x, graph_of(net, x)


@pytest.mark.parametrize("norm", ["linf:0.05", "l2:0.4", "l1:0.4", "l0:1"])
def test_margins_of_every_norm_hold_and_decide_more(norm: str) -> None:
    net, x, graph = of_images()
    threat = parse(norm)
    y = net(x).argmax(1)
    found = bab_margins(graph, x, y, threat, time_limit=0.3)
    assert found.rows > 0
    before = margins(graph, x, y, threat, "crown")
    assert bool(((found.lower > 0) | (before <= 0)).all()) and bool((before <= 0).any())
    inside = InputSet.of(x, threat)
    noise = torch.randn(100, *x.shape, dtype=D, generator=torch.Generator().manual_seed(3))
    for part in noise:
        moved = x + inside.ball.project(part)
        z = net(moved)
        rest = z.gather(1, y[:, None]) - z
        others = rest[torch.arange(3)[None] != y[:, None]].view(4, 2)
        assert bool((others >= found.lower - 1e-9).all())


def test_no_time_leaves_bounds_that_hold() -> None:
    net = network(11, 5, 40, 40, 2)
    low, high = torch.full((5,), -1.0, dtype=D), torch.full((5,), 1.0, dtype=D)
    passed = asked(net, low, high)
    row = torch.tensor([[1.0, -1.0]], dtype=D)
    x = low + (high - low) * torch.rand(
        5000, 5, dtype=D, generator=torch.Generator().manual_seed(0)
    )
    worst = float((net(x) @ row[0]).min())
    limit = torch.tensor([worst - 0.05], dtype=D)
    split = split_hinges(passed, [row], [limit], 0.3, falsify=False)
    assert split.verdict in ("timeout", "unsat")
    assert float(split.lower) + float(limit) <= worst


@pytest.mark.parametrize("activation", [nn.Identity, nn.Sigmoid])
def test_without_hinges_there_is_nothing_to_split(activation: type[nn.Module]) -> None:
    net = network(0, 3, 5, 3, activation=activation)
    x = torch.rand(2, 1, 1, 3, dtype=D)
    model, y = nn.Sequential(nn.Flatten(), net).eval(), torch.tensor([0, 1])
    found = bab_margins(model, x, y, parse("linf:0.9")).lower
    assert bool((found >= margins(model, x, y, parse("linf:0.9")) - 1e-9).all())
    assert bool((found.amin(1) <= 0).any())  # not everything is settled before
