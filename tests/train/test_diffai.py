"""DiffAI against hybrid zonotopes by hand, its limits, and samples."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError, UnknownName
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import Threat
from torchproof.train import IBP, Batch, DiffAI, Method, Ramp, catalogue
from torchproof.train.method import drawn, read
from torchproof.verify import graph_of, margins
from torchproof.verify.graph import Graph
from torchproof.verify.hybrid import RULES, Sweep
from torchproof.verify.inputs import InputSet, rows_of

Make = Callable[..., Any]
EPS = 0.05
THREAT = Threat(Linf(), EPS)
OVER = Ramp(0.0, 0.4)
EXACT = {"rtol": 0.0, "atol": 1e-10}
every_rule = pytest.mark.parametrize("rule", RULES)


@pytest.fixture(scope="module")
def mlp(seeded: Make) -> nn.Module:
    return seeded(nn.Flatten(), nn.Linear(25, 9), nn.ReLU(), nn.Linear(9, 7), nn.LeakyReLU(0.1),
                  nn.Linear(7, 3))  # fmt: skip


class Strange(nn.Module):
    """A residual sum, overlapping pooling, batch norm and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.inner = nn.Conv2d(3, 3, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 2)
        self.last = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.stem(x)))
        h = h + torch.relu(self.inner(h))
        h = self.pool(h).flatten(1)
        logits: Tensor = self.last(h * h)
        return logits


@pytest.fixture(scope="module")
def graphs(mlp: nn.Module, seeded: Make) -> list[Graph]:
    """Of a plain network and a strange one."""
    net = seeded(Strange())
    with torch.no_grad():
        for _ in range(20):
            net(batch().x)
    return [graph_of(copy.deepcopy(m).eval(), batch().x) for m in (mlp, net)]


def batch(progress: float = 0.5, n: int = 5) -> Batch:
    g = torch.Generator().manual_seed(5)
    x = torch.rand(n, 1, 5, 5, generator=g, dtype=torch.float64)
    return Batch(x, torch.randint(3, (n,), generator=g), torch.arange(n), progress, seed=9)


def losses(method: Method, net: nn.Module, b: Batch | None = None) -> Tensor:
    ready = method.prepare(net, batch() if b is None else b)
    with drawn(ready):
        return read(method, net, ready)


def relu_by_hand(
    rule: str, a: float, c: float, shared: list[float], own: float
) -> tuple[float, list[float], float]:
    """One entry through a leaky ReLU of slope a."""
    reach = own + sum(abs(s) for s in shared)
    low, high = c - reach, c + reach
    if low >= 0:
        return c, shared, own
    if high <= 0:
        return a * c, [a * s for s in shared], a * own
    box = ((high + a * low) / 2, [0.0] * len(shared), (high - a * low) / 2)
    half = (a - 1) * low / 2
    diagonal = (c + half, shared, own + half)
    if rule == "box" or not any(shared):
        return box
    if rule == "diagonal":
        return diagonal
    if rule == "chord":
        k = (high - a * low) / (high - low)
        off = (a - k) * low / 2
        return k * c + off, [k * s for s in shared], k * own + off
    t = float(-low > high) if rule == "switch" else -low / (high - low)
    mixed = [(1 - t) * s for s in shared]
    return t * box[0] + (1 - t) * diagonal[0], mixed, t * box[2] + (1 - t) * diagonal[2]


def by_hand(net: nn.Module, x: Tensor, y: int, chosen: list[int], rule: str) -> list[float]:
    """Bounds of z_y - z_t, t != y, for one image of a network of linear layers, entry by entry."""
    low, high = (x - EPS).clamp(0, 1).flatten(), (x + EPS).clamp(0, 1).flatten()
    values = []
    for i, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        shared = [(b - a) / 2 if i == place else 0.0 for place in chosen]
        values.append(((a + b) / 2, shared, 0.0 if i in chosen else (b - a) / 2))
    layers = [m for m in net if not isinstance(m, nn.Flatten)]
    last = layers[-1]
    rows = [last.weight[y] - last.weight[t] for t in range(3) if t != y]
    ends = nn.Linear(len(values), 2).double()
    ends.weight = nn.Parameter(torch.stack(rows).detach())
    ends.bias = nn.Parameter(torch.stack([last.bias[y] - last.bias[t] for t in range(3) if t != y]))
    for layer in (*layers[:-1], ends):
        if isinstance(layer, nn.Linear):
            weight, bias = layer.weight.tolist(), layer.bias.tolist()
            values = [
                (
                    sum(w * v[0] for w, v in zip(row, values, strict=True)) + b,
                    [sum(w * v[1][j] for w, v in zip(row, values, strict=True))
                     for j in range(len(chosen))],
                    sum(abs(w) * v[2] for w, v in zip(row, values, strict=True)),
                )
                for row, b in zip(weight, bias, strict=True)
            ]  # fmt: skip
        else:
            slope = getattr(layer, "negative_slope", 0.0)
            values = [relu_by_hand(rule, slope, *v) for v in values]
    return [c - own - sum(abs(s) for s in shared) for c, shared, own in values]


@every_rule
def test_the_loss_is_that_of_hybrid_zonotopes_by_hand(mlp: nn.Module, rule: str) -> None:
    method = DiffAI(THREAT, OVER, kappa=(1, 0.25), symbols=6, relu=rule)
    b = method.prepare(mlp, batch())
    chosen = b.drawn["symbols"]
    assert chosen.shape == (5, 6) and all(len(set(row)) == 6 for row in chosen.tolist())
    clean = F.cross_entropy(mlp(b.x), b.y, reduction="none").detach()
    found = losses(method, mlp).detach()
    for i, y in enumerate(b.y.tolist()):
        lower = by_hand(mlp, b.x[i], y, chosen[i].tolist(), rule)
        worst = math.log(1 + sum(math.exp(-m) for m in lower))
        assert float(found[i]) == pytest.approx(0.25 * float(clean[i]) + 0.75 * worst, abs=1e-10)


@every_rule
def test_without_symbols_it_is_ibp(mlp: nn.Module, seeded: Make, rule: str) -> None:
    own, ibp = DiffAI(THREAT, OVER, relu=rule), IBP(THREAT, OVER)
    assert torch.allclose(losses(own, mlp), losses(ibp, mlp), **EXACT)
    b = batch(n=4)
    plain = seeded(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3, 3))
    assert torch.allclose(losses(own, plain, b), losses(ibp, plain, b), **EXACT)


def test_all_symbols_before_one_layer_of_relus_are_deep_z(mlp: nn.Module, seeded: Make) -> None:
    shallow, b = nn.Sequential(mlp[0], mlp[1], mlp[2], *seeded(nn.Linear(9, 3))), batch()
    method = DiffAI(THREAT, OVER, kappa=(0, 0), symbols=25, relu="chord")
    lower = method.lower(shallow, method.prepare(shallow, b), 1.0)
    expected = margins(copy.deepcopy(shallow).eval(), b.x, b.y, THREAT, "fast-lin")
    assert torch.allclose(lower, expected, **EXACT)
    # without symbols they are intervals: wider on the whole, though a chord, which reaches below
    # zero, may lose a single bound to them
    assert bool(lower.mean() > method.lower(shallow, b, 1.0).mean() + 0.05)


@every_rule
def test_bounds_hold_for_samples(graphs: list[Graph], rule: str) -> None:
    g, b = torch.Generator().manual_seed(3), batch()
    for graph in graphs:
        chosen = torch.rand(5, 25, generator=g).argsort(1)[:, :12]
        with torch.no_grad():
            sweep = Sweep.of(graph, InputSet.of(b.x, THREAT), chosen, rule)
            rows = rows_of(b.y, 3).double()
            lower = sweep.lower(rows)
            for step in range(60):
                noise = torch.rand(5, 1, 5, 5, generator=g, dtype=torch.float64) * 2 - 1
                noise = noise.sign() if step % 2 else noise
                logits = graph.run((b.x + EPS * noise).clamp(0, 1))[graph.output]
                assert bool(((rows * logits[:, None]).sum(2) >= lower - 1e-12).all())


def test_gradients_are_those_of_differences(mlp: nn.Module) -> None:
    method = DiffAI(THREAT, OVER, kappa=(0, 0), symbols=4)
    net = copy.deepcopy(mlp)
    ready, weight = method.prepare(net, batch()), net[1].weight
    (grad,) = torch.autograd.grad(method.losses(net, ready).sum(), weight)
    g = torch.Generator().manual_seed(0)
    way = torch.randn(weight.shape, generator=g, dtype=torch.float64)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * 1e-6 * way)
            ends.append(float(method.losses(net, ready).detach().sum()))
            weight.sub_(sign * 1e-6 * way)
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float((grad * way).sum()), rel=1e-5)


def test_a_short_step_down_the_gradient_lowers_the_loss(mlp: nn.Module) -> None:
    method, net = DiffAI(THREAT, OVER, symbols=8), copy.deepcopy(mlp)
    ready = method.prepare(net, batch())
    before = method.losses(net, ready).mean()
    before.backward()
    with torch.no_grad():
        for p in net.parameters():
            p.sub_(1e-4 * p.grad)
    assert bool(method.losses(net, ready).mean() < before)


def test_symbols_are_keyed_by_seed_and_ids(mlp: nn.Module) -> None:
    method, b = DiffAI(THREAT, OVER, symbols=5), batch()
    whole = method.prepare(mlp, b).drawn["symbols"]
    part = method.prepare(mlp, Batch(b.x[2:], b.y[2:], b.ids[2:], b.progress, b.seed))
    assert torch.equal(part.drawn["symbols"], whole[2:])
    other = method.prepare(mlp, replace(b, seed=10)).drawn["symbols"]
    assert not torch.equal(other, whole)
    assert method.prepare(mlp, b).drawn["symbols"].shape == (5, 5)
    assert DiffAI(THREAT, OVER, symbols=99).prepare(mlp, b).drawn["symbols"].shape == (5, 25)


@pytest.mark.parametrize(
    "given", [{"symbols": -1}, {"symbols": 1.5}, {"relu": "zigzag"}, {"threat": Threat(L2(), 0.5)}]
)
def test_settings_that_cannot_be_meant(given: dict[str, object]) -> None:
    with pytest.raises((InputError, UnknownName)):
        DiffAI(**{"threat": THREAT, **given})


def test_it_is_named_in_expressions() -> None:
    made = catalogue.method("DiffAI(ramp=Ramp(0.1, 0.5), symbols=16, relu='switch')", THREAT)
    assert made == DiffAI(THREAT, Ramp(0.1, 0.5), symbols=16, relu="switch")
