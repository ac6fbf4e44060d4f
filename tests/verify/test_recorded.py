"""Layers that are written down instead of exported: they answer and are bounded as the module."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import ModelError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.verify import BOUNDS
from torchproof.verify.bounds import Pass, graph_of
from torchproof.verify.graph import traced
from torchproof.verify.inputs import InputSet
from torchproof.verify.recorded import recorded
from torchproof.verify.rewrite import rewritten


class Entries(nn.Module):
    """A function of torch on every entry."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        more = {"min": 0.2, "max": 0.7} if self.name == "clamp" else {}
        out: Tensor = getattr(torch, self.name)(x, **more)
        return out


WRITTEN: list[tuple[nn.Module, str]] = [
    (nn.LeakyReLU(0.2), "leaky_relu"), (nn.PReLU(2, 0.3), "prelu"), (nn.ELU(0.7), "elu"),
    (nn.SiLU(), "silu"), (nn.Mish(), "mish"), (nn.GELU(), "gelu"), (nn.Softplus(2.0), "softplus"),
    (nn.Hardtanh(-0.3, 0.4), "hardtanh"), (nn.ReLU6(), "hardtanh"), (nn.Hardswish(), "hardswish"),
    (nn.MaxPool2d(3, 2, 1), "max_pool2d"), (nn.MaxPool2d(2), "max_pool2d"),
    (nn.AvgPool2d(3, 2, 1, count_include_pad=False), "avg_pool2d"), (nn.AvgPool2d(2), "avg_pool2d"),
    (nn.AdaptiveAvgPool2d(2), "adaptive_avg_pool2d"), (nn.BatchNorm2d(2), "batch_norm"),
    (nn.BatchNorm2d(2, affine=False), "batch_norm"), (nn.LayerNorm([5, 6]), "layer_norm"),
    (nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, groups=2), "conv_transpose2d"),
    (nn.SELU(), "selu"), (nn.CELU(0.6), "celu"), (nn.Hardsigmoid(), "hardsigmoid"),
    *((Entries(name), name) for name in ("neg", "abs", "square", "exp", "log", "sqrt", "rsqrt",
                                         "reciprocal", "erf", "atan", "sigmoid", "tanh", "clamp")),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "kind"), WRITTEN, ids=str)
def test_the_usual_layers_are_written_down(layer: nn.Module, kind: str) -> None:
    """And bounded as they are when exported: within next to no radius that is the answer."""
    torch.manual_seed(1)
    for part in (*layer.parameters(), *layer.buffers()):
        if part.is_floating_point() and kind != "prelu":
            part.data = torch.rand_like(part) + 0.5
    model, x = nn.Sequential(layer, nn.Flatten()).double().eval(), torch.rand(3, 2, 5, 6).double()
    graph = recorded(model, x[:2], 5)
    assert graph is not None and [n.kind for n in graph.nodes] == [kind, "flatten"]
    expected = model(x)
    assert torch.equal(graph.run(x)[graph.output], expected)
    bounded = Pass.of(graph_of(model, x), InputSet.of(x, Threat(Linf(), 1e-10)), BOUNDS["crown"][0])
    rows = torch.eye(expected.shape[1], dtype=x.dtype).expand(3, -1, -1)
    assert torch.allclose(bounded.lower(rows), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        nn.GELU(approximate="tanh"),
        nn.BatchNorm2d(2, track_running_stats=False),
        nn.ELU(inplace=True),
        nn.Hardtanh(inplace=True),
    ],
    ids=str,
)
def test_other_arguments_are_left_to_export(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), layer).eval()
    assert recorded(model, torch.rand(2, 2, 3, 3), 5) is None


class Infinite(nn.Module):
    """Pads with -inf, as one may before a maximum."""

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x.relu(), (1, 1, 1, 1), value=-torch.inf)
        out: Tensor = F.max_pool2d(padded, 3, 2).flatten(1)
        return out


def test_infinite_values_inside_are_refused() -> None:
    """Rules would multiply them with zeros."""
    x = torch.rand(2, 1, 4, 4)
    with pytest.raises(ModelError, match=r"pad at 'padded = F.pad.* answers infinity"):
        graph_of(Infinite().eval(), x)


class Pooled(nn.Module):
    """Pooling whose stride goes without saying."""

    def __init__(self, pool: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.pool, self.last = pool, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.pool(x, 2).flatten(1))
        return out


@pytest.mark.parametrize("pool", [F.max_pool2d, F.avg_pool2d])
def test_bounds_are_those_of_the_exported_graph(pool: Callable[[Tensor, int], Tensor]) -> None:
    model, x = Pooled(pool).double().eval(), torch.rand(3, 2, 5, 5).double()
    found = recorded(model, x[:2], 5)
    assert found is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchproof.verify.recorded.recorded", lambda *_: None)
        exported = traced(model, x)
    assert [n.kind for n in exported.nodes] != [n.kind for n in found.nodes]
    inside, rows = InputSet.of(x, Threat(Linf(), 0.1)), torch.eye(3).double().expand(3, -1, -1)
    lower = [
        Pass.of(rewritten(graph), inside, BOUNDS["crown"][0]).lower(rows)
        for graph in (found, exported)
    ]
    assert torch.allclose(*lower, rtol=0, atol=1e-12)


class Turned(nn.Module):
    """The channels are the first axis for a while."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels, 1, 1, 1))
        self.last = nn.Linear(4 * channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        turned = (x.permute(1, 0, 2, 3) * self.scale).permute(1, 0, 2, 3)
        out: Tensor = self.last((turned + x).flatten(1))
        return out


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_a_network_whose_first_axis_is_not_the_batch_is_refused(channels: int) -> None:
    """Where it is added to one that is, its rows would be those of a single channel."""
    with pytest.raises(ModelError, match=r"permute at .*turned = .*first axis throughout"):
        graph_of(Turned(channels).eval(), torch.rand(1, channels, 2, 2))


def test_a_refusal_names_the_layer_of_a_network_without_code_of_its_own() -> None:
    graph = graph_of(nn.Sequential(nn.Flatten(), nn.ELU()).eval(), torch.rand(1, 1, 2, 2))
    assert [n.where for n in graph.nodes if n.kind == "elu"] == [
        "return F.elu(input, self.alpha, self.inplace)"
    ]
