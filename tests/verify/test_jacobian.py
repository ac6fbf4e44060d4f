"""Derivatives, everywhere in a ball: of single operations, and of networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import ModelError
from torchproof.core.norms import Linf
from torchproof.verify.graph import Graph, Node
from torchproof.verify.interval import Interval
from torchproof.verify.lipschitz.jacobian import Steepness, ball
from torchproof.verify.lipschitz.recur_jac import largest as by_recursion
from torchproof.verify.lipschitz.slopes import slopes, steepest
from torchproof.verify.operators import RELAXED
from torchproof.verify.relax import Curve, Product

Load = Callable[[str], tuple[nn.Module, Tensor, dict[str, np.ndarray], Graph]]


@pytest.mark.parametrize(
    "name", ["attention", "conv_maxpool_overlap", "layernorm", "residual", "mlp_hardtanh"]
)
def test_jacobians_lie_within(golden: Load, name: str) -> None:
    """At random points of a ball, by autograd; by both kinds of walk."""
    net, x, _, graph = golden(name)
    eps = torch.full((len(x),), 0.03)
    steepness = Steepness.of(graph, ball(x, Linf(), eps), "best")
    rows = torch.eye(5).repeat(len(x), 1)
    example = torch.arange(len(x)).repeat_interleave(5)
    found = steepness.at_input(rows, example)
    sizes = [by_recursion(steepness, rows, example, chords=c) for c in (False, True)]
    assert bool((sizes[0] <= torch.maximum(found.lower.abs(), found.upper.abs()) + 1e-5).all())
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        with torch.enable_grad():
            noise = 2 * torch.rand(x.shape, generator=generator) - 1
            at = (x + 0.03 * noise.sign() * noise.abs() ** 0.1).requires_grad_()
            z = net(at)
            slope = torch.stack([torch.autograd.grad(z[:, k].sum(), at, retain_graph=True)[0]
                                 for k in range(5)], 1).flatten(0, 1)  # fmt: skip
        scale = 1e-5 * (1 + slope.abs())
        assert bool((slope >= found.lower - scale).all() and (slope <= found.upper + scale).all())
        for size in sizes:
            assert bool((slope.abs() <= size + scale).all())


ARGUMENTS = {
    "clamp": (-0.5, 1.0), "clamp_min": (0.2,), "clamp_max": (1.0,), "prelu": (torch.tensor(0.3),),
    "power": (3,),
}  # fmt: skip


def test_slopes_hold_every_derivative() -> None:
    """Of every function of one variable in the tables, on a fine grid."""
    generator = torch.Generator().manual_seed(3)
    for kind, maker in RELAXED.items():
        known = maker(*ARGUMENTS.get(kind, ()))
        if not isinstance(known, Curve) and kind not in ("relu", "leaky_relu", "prelu"):
            continue
        low = torch.randn(30, generator=generator, dtype=torch.float64) * 2
        low = low.abs() + 0.1 if known.bounded else low
        z = Interval(low, low + 2 * torch.rand(30, generator=generator, dtype=torch.float64))
        (found,) = slopes(known, [z])
        share = torch.linspace(0, 1, 801, dtype=torch.float64)[:, None]
        grid = z.lower + share * z.width
        curve = isinstance(known, Curve)
        value = known.function(grid) if curve else known.range([Interval(grid, grid)]).lower
        slope = (value[1:] - value[:-1]) / (grid[1:] - grid[:-1])
        assert bool((slope >= found.lower - 1e-6).all() and (slope <= found.upper + 1e-6).all()), (
            kind
        )


def test_global_slopes() -> None:
    node, like = Node("z", "mul", torch.mul, (), "here"), torch.zeros(1, 2, 1, 1)
    expected = {"sigmoid": 0.25, "tanh": 1.0, "relu": 1.0, "softplus": 1.0, "gelu": 1.1289,
                "silu": 1.0998, "abs": 1.0, "hardsigmoid": 1 / 6, "hardswish": 1.5}  # fmt: skip
    for kind, value in expected.items():
        assert steepest(RELAXED[kind](), node, like) == pytest.approx(value, abs=1e-4), kind
    apart = RELAXED["prelu"](torch.tensor([-3.0, 2.0], dtype=torch.float64).view(1, 2, 1, 1))
    assert steepest(apart, node, like) == 3.0
    for kind in ("exp", "square", "log", "sqrt", "reciprocal"):
        with pytest.raises(ModelError, match="no Lipschitz constant"):
            steepest(RELAXED[kind](), node, like)
    with pytest.raises(ModelError, match="no Lipschitz constant"):
        steepest(Product(), node, like)
