"""Bounds that are renewed in the parts of branch and bound."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from torchproof.verify import graph_of
from torchproof.verify.bab import ROOT
from torchproof.verify.bounds import Pass
from torchproof.verify.hinge_bounds import Bounder
from torchproof.verify.hinge_parts import Neurons
from torchproof.verify.hinge_renewal import Renewal
from torchproof.verify.inputs import InputSet
from torchproof.verify.relu_split import split_hinges

D = torch.float64
LOW, HIGH = torch.full((4,), -0.8, dtype=D), torch.full((4,), 0.8, dtype=D)


def passed_of(activation: type[nn.Module]) -> tuple[nn.Sequential, Pass]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers: list[nn.Module] = []
        for one, two in itertools.pairwise((4, 12, 12, 12, 2)):
            layers += [nn.Linear(one, two), activation()]
    net = nn.Sequential(*layers[:-1]).double().eval().requires_grad_(False)
    with torch.no_grad():
        return net, Pass.of(graph_of(net, LOW[None]), InputSet.between(LOW[None], HIGH[None]),
                            ROOT[1])  # fmt: skip


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU])
def test_what_is_renewed_holds_in_its_part_and_is_narrower(activation: type[nn.Module]) -> None:
    net, passed = passed_of(activation)
    neurons = Neurons.of(passed)
    row = torch.tensor([[[1.0, -1.0]]], dtype=D)
    bounder = Bounder(neurons, passed.walk.inside, row, torch.zeros(1, 1, dtype=D), walked=10**6)
    x = LOW + 1.6 * torch.rand(20_000, 4, dtype=D, generator=torch.Generator().manual_seed(0))
    values = passed.walk.graph.run(x)
    reads = neurons.gathered({p.node: values[p.before] for p in neurons.pieces})
    first = neurons.pieces[0].where
    root = bounder.root()
    parts = root.take(torch.zeros(6, dtype=torch.long))
    for i in range(6):  # the signs that a sample has in the first layer
        parts.signs[i, first] = reads[i, first].sign().to(torch.int8)
    before = parts.copy()
    Renewal(bounder).renew(parts)
    assert bool((parts.low >= before.low).all() and (parts.high <= before.high).all())
    later = slice(first.stop, None)
    assert float((parts.high - parts.low)[:, later].sum()) < 0.8 * float(
        (before.high - before.low)[:, later].sum()
    )
    for i in range(6):
        inside = reads[:, (before.signs[i] != 0)].sign() == before.signs[i][before.signs[i] != 0]
        own = reads[inside.all(1)]
        assert len(own), "the sample itself is there"
        assert bool((own >= parts.low[i] - 1e-9).all() and (own <= parts.high[i] + 1e-9).all())
        assert bool((own * parts.signs[i] >= -1e-9).all())
        bound = float(bounder.quick(parts.take(slice(i, i + 1))).lower)
        below = net(x[inside.all(1)]) @ row[0, 0]
        assert float(below.min()) >= bound - 1e-9
        assert bound > float(bounder.quick(before.take(slice(i, i + 1))).lower)


def test_no_more_rows_than_its_share() -> None:
    """With nothing bounded yet, nothing is renewed; the oldest parts come first."""
    _, passed = passed_of(nn.ReLU)
    row = torch.tensor([[[1.0, -1.0]]], dtype=D)
    bounder = Bounder(Neurons.of(passed), passed.walk.inside, row, torch.zeros(1, 1, dtype=D))
    parts = bounder.root().take(torch.zeros(3, dtype=torch.long))
    parts.age += torch.tensor([1, 3, 2])
    renewal = Renewal(bounder)
    renewal.renew(parts)
    assert renewal.walked == 0 and parts.age.tolist() == [1, 3, 2]
    bounder.walked = 20
    renewal.renew(parts)
    assert 0 < renewal.walked <= 60 and parts.age.tolist() == [1, 0, 2]


def test_verdicts_are_those_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the least of a grid nothing is found, in fewer parts than without renewal."""
    net, passed = passed_of(nn.ReLU)
    axis = torch.linspace(-0.8, 0.8, 25, dtype=D)
    row = torch.tensor([1.0, -1.0], dtype=D)
    least = float((net(torch.cartesian_prod(axis, axis, axis, axis)) @ row).min())
    limits = [torch.tensor([least - 0.02], dtype=D)]
    found = split_hinges(passed, [row[None]], limits, 60)
    monkeypatch.setattr("torchproof.verify.hinge_renewal.SHARE", 0)
    plain = split_hinges(passed, [row[None]], limits, 60)
    assert found.verdict == plain.verdict == "unsat"
    assert found.parts < plain.parts
