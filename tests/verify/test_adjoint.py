"""The transposes that are written out, against automatic differentiation; and graphs of files that
are written down instead of exported.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.nn.traced import Graph, Ref, Step, Traced
from torchproof.verify.adjoint import ADJOINTS, adjoint
from torchproof.verify.bounds import graph_of
from torchproof.verify.graph import traced
from torchproof.verify.recorded import recorded

Call = Callable[..., Any]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=g, dtype=torch.float64)


class Layers(nn.Module):
    """Every operation whose transpose is written out, some in several forms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=1, groups=2)
        self.wide = nn.Conv2d(4, 3, 2, dilation=2, padding=(1, 0), bias=False)
        self.last = nn.Linear(24, 5)
        self.matrix = nn.Parameter(drawn(5, 6))
        self.scale, self.shift = nn.Parameter(drawn(4, 1, 1)), nn.Parameter(drawn(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale * self.conv(x) / 1.5 - 0.25
        x = F.relu(self.wide(x.permute(0, 1, 3, 2)).permute(0, 1, 3, 2))
        x = self.last(x.reshape(len(x), -1))
        y = F.relu(x) @ self.matrix + self.shift
        return (y * 2.0 - F.relu(y)) + torch.relu(y)


LINE = nn.Conv1d(3, 2, 3, padding=1, stride=2)
CASES: list[tuple[nn.Module, tuple[int, ...], set[str]]] = [
    (Layers(), (1, 2, 6, 7), {"conv2d", "linear", "matmul", "add", "sub", "mul", "div", "permute"}),
    (LINE, (1, 3, 8), {"conv1d"}),
]


@pytest.mark.parametrize(("model", "shape", "kinds"), CASES)
def test_every_transpose_equals_automatic_differentiation(
    model: nn.Module, shape: tuple[int, ...], kinds: set[str]
) -> None:
    x = drawn(*shape)
    graph = traced(model.double().eval(), x)
    single, tried = graph.run(x), set()
    for node in graph.nodes:
        names = graph.inputs(node)
        if node.name not in graph.live or node.kind == "relu":
            continue
        back = adjoint(node, names, single)
        assert back is not None, node.kind
        points = [single[name].clone().requires_grad_() for name in names]
        answer = node.answer({**single, **dict(zip(names, points, strict=True))})
        rows = drawn(3, *answer.shape)
        for row, *parts in zip(rows, *back(rows), strict=True):
            expected = torch.autograd.grad(answer, points, row, retain_graph=True)
            for part, own in zip(parts, expected, strict=True):
                assert part.shape == own.shape
                assert torch.allclose(part, own, rtol=1e-12, atol=1e-12), node.kind
        tried.add(node.kind)
    assert kinds <= tried <= set(ADJOINTS)


def test_transposes_are_differentiable_in_the_weights() -> None:
    model, x = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2)).double().eval(), drawn(1, 1, 6, 6)
    graph = traced(model, x)
    (node,) = (n for n in graph.nodes if n.kind == "conv2d")
    weight = model[0].weight
    back = adjoint(node, graph.inputs(node), graph.run(x))
    assert back is not None
    rows = drawn(2, 1, 2, 2, 2)
    (found,) = torch.autograd.grad(back(rows)[0].square().sum(), weight)
    at = weight.detach().clone().requires_grad_()
    other = F.conv_transpose2d(rows[:, 0], at, stride=2, output_padding=1)
    (expected,) = torch.autograd.grad(other.square().sum(), at)
    assert torch.allclose(found, expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, c: x + x,  # one input twice
        lambda x, c: x[:, :1] + c,  # repeated in the answer
        lambda x, c: c / (x + 9.0),  # not affine
        lambda x, c: c @ x.mT,  # the live one on the right
        lambda x, c: torch.add(x, c, alpha=2.0),
    ],
)
def test_what_is_not_written_out_is_left_to_automatic_differentiation(call: Call) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Parameter(drawn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = call(x, self.c)
            return answer

    x = drawn(1, 4, 4)
    graph = traced(Model().eval(), x)
    node = graph.nodes[-1]
    assert adjoint(node, graph.inputs(node), graph.run(x)) is None


def network(batch: int | None, *steps: tuple[Call, Any], size: int = 4) -> Traced:
    """x @ w (4, 3) + b (3,) and what follows, as of a file."""
    weights = nn.Module()
    weights.register_parameter("w", nn.Parameter(drawn(size, 3)))
    weights.register_buffer("b", drawn(3))
    listed = [
        Step(torch.matmul, (Ref("x"), Ref("w")), {}, ("0",), "MatMul"),
        Step(torch.add, (Ref("0"), Ref("b")), {}, ("1",), "Add"),
    ]
    for i, (call, more) in enumerate(steps, 2):
        listed.append(Step(call, (Ref(str(i - 1)), *more), {}, (str(i),), str(call)))
    bound = {"w": ("w",), "b": ("b",)}
    graph = Graph(weights, bound, tuple(listed), "x", str(len(listed) - 1))
    return Traced(graph, (batch, size)).eval()


def test_len_of_the_batch_is_no_number_of_the_network() -> None:
    model = Layers().double().eval()  # x.reshape(len(x), -1)
    graph, x = traced(model, drawn(1, 2, 6, 7)), drawn(5, 2, 6, 7)
    assert torch.allclose(graph.run(x)[graph.output], model(x))


@pytest.mark.parametrize("batch", [1, None])
def test_a_file_is_written_down_as_it_is_exported(batch: int | None) -> None:
    rows = 1 if batch else -1
    model = network(batch, (F.relu, ()), (torch.reshape, ((rows, 3, 1),)),
                    (torch.Tensor.flatten, (1,)), (torch.sigmoid, ()))  # fmt: skip
    graph = graph_of(model, drawn(2, 4))
    assert [n.kind for n in graph.nodes if n.name in graph.live] == [
        "matmul", "add", "relu", "reshape", "flatten", "sigmoid",
    ]  # fmt: skip
    x = drawn(5, 4)
    assert torch.allclose(graph.run(x)[graph.output], model(x))
    assert any(value is model.steps.weights.w for value in graph.constants.values())


def _by_batch(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], 3, 1).reshape([x.shape[0], 3])


def test_sizes_of_the_batch_are_told_from_others() -> None:
    model = network(None, (_by_batch, ()))
    graph = recorded(model, drawn(2, 4), 3)
    assert graph is not None
    assert graph.run(drawn(7, 4))[graph.output].shape == (7, 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x + float(x.sum()),
        lambda x: x if bool((x > 0).any()) else -x,
        lambda x: x.clone().add_(1.0),
        lambda x: x * len(x),  # the batch's size as a number
        lambda x: torch.cumsum(x, 1),
        lambda x: x + torch.ones(3, dtype=x.dtype),
        lambda x: torch.add(x, x, alpha=2.0),
    ],
)
def test_what_is_not_understood_is_left_to_export(call: Call) -> None:
    assert recorded(network(None, (call, ())), drawn(2, 4), 3) is None


class Cut(torch.autograd.Function):
    """A function of its own, of an operation that is in no table."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Plain(nn.Module):
    """A line, and what `call` makes of it beside a tensor that is no buffer."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.line, self.drop, self.call = nn.Linear(4, 4), nn.Dropout(0.5), call
        self.loose = torch.ones(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.call(self, self.drop(self.line(x)))
        return out


@pytest.mark.parametrize(
    "call",
    [
        lambda net, x: Cut.apply(x) + 1.0,
        lambda net, x: x + net.loose,
        lambda net, x: F.relu(x, inplace=True),
        lambda net, x: x if float(x.detach().max()) > 0 else -x,
        lambda net, x: F.dropout(x, 0.5, training=True),
    ],
)
def test_modules_with_more_to_them_are_left_to_export(call: Call) -> None:
    assert recorded(Plain(call).eval(), torch.rand(2, 4), 5) is None


def test_a_plain_module_is_written_down_with_its_lines() -> None:
    model = Plain(lambda net, x: torch.relu(x) - 0.5).eval()
    graph = recorded(model, torch.rand(2, 4), 5)
    assert graph is not None and [n.kind for n in graph.nodes] == ["linear", "relu", "sub"]
    assert graph.nodes[1].where == "model = Plain(lambda net, x: torch.relu(x) - 0.5).eval()"
    x = torch.rand(3, 4)
    assert torch.equal(graph.run(x)[graph.output], model(x))
    assert any(value is model.line.weight for value in graph.constants.values())


def test_a_batch_of_one_that_is_written_in_is_checked() -> None:
    """Recording or not: what mixes the rows of a batch is refused."""
    from torchproof.core.errors import ModelError

    model = network(1, (torch.permute, ((1, 0),)), (torch.reshape, ((1, 3),)))
    with pytest.raises(ModelError, match="answers about one input depend on the others"):
        graph_of(model, drawn(2, 4))


def test_verify_starts_without_the_compiler() -> None:
    code = (
        "import sys, torch, torchproof.cli.verify; from torch import nn; "
        "heavy = ['torch._dynamo', 'torch.export._trace', 'sympy', 'scipy', 'onnxruntime']; "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
