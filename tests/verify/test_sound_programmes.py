"""Linear programmes whose values hold in real arithmetic, compared with exact rational ones."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, sparse
from torch import Tensor, nn

from torchproof.core.norms import Linf
from torchproof.core.threats import Threat, parse
from torchproof.evaluate import certify
from torchproof.verify import graph_of
from torchproof.verify.bounds import CROWN
from torchproof.verify.inputs import InputSet
from torchproof.verify.lp import lp_margins
from torchproof.verify.programme import Encoding, Programme, dual_value
from torchproof.verify.programme.example import prepared
from torchproof.verify.sound import sound_margins
from torchproof.verify.sound.passes import Pass
from torchproof.verify.sound.programmes import Rounding

Numbers = list[Fraction]


class Net(nn.Module):
    """Behind a normalisation, whose map is composed with that of the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(((x - 0.4) / 0.3).flatten(1)))
        logits: Tensor = self.c(torch.relu(self.b(h)))
        return logits


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().double().eval().requires_grad_(False)


def exact(values: Any) -> Numbers:
    return [Fraction(float(v)) for v in values]


def dot(a: Numbers, b: Numbers) -> Fraction:
    return sum((p * q for p, q in zip(a, b, strict=True)), Fraction(0))


def affine(layer: nn.Linear, v: Numbers) -> Numbers:
    return [dot(exact(row), v) + Fraction(float(at))
            for row, at in zip(layer.weight, layer.bias, strict=True)]  # fmt: skip


def relu(v: Numbers) -> Numbers:
    return [max(part, Fraction(0)) for part in v]


@pytest.mark.parametrize("scale", [1.0, 1e7])
def test_the_value_of_multipliers_is_within_its_error_of_the_exact_one(scale: float) -> None:
    rng, off = np.random.default_rng(0), 0
    for _ in range(10):
        rows, low = scale * rng.normal(size=(5, 8)), rng.normal(size=8)
        programme = Programme(
            sparse.csr_array(rows), np.full(5, -np.inf), rng.normal(size=5), low,
            low + rng.random(8), np.zeros(8, dtype=bool), np.zeros(5),
        )  # fmt: skip
        c, y = scale * rng.normal(size=8), -rng.random(5)
        bound, error = dual_value(programme, c, y)
        true = dot(exact(y), exact(programme.most))
        for j in range(8):
            reduced = Fraction(float(c[j])) - dot(exact(rows[:, j]), exact(y))
            true += min(reduced * Fraction(float(e[j])) for e in (programme.low, programme.high))
        assert abs(Fraction(bound) - true) <= Fraction(error) and error < 1e-12 * scale
        off += Fraction(bound) > true
        wide = replace(programme, slack=np.full(5, 0.1))
        assert dual_value(wide, c, y).error > 0.1 * np.abs(y).sum()
    assert off  # without the error some of them would not hold


def test_rows_hold_at_every_point_of_the_network_but_for_their_slack(net: Net) -> None:
    """In rational arithmetic; without the slack of composed maps some would be broken."""
    x, about = torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64), Threat(Linf(), 0.2)
    graph, inside = graph_of(net, x), InputSet.of(x, about)
    maps = prepared(graph, x)
    maps = replace(maps, rounding=Rounding.of(maps))
    passed = Pass.of(graph, inside, CROWN)
    encoding = Encoding.of(maps, passed.walk.inside, passed.intervals)
    programme, broken = encoding.draft.done(), 0
    names = [(graph.inputs(node)[0], node.name) for node in maps.bends]
    g = torch.Generator().manual_seed(1)
    for _ in range(5):
        d = 0.4 * (torch.rand(4, generator=g, dtype=torch.float64) - 0.5)
        at = [Fraction(float(a)) + Fraction(float(b)) for a, b in zip(x.flatten(), d, strict=True)]
        z = affine(net.a, [(v - Fraction(0.4)) / Fraction(0.3) for v in at])
        values = {graph.input: at, names[0][0]: z, names[0][1]: relu(z)}
        values[names[1][0]] = affine(net.b, relu(z))
        values[names[1][1]] = relu(values[names[1][0]])
        point = [Fraction(0)] * len(programme.low)
        known = {**encoding.forms, **{n: b.form for n, b in encoding._before.items()}}
        for name, form in known.items():
            for k, (j, factor, constant, _) in enumerate(zip(*form, strict=True)):
                if factor:
                    own = (values[name][k] - Fraction(float(constant))) / Fraction(float(factor))
                    point[j] = own
        for j, v in enumerate(point):
            assert Fraction(programme.low[j]) <= v <= Fraction(programme.high[j])
        for row, most, slack, tie in zip(programme.matrix.toarray(), programme.most,
                                         programme.slack, programme.ties, strict=True):  # fmt: skip
            over = dot(exact(row), point) - Fraction(float(most))
            over = abs(over) if tie else over
            assert over <= Fraction(float(slack)) < Fraction(1e-12)
            broken += over > 0
    assert broken


def test_whatever_the_solver_says_nothing_too_large_is_certified(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other multipliers than the best prove less, and not more."""
    x, about = torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64), Threat(Linf(), 0.2)
    graph, y = graph_of(net, x), net(x).argmax(1)
    honest = sound_margins(graph, x, y, about, "lp")
    solve = optimize.linprog

    def lying(*given: Any, **more: Any) -> Any:
        found = solve(*given, **more)
        for part in (found.ineqlin, found.eqlin):
            part.marginals = 3 * part.marginals + 1.0
        return found

    monkeypatch.setattr(optimize, "linprog", lying)
    for method in ("lp", "lp-full"):
        other = sound_margins(graph, x, y, about, method)
        assert bool((other.lower <= honest.lower + 1e-9).all())
        assert 0 < float(other.error.max()) < 1e-9


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.2", "l1:0.3", "l0:1"])
def test_programmes_in_sound_arithmetic_are_those_without(net: Net, threat: str) -> None:
    x = torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64)
    graph, y, about = graph_of(net, x), net(x).argmax(1), parse(threat)
    found, usual = sound_margins(graph, x, y, about, "lp"), lp_margins(graph, x, y, about)
    assert torch.allclose(found.lower, usual.lower, rtol=0, atol=1e-6)
    assert float(found.error.min()) > 0 and float(found.error.max()) < 1e-10
    best = sound_margins(graph, x, y, about, "best")
    assert bool((found.lower - found.error >= best.lower - best.error).all())


def test_groups_and_integers(net: Net) -> None:
    """k-ReLU and integers hold with errors; integers are asked where a margin is open."""
    x, y = torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64), torch.tensor([0])
    graph, about = graph_of(net, x), Threat(Linf(), 0.2)
    y = net(x).argmax(1)
    lp, joint, whole = (
        sound_margins(graph, x, y, about, m, 20.0) for m in ("lp", "k-relu", "milp")
    )
    assert bool((joint.lower - joint.error >= lp.lower - lp.error).all())
    assert bool(joint.error.isfinite().all())
    asked = lp.lower - lp.error <= 0
    assert bool(asked.any()) and bool((whole.lower > lp.lower)[asked].any())
    assert torch.equal(whole.lower[~asked], lp.lower[~asked])
    assert bool((whole.error > 0).all()) and bool((whole.error < 1e-9).all())
    told = certify(net, (x.float(), y), about, "milp")
    assert "less error_bound" in told.assumptions and told.examples[0].error_bound is not None
