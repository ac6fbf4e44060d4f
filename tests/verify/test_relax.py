"""Lines that hold, and that touch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import ModelError
from torchproof.verify.interval import Interval
from torchproof.verify.operators import RELAXED
from torchproof.verify.relax import Curve, Hinge, Largest, Product

# kind -> arguments, the function, and where it is defined
FUNCTIONS = {
    "relu": ((), F.relu), "leaky_relu": ((0.1,), lambda z: F.leaky_relu(z, 0.1)),
    "sigmoid": ((), torch.sigmoid), "tanh": ((), torch.tanh), "atan": ((), torch.atan),
    "erf": ((), torch.erf), "gelu": ((), F.gelu),
    "gelu_tanh": ((), lambda z: F.gelu(z, approximate="tanh")),
    "silu": ((), F.silu), "mish": ((), F.mish),
    "elu": ((), F.elu), "celu": ((0.5,), lambda z: F.celu(z, 0.5)), "selu": ((), F.selu),
    "softplus": ((2.0, 20.0), lambda z: F.softplus(z, 2.0)), "log_sigmoid": ((), F.logsigmoid),
    "hardtanh": ((), F.hardtanh), "relu6": ((), F.relu6),
    "clamp": ((-0.3, 0.8), lambda z: z.clamp(-0.3, 0.8)),
    "clamp_min": ((0.2,), lambda z: z.clamp_min(0.2)),
    "clamp_max": ((0.2,), lambda z: z.clamp_max(0.2)),
    "hardswish": ((), F.hardswish), "hardsigmoid": ((), F.hardsigmoid), "abs": ((), torch.abs),
    "square": ((), torch.square), "power": ((3,), lambda z: z**3),
    "exp": ((), torch.exp), "log": ((), torch.log),
    "sqrt": ((), torch.sqrt), "rsqrt": ((), torch.rsqrt), "reciprocal": ((), torch.reciprocal),
}  # fmt: skip
POSITIVE = {"log", "sqrt", "rsqrt", "reciprocal"}
STEPS = torch.linspace(0, 1, 201, dtype=torch.float64)


def intervals(positive: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    middle = 3 * torch.randn(60, generator=generator, dtype=torch.float64)
    width = 4 * torch.rand(60, generator=generator, dtype=torch.float64) ** 2
    start, end = middle - width, middle + width
    if positive:
        start, end = start.abs() + 0.05, start.abs() + 0.05 + 2 * width
    # a point, and the edges of the pieces
    more = torch.tensor([0.3, 3.0 if positive else -3.0, 0.5], dtype=torch.float64)
    more_end = torch.tensor([0.3, 6.0, 6.5], dtype=torch.float64)
    return torch.cat([start, more]), torch.cat([end, more_end])


def test_every_row_is_tried() -> None:
    assert {*FUNCTIONS, "prelu", "row_max"} == set(RELAXED)


@pytest.mark.parametrize("kind", sorted(FUNCTIONS))
def test_lines_hold_and_touch(kind: str) -> None:
    arguments, function = FUNCTIONS[kind]
    known = RELAXED[kind](*arguments)
    start, end = intervals(kind in POSITIVE)
    low, low_at, high, high_at = known.lines([Interval(start, end)])
    z = start + (end - start) * STEPS[:, None]
    value = function(z)
    below, above = value - (low[0] * z + low_at), high[0] * z + high_at - value
    assert float(below.min()) > -1e-9 and float(above.min()) > -1e-9
    assert float(below.amin(0).max()) < 1e-3 * (1 + value.abs().max()), "a lower line far away"
    assert float(above.amin(0).max()) < 1e-3 * (1 + value.abs().max()), "an upper line far away"
    found = known.range([Interval(start, end)])
    assert bool((found.lower <= value.amin(0) + 1e-12).all())
    assert bool((found.upper >= value.amax(0) - 1e-12).all())
    assert torch.allclose(found.lower, value.amin(0), atol=0.05, rtol=0.01)
    assert torch.allclose(found.upper, value.amax(0), atol=0.05, rtol=0.01)


@pytest.mark.parametrize("kind", ["sigmoid", "tanh", "gelu", "silu", "softplus", "exp"])
def test_lines_leave_the_least_area(kind: str) -> None:
    """Against every slope of a grid, each with its tight intercept."""
    arguments, function = FUNCTIONS[kind]
    start, end = intervals(False)
    middle = (start + end) / 2
    low, low_at, high, high_at = RELAXED[kind](*arguments).lines([Interval(start, end)])
    z = start + (end - start) * STEPS[:, None]
    slopes = torch.linspace(-0.5, 1.5, 401, dtype=torch.float64)
    if kind == "exp":
        slopes = slopes.exp() * function(middle).max()
    rest = function(z)[None] - slopes[:, None, None] * z
    best_low = (rest.amin(1) + slopes[:, None] * middle).amax(0)
    best_high = (rest.amax(1) + slopes[:, None] * middle).amin(0)
    slack = 1e-3 * (1 + function(z).abs().amax(0))
    assert bool((low[0] * middle + low_at >= best_low - slack).all())
    assert bool((high[0] * middle + high_at <= best_high + slack).all())


def test_hinges_as_published() -> None:
    start = torch.tensor([-1.0, -3.0, 1.0, -2.0])
    end = torch.tensor([3.0, 1.0, 2.0, -1.0])
    low, low_at, high, high_at = Hinge().lines([Interval(start, end)])
    assert low[0].tolist() == [1, 0, 1, 0] and low_at.tolist() == [0, 0, 0, 0]
    assert high[0].tolist() == [0.75, 0.25, 1, 0] and high_at.tolist() == [0.75, 0.75, 0, 0]
    parallel = Hinge(parallel=True).lines([Interval(start, end)])
    assert parallel.low[0].tolist() == [0.75, 0.25, 1, 0]


def test_a_function_is_not_asked_outside_its_domain() -> None:
    where = Interval(torch.tensor([-0.1]), torch.tensor([1.0]))
    with pytest.raises(ModelError, match=r"-0\.1 before a function that is defined above 0"):
        Curve(torch.log, above=0.0).lines([where])


def test_products_within_their_planes() -> None:
    generator = torch.Generator().manual_seed(1)
    ends = torch.randn(4, 50, generator=generator, dtype=torch.float64)
    x = Interval(torch.minimum(ends[0], ends[1]), torch.maximum(ends[0], ends[1]))
    y = Interval(torch.minimum(ends[2], ends[3]), torch.maximum(ends[2], ends[3]))
    low, low_at, high, high_at = Product().lines([x, y])
    found = Product().range([x, y])
    for s in STEPS[::20]:
        for t in STEPS[::20]:
            a, b = x.lower + s * x.width, y.lower + t * y.width
            assert bool((low[0] * a + low[1] * b + low_at <= a * b + 1e-12).all())
            assert bool((high[0] * a + high[1] * b + high_at >= a * b - 1e-12).all())
            assert bool(
                (found.lower <= a * b + 1e-12).all() and (found.upper >= a * b - 1e-12).all()
            )


@pytest.mark.parametrize("kind", sorted(POSITIVE))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_asked_below_a_domain(kind: str, dtype: torch.dtype) -> None:
    """Wide intervals that begin close to the end of the domain, where places are rounded."""
    start = torch.tensor([1e-6, 1e-5, 1e-3, 1e-9, 1e-20], dtype=dtype)
    end = torch.tensor([700.0, 5000.0, 1e5, 1.0, 1.0], dtype=dtype)
    low, low_at, high, high_at = RELAXED[kind]().lines([Interval(start, end)])
    assert all(bool(t.isfinite().all()) for t in (low[0], low_at, high[0], high_at))
    z = (start + (end - start) * STEPS.to(dtype)[:, None]).clamp(start, end)
    value = FUNCTIONS[kind][1](z)
    noise = 16 * torch.finfo(dtype).eps * (value.abs() + (low[0].abs() + high[0].abs()) * z)
    assert bool((low[0] * z + low_at <= value + noise).all())
    assert bool((value <= high[0] * z + high_at + noise).all())


@pytest.mark.parametrize("kind", sorted(FUNCTIONS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_intervals_of_a_few_floats(kind: str, dtype: torch.dtype) -> None:
    """A line is as near to the function there as rounding lets it be."""
    arguments, function = FUNCTIONS[kind]
    generator = torch.Generator().manual_seed(5)
    start = 3 * torch.randn(400, generator=generator, dtype=dtype)
    start = torch.cat([start, torch.tensor([0.8269648551940918, 3.09, -3.335], dtype=dtype)])
    start = start.abs() + 0.05 if kind in POSITIVE else start
    end, eps = start, torch.finfo(dtype).eps
    for _ in range(4):
        at = start.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(at).sum(), at)
        low, low_at, high, high_at = RELAXED[kind](*arguments).lines([Interval(start, end)])
        for z in (start, end):
            value = function(z)
            noise = 64 * eps * (1 + value.abs() + (1 + slope.abs()) * (1 + z.abs()))
            below, above = value - (low[0] * z + low_at), high[0] * z + high_at - value
            for off in (below, above):
                assert bool((off.abs() <= noise).all()), (start[off.abs() > noise], off.abs().max())
        end = torch.nextafter(end, torch.full_like(end, torch.inf))


@pytest.mark.parametrize(
    ("beta", "threshold"), [(1, 1), (1, -2), (3, 0.5), (-1, 0.5), (-2, 3), (1, -800), (1, 20)]
)
def test_a_softplus_that_jumps_is_still_within_its_bounds(beta: float, threshold: float) -> None:
    known, jump = RELAXED["softplus"](beta, threshold), threshold / beta
    generator = torch.Generator().manual_seed(6)
    for width in (0.1, 3.0, 8.0):
        start = jump + width * (2 * torch.rand(40, 1, generator=generator).double() - 1.5)
        end = start + width
        z = torch.cat([start + width * STEPS, torch.full_like(start, jump).clamp(start, end)], 1)
        value, at = F.softplus(z, beta, threshold), Interval(start, end)
        low, low_at, high, high_at = known.lines([at])
        room = 1e-9 * (1 + value.abs().max())
        assert bool((low[0] * z + low_at <= value + room).all())
        assert bool((high[0] * z + high_at >= value - room).all())
        known_range = known.range([at])
        assert bool((known_range.lower <= value + room).all())
        assert bool((known_range.upper >= value - room).all())
        aside = (end < jump - 1e-6) | (start > jump + 1e-6)
        tight = known_range.width <= value.amax(1, True) - value.amin(1, True) + 1e-6
        assert bool(aside.any()) and bool(tight[aside].all()), "nothing is lost beside the jump"


def test_maxima_within_their_planes() -> None:
    generator = torch.Generator().manual_seed(2)
    middle = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    width = torch.rand(40, 5, generator=generator, dtype=torch.float64)
    where = Interval(middle - width, middle + width)
    low, low_at, high, high_at = Largest().lines([where])
    for seed in range(40):
        share = torch.rand(40, 5, generator=generator.manual_seed(seed), dtype=torch.float64)
        x = (
            where.lower + share.round() * where.width
            if seed % 2
            else where.lower + share * where.width
        )
        top = x.amax(1)
        assert bool(((low[0] * x).sum(1) + low_at <= top + 1e-12).all())
        assert bool(((high[0] * x).sum(1) + high_at >= top - 1e-12).all())
    slanted = Largest().slanted([where])
    centre = (high[0] * middle).sum(1) + high_at
    before = (slanted.high[0] * middle).sum(1) + slanted.high_at
    flat = (high[0] == 0).all(1)
    assert bool(flat.any()) and torch.equal(high_at[flat], where.upper.amax(1)[flat])
    assert bool((centre <= before + 1e-12).all() and (centre[flat] < before[flat]).all())
    sure = Interval(torch.tensor([[3.0, 0.0]]), torch.tensor([[4.0, 1.0]]))
    low, low_at, high, high_at = Largest().lines([sure])
    assert low[0].tolist() == high[0].tolist() == [[1, 0]] and low_at == high_at == 0


def test_leaky_slopes_of_any_sign() -> None:
    z = Interval(torch.tensor([-2.0]), torch.tensor([3.0]))
    for slope in (-0.5, 1.5):
        known = RELAXED["leaky_relu"](slope)
        low, low_at, high, high_at = known.lines([z])
        points = torch.linspace(-2, 3, 101)
        value = F.leaky_relu(points, slope)
        assert bool((low[0] * points + low_at <= value + 1e-5).all())
        assert bool((high[0] * points + high_at >= value - 1e-5).all())
    assert isinstance(RELAXED["prelu"](nn.PReLU(3).weight.view(1, 3)), Hinge)


@pytest.mark.parametrize("kind", ["square", "selu", "elu", "softplus", "gelu", "abs"])
@pytest.mark.parametrize("size", [1e6, 1e9, 1e12])
def test_lines_hold_on_huge_intervals(kind: str, size: float) -> None:
    """The bends are in a part of the interval that halving it often does not find."""
    arguments, function = FUNCTIONS[kind]
    known = RELAXED[kind](*arguments)
    at = Interval(-size * (1 - STEPS), size * (0.1 + 0.7 * STEPS))
    low, low_at, high, high_at = known.lines([at])
    near = torch.cat([STEPS * 20 - 10, at.lower, at.upper])[:, None]
    z = near.clamp(at.lower, at.upper)
    value, answer = function(z), known.range([at])
    noise = 1e-14 * (value.abs() + ((low[0].abs() + high[0].abs()) * z.abs()))
    for bottom, top in ((low[0] * z + low_at, high[0] * z + high_at), (answer.lower, answer.upper)):
        assert bool((bottom <= value + noise).all()) and bool((value <= top + noise).all())
