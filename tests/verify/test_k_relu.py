"""Hinges in groups: hulls that are the hull, and bounds between linear programmes and the truth."""

from __future__ import annotations

import functools
import itertools
from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from torchproof.core.errors import InputError, UnknownName
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import Threat
from torchproof.verify import graph_of, margins
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet
from torchproof.verify.k_relu import LIMITS, k_relu_margins
from torchproof.verify.lp import lp_margins
from torchproof.verify.milp import milp_margins
from torchproof.verify.programme import Clock
from torchproof.verify.programme.example import Example, prepared
from torchproof.verify.programme.hulls import directions, hull, vertices

SLACK = 1e-4  # more than the solver's tolerances take off a bound of these networks


def cloud(k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points z (n, k) around 0, and their limits in all directions."""
    random = np.random.default_rng(seed)
    z = random.normal(size=(40, k)) @ random.normal(size=(k, k)) + 0.3 * random.normal(size=k)
    return z, (z @ directions(k).T).max(0)


@pytest.mark.parametrize(("k", "slope"), [(2, 0.0), (2, 0.3), (3, 0.0)])
def test_hulls_against_a_programme_for_each_orthant(k: int, slope: float) -> None:
    """In random directions the rows and the polytope give what the orthants give, each of which is
    a small linear programme in z alone.
    """
    z, limits = cloud(k, seed=k)
    found = hull(vertices(limits), np.full(k, slope))
    assert found is not None
    inside = np.concatenate([z, np.maximum(z, slope * z)], 1)
    assert (inside @ found.rows.T <= found.limits).all()
    polytope = np.hstack([directions(k), np.zeros((len(limits), k))])
    rows, most = np.vstack([found.rows, polytope]), np.concatenate([found.limits, limits])
    for c in np.random.default_rng(9).normal(size=(12, 2 * k)):
        whole = linprog(-c, A_ub=rows, b_ub=most, bounds=(None, None))
        best = -np.inf
        for signs in itertools.product((-1.0, 1.0), repeat=k):
            pieces = np.where(np.array(signs) > 0, 1.0, slope)
            ends = [(0, None) if sign > 0 else (None, 0) for sign in signs]
            one = linprog(-(c[:k] + pieces * c[k:]), A_ub=directions(k), b_ub=limits, bounds=ends)
            best = max(best, -one.fun if one.status == 0 else -np.inf)
        assert best - 1e-9 <= -whole.fun <= best + 1e-6


def test_flat_polytopes_have_sound_rows_and_empty_ones_none() -> None:
    """z_1 = z_2, which has no inside."""
    assert hull(vertices(np.full(8, -1e-3)), np.zeros(2)) is None
    z = np.linspace(-1.0, 2.0, 31)[:, None] * np.ones(2)
    found = hull(vertices((z @ directions(2).T).max(0)), np.zeros(2))
    points = np.concatenate([z, z.clip(min=0)], 1)
    assert found is None or (points @ found.rows.T <= found.limits).all()


@functools.cache
def toy(seed: int, slope: float = 0.0) -> tuple[nn.Sequential, Graph, Tensor, Tensor]:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in ((3, 4), (4, 3)):
        layers += [nn.Linear(before, after), nn.LeakyReLU(slope) if slope else nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(3, 3)).double().eval().requires_grad_(False)
    for p in net.parameters():
        p.mul_(2)
    x = torch.rand(1, 1, 1, 3, dtype=torch.float64)
    return net, graph_of(net, x), x, net(x).argmax(1)


def by_patterns(
    net: nn.Sequential, slope: float, x: Tensor, y: Tensor, about: Threat
) -> np.ndarray:
    """(K - 1,) least margins: the network is affine on every pattern of its hinges."""
    box = InputSet.of(x, about).box()
    ends = torch.stack([box.lower.flatten(), box.upper.flatten()], 1).numpy()
    layers = [(m.weight.numpy(), m.bias.numpy()) for m in net if isinstance(m, nn.Linear)]
    others, best = [t for t in range(3) if t != int(y)], np.full(2, np.inf)
    for pattern in itertools.product((slope, 1.0), repeat=7):
        matrix, offset, rows, limits, first = np.eye(3), np.zeros(3), [], [], 0
        for weight, bias in layers[:-1]:
            matrix, offset = weight @ matrix, weight @ offset + bias
            pieces = np.array(pattern[first : first + len(bias)])
            first += len(bias)
            sign = np.where(pieces == 1.0, -1.0, 1.0)
            rows.append(sign[:, None] * matrix)
            limits.append(-sign * offset)
            matrix, offset = pieces[:, None] * matrix, pieces * offset
        for place, t in enumerate(others):
            row = layers[-1][0][int(y)] - layers[-1][0][t]
            at = row @ offset + layers[-1][1][int(y)] - layers[-1][1][t]
            one = linprog(row @ matrix, np.vstack(rows), np.concatenate(limits), bounds=ends)
            if one.status == 0:
                best[place] = min(best[place], one.fun + at)
    return best


@pytest.mark.parametrize("kind", sorted(LIMITS))
def test_limits_of_sums_and_differences(kind: str) -> None:
    """Above what 10 000 points reach; of the first layer, the least that are."""
    net, graph, x, y = toy(11)
    inside, groups = InputSet.of(x, Threat(Linf(), 0.35)), np.array([[0, 1], [2, 0]])
    example = Example.of(prepared(graph, x), inside, y, "best", Clock())
    box, noise = inside.box(), torch.rand(10_000, 1, 1, 3, dtype=x.dtype)
    points = box.lower + noise.round(decimals=1) * box.width
    for depth, node in enumerate(example.maps.bends):
        name, z = node.refs[0], net[: 2 + 2 * depth](points).numpy()
        found = LIMITS[kind](example, name, groups, np.full((2, 8), np.inf), Clock())
        for group, limits in zip(groups, found, strict=True):
            reached = (z[:, group] @ directions(2).T).max(0)
            joint = (directions(2) != 0).all(1)
            assert (reached <= limits + 1e-9).all()
            rows = directions(2) @ net[1].weight.numpy()[group]
            low, wide = (end.flatten().numpy() for end in (box.lower, box.width))
            exact = rows @ low + (rows * wide).clip(min=0).sum(1)
            exact = exact + directions(2) @ net[1].bias.numpy()[group]
            assert depth > 0 or np.allclose(limits[joint], exact[joint], atol=1e-5)


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_in_order_up_to_the_truth(slope: float) -> None:
    """Propagated <= LP <= pairs <= triples and pairs of programmes <= integers = all patterns."""
    net, graph, x, y = toy(11, slope)
    about = Threat(Linf(), 0.35)
    order = [
        margins(graph, x, y, about),
        lp_margins(graph, x, y, about).lower,
        k_relu_margins(graph, x, y, about, k=2).lower,
        k_relu_margins(graph, x, y, about, k=3).lower,
        milp_margins(graph, x, y, about).lower,
    ]
    for lower, upper in itertools.pairwise(order):
        assert bool((lower <= upper + SLACK).all())
    sums = [float(bound.sum()) for bound in order]
    assert all(upper > lower + SLACK for lower, upper in itertools.pairwise(sums))
    solved = k_relu_margins(graph, x, y, about, k=2, limits="lp").lower
    assert bool((order[2] <= solved + SLACK).all() and (solved <= order[4] + SLACK).all())
    truth = by_patterns(net, slope, x, y, about)
    assert np.allclose(order[4][0], truth, atol=SLACK)
    assert all(bool((bound[0].numpy() <= truth + 1e-9).all()) for bound in [*order, solved])


def test_nothing_is_found_below() -> None:
    """Ten thousand points of an L2 ball."""
    net, graph, x, y = toy(5)
    about = Threat(L2(), 0.4)
    found = k_relu_margins(graph, x, y, about, k=2).lower[0]
    ball = InputSet.of(x.expand(5000, -1, -1, -1), about).ball
    noise = torch.randn(5000, 1, 1, 3, dtype=x.dtype, generator=torch.manual_seed(0))
    z = torch.cat([net(x + d) for d in (ball.maximiser(noise), ball.project(0.3 * noise))])
    rest = [t for t in range(3) if t != int(y)]
    assert bool((found <= (z[:, y] - z[:, rest]).amin(0) + 1e-9).all())
    assert bool((found >= lp_margins(graph, x, y, about).lower[0]).all())


def test_few_groups_no_time_and_what_is_refused() -> None:
    _, graph, x, y = toy(11)
    about = Threat(Linf(), 0.35)
    alone, one, all_ = (
        k_relu_margins(graph, x, y, about, groups=n).lower for n in (0, 1, 100)
    )  # fmt: skip
    assert torch.equal(alone, lp_margins(graph, x, y, about).lower)
    assert bool((alone <= one).all() and (one <= all_ + SLACK).all())
    with patch("torchproof.verify.programme.example.limit", nullcontext):  # solvers alone have one
        late = k_relu_margins(graph, x, y, about, time_limit=0.0).lower
    assert torch.equal(late, margins(graph, x, y, about))
    with pytest.raises(InputError, match="2 or 3"):
        k_relu_margins(graph, x, y, about, k=4)
    with pytest.raises(UnknownName, match="did you mean backward"):
        k_relu_margins(graph, x, y, about, limits="backwards")
