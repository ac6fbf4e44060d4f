"""TisODE against penalties measured by hand, on networks with blocks that are written out here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.asides import heard, listening, tell
from torchproof.core.errors import InputError, ModelError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.train import AT, AWP, THRM, TRADES, Batch, Method, Standard, TisODE, fit
from torchproof.train.method import layers

Make = Callable[..., Any]
THREAT = Threat(Linf(), 0.1)


class Drift(nn.Module):
    """One Euler step of dz/dt = tanh(W z); tells the mean speed after it, and counts how often it
    was asked and listened to.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.flow = nn.Linear(width, width)
        self.asked = self.listened = 0

    def forward(self, z: Tensor) -> Tensor:
        after: Tensor = z + torch.tanh(self.flow(z))
        self.asked += 1
        if heard():
            self.listened += 1
            tell("steady", torch.tanh(self.flow(after)).abs().mean(1))
        return after


def network(blocks: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = [Drift(9) for _ in range(blocks)]
        return nn.Sequential(nn.Flatten(), *parts, nn.Linear(9, 3)).double()


def images(n: int = 20, progress: float = 0.5) -> Batch:
    g = torch.Generator().manual_seed(1)
    x = torch.rand(n, 1, 3, 3, generator=g, dtype=torch.float64)
    return Batch(x, torch.randint(3, (n,), generator=g), torch.arange(n), progress, 3)


def penalty(net: nn.Module, x: Tensor) -> Tensor:
    """Mean over the blocks, by hand."""
    z, total = x.flatten(1), x.new_zeros(len(x))
    blocks = [part for part in net if isinstance(part, Drift)]
    for block in blocks:
        z = z + torch.tanh(block.flow(z))
        total = total + torch.tanh(block.flow(z)).abs().mean(1)
    return total / len(blocks)


INNER: dict[str, Method] = {
    "Standard": Standard(),
    "AT": AT(THREAT, steps=3),
    "TRADES": TRADES(THREAT, steps=3),
    "THRM": THRM(THREAT, steps=3),  # sends x and x' through in one pass
}
every_inner = pytest.mark.parametrize("inner", INNER.values(), ids=INNER)


@every_inner
@pytest.mark.parametrize("blocks", [1, 2])
def test_the_penalty_is_added_in_the_passes_of_the_inner_method(inner: Method, blocks: int) -> None:
    net, b = network(blocks), images()
    how = TisODE(inner, lam=0.7)
    ready = how.prepare(net, b)
    plain = inner.losses(net, inner.prepare(net, b))
    seen = {"Standard": [b.x], "AT": [ready.adv]}.get(type(inner).__name__, [b.x, ready.adv])
    wanted = plain + 0.7 * torch.stack([penalty(net, x) for x in seen]).mean(0)
    torch.testing.assert_close(how.losses(net, ready), wanted)


@every_inner
def test_without_weight_or_before_its_time_it_is_the_inner_method(inner: Method) -> None:
    net = network()
    for how, progress in ((TisODE(inner, lam=0), 0.5), (TisODE(inner, lam=9, start=0.4), 0.39)):
        b = images(progress=progress)
        ready, plain = how.prepare(net, b), inner.prepare(net, b)
        assert (ready.adv is None) == (plain.adv is None)
        assert ready.adv is None or torch.equal(ready.adv, plain.adv)
        net[1].listened = 0
        losses = how.losses(net, ready)
        assert net[1].listened == 0 and torch.equal(losses, inner.losses(net, plain))
    late = TisODE(inner, lam=9, start=0.4)
    ready = late.prepare(net, images(progress=0.4))
    assert bool((late.losses(net, ready) > inner.losses(net, ready)).all())


def test_a_run_without_weight_is_a_run_of_the_inner_method(data: Make, settings: Make) -> None:
    runs = []
    for how in (TisODE(AT(THREAT, steps=2), lam=0), AT(THREAT, steps=2)):
        net = network()
        records = list(fit(net, data(), how, settings()))
        runs.append((records[-1].loss, [p.clone() for p in net.parameters()]))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


def test_the_penalty_brings_the_flow_to_rest(data: Make, settings: Make) -> None:
    """And its figure is in the record of every epoch."""
    last = {}
    for lam in (0.0, 5.0):
        net = network()
        how = TisODE(Standard(), lam=lam, start=0)
        records = list(fit(net, data(), how, settings(epochs=12, optimiser="adam", lr=0.02)))
        figures = [record.figures["steady"] for record in records]
        assert all(0 < value < 1 for value in figures)
        last[lam] = figures[-1]
    assert last[5.0] < 0.5 * last[0.0]


def test_the_figure_is_measured_on_the_first_images_as_they_are() -> None:
    net, b = network(), images(20)
    ready = TisODE(AT(THREAT, steps=2)).prepare(net, b)
    wanted = penalty(net, b.x[:16]).mean().detach()
    torch.testing.assert_close(ready.noted["steady"], wanted.expand(20))
    plain = AT(THREAT, steps=2).prepare(net, b)
    assert ready.spent == (plain.spent[0] + 16, plain.spent[1])


def test_attacks_do_not_go_through_the_window() -> None:
    net = network()
    TisODE(AT(THREAT, steps=5)).prepare(net, images())
    assert net[1].listened == 1 and net[1].asked > 5


def test_who_listens_outside_hears_as_before() -> None:
    net, b = network(), images()
    how = TisODE(Standard())
    ready = how.prepare(net, b)
    with listening() as told:
        how.losses(net, ready)
    assert len(told["steady"]) == 1
    torch.testing.assert_close(told["steady"][0], penalty(net, b.x))


def test_it_stands_inside_other_wrappers() -> None:
    how = AWP(TisODE(AT(THREAT, steps=2)))
    assert [type(part) for _, part in layers(how)] == [AWP, TisODE, AT]
    net, b = network(), images()
    ready = how.prepare(net, b)
    assert ready.shift is not None and bool(ready.noted["steady"][0] > 0)
    assert TisODE(TRADES(THREAT)).threat == THREAT and TisODE(TRADES(THREAT)).passes == 2


def test_networks_without_ode_blocks_are_refused_before_the_first_epoch(
    data: Make, settings: Make, network: Make
) -> None:
    with pytest.raises(ModelError, match="ODE blocks"):
        list(fit(network(), data(), TisODE(Standard()), settings()))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).double()
    with pytest.raises(ModelError, match="ODE blocks"):
        TisODE(Standard()).losses(flat, replace(images(), progress=0.9))


@pytest.mark.parametrize(
    "wrong",
    [{"lam": -1.0}, {"lam": float("inf")}, {"lam": float("nan")}, {"start": 1.0}, {"start": -0.1}],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="usual values"):
        TisODE(Standard(), **wrong)
