"""Zonotopes that hold every answer, and are those of the paper where the paper has them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.verify import BOUNDS, graph_of
from torchproof.verify import margins as propagated
from torchproof.verify.bounds import Pass
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet
from torchproof.verify.interval import Interval
from torchproof.verify.relax import Curve, Hinge, Largest, Product, Relaxation
from torchproof.verify.strips import strip
from torchproof.verify.zonotope import Sweep, columns, margins

Tried = Callable[[nn.Module, Tensor, Threat, int], Tensor]
Load = Callable[[str], tuple[nn.Module, Tensor, dict[str, np.ndarray], Graph]]
About = Callable[[str, bool], Threat]
NOISE = 2e-5  # of float32 sums


def answers(sweep: Sweep, count: int) -> tuple[Tensor, Tensor]:
    rows = torch.cat([torch.eye(5), -torch.eye(5)]).expand(count, -1, -1)
    found = sweep.lower(rows.to(sweep.inside.x))
    return found[:, :5], -found[:, 5:]


def test_nothing_escapes(golden: Load, every_net: str, threat: About, tried: Tried) -> None:
    net, x, _, graph = golden(every_net)
    for norm, box in (("inf", False), ("2", True), ("1", False), ("0", True)):
        about, inner = threat(norm, box), x.clamp(0, 1) if box else x
        inside = InputSet.of(inner, about)
        lower, upper = answers(Sweep.of(graph, inside, meet=box), len(x))
        z = net(tried(net, inner, about, 10)).view(-1, *lower.shape)
        assert bool((z >= lower - NOISE).all() and (z <= upper + NOISE).all()), (norm, box)


def test_exact_on_affine_layers(threat: About) -> None:
    """Of several, the least value over ball and box, as walks back find it (whose exactness is
    tested beside them); of one, in Linf, the interval itself.
    """
    torch.manual_seed(0)
    several = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 4)).double().eval()
    x, y = torch.rand(3, 2, 4, 4, dtype=torch.float64), torch.tensor([0, 3, 1])
    graph = graph_of(several, x)
    for norm in ("inf", "2", "1", "0"):
        about = threat(norm, True)
        expected = propagated(graph, x, y, about, "crown")
        assert torch.allclose(margins(graph, x, y, about), expected, atol=1e-10), norm
    one = nn.Sequential(nn.Flatten(), nn.Linear(32, 4)).double().eval().requires_grad_(False)
    weight, bias = one[1].weight, one[1].bias
    least = x.flatten(1) @ weight.T + bias - 0.05 * weight.abs().sum(1)
    sweep = Sweep.of(graph_of(one, x), InputSet.of(x, threat("inf", False)))
    rows = torch.eye(4, dtype=torch.float64).expand(3, -1, -1)
    assert torch.allclose(sweep.lower(rows), least, atol=1e-12)


def deep_z(weights: list[Tensor], biases: list[Tensor], x: Tensor, eps: float) -> Tensor:
    """(2, K) bounds of a ReLU network by the formulas of Singh et al. 2018, with lists of columns;
    x (D,), weights (out, in).
    """
    centre, noise = x, [eps * unit for unit in torch.eye(len(x), dtype=x.dtype)]
    for depth, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        centre, noise = weight @ centre + bias, [weight @ column for column in noise]
        if depth == len(weights) - 1:
            break
        fresh = []
        for i in range(len(centre)):
            radius = float(sum(abs(column[i]) for column in noise))
            low, high = float(centre[i]) - radius, float(centre[i]) + radius
            slope = 1.0 if low >= 0 else 0.0 if high <= 0 else high / (high - low)
            shift = -high * low / (2 * (high - low)) if low < 0 < high else 0.0
            centre[i] = slope * centre[i] + shift
            for column in noise:
                column[i] = slope * column[i]
            unit = torch.zeros_like(centre)
            unit[i] = shift
            fresh.append(unit)
        noise += fresh
    radius_all = torch.stack(noise).abs().sum(0)
    return torch.stack([centre - radius_all, centre + radius_all])


def test_the_zonotope_of_the_paper_on_relu(golden: Load, threat: About) -> None:
    """Equal to a naive DeepZ; on a chain of layers it is Fast-Lin, with the same slopes."""
    net, x, _, graph = golden("mlp_relu")
    layers = [m for m in net.modules() if isinstance(m, nn.Linear)]
    sweep = Sweep.of(graph, InputSet.of(x, threat("inf", False)), meet=False)
    lower, upper = answers(sweep, len(x))
    weights, biases = [m.weight.double() for m in layers], [m.bias.double() for m in layers]
    for row in range(len(x)):
        naive = deep_z(weights, biases, x[row].flatten().double(), 0.05)
        assert torch.allclose(torch.stack([lower, upper])[:, row].double(), naive, atol=1e-4)
    y = net(x).argmax(1)
    about = threat("inf", False)
    same = propagated(graph, x, y, about, "fast-lin")
    assert torch.allclose(margins(graph, x, y, about, meet=False), same, atol=1e-4)


def test_never_wider_than_intervals_on_chains_of_relu_layers(golden: Load, threat: About) -> None:
    """By mean width, on the golden ReLU networks: what was measured, and not a theorem."""
    for name in ("mlp_relu", "conv_relu", "conv_avgpool", "residual", "convtranspose"):
        _, x, _, graph = golden(name)
        inside = InputSet.of(x, threat("inf", False))
        lower, upper = answers(Sweep.of(graph, inside), len(x))
        rows = torch.cat([torch.eye(5), -torch.eye(5)]).expand(len(x), -1, -1)
        ibp = Pass.of(graph, inside, BOUNDS["ibp"][0]).lower(rows)
        width = float((-ibp[:, :5] - ibp[:, 5:]).mean())
        assert 0 < float((upper - lower).mean()) < width, name


@pytest.mark.parametrize(
    "known",
    [
        Hinge(), Hinge(0.2), Curve(torch.sigmoid, (0.0,)), Curve(torch.tanh, (0.0,)),
        Curve(torch.nn.functional.gelu, (-(2**0.5), 2**0.5)), Curve(torch.square),
        Curve(torch.abs, (0.0,)),
    ],
    ids=["relu", "leaky", "sigmoid", "tanh", "gelu", "square", "abs"],
)  # fmt: skip
def test_strips_hold_what_they_surround(known: Relaxation) -> None:
    """On a fine grid: nothing outside, both edges touched, and no wider than with the slopes of
    Singh et al. 2018.
    """
    generator = torch.Generator().manual_seed(1)
    low = torch.randn(40, generator=generator, dtype=torch.float64) * 2
    z = Interval(low, low + torch.rand(40, generator=generator, dtype=torch.float64) * 3)
    found = strip(known, [z])
    grid = z.lower + torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None] * z.width
    value = known.range([Interval(grid, grid)]).lower
    left = value - found.slopes[0] * grid - found.middle
    assert bool((left.abs() <= found.radius + 1e-9).all())
    assert torch.allclose(left.amax(0), found.radius, atol=2e-3)  # of the grid
    assert torch.allclose(left.amin(0), -found.radius, atol=2e-3)
    ends = known.range([Interval(z.lower, z.lower)]).lower, known.range([z]).upper
    if isinstance(known, Curve) and known.function in (torch.sigmoid, torch.tanh):
        with torch.enable_grad():
            edges = [e.clone().requires_grad_() for e in (z.lower, z.upper)]
            slopes = [torch.autograd.grad(known.function(e).sum(), e)[0] for e in edges]
        lam = torch.minimum(*slopes)
        paper = (ends[1] - ends[0] - lam * z.width) / 2  # mu_2 of thm. 3.2
        assert bool((found.radius <= paper + 1e-9).all())
        assert float((paper - found.radius).max()) > 1e-3


def test_strips_of_products_and_maxima() -> None:
    generator = torch.Generator().manual_seed(2)
    low = torch.randn(2, 30, 4, generator=generator, dtype=torch.float64)
    high = low + torch.rand(2, 30, 4, generator=generator, dtype=torch.float64)
    share = torch.rand(500, 2, 30, 4, generator=generator, dtype=torch.float64)
    points = low + share.round(decimals=0) * (high - low)
    points = torch.cat([points, low + share * (high - low)])
    x, y = Interval(low[0], high[0]), Interval(low[1], high[1])
    product = strip(Product(), [x, y])
    left = points[:, 0] * points[:, 1] - product.middle
    left = left - product.slopes[0] * points[:, 0] - product.slopes[1] * points[:, 1]
    assert bool((left.abs() <= product.radius + 1e-12).all())
    maximum = strip(Largest(), [x])
    left = points[:, 0].amax(-1) - (maximum.slopes[0] * points[:, 0]).sum(-1) - maximum.middle
    assert bool((left.abs() <= maximum.radius + 1e-12).all())
    whole = (high[0].amax(-1) - low[0].amax(-1)) / 2
    assert bool((maximum.radius <= whole + 1e-12).all())


def test_columns_are_only_for_entries_with_noise() -> None:
    radius = torch.tensor([[[0.0, 2.0], [3.0, 0.0]], [[0.0, 0.0], [0.0, 5.0]]])
    made = columns(radius)
    assert made.shape == (2, 2, 2, 2)
    assert torch.equal(made.abs().sum(1), radius)
    assert int((made != 0).sum()) == 3
    assert columns(torch.zeros(2, 3)).shape == (2, 0, 3)


def test_gradients_reach_the_weights() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.rand(2, 1, 2, 2)
    sweep = Sweep.of(graph_of(net, x), InputSet.of(x, Threat(Linf(), 0.1)))
    sweep.lower(torch.eye(3).expand(2, -1, -1)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_one_example_is_bounded_as_among_others(golden: Load, threat: About) -> None:
    net, x, _, graph = golden("conv_maxpool")
    y = net(x).argmax(1)
    whole = margins(graph, x, y, threat("2", False))
    about = threat("2", False)
    alone = torch.cat([margins(graph, x[i : i + 1], y[i : i + 1], about) for i in range(3)])
    assert torch.allclose(whole, alone, atol=1e-5)


def test_windows_over_entries_without_noise_of_their_own() -> None:
    """So small a radius opens no ReLU: the nodes bring in no symbols."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                        nn.Linear(8, 3)).double().eval().requires_grad_(False)  # fmt: skip
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    z = net(x)
    y = z.argmax(1)
    found = margins(net, x, y, Threat(Linf(), 1e-9))
    others = torch.stack([z[i, [t for t in range(3) if t != y[i]]] for i in range(2)])
    assert torch.allclose(found, z.gather(1, y[:, None]) - others, rtol=0, atol=1e-6)
