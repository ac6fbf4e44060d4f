"""Limits on time end what they limit, and counterexamples met on the way are not lost.

The clock that limits look at shows CPU seconds here, so that a busy machine changes nothing.
"""

from __future__ import annotations

import itertools
import threading
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import scipy.optimize
import torch
from scipy.optimize import OptimizeResult
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat, parse
from torchproof.evaluate import certify
from torchproof.evaluate.propagation import Propagation
from torchproof.verify import graph_of, margins, zonotope
from torchproof.verify.bab import bab_margins
from torchproof.verify.clock import OutOfTime, attended
from torchproof.verify.lp import lp_margins
from torchproof.verify.methods import METHODS
from torchproof.verify.milp import milp_margins, milp_verify
from torchproof.verify.programme.example import prepared
from torchproof.verify.sound import sound_margins

UNTIMED = sorted(name for name, row in METHODS.items() if not row.timed)
THREAT = Threat(Linf(), 0.05)
PROGRAMMES = ("lp", "lp-full", "milp", "milp-ibp", "milp-alpha", "ai2", "k-relu", "refine-zono")


@pytest.fixture
def cpu_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=time.process_time)
    monkeypatch.setattr("torchproof.verify.clock.time", clock)


class Hard(nn.Module):
    """y_0 - y_1 = 0.01 everywhere: twice the same function less itself, which bounds see only once
    hundreds of neurons are split, and no search ever breaks.
    """

    def __init__(self, inputs: int = 20, width: int = 150) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.first, self.last = nn.Linear(inputs, 2 * width), nn.Linear(2 * width, 2)
        with torch.no_grad():
            weight, bias = torch.randn(width, inputs, generator=g), torch.randn(width, generator=g)
            self.first.weight.copy_(weight.repeat(2, 1))
            self.first.bias.copy_(bias.repeat(2))
            self.last.weight.zero_()
            self.last.weight[0, :width], self.last.weight[0, width:] = 1.0, -1.0
            self.last.bias.copy_(torch.tensor([0.01, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.last(self.first(x.flatten(1)).relu())
        return answer


@pytest.mark.usefixtures("cpu_clock")
def test_branch_and_bound_ends_at_its_limit() -> None:
    x = torch.full((1, 1, 4, 5), 0.5, dtype=torch.float64)
    graph = graph_of(Hard().double().eval().requires_grad_(False), x)  # tracing is not limited
    began = time.process_time()
    found = bab_margins(graph, x, torch.tensor([0]), Threat(Linf(), 0.4), time_limit=0.5)
    spent = time.process_time() - began
    assert -1e9 < float(found.lower) <= 0.01 and found.found == (None,)
    assert 0.45 <= spent <= 3.5


def test_no_method_is_without_a_limit() -> None:
    """Methods that take no limit of their own leave the batch undecided when it is over."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    given = (net, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), Threat(Linf(), 1e-4))
    traced = Propagation()._graphs  # of the one network, for all of them
    for method, sound in itertools.product(UNTIMED, (True, False)):
        found = Propagation(method, sound, 1e-6, traced).margins(*given)
        assert found.lower.shape == (2, 2) and bool((found.lower == -torch.inf).all()), method
        assert not bool((found.sure > 0).any())
        again = Propagation(method, sound, 60.0, traced).margins(*given)
        assert bool(again.lower.isfinite().all()), method


@pytest.mark.parametrize("sound", [True, False])
@pytest.mark.parametrize("method", PROGRAMMES)
def test_programmes_are_made_under_the_clock(
    method: str, sound: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit is over after so many looks at the clock here, but for the solvers. At once: nothing
    is known, but for the zonotope, which has no limit; at the last look: what came before.
    """
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(ticks)))
    monkeypatch.setattr("torchproof.verify.clock.time", clock)
    torch.manual_seed(5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(),
                        nn.Linear(5, 3)).double().eval().requires_grad_(False)  # fmt: skip
    for weight in net.parameters():
        weight.mul_(2)
    x = torch.rand(1, 1, 2, 2, dtype=torch.float64)
    given = (net, x, net(x).argmax(1), Threat(Linf(), 0.5))

    def bounds(looks: float) -> Tensor:
        return Propagation(method, sound, looks).margins(*given).sure

    began = next(ticks)
    whole = bounds(1e6)
    looks = next(ticks) - began - 1
    late, early = bounds(looks - 2.0), bounds(1.0)
    zonotope_ = method == "refine-zono"
    assert bool(late.isfinite().all()) and bool((late <= whole + 1e-9).all())
    assert bool((early == -torch.inf).all()) != zonotope_ and bool((early <= late).all())
    assert bool(((early if zonotope_ else late) < whole - 1e-6).any())


@pytest.mark.parametrize("method", ["lp", "milp-ibp"])
def test_a_solver_that_does_not_look_at_its_clock_is_not_waited_for(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What bounds knew before the programme is the answer."""
    go_on, asked = threading.Event(), threading.Event()

    def deaf(*args: Any, **options: Any) -> OptimizeResult:
        asked.set()
        go_on.wait(60)
        return OptimizeResult(status=4, x=None)

    monkeypatch.setattr(scipy.optimize, "linprog", deaf)
    x = torch.rand(1, 1, 4, 5)
    try:
        found = Propagation(method, False, 0.5).margins(Hard(), x, torch.tensor([0]), THREAT)
        assert asked.is_set() and not go_on.is_set()
    finally:
        go_on.set()
    known = Propagation("ibp", False).margins(Hard(), x, torch.tensor([0]), THREAT)
    assert found.sure.isfinite().all() and (found.sure >= known.sure - 1e-5).all()


def test_what_a_solver_raises_is_raised() -> None:
    def failing() -> None:
        raise InputError("a", "b", "c")

    with pytest.raises(InputError):
        attended(failing, 5.0)


def test_rows_that_were_made_in_time_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchproof.verify.programme.maps.BUDGET", 36)  # three rows of twelve
    made = []
    monkeypatch.setattr("torchproof.verify.programme.maps.look", lambda: made.append(None))
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 2)).double().eval()
    x = torch.rand(1, 1, 2, 2, dtype=torch.float64)
    whole, begun = prepared(net, x), prepared(net, x)
    name = whole.graph.inputs(whole.bends[0])[0]
    expected = whole.to(name)
    assert len(made) == 4

    def over() -> None:
        if len(made) == 6:
            raise OutOfTime
        made.append(None)

    monkeypatch.setattr("torchproof.verify.programme.maps.look", over)
    with pytest.raises(OutOfTime):
        begun.to(name)
    made.clear()
    found = begun.to(name)
    assert len(made) == 2  # of the four blocks two were there
    for source, part in expected.parts.items():
        assert bool((found.parts[source] != part).nnz == 0)


def test_an_undecided_batch_is_written_as_such() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    x = torch.rand(3, 1, 2, 2)
    found = certify(net, (x, net(x).argmax(1)), Threat(Linf(), 1e-4), "crown", timeout=1e-9)
    assert [row.status for row in found.examples] == ["undecided"] * 3
    assert all(row.margin is None for row in found.examples) and found.timeout == 1e-9


def test_counterexamples_of_branch_and_bound_are_broken() -> None:
    """Near the middle of a V the class changes within the threat, which the model itself says; far
    from it nothing does.
    """

    class Fold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zero = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            z = x.flatten(1) - 0.5 + self.zero
            depth = z.relu() + (-z).relu()
            return torch.cat([depth, torch.full_like(depth, 0.05)], 1)

    x = torch.tensor([0.95, 0.6, 0.52, 0.4]).view(4, 1, 1, 1)
    y = torch.tensor([0, 0, 0, 0])
    about = parse("linf:0.2")
    net = Fold().eval()
    found = certify(net, (x, y), about, "cascade", timeout=20)
    statuses = [row.status for row in found.examples]
    assert statuses == ["certified", "broken", "wrong", "broken"]
    net.requires_grad_(False)
    lower, _, inputs = bab_margins(net.double(), x.double(), y, about, time_limit=20.0)
    for row, at in enumerate(inputs):
        assert (at is None) == (row == 0)
        if at is not None:
            assert float((at - x[row]).abs().max()) <= 0.2 + 1e-6
            assert float(net(at[None])[0] @ torch.tensor([1.0, -1.0], dtype=at.dtype)) <= 0
    assert bool(lower[0] > 0) and bool((lower[1:] <= 0).all())


def test_a_counterexample_that_the_model_does_not_confirm_is_none() -> None:
    """A margin of 0 is found in float64, and the model keeps its class there: undecided."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zero = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            z = (x.flatten(1) - 0.5 + self.zero).relu()
            return torch.cat([z, torch.zeros_like(z)], 1)

    x = torch.full((1, 1, 1, 1), 0.6)
    found = certify(Tied().eval(), (x, torch.tensor([0])), parse("linf:0.2"), "cascade", timeout=5)
    assert found.examples[0].status == "undecided"


@pytest.mark.parametrize("value", [1.5, -0.5, 1.01])
def test_inputs_outside_the_pixel_box_are_refused(value: float) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double().eval()
    x, y = torch.full((1, 1, 2, 2), value, dtype=torch.float64), torch.tensor([0])
    about = parse("linf:0.1")
    graph, whole = graph_of(net, x), value == 1.5
    direct = (margins, bab_margins, lp_margins, milp_margins, zonotope.margins, sound_margins)
    asked = [partial(bounds, graph) for bounds in direct]
    if whole:
        asked += [partial(Propagation("lp", sound=False).margins, net), partial(milp_verify, net)]
        asked += [partial(row, graph) for row in METHODS.values() if not row.extra]
    for bounds in asked:
        with pytest.raises(InputError, match=r"pixel box \[0, 1\]"):
            bounds(x, y, about)
    wide = Threat(Linf(), 0.1, low=-2.0, high=2.0)
    assert bool(margins(net, x, y, wide).isfinite().all())
    assert bool(margins(net, x.clamp(0, 1 + 1e-7), y, about).isfinite().all())
