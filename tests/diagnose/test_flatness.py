"""Flatness of the robust loss: closed forms, scale invariance, what is perturbed and refused."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.run import Run
from torchproof.core import keys
from torchproof.core.errors import InputError, UnknownName
from torchproof.core.norms import L2, Linf
from torchproof.core.sites import Weights
from torchproof.core.threats import Threat
from torchproof.data import load
from torchproof.diagnose.flatness import HIGH, Flatness, Procedure, flatness
from torchproof.diagnose.joint_ascent import JointAscent, worst_weights
from torchproof.diagnose.landscape import weight_landscape
from torchproof.diagnose.weight_balls import STALE, Absolute, Filterwise, ball, chosen

THREAT = Threat(Linf(), 0.1)
QUICK = Procedure(draws=3, starts=2, steps=6, length=0.3, worst_xi=0.003)


@cache
def trained() -> tuple[nn.Sequential, Tensor, Tensor]:
    """A ReLU network that knows the digits, and images that it was not trained on."""
    data = load("digits", split="train")
    layers = (nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1))
    net = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            fan = p[0].numel() if p.dim() > 1 else 100
            p.copy_(torch.randn(p.shape, generator=g) / math.sqrt(fan))
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(120):
        rows = torch.randint(len(data), (64,), generator=g)
        optimiser.zero_grad()
        F.cross_entropy(net(data.x[rows]), data.y[rows]).backward()
        optimiser.step()
    net.zero_grad()
    test = load("digits", split="test")
    return net.eval(), test.x[:40], test.y[:40]


def rescaled(net: nn.Sequential, factor: float) -> nn.Sequential:
    """The same function: the first layer multiplied, the next divided."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[0].weight.mul_(factor)
        other[0].bias.mul_(factor)
        other[2].weight.div_(factor)
    return other


def of(net: nn.Module, x: Tensor, y: Tensor, **more: Any) -> Flatness:
    return flatness(net, x, y, THREAT, dataclasses.replace(QUICK, **more))


def linear() -> tuple[nn.Sequential, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 2, bias=False, dtype=torch.float64)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(2, 9, generator=g, dtype=torch.float64))
    x = 0.2 + 0.6 * torch.rand(20, 1, 3, 3, generator=g, dtype=torch.float64)
    return net, x, torch.randint(2, (20,), generator=g)


def robust_losses(weight: Tensor, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Of a linear model with two classes: the margin falls by eps |w_y - w_k|_1."""
    logits = x.flatten(1) @ weight.T
    margin = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None]))[:, 0]
    return F.softplus(eps * (weight[0] - weight[1]).abs().sum() - margin)


# -- the measures


@pytest.mark.parametrize("kind", ["layer", "filter", "absolute"])
def test_the_average_of_a_linear_model_is_its_closed_form(kind: str) -> None:
    net, x, y = linear()
    how = Procedure(draws=3, starts=0, steps=30, ball=kind, seed=5)
    found = flatness(net, x, y, THREAT, how)
    weight = net[1].weight.detach()
    within = ball(kind, 0.5, chosen(net)).set(net, x)
    assert found.reference == pytest.approx(float(robust_losses(weight, x, y, 0.1).mean()))
    expected = []
    for number, drawn in enumerate(found.drawn):
        v = within.sphere(keys.mix(5, "draw", number))["1.weight"][0]
        rows = v.norm(dim=1) / weight.norm(dim=1) if kind == "filter" else v.norm()
        bound = {"layer": 0.5 * weight.norm(), "filter": 0.5, "absolute": 0.5}[kind]
        torch.testing.assert_close(rows, torch.as_tensor(bound).to(rows).expand_as(rows))
        expected.append(float(robust_losses(weight + v, x, y, 0.1).mean()))
        assert drawn == pytest.approx(expected[-1], rel=1e-9)
    assert found.average == pytest.approx(sum(expected) / 3 - found.reference)
    assert found.spread == pytest.approx(float(torch.tensor(expected).double().std()))
    assert found.worst is None


def test_the_worst_case_of_one_image_is_found() -> None:
    """max_v of a linear model adds sqrt(2) xi |W| |x + d| to the loss's argument, which is convex
    in d: the maximum over a box is at one of its 512 corners.
    """
    net, x, y = linear()
    weight, xi = net[1].weight.detach(), 0.1
    how = Procedure(draws=0, starts=3, steps=40, length=0.2, worst_xi=xi, eta=0.05, batch=1)
    for row in range(2):
        own = x[row].flatten()
        signs = torch.tensor(list(itertools.product((-0.1, 0.1), repeat=9)), dtype=own.dtype)
        gap = (weight[1 - y[row]] - weight[y[row]]) @ (own + signs).T
        push = math.sqrt(2) * xi * weight.norm() * (own + signs).norm(dim=1)
        highest = float(F.softplus(gap + push).max())
        found = flatness(net, x[row : row + 1], y[row : row + 1], THREAT, how)
        assert found.worst is not None and found.average is None
        assert found.reference + found.worst == pytest.approx(highest, rel=2e-3)
        clean = flatness(net, x[row : row + 1], y[row : row + 1], None, how)
        start = float((weight[1 - y[row]] - weight[y[row]]) @ own)
        alone = start + math.sqrt(2) * xi * float(weight.norm() * own.norm())
        expected = F.softplus(torch.tensor(alone)) - F.softplus(torch.tensor(start))
        assert clean.threat is None and clean.worst == pytest.approx(float(expected), rel=1e-3)


def test_larger_balls_are_less_flat_and_the_worst_is_not_below_the_average() -> None:
    net, x, y = trained()
    sizes = [of(net, x, y, average_xi=xi, starts=0).average for xi in (0.1, 0.25, 0.5, 1.0)]
    assert all(a <= b for a, b in itertools.pairwise(sizes)) and sizes[0] > 0
    same = of(net, x, y, average_xi=0.1, worst_xi=0.1, eta=0.03)
    assert same.worst > same.average > 0
    clean = flatness(net, x, y, None, QUICK)
    assert clean.reference < same.reference and clean.error < same.error
    more = of(net, x, y, restarts=3, draws=0, starts=0)
    assert more.reference >= same.reference and more.average is None and more.worst is None


# -- invariance


@pytest.mark.slow
def test_scaled_layers_are_as_flat_as_before_and_the_naive_ball_says_otherwise() -> None:
    net, x, y = trained()
    for kind in ("layer", "filter"):
        plain = of(net, x, y, ball=kind)
        for factor in (2.0, 1 / 64):
            assert of(rescaled(net, factor), x, y, ball=kind) == plain
        for factor in (10.0, 0.3)[: 2 if kind == "layer" else 1]:
            other = of(rescaled(net, factor), x, y, ball=kind)
            assert other.average == pytest.approx(plain.average, rel=0.01)
            assert other.worst == pytest.approx(plain.worst, rel=0.02)
    naive = {"ball": "absolute", "average_xi": 1.0, "worst_xi": 0.01, "eta": 0.003}
    before, after = (of(one, x, y, **naive) for one in (net, rescaled(net, 10.0)))
    assert before.reference == pytest.approx(after.reference, rel=1e-4)
    assert after.average > 2 * before.average and after.worst > 2 * before.worst
    clean, scaled = (flatness(n, x, y, None, QUICK) for n in (net, rescaled(net, 4.0)))
    assert clean == scaled


@pytest.mark.parametrize("along", ["random", "adversarial"])
def test_landscapes_of_scaled_layers_are_as_before(along: str) -> None:
    net, x, y = trained()
    how: dict[str, Any] = {"radii": (-0.5, 0.1), "directions": 2, "steps": 3, "along": along}
    plain, double, triple = (
        weight_landscape(one, x, y, THREAT, **how)
        for one in (net, rescaled(net, 2.0), rescaled(net, 3.0))
    )
    assert plain == double
    assert triple.mean == pytest.approx(plain.mean, rel=0.01)


def test_nothing_is_left_behind_and_slots_do_not_matter() -> None:
    net, x, y = trained()
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    found = of(net, x, y)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training and all(p.grad is None for p in net.parameters())
    assert torch.equal(state, torch.get_rng_state())
    net.eval()
    other = of(net, x, y, slots=17)
    assert other.reference == pytest.approx(found.reference, rel=1e-5)
    assert other.drawn == pytest.approx(found.drawn, rel=1e-4)
    assert of(net, x, y, seed=1).drawn != found.drawn
    json.dumps(dataclasses.asdict(found))


# -- what is perturbed


def test_normalisation_is_left_out_and_zeros_stay() -> None:
    g = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(3)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), norm, nn.Flatten(), nn.Linear(108, 10)).eval()
    with torch.no_grad():
        net[3].bias.zero_()
    x, y = torch.rand(4, 1, 8, 8, generator=g), torch.randint(10, (4,), generator=g)
    found = of(net, x, y)
    assert found.moved == ("0.weight", "0.bias", "3.weight") and found.zero == ("3.bias",)
    assert found.left_out == ("1.weight", "1.bias") and STALE in found.notes
    ours = of(net, x, y, keep=lambda name, p: name.startswith("1."))
    assert ours.moved == ("1.weight",) and ours.zero == ("1.bias",)
    with torch.no_grad():
        net[3].weight.mul_(-50)
    assert HIGH in of(net, x, y, draws=0, starts=0).notes


def test_tied_weights_are_one_tensor_moved_everywhere() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = (nn.Linear(4, 4, bias=False).double() for _ in range(2))
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x.flatten(1)))

    net = Tied()
    x = torch.rand(3, 1, 2, 2, dtype=torch.float64)
    y = torch.tensor([0, 1, 3])
    found = flatness(net, x, y, None, Procedure(draws=1, worst_xi=0.01))
    assert found.moved == ("one.weight",) and found.worst is not None and found.worst > 0
    w = net.one.weight.detach()
    w = (
        w
        + ball("layer", 0.5, chosen(net))
        .set(net, x)
        .sphere(keys.mix(0, "draw", 0))["one.weight"][0]
    )
    expected = F.cross_entropy(x.flatten(1) @ w.T @ w.T, y)
    assert found.drawn[0] == pytest.approx(float(expected))
    net.two.weight = nn.Parameter(net.one.weight.detach())
    with pytest.raises(InputError, match="same memory"):
        chosen(net)


def test_balls_hold_what_they_say() -> None:
    net, x, _ = trained()
    site = Weights(chosen(net))
    filters = Filterwise(0.2, L2(), site).set(net, x)
    far = filters.project({n: torch.ones_like(t) * 9 for n, t in filters.zero().items()})
    for name, p in net.named_parameters():
        shift, p = far[name][0], p.detach()
        rows = (shift.flatten(1), p.flatten(1)) if p.dim() > 1 else (shift[None], p[None])
        torch.testing.assert_close(rows[0].norm(dim=1), 0.2 * rows[1].norm(dim=1))
    naive = Absolute(0.2, L2(), site).set(net, x)
    far = naive.project({n: torch.ones_like(t) * 9 for n, t in naive.zero().items()})
    for shift in far.values():
        assert float(shift.norm()) == pytest.approx(0.2, rel=1e-5)


def test_the_joint_ascent_stays_inside_and_starts_apart() -> None:
    net, x, y = trained()
    within, search = ball("layer", 0.01, chosen(net)), JointAscent(5, 0.3, stride_of_weights=0.5)
    shift, loss = worst_weights(net, x, y, THREAT, within, search, 1, Run(3))
    other, _ = worst_weights(net, x, y, THREAT, within, search, 1, Run(4))
    for name, p in net.state_dict().items():
        assert float(shift[name].norm() / p.norm()) <= 0.01 * (1 + 1e-5)
        assert not torch.equal(shift[name], other[name])
    both, again = worst_weights(net, x, y, THREAT, within, search, 4, Run(3))
    assert again >= loss and set(both) == set(shift)


# -- refusals


def test_what_cannot_be_measured_is_refused() -> None:
    net, x, y = trained()
    for bare in (nn.Flatten(), lambda x: x.flatten(1), nn.BatchNorm2d(1)):
        with pytest.raises(InputError, match=r"weight"):
            flatness(bare, x, y, THREAT, QUICK)
    zero = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        for p in zero.parameters():
            p.zero_()
    with pytest.raises(InputError, match="2 are 0"):
        of(zero, x, y)
    with pytest.raises(UnknownName):
        Procedure(ball="round")
    for more in (
        {"draws": -1}, {"starts": 0.5}, {"restarts": 0}, {"batch": 0}, {"steps": 0},
        {"length": 0.0}, {"eta": 0.0}, {"worst_xi": 0.0}, {"average_xi": math.inf},
    ):  # fmt: skip
        with pytest.raises(InputError):
            Procedure(**more)
    with pytest.raises(InputError):
        of(net, x * 255, y)
