"""Semidefinite bounds that hold in real arithmetic, compared with exact rational numbers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.verify import graph_of
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet
from torchproof.verify.sdp.lifted import Lifted
from torchproof.verify.sdp.products import ONE_OF, Quadratic
from torchproof.verify.sdp.sdp_fo import certified
from torchproof.verify.sdp.written import Written
from torchproof.verify.sound import sound_margins
from torchproof.verify.sound.programmes import Begun
from torchproof.verify.sound.rounding import outward
from torchproof.verify.sound.semidefinite import Forms

Numbers = list[Fraction]
ABOUT = Threat(Linf(), 0.3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(((x - 0.4) / 0.3).flatten(1)))
        logits: Tensor = self.c(torch.relu(self.b(h)))
        return logits


Case = tuple[Net, Graph, Tensor, Tensor, Lifted, Forms]


@pytest.fixture(scope="module")
def case() -> Case:
    torch.manual_seed(2)
    net = Net().double().eval().requires_grad_(False)
    x = torch.full((1, 1, 1, 3), 0.4, dtype=torch.float64)
    graph, y = graph_of(net, x), net(x).argmax(1)
    begun = Begun.of(graph, InputSet.of(x, ABOUT), y, "best")
    box = {graph.input: outward(begun.intervals[graph.input], 8)}
    lifted = Lifted.of(graph, begun.intervals | box, begun.rows)
    assert bool(lifted.open[:, :5].any()) and bool(lifted.open[:, 5:].any())
    return net, graph, x, y, lifted, Forms(graph, graph.run(x))


def exact(values: Any) -> Numbers:
    return [Fraction(float(v)) for v in values]


def dot(a: Numbers, b: Numbers) -> Fraction:
    return sum((p * q for p, q in zip(a, b, strict=True)), Fraction(0))


def affine(layer: nn.Linear, v: Numbers) -> Numbers:
    return [dot(exact(row), v) + Fraction(float(at))
            for row, at in zip(layer.weight, layer.bias, strict=True)]  # fmt: skip


def normalised(v: Numbers) -> Numbers:
    return [(part - Fraction(0.4)) / Fraction(0.3) for part in v]


def test_forms_are_within_their_doubts_of_the_exact_ones(case: Case) -> None:
    """At random corners of the box of y, where open ReLUs are numbers of their own."""
    net, _, _, _, lifted, forms = case
    doubts, written = forms(lifted), Written.of(lifted, forms)
    centre, radius = (exact(t[0]) for t in (lifted.centre, lifted.radius))
    kept, open_ = lifted.mask[0].tolist(), lifted.open[0].tolist()
    passing, off = lifted.passing[0].tolist(), 0
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        y = [Fraction(1), *exact(torch.randint(0, 2, (len(centre),), generator=g) * 2 - 1)]
        own = [c + r * v for c, r, v in zip(centre, radius, y[1:], strict=True)]
        h, z, first = normalised(own[:3]), list[Fraction](), 0
        for layer in (net.a, net.b):
            z += affine(layer, h)
            some = range(first, len(z))
            h = [own[3 + k] if open_[k] else z[k] if passing[k] else Fraction(0) for k in some]
            first = len(z)
        at = [v for v, there in zip(y, kept, strict=True) if there]
        for row, true, doubt in zip(written.before, z, doubts.before, strict=True):
            found = dot(exact(row), at)
            assert abs(found - true) <= Fraction(float(doubt)) < Fraction(1e-12)
            off += found != true
        logits = affine(net.c, h)
        margin = dot(exact(lifted.rows[0]), logits)
        assert abs(dot(exact(written.margin), at) - margin) <= Fraction(doubts.margin)
    assert off


def test_the_quadratic_is_at_most_the_margin_but_for_its_error(case: Case) -> None:
    """At inputs of the set in rational arithmetic, for large multipliers of what is 0 there: some
    values are above the margin in float64.
    """
    net, _, x, _, lifted, forms = case
    multipliers = torch.zeros(1, 5, lifted.low.shape[1], dtype=torch.float64)
    multipliers[:, ONE_OF] = (
        1e6 * torch.randn(9, generator=torch.Generator().manual_seed(0)).double()
    )
    kept = lifted.mask[0]
    matrix = [exact(row) for row in Quadratic(lifted).matrix(multipliers, kept)]
    kappa = torch.zeros(len(kept), dtype=torch.float64)
    value = certified(lifted, multipliers[0], kappa, forms)
    assert 0 < value.error < 1e-4  # of multipliers around 1e6
    centre, radius = (exact(t[0]) for t in (lifted.centre, lifted.radius))
    g, above = torch.Generator().manual_seed(1), 0
    for _ in range(10):
        d = 0.6 * (torch.rand(3, generator=g, dtype=torch.float64) - 0.5)
        inputs = [p + q for p, q in zip(exact(x.flatten()), exact(d), strict=True)]
        one = [max(v, Fraction(0)) for v in affine(net.a, normalised(inputs))]
        two = [max(v, Fraction(0)) for v in affine(net.b, one)]
        margin = dot(exact(lifted.rows[0]), affine(net.c, two))
        own = zip(inputs + one + two, centre, radius, strict=True)
        y = [Fraction(1), *((v - c) / r for v, c, r in own if r)]
        assert all(abs(v) <= 1 for v in y)
        total = dot([dot(row, y) for row in matrix], y)
        assert total <= margin + Fraction(value.error)
        above += total > margin
    assert above


def test_first_order_bounds_have_an_error_and_are_never_below_propagation(case: Case) -> None:
    _, graph, x, y, _, _ = case
    about = Threat(Linf(), 0.4)
    found = sound_margins(graph, x, y, about, "sdp-fo", 5.0)
    best = sound_margins(graph, x, y, about, "best")
    assert bool((found.lower - found.error >= best.lower - best.error - 1e-15).all())
    assert bool((found.error > 0).all()) and float(found.error.max()) < 1e-9


@pytest.mark.parametrize("method", ["sdp", "lmi"])
def test_solvers_too(case: Case, method: str) -> None:
    pytest.importorskip("cvxpy", reason="the extra sdp is not installed")
    _, graph, x, y, _, _ = case
    found = sound_margins(graph, x, y, ABOUT, method, 20.0)
    whole = sound_margins(graph, x, y, ABOUT, "bab", 20.0)
    assert bool((found.error > 0).all()) and float(found.error.max()) < 1e-9
    assert bool((found.lower - found.error <= whole.lower + 1e-6).all()) or bool(
        (whole.lower > 0).all()
    )
