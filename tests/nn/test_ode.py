"""Neural ODEs against matrix exponentials, adjoint equations solved elsewhere, and closed forms."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from torch import Tensor, nn

from torchproof.core.asides import listening
from torchproof.core.errors import InputError, MissingExtra, UnknownName
from torchproof.nn.ode import ODEBlock, with_solver
from torchproof.nn.solvers import SOLVERS, Dopri5, grid, solver_of

ORDERS = {"euler": 1, "midpoint": 2, "rk4": 4}
every_order = pytest.mark.parametrize(("solver", "order"), ORDERS.items(), ids=list(ORDERS))


class Lambda(nn.Module):
    """A field from a function; counts how often it is asked."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.count = function, 0

    def forward(self, t: Any, z: Tensor) -> Tensor:
        self.count += 1
        return self.function(t, z)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


MATRIX = torch.tensor([[-0.4, 1.0, 0.2], [-1.0, -0.1, 0.0], [0.3, 0.0, 0.2]]).double()


def linear(t: Any, z: Tensor) -> Tensor:
    return z @ MATRIX.T


def orders_of(errors: Sequence[float]) -> list[float]:
    """log2 of successive ratios: the order, where h is halved."""
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


@every_order
def test_linear_odes_converge_at_the_order_of_the_solver(solver: str, order: int) -> None:
    start = numbers(4, 3)
    exact = start @ torch.from_numpy(expm(1.3 * MATRIX.numpy())).T
    errors = []
    for steps in (8, 16, 32, 64):
        block = ODEBlock(Lambda(linear), t_pred=1.3, h=1.3 / steps, solver=solver)
        errors.append(float((block(start) - exact).abs().max()))
    assert orders_of(errors)[-1] == pytest.approx(order, abs=0.1)
    assert errors[-1] < {"euler": 0.05, "midpoint": 1e-3, "rk4": 1e-8}[solver]


@every_order
def test_fields_of_time_converge_as_well(solver: str, order: int) -> None:
    """dz/dt = t z has the solution z exp(t^2 / 2): stages ask at the times they should."""
    start, errors = numbers(4, 3), []
    for steps in (8, 16, 32, 64):
        block = ODEBlock(Lambda(lambda t, z: t * z), h=1 / steps, solver=solver)
        errors.append(float((block(start) - math.exp(0.5) * start).abs().max()))
    assert orders_of(errors)[-1] == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("solver", ORDERS)
@pytest.mark.parametrize("h", [0.1, 0.3, 0.07, 2.0])
def test_the_times_asked_for_are_met_exactly(solver: str, h: float) -> None:
    """z moves with speed 1: z(T) - z(0) is the time that has passed."""
    block = ODEBlock(Lambda(lambda t, z: torch.ones_like(z)), 1.7, h, solver, ss_window=(0.9, 2.3))
    start = numbers(3, 2)
    with listening() as told:
        after = block(start)
    torch.testing.assert_close(after - start, torch.full_like(start, 1.7), rtol=0, atol=1e-12)
    torch.testing.assert_close(told["steady"][0], torch.full((3,), 1.4, dtype=torch.float64))
    assert torch.equal(block(start), after)  # whether or not somebody listens


def test_no_step_of_the_length_of_a_rounding_error() -> None:
    assert [len(list(grid(0.0, 1.0, 1 / n))) for n in range(1, 60)] == list(range(1, 60))
    assert [len(list(grid(0.9, 1.0, h))) for h in (0.1, 0.05, 0.03)] == [1, 2, 4]
    assert sum(step for _, step in grid(0.0, 1.0, 0.3)) == pytest.approx(1.0, abs=1e-15)
    assert list(grid(1.0, 1.0, 0.1)) == []


@every_order
def test_the_penalty_is_the_closed_form_on_a_linear_field(solver: str, order: int) -> None:
    """dz/dt = -z: the integral of |f| over [T, 2T] is |z(0)| (exp(-T) - exp(-2T))."""
    start = numbers(5, 2, 3, 3)
    exact = start.abs().mean((1, 2, 3)) * (math.exp(-0.8) - math.exp(-1.6))
    errors = []
    for steps in (4, 8, 16, 32):
        block = ODEBlock(Lambda(lambda t, z: -z), t_pred=0.8, h=0.8 / steps, solver=solver)
        with listening() as told:
            block(start)
        assert told["steady"][0].shape == (5,)
        errors.append(float((told["steady"][0] - exact).abs().max()))
    assert orders_of(errors)[-1] == pytest.approx(order, abs=0.1)
    assert errors[-1] < {"euler": 0.05, "midpoint": 1e-3, "rk4": 1e-8}[solver]


@pytest.mark.parametrize("solver", ORDERS)
def test_at_a_steady_state_the_penalty_is_zero(solver: str) -> None:
    block = ODEBlock(Lambda(lambda t, z: (z - 0.5) * 3), solver=solver)
    with listening() as told:
        answer = block(torch.full((4, 2, 3, 3), 0.5))
    assert torch.equal(told["steady"][0], torch.zeros(4)) and bool((answer == 0.5).all())
    with listening() as told:
        block(torch.stack([torch.full((2, 3, 3), v) for v in (0.5, 0.6, 0.5)]))
    assert [v > 0 for v in told["steady"][0].tolist()] == [False, True, False]


@pytest.mark.parametrize(("solver", "stages"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_the_window_costs_nothing_unless_somebody_listens(solver: str, stages: int) -> None:
    field = Lambda(lambda t, z: -z)
    block, start = ODEBlock(field, solver=solver), numbers(2, 3)
    block(start)
    assert field.count == 10 * stages
    with listening():
        block(start)
    assert field.count == (10 + 20) * stages
    field.count = 0
    early = ODEBlock(field, h=0.05, solver=solver, ss_window=(0.9, 1.5))
    early(start)
    assert field.count == 20 * stages
    with listening():
        early(start)
    assert field.count == (20 + 30) * stages


WEIGHT = np.random.default_rng(3).normal(size=(3, 3))


def test_gradients_by_backpropagation_are_those_of_the_adjoint_equation() -> None:
    """dz/dt = tanh(W z): scipy solves z forwards and da/dt = -(df/dz)^T a backwards, together with
    dW/dt = -(a sech^2) z^T.
    """
    start, cost = numbers(3).numpy(), numbers(3, seed=1).numpy()

    def forwards(t: float, z: Any) -> Any:
        return np.tanh(WEIGHT @ z)

    def backwards(t: float, state: Any) -> Any:
        z, a = state[:3], state[3:6]
        inner = np.tanh(WEIGHT @ z)
        pulled = a * (1 - inner**2)
        return np.concatenate([inner, -WEIGHT.T @ pulled, -np.outer(pulled, z).ravel()])

    precise: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-12, "method": "DOP853"}
    end = solve_ivp(forwards, (0, 1), start, **precise).y[:, -1]
    state = np.concatenate([end, cost, np.zeros(9)])
    solved = solve_ivp(backwards, (1, 0), state, **precise).y[:, -1]
    weight = torch.tensor(WEIGHT, requires_grad=True)
    z = torch.tensor(start[None], requires_grad=True)
    block = ODEBlock(Lambda(lambda t, z: torch.tanh(z @ weight.T)), h=0.01, solver="rk4")
    (block(z)[0] * torch.from_numpy(cost)).sum().backward()
    np.testing.assert_allclose(z.grad[0].numpy(), solved[3:6], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(weight.grad.numpy().ravel(), solved[6:], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("solver", ORDERS)
def test_gradients_are_those_of_finite_differences(solver: str) -> None:
    weight = torch.tensor(WEIGHT)

    def both(z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        field = Lambda(lambda t, z: torch.tanh(z @ weight.T) + t * z)
        with listening() as told:
            answer = ODEBlock(field, h=0.3, solver=solver)(z)
        return answer, told["steady"][0]

    inputs = (numbers(2, 3).requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradcheck(both, inputs)


@pytest.mark.parametrize("solver", ORDERS)
@pytest.mark.parametrize("seed", range(4))
def test_curves_in_one_dimension_do_not_cross_at_small_steps(solver: str, seed: int) -> None:
    """A random field with slopes of up to about 20, and h well below 1 / 20."""
    a, b, c = (numbers(8, seed=10 * seed + i) for i in range(3))

    def field(t: Any, z: Tensor) -> Tensor:
        return (torch.tanh(3 * a * z + b) * c).sum(1, keepdim=True)

    start = torch.linspace(-3, 3, 200, dtype=torch.float64)[:, None]
    after = ODEBlock(Lambda(field), h=0.005, solver=solver)(start)[:, 0]
    assert bool((after.diff() > 0).all())
    assert not torch.allclose(after, start[:, 0], atol=0.1)  # it does move


def test_curves_cross_at_large_steps() -> None:
    """What the order says of a flow, it does not say of one long step."""
    low, high = ODEBlock(Lambda(lambda t, z: -10 * z), h=1.0)(torch.tensor([[0.0], [1.0]]))
    assert low > high


def test_other_steps_of_the_same_network() -> None:
    net = nn.Sequential(ODEBlock(Lambda(linear), h=0.5), nn.Flatten())
    start = numbers(4, 3)
    exact = start @ torch.from_numpy(expm(MATRIX.numpy())).T
    before = net(start)
    finer, other = with_solver(net, h=0.5 / 64), with_solver(net, solver="rk4")
    errors = [float((n(start) - exact).abs().max()) for n in (net, finer, other)]
    assert errors[0] > 20 * errors[1] and errors[0] > 100 * errors[2]
    assert torch.equal(net(start), before)
    for wrong, word in (({"h": 0.0}, "h = 0"), ({"h": math.inf}, "h = inf")):
        with pytest.raises(InputError, match=word):
            with_solver(net, **wrong)
    with pytest.raises(InputError, match="without ODE blocks"):
        with_solver(nn.Flatten(), h=0.1)


def test_what_cannot_be_meant_is_refused() -> None:
    field = Lambda(linear)
    for wrong in (
        {"t_pred": 0}, {"t_pred": math.inf}, {"h": -0.1}, {"h": math.nan},
        {"ss_window": (1.0, 1.0)}, {"ss_window": (-1.0, 1.0)}, {"ss_window": (1.0,)},
        {"ss_window": (1.0, math.inf)},
    ):  # fmt: skip
        with pytest.raises(InputError):
            ODEBlock(field, **wrong)
    with pytest.raises(UnknownName, match="rk4"):
        ODEBlock(field, solver="rk5")
    with pytest.raises(InputError, match="a solver"):
        solver_of("3")
    assert "dopri5" in SOLVERS


def test_without_torchdiffeq_dopri5_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(MissingExtra, match="extra `ode`"):
        ODEBlock(Lambda(linear), solver="dopri5")


@pytest.fixture
def standing_in(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A torchdiffeq of many small Euler steps; how many rows it was asked about, call by call."""
    asked: list[int] = []

    def odeint(func: Any, state: Any, times: Tensor, *, rtol: float, **more: Any) -> Any:
        asked.append(len(state[0]))
        start, end = times.tolist()
        paths, steps = [[part] for part in state], 200
        for i in range(steps):
            slopes = func(torch.tensor(start + i * (end - start) / steps), state)
            state = tuple(s + k * (end - start) / steps for s, k in zip(state, slopes, strict=True))
        for path, part in zip(paths, state, strict=True):
            path.append(part)
        return tuple(torch.stack(path) for path in paths)

    package = ModuleType("torchdiffeq")
    package.odeint = odeint  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchdiffeq", package)
    return asked


def test_dopri5_is_asked_row_by_row(standing_in: list[int]) -> None:
    """What is handed to the package and taken from it, with a stand-in for it."""
    block = ODEBlock(Lambda(lambda t, z: -z), solver="dopri5(tolerance=1e-5)")
    start = numbers(3, 2, 2, 2)
    torch.testing.assert_close(block(start), math.exp(-1) * start, rtol=1e-2, atol=0)
    assert standing_in == [1, 1, 1]
    with listening() as told:
        block(start)
    exact = start.abs().mean((1, 2, 3)) * (math.exp(-1) - math.exp(-2))
    torch.testing.assert_close(told["steady"][0], exact, rtol=1e-2, atol=0)
    assert block(start[:0]).shape == (0, 2, 2, 2)


@pytest.mark.parametrize("adjoint", [False, True], ids=["backprop", "adjoint"])
def test_dopri5_of_torchdiffeq(adjoint: bool) -> None:
    pytest.importorskip("torchdiffeq", reason="the extra ode is not installed")
    solver = f"dopri5(tolerance=1e-7, adjoint={adjoint})"
    block = ODEBlock(Lambda(linear), t_pred=1.3, solver=solver, ss_window=(0.7, 2.0))
    start = numbers(4, 3).requires_grad_()
    whole = torch.from_numpy(expm(1.3 * MATRIX.numpy())).T
    with listening() as told:
        answer = block(start)
    torch.testing.assert_close(answer, start @ whole, rtol=1e-5, atol=1e-6)
    assert torch.equal(block(start), answer) and torch.equal(block(start[1:3]), answer[1:3])
    (gradient,) = torch.autograd.grad(answer.sum(), start)
    wanted = (torch.ones(4, 3, dtype=torch.float64) @ whole.T).detach()
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6)
    fine = ODEBlock(Lambda(linear), 1.3, 0.01, "rk4", (0.7, 2.0))
    with listening() as expected:
        fine(start)
    torch.testing.assert_close(told["steady"][0], expected["steady"][0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, math.inf, math.nan])
def test_tolerances_that_are_none(standing_in: list[int], tolerance: float) -> None:
    with pytest.raises(InputError, match="tolerance"):
        Dopri5(tolerance)
