"""Zonotopes with refined bounds: sound, better than without, exact where integers had their way."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from torchproof.core.norms import L0, L1, L2, Linf, Norm
from torchproof.core.threats import Threat
from torchproof.verify import graph_of, zonotope
from torchproof.verify.inputs import InputSet
from torchproof.verify.milp import milp_margins
from torchproof.verify.programme import Clock, Encoding, Maps
from torchproof.verify.refine_zono import Refiner, refine_zono_margins
from torchproof.verify.zonotope import Sweep

SLACK = 1e-4  # more than the solver's tolerances take off a bound of these networks


def mlp(seed: int, inputs: int, *widths: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise((inputs, *widths)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(widths[-1], 3)).double().eval().requires_grad_(False)
    for p in net.parameters():
        p.mul_(2)
    x = torch.rand(1, 1, 1, inputs, dtype=torch.float64)
    return net, x, net(x).argmax(1)


def second_layer(net: nn.Sequential, low: Tensor, high: Tensor) -> np.ndarray:
    """(2, n) the least and the largest before the second hinges, over all patterns of the first."""
    (w1, b1), (w2, b2) = ((m.weight.numpy(), m.bias.numpy()) for m in (net[1], net[3]))
    ends = torch.stack([low.flatten(), high.flatten()], 1).numpy()
    found = np.tile([[np.inf], [-np.inf]], len(b2))
    for pattern in itertools.product((0.0, 1.0), repeat=len(b1)):
        on = np.array(pattern)
        sign = np.where(on == 1, -1.0, 1.0)
        for i, row in enumerate(w2):
            for place, c in enumerate((1.0, -1.0)):
                one = linprog(c * (row * on) @ w1, sign[:, None] * w1, -sign * b1, bounds=ends)
                if one.status == 0:
                    value = c * one.fun + row @ (on * b1) + b2[i]
                    found[place, i] = (min, max)[place](found[place, i], value)
    return found


def test_bounds_of_the_first_layers_are_exact() -> None:
    """Of entries that are open in truth: others are left once their sign is known."""
    net, x, _ = mlp(5, 3, 4, 4)
    inside, graph = InputSet.of(x, Threat(Linf(), 0.3)), graph_of(net, x)
    refiner = Refiner(Encoding.begun(Maps.of(graph, x), inside, exact=True), Clock(), 1)
    plain, refined = Sweep.of(graph, inside), Sweep.of(graph, inside, refine=refiner)
    box = inside.box()
    truth = second_layer(net, box.lower, box.upper)
    (name,) = [n.refs[0] for n in graph.nodes if n.kind == "relu"][1:]
    before, after = plain.intervals[name], refined.intervals[name]
    open_ = (truth[0] < 0) & (truth[1] > 0)
    both = torch.cat([after.lower, after.upper]).numpy()
    assert open_.sum() >= 2 and np.allclose(both[:, open_], truth[:, open_], atol=SLACK)
    assert (both[0] <= truth[0] + 1e-9).all() and (both[1] >= truth[1] - 1e-9).all()
    assert float((before.width - after.width).max()) > 0.05


@pytest.mark.parametrize("norm", [Linf(), L1(), L0()], ids=str)
def test_between_the_zonotope_and_the_truth(norm: Norm) -> None:
    net, x, y = mlp(5, 6, 6, 6, 6)
    about = Threat(norm, {Linf: 0.15, L1: 0.6, L0: 1.0}[type(norm)])
    graph = graph_of(net, x)
    bounds = [zonotope.margins(graph, x, y, about)]
    bounds += [refine_zono_margins(graph, x, y, about, layers=n).lower for n in (0, 1)]
    bounds.append(milp_margins(graph, x, y, about).lower)
    assert bool((bounds[0] <= bounds[1] + 1e-12).all()) and bool((bounds[0] <= bounds[2]).all())
    assert all(bool((b <= bounds[3] + SLACK).all()) for b in bounds)
    sums = [float(b.sum()) for b in bounds]
    assert all(upper > lower + SLACK for lower, upper in itertools.pairwise(sums))


@pytest.mark.parametrize("name", ["conv_maxpool", "mlp_tanh"])
def test_any_network_in_time(golden: Callable[[str], tuple], name: str) -> None:
    """Maxima and curves, in half a second: no point is below."""
    net, images, _, _ = golden(name)
    double, x = copy.deepcopy(net).double(), images[:1].double().clamp(0, 1)
    y, about = double(x).argmax(1), Threat(Linf(), 0.03)
    graph = graph_of(double, x)
    found = refine_zono_margins(graph, x, y, about, time_limit=0.5).lower
    ball = InputSet.of(x.expand(500, -1, -1, -1), about).ball
    noise = torch.randn(500, *x.shape[1:], dtype=x.dtype, generator=torch.manual_seed(0))
    z = double(x + ball.maximiser(noise))
    rest = [t for t in range(z.shape[1]) if t != int(y)]
    assert bool((found <= (z[:, y] - z[:, rest]).amin(0) + 1e-9).all())
    assert bool((found >= zonotope.margins(graph, x, y, about)).all())


def test_without_time_it_is_the_zonotope() -> None:
    net, x, y = mlp(1, 6, 6, 6)
    about, graph = Threat(L2(), 0.3), graph_of(net, x)
    late = refine_zono_margins(graph, x, y, about, time_limit=0.0).lower
    assert torch.allclose(late, zonotope.margins(graph, x, y, about), atol=1e-12)
