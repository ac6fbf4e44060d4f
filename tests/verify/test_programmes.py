"""Linear and integer programmes: exact where they say so, valid everywhere, within their time."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError, UnknownName
from torchproof.core.norms import L1, Linf
from torchproof.core.threats import Threat
from torchproof.evaluate import certify
from torchproof.verify import graph_of, margins
from torchproof.verify.inputs import InputSet
from torchproof.verify.lp import lp_margins
from torchproof.verify.milp import Verdict, milp_margins, milp_verify

SLACK = 1e-4  # more than the solver's tolerances take off a bound of these networks
Net = tuple[nn.Sequential, Tensor, Tensor]


def mlp(
    seed: int, between: Callable[[], nn.Module], widths: tuple[int, ...], inputs: int,
    scale: float = 1.0,
) -> Net:  # fmt: skip
    """A random network, an image and its class. scale: of the usual random weights."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise((inputs, *widths)):
        layers += [nn.Linear(before, after), between()]
    net = nn.Sequential(*layers, nn.Linear(widths[-1], 3)).double().eval().requires_grad_(False)
    for p in net.parameters():
        p.mul_(scale)
    x = torch.rand(1, 1, 1, inputs, dtype=torch.float64)
    return net, x, net(x).argmax(1)


class Pooled(nn.Module):
    """Two inputs, maxima over overlapping windows, a hinge behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 9), nn.Conv2d(1, 2, 2)
        self.last = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(self.one(x.flatten(1)).view(-1, 1, 3, 3), 2, 1)
        logits: Tensor = self.last(F.relu(self.two(h)).flatten(1))
        return logits


def pieces(net: nn.Sequential, slope: float, x: Tensor, about: Threat) -> list[np.ndarray]:
    """Every pattern of the hinges, (hidden neurons,) slopes, that intervals allow."""
    box = InputSet.of(x, about).box()
    low, high, kinds = box.lower.flatten(), box.upper.flatten(), []
    for layer in [m for m in net if isinstance(m, nn.Linear)][:-1]:
        centre, radius = layer.weight @ (low + high) / 2 + layer.bias, (high - low) / 2
        radius = layer.weight.abs() @ radius
        low, high = centre - radius, centre + radius
        for start, end in zip(low.tolist(), high.tolist(), strict=True):
            kinds.append((1.0,) if start >= 0 else (slope,) if end <= 0 else (slope, 1.0))
        low, high = (torch.where(z > 0, z, slope * z) for z in (low, high))
    assert 2 <= sum(len(k) == 2 for k in kinds) <= 7
    return [np.array(pattern) for pattern in itertools.product(*kinds)]


def by_pieces(net: nn.Sequential, slope: float, x: Tensor, y: int, about: Threat) -> np.ndarray:
    """(K - 1,) exact least margins: on each piece the network is affine, so that is a small linear
    programme in the perturbation and, for l1, its absolute values.
    """
    inside, layers = InputSet.of(x, about), [m for m in net if isinstance(m, nn.Linear)]
    n, best = x.numel(), np.full(2, np.inf)
    box = torch.stack([inside.ball.floor.flatten(), inside.ball.ceiling.flatten()], 1).numpy()
    eye, ball, most = np.eye(n), np.zeros((0, 2 * n)), np.zeros(0)
    if isinstance(about.norm, L1):
        ball = np.block([[eye, -eye], [-eye, -eye], [np.zeros((1, n)), np.ones((1, n))]])
        most = np.array([*np.zeros(2 * n), about.eps])
    for pattern in pieces(net, slope, x, about):
        matrix, offset, rows, limits = eye, x.flatten().numpy(), ball, most
        for layer, slopes in zip(layers, [*_split(layers, pattern), None], strict=True):
            weight = layer.weight.numpy()
            matrix, offset = weight @ matrix, weight @ offset + layer.bias.numpy()
            if slopes is not None:
                sign = np.where(slopes == 1, -1.0, 1.0)[:, None]
                rows = np.vstack([rows, np.hstack([sign * matrix, 0 * matrix])])
                limits = np.concatenate([limits, -sign[:, 0] * offset])
                matrix, offset = slopes[:, None] * matrix, slopes * offset
        others = [t for t in range(3) if t != y]
        for place, t in enumerate(others):
            c = np.concatenate([matrix[y] - matrix[t], np.zeros(n)])
            found = linprog(c, A_ub=rows, b_ub=limits, bounds=[*box, *[(0, 9)] * n])
            if found.status == 0:
                best[place] = min(best[place], found.fun + offset[y] - offset[t])
    return best


def _split(layers: list[nn.Linear], pattern: np.ndarray) -> list[np.ndarray]:
    ends = np.cumsum([layer.out_features for layer in layers[:-1]])
    return np.split(pattern, ends)[:-1]


@pytest.mark.parametrize(("slope", "about", "seed"), [
    (0.0, Threat(Linf(), 0.5), 1), (0.2, Threat(Linf(), 0.5), 5), (0.0, Threat(L1(), 0.7), 4),
])  # fmt: skip
def test_integers_find_what_all_pieces_give(slope: float, about: Threat, seed: int) -> None:
    net, x, y = mlp(seed, lambda: nn.LeakyReLU(slope) if slope else nn.ReLU(), (5, 3), 3)
    expected = by_pieces(net, slope, x, int(y), about)
    graph = graph_of(net, x)
    found = milp_margins(graph, x, y, about).lower[0].numpy()
    assert (found <= expected + 1e-9).all() and np.allclose(found, expected, atol=SLACK)
    relaxed = lp_margins(graph, x, y, about).lower[0].numpy()
    assert (relaxed <= found + SLACK).all() and not np.allclose(relaxed, found, atol=SLACK)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_integers_find_what_a_grid_gives(seed: int) -> None:
    torch.manual_seed(seed)
    net = Pooled().double().eval().requires_grad_(False)
    x, about = torch.rand(1, 1, 1, 2, dtype=torch.float64), Threat(Linf(), 0.2)
    y = net(x).argmax(1)
    inside = InputSet.of(x, about).box()
    share = torch.linspace(0, 1, 301, dtype=torch.float64)
    share = torch.cartesian_prod(share, share).view(-1, 1, 1, 2)
    z = net(inside.lower + share * inside.width)
    others = [t for t in range(3) if t != int(y)]
    grid = (z[:, y] - z[:, others]).amin(0)
    found = milp_margins(net, x, y, about).lower[0]
    assert bool((found <= grid + 1e-9).all()) and torch.allclose(found, grid, atol=2e-3)


@pytest.mark.parametrize("name", ["mlp_relu", "conv_relu", "conv_maxpool"])
def test_in_order_on_the_golden_networks(golden: Callable[[str], tuple], name: str) -> None:
    """{IBP, Fast-Lin, CROWN-IBP, CROWN} <= LP <= MILP on one set, and no point below."""
    net, images, _, _ = golden(name)
    double = copy.deepcopy(net).double()
    x, about = images[:1].double().clamp(0, 1), Threat(Linf(), 0.03)
    y, graph = double(x).argmax(1), graph_of(double, x)
    relaxed = lp_margins(graph, x, y, about).lower
    exact = milp_margins(graph, x, y, about, time_limit=3).lower
    for method in ("ibp", "fast-lin", "crown-ibp", "crown", "best"):
        assert bool((margins(graph, x, y, about, method) <= relaxed + 1e-9).all()), method
    assert bool((relaxed <= exact + 1e-9).all()) and float((exact - relaxed).sum()) > 1e-3
    assert bool((exact <= lowest_seen(double, x, y, about) + 1e-9).all())


@pytest.mark.parametrize(("name", "about"), [
    ("layernorm", Threat(Linf(), 0.02)), ("conv_maxpool_overlap", Threat(L1(), 0.2)),
])  # fmt: skip
def test_lines_of_any_operation(golden: Callable[[str], tuple], name: str, about: Threat) -> None:
    net, images, _, _ = golden(name)
    double = copy.deepcopy(net).double()
    x = images[:1].double().clamp(0, 1)
    y, graph = double(x).argmax(1), graph_of(double, x)
    relaxed = lp_margins(graph, x, y, about).lower
    assert bool((margins(graph, x, y, about) <= relaxed + 1e-9).all())
    assert bool((relaxed <= lowest_seen(double, x, y, about) + 1e-9).all())


def lowest_seen(net: nn.Module, x: Tensor, y: Tensor, about: Threat) -> Tensor:
    """(1, K - 1) least margins of corners and random points of the set."""
    ball = InputSet.of(x.expand(200, -1, -1, -1), about).ball
    noise = torch.randn(200, *x.shape[1:], dtype=x.dtype, generator=torch.manual_seed(0))
    z = torch.cat([net(x + d) for d in (ball.maximiser(noise), ball.project(noise * about.eps))])
    rest = [t for t in range(z.shape[1]) if t != int(y)]
    return (z[:, y] - z[:, rest]).amin(0, keepdim=True)


def test_programmes_in_the_middle_are_tighter() -> None:
    net, x, y = mlp(3, nn.ReLU, (10, 10, 10), 6, 2.0)
    about, graph = Threat(Linf(), 0.3), graph_of(net, x)
    usual, full = (lp_margins(graph, x, y, about, middle=m).lower for m in ("best", "lp"))
    assert bool((full >= usual - 1e-9).all()) and float((full - usual).sum()) > 1e-3
    assert bool((full <= lowest_seen(net, x, y, about)).all())
    with patch("torchproof.verify.programme.example.limit", nullcontext):  # solvers alone have one
        late = lp_margins(graph, x, y, about, middle="lp", time_limit=0.0).lower
    assert torch.equal(late, margins(graph, x, y, about))


@pytest.mark.parametrize(("seed", "eps", "status"), [
    (0, 0.15, "certified"), (0, 0.3, "certified"), (1, 0.2, "broken"), (2, 0.2, "broken"),
])  # fmt: skip
def test_verdicts_are_true(seed: int, eps: float, status: str) -> None:
    """The first by bounds alone; the second and the last not without integers."""
    net, x, y = mlp(seed, nn.ReLU, (8, 8), 4, 1.5)
    about = Threat(Linf(), eps)
    (verdict,) = milp_verify(net, x, y, about, 20.0)
    assert verdict.status == status
    if status == "broken":
        assert is_real(net, x, y, about, verdict) and verdict.margin < 0
    else:
        assert 0 < verdict.margin <= float(lowest_seen(net, x, y, about).amin()) + 1e-9


def is_real(net: nn.Module, x: Tensor, y: Tensor, about: Threat, verdict: Verdict) -> bool:
    assert verdict.found is not None
    found = verdict.found[None]
    inside = (found - x).abs().amax() <= about.eps + 1e-9 and 0 <= found.min() <= found.max() <= 1
    return bool(inside) and int(net(found).argmax()) != int(y)


def test_a_counterexample_is_one_for_the_network_in_float32() -> None:
    net, x, y = mlp(0, nn.ReLU, (8, 8), 4)
    net, x = copy.deepcopy(net).float(), x.float()
    (verdict,) = milp_verify(net, x, y, Threat(Linf(), 0.6), 20.0)
    assert verdict.status == "broken" and verdict.found is not None
    assert verdict.found.dtype == torch.float32 and int(net(verdict.found[None]).argmax()) != int(y)
    (wrong,) = milp_verify(net, x, (y + 1) % 3, Threat(Linf(), 0.01), 20.0)
    assert wrong.status == "broken" and torch.equal(wrong.found, x[0])  # without any perturbation


class Level(nn.Module):
    """Logits 1 and 0.99 at every input, which lines around each sigmoid alone do not see."""

    def forward(self, x: Tensor) -> Tensor:
        z = 4 * (2 * x.flatten(1) - 1)
        return torch.cat([torch.sigmoid(z) + torch.sigmoid(-z), 0 * z + 0.99], 1)


def test_a_network_that_is_not_piecewise_linear_is_not_decided_by_its_lines() -> None:
    x, y = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64), torch.tensor([0])
    (verdict,) = milp_verify(Level().eval(), x, y, Threat(Linf(), 0.5), 20.0)
    assert verdict.status == "undecided" and verdict.why == "not complete for sigmoid"
    (near,) = milp_verify(Level().eval(), x, y, Threat(Linf(), 0.05), 20.0)
    assert near.status == "certified" and near.margin <= 0.01 + 1e-9


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_the_time_limit_is_kept(limit: float) -> None:
    net, x, y = mlp(0, nn.ReLU, (60, 60, 60), 20, 2.0)
    about = Threat(Linf(), 0.08)
    (verdict,) = milp_verify(net, x, y, about, limit)
    assert verdict.seconds < limit + 1.0
    assert verdict.status == "undecided" and verdict.why == "no time left"


def test_certified_accuracy_by_name() -> None:
    net, x, y = mlp(0, nn.ReLU, (8, 8), 4, 1.5)
    about = Threat(Linf(), 0.3)
    best, exact = (certify(net, (x, y), about, method) for method in ("lp", "milp"))
    assert [best.examples[0].status, exact.examples[0].status] == ["undecided", "certified"]
    assert exact.assumptions == best.assumptions


def test_what_cannot_be_written_is_refused() -> None:
    net, x, y = mlp(0, nn.ReLU, (3,), 3)
    with pytest.raises(UnknownName, match="did you mean crown"):
        lp_margins(net, x, y, Threat(Linf(), 0.1), middle="crwn")
    single = graph_of(copy.deepcopy(net).float(), x.float())
    with pytest.raises(InputError, match="float64"):
        lp_margins(single, x.float(), y, Threat(Linf(), 0.1))
