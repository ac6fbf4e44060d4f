"""Optimised slopes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.core.norms import L0, L1, L2, Linf, Norm
from torchproof.core.threats import Threat
from torchproof.verify import graph_of
from torchproof.verify.alpha import optimised
from torchproof.verify.bounds import Bound, Pass
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet
from torchproof.verify.methods import METHODS

Load = Callable[[str], tuple[nn.Module, Tensor, dict[str, np.ndarray], Graph]]
ABOUT = Threat(Linf(), 0.05, low=-np.inf, high=np.inf)
ROWS = torch.cat([torch.eye(5), -torch.eye(5)]).expand(3, -1, -1)


def width(graph: Graph, x: Tensor, bound: Bound) -> tuple[Tensor, float]:
    with torch.no_grad():
        lower = Pass.of(graph, InputSet.of(x, ABOUT), bound).lower(ROWS)
    return lower, float((-lower[:, 5:] - lower[:, :5]).mean())


@pytest.mark.parametrize("name", ["mlp_relu", "conv_relu", "residual", "mlp_leaky"])
def test_never_below_crown_and_near_auto_lirpa(golden: Load, name: str) -> None:
    """auto_LiRPA optimises 30 steps, the bounds in the middle too."""
    net, x, stored, graph = golden(name)
    plain, _ = width(graph, x, Bound("linear", "linear"))
    better, ours = width(graph, x, Bound("linear", "linear", steps=20))
    full, best = width(graph, x, Bound("linear", "linear", steps=20, middle_steps=10))
    assert bool((better >= plain - 1e-6).all()) and ours < float(
        (-plain[:, 5:] - plain[:, :5]).mean()
    )
    key = "alpha-CROWN_linf_lb"
    if key in stored:
        theirs = float((stored[key.replace("_lb", "_ub")] - stored[key]).mean())
        assert best <= 1.01 * theirs
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        z = net(x + 0.05 * torch.randn(x.shape, generator=generator).sign())
        assert bool((full[:, :5] <= z + 1e-5).all() and (-full[:, 5:] >= z - 1e-5).all())


def test_one_hidden_layer_reaches_the_triangle_relaxation() -> None:
    """With bounds in the middle that are exact, the optimum is that of the linear programme."""
    from scipy.optimize import linprog

    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)).double().eval()
    net.requires_grad_(False)
    from torchproof.verify import graph_of

    graph = graph_of(net, torch.zeros(1, 3, dtype=torch.float64))
    inside = InputSet.between(-torch.ones(1, 3).double(), torch.ones(1, 3).double())
    walk = Pass.of(graph, inside, Bound("linear", "linear")).walk
    start, example = {graph.output: torch.ones(1, 1).double()}, torch.zeros(1, dtype=torch.long)
    found = float(optimised(walk, start, example, 400))
    w, b = net[0].weight.numpy(), net[0].bias.numpy()
    v, c = net[2].weight.numpy()[0], float(net[2].bias)
    reach = np.abs(w).sum(1)
    low, high = b - reach, b + reach
    rows, limits = [], []
    for i in range(8):
        h = np.eye(8)[i]
        rows.append(np.concatenate([w[i], -h]))  # h >= z
        limits.append(-b[i])
        if low[i] < 0 < high[i]:
            k = high[i] / (high[i] - low[i])
            rows.append(np.concatenate([-k * w[i], h]))  # h <= k (z - l)
            limits.append(k * (b[i] - low[i]))
        elif low[i] >= 0:
            rows.append(np.concatenate([-w[i], h]))
            limits.append(b[i])
        else:
            rows.append(np.concatenate([np.zeros(3), h]))
            limits.append(0.0)
    ends = [(-1, 1)] * 3 + [(0, None)] * 8
    best = linprog(np.concatenate([np.zeros(3), v]), np.array(rows), np.array(limits), bounds=ends)
    assert found <= best.fun + c + 1e-9
    assert found == pytest.approx(best.fun + c, abs=2e-3)


def test_rows_that_are_high_enough_are_left_alone(golden: Load) -> None:
    _, x, _, graph = golden("mlp_relu")
    with torch.no_grad():
        walk = Pass.of(graph, InputSet.of(x, ABOUT), Bound("linear", "linear")).walk
    start, example = {graph.output: ROWS.flatten(0, 1)}, torch.arange(3).repeat_interleave(10)
    plain = walk.lower(start, example)
    enough = float(plain.median()) - 1e-4  # so that float noise decides about no row
    found = optimised(walk, start, example, 10, enough)
    high = plain >= enough
    torch.testing.assert_close(found[high], plain[high])
    assert bool((found[~high] > plain[~high]).any())


@pytest.mark.parametrize("norm", [Linf(), L2(), L1(), L0()])
@pytest.mark.parametrize("name", ["mlp_relu", "conv_relu"])
def test_of_every_ball_and_the_pixel_box(golden: Load, name: str, norm: Norm) -> None:
    """Slopes can be optimised whatever the set; its support function is what they pull against."""
    net, x, _, graph = golden(name)
    eps = {Linf: 0.05, L2: 0.4, L1: 0.8, L0: 2}[type(norm)]
    about, x = Threat(norm, eps), x.clamp(0, 1)
    with torch.no_grad():
        inside = InputSet.of(x, about)
        plain = Pass.of(graph, inside, Bound("linear", "linear")).lower(ROWS)
        better = Pass.of(graph, inside, Bound("linear", "linear", steps=15)).lower(ROWS)
    assert bool((better >= plain - 1e-6).all()) and float((better - plain).mean()) > 1e-3
    generator = torch.Generator().manual_seed(1)
    for _ in range(100):
        moved = inside.ball.project(torch.randn(x.shape, generator=generator))
        z = net(x + moved)
        assert bool((better[:, :5] <= z + 1e-5).all() and (-better[:, 5:] >= z - 1e-5).all())


class Heads(nn.Module):
    """Two layers side by side behind one; the second has no hinge before its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.one, self.two, self.last = nn.Linear(6, 5), nn.Linear(4, 5), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.one(self.stem(x).relu()).relu()
        logits: Tensor = self.last(torch.cat([first, self.two(x).relu()], -1))
        return logits


def test_a_branch_without_a_hinge_before_it_is_bounded_too() -> None:
    torch.manual_seed(1)
    net = Heads().eval().requires_grad_(False)
    x = torch.rand(3, 4)
    graph, y = graph_of(net, x), net(x).argmax(1)
    threat = Threat(Linf(), 0.2)
    plain, full = (
        METHODS[name](graph, x, y, threat).lower for name in ("crown", "alpha-crown-full")
    )
    assert bool((full >= plain - 1e-5).all()) and bool((full > plain + 1e-4).any())
    moved = (x + 0.2 * (2 * torch.rand(500, 3, 4) - 1)).clamp(0, 1)
    margins = net(moved).gather(2, y.expand(500, 3)[..., None]) - net(moved)
    reached = margins.amin(0)
    rows = torch.stack([reached[i][torch.arange(3) != y[i]] for i in range(3)])
    assert bool((full <= rows + 1e-5).all())
