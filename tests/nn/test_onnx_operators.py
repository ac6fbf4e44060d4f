"""Each row of the table of ONNX operators against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import ModelError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.nn.onnx_graph import _graph, read_onnx
from torchproof.nn.onnx_ops import OPS
from torchproof.verify import graph_of
from torchproof.verify.methods import METHODS

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

Answers = Callable[[Path, torch.Tensor], torch.Tensor]
RANDOM = np.random.default_rng(0)


def numbers(*shape: int, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    return RANDOM.uniform(low, high, shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def model_of(
    nodes: Sequence[Any], shape: tuple[int, ...], constants: dict[str, np.ndarray], opset: int = 17
) -> Any:
    """A model from x (of `shape`) to y."""
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    arrays = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "test", ends[:1], ends[1:], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


IMAGE, MATRIX = (2, 3, 8, 8), (2, 6)
Case = tuple[str, tuple[int, ...], dict[str, np.ndarray], dict[str, Any], int]
CASES: list[Case] = [
    ("Conv", IMAGE, {"w": numbers(4, 3, 3, 3)}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, 17),
    ("Conv", IMAGE, {"w": numbers(4, 3, 2, 2)}, {"auto_pad": "SAME_LOWER"}, 17),
    ("Conv", IMAGE, {"w": numbers(6, 1, 3, 3), "b": numbers(6)}, {"group": 3}, 17),
    ("Conv", IMAGE, {"w": numbers(4, 3, 3, 3)}, {"pads": [0, 1, 2, 0], "dilations": [1, 2]}, 17),
    ("Conv", (2, 3, 9), {"w": numbers(4, 3, 3)}, {"pads": [1, 1]}, 17),
    ("ConvTranspose", IMAGE, {"w": numbers(3, 4, 3, 3)}, {"strides": [2, 2], "pads": [1] * 4}, 17),
    ("MaxPool", IMAGE, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 0, 1]}, 17),
    ("MaxPool", IMAGE, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, 17),
    ("MaxPool", IMAGE, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}, 17),
    ("MaxPool", IMAGE, {}, {"kernel_shape": [2, 3], "auto_pad": "SAME_UPPER"}, 17),
    (
        "MaxPool",
        IMAGE,
        {},
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1], "ceil_mode": 1},
        17,
    ),
    (
        "MaxPool",
        (2, 3, 3),
        {},
        {"kernel_shape": [2], "strides": [2], "pads": [1, 1], "ceil_mode": 1},
        17,
    ),
    ("MaxPool", (2, 3, 9), {}, {"kernel_shape": [3], "dilations": [2], "pads": [2, 2]}, 17),
    ("MaxPool", (2, 3, 9), {}, {"kernel_shape": [3], "pads": [2, 0], "strides": [2]}, 17),
    ("AveragePool", IMAGE, {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, 17),
    ("AveragePool", IMAGE, {}, {"kernel_shape": [2, 2], "strides": [2, 2]}, 17),
    (
        "AveragePool",
        IMAGE,
        {},
        {"kernel_shape": [3, 3], "pads": [1, 0, 0, 1], "count_include_pad": 1},
        17,
    ),
    ("GlobalAveragePool", IMAGE, {}, {}, 17),
    ("GlobalMaxPool", IMAGE, {}, {}, 17),
    ("Gemm", MATRIX, {"b": numbers(6, 4), "c": numbers(4)}, {"alpha": 0.5, "beta": 2.0}, 17),
    ("MatMul", MATRIX, {"b": numbers(6, 4)}, {}, 17),
    ("Flatten", IMAGE, {}, {"axis": 2}, 17),
    ("Flatten", IMAGE, {}, {"axis": -1}, 17),
    ("Reshape", IMAGE, {"shape": ints(0, -1, 4)}, {}, 17),
    ("Transpose", IMAGE, {}, {"perm": [0, 2, 3, 1]}, 17),
    ("Transpose", MATRIX, {}, {}, 17),
    ("Squeeze", (2, 1, 3, 1), {"axes": ints(1, -1)}, {}, 17),
    ("Squeeze", (2, 1, 3, 1), {}, {"axes": [3]}, 9),
    ("Unsqueeze", MATRIX, {"axes": ints(-1, 0)}, {}, 17),
    (
        "Slice",
        IMAGE,
        {"s": ints(1, -1), "e": ints(99, -9), "a": ints(2, 3), "t": ints(2, -2)},
        {},
        17,
    ),
    ("Slice", IMAGE, {}, {"starts": [1, 0], "ends": [3, -1], "axes": [1, 2]}, 9),
    ("Gather", IMAGE, {"i": ints(0, -1, 1)}, {"axis": 2}, 17),
    ("Gather", MATRIX, {"i": np.array(-2, np.int64)}, {"axis": 1}, 17),
    (
        "Pad",
        IMAGE,
        {"p": ints(0, 0, 1, 2, 0, 0, 0, 1), "v": scalar(0.5)},
        {},
        17,
    ),
    ("Pad", IMAGE, {}, {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 0.5}, 9),
    ("Concat", MATRIX, {"b": numbers(2, 3)}, {"axis": 1}, 17),
    ("Softmax", MATRIX, {}, {}, 17),
    ("Softmax", IMAGE, {}, {}, 11),
    ("Softmax", IMAGE, {}, {"axis": 2}, 12),
    ("LogSoftmax", IMAGE, {}, {}, 11),
    ("LogSoftmax", MATRIX, {}, {"axis": 0}, 17),
    (
        "Clip",
        MATRIX,
        {"lo": scalar(-0.25), "hi": scalar(0.5)},
        {},
        17,
    ),
    ("Clip", MATRIX, {}, {"min": -0.25, "max": 0.5}, 9),
    ("Clip", MATRIX, {"lo": scalar(0.1)}, {}, 17),
    ("ReduceMean", IMAGE, {}, {"axes": [2, 3], "keepdims": 0}, 13),
    ("ReduceMean", IMAGE, {"axes": ints(-1)}, {}, 18),
    ("ReduceSum", IMAGE, {"axes": ints(1)}, {"keepdims": 0}, 17),
    ("ReduceSum", MATRIX, {}, {"noop_with_empty_axes": 1}, 17),
    ("ReduceMax", IMAGE, {}, {}, 13),
    ("ReduceL2", IMAGE, {}, {"axes": [1, -1], "keepdims": 0}, 17),
    ("Expand", (2, 1, 4), {"shape": ints(3, 2, 3, 1)}, {}, 17),
    ("LeakyRelu", MATRIX, {}, {"alpha": 0.2}, 17),
    ("PRelu", MATRIX, {"slope": numbers(6)}, {}, 17),
    ("PRelu", IMAGE, {"slope": numbers(3, 1, 1)}, {}, 17),
    ("PRelu", IMAGE, {"slope": numbers(1, 1, 8)}, {}, 17),
    ("Elu", MATRIX, {}, {"alpha": 0.7}, 17),
    ("Gelu", MATRIX, {}, {}, 20),
    ("Gelu", MATRIX, {}, {"approximate": "tanh"}, 20),
    ("Dropout", MATRIX, {}, {}, 17),
    ("Dropout", MATRIX, {}, {"ratio": 0.3}, 9),
    ("Max", MATRIX, {"b": numbers(6), "c": numbers(2, 1)}, {}, 17),
    ("Min", MATRIX, {"b": numbers(6), "c": numbers(2, 1)}, {}, 17),
    ("Sum", MATRIX, {"b": numbers(6), "c": numbers(2, 1)}, {}, 17),
    *((op, MATRIX, {"b": numbers(6, low=0.5)}, {}, 17) for op in ("Add", "Sub", "Mul", "Div")),
    ("Pow", MATRIX, {"b": scalar(2.0)}, {}, 17),
    *(
        (op, MATRIX, {}, {}, 17)
        for op in ("Abs", "Erf", "Exp", "Identity", "Neg", "Relu", "Sigmoid", "Softplus", "Tanh")
    ),
    *((op, (2, 7), {}, {}, 17) for op in ("Log", "Reciprocal", "Sqrt")),
]
POSITIVE = {"Log", "Reciprocal", "Sqrt"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_each_operator_agrees_with_onnxruntime(
    tmp_path: Path, answers: Answers, case: Case
) -> None:
    op, shape, constants, attributes, opset = case
    inputs = ["x", *constants]
    if op == "Clip" and list(constants) == ["lo"]:
        inputs = ["x", "lo", ""]
    nodes = [helper.make_node(op, inputs, ["y"], **attributes)]
    proto = model_of(nodes, shape, constants, opset)
    path = tmp_path / "op.onnx"
    path.write_bytes(proto.SerializeToString())
    graph, declared = _graph(onnx, proto, "op.onnx")
    assert declared == shape
    x = torch.from_numpy(numbers(*shape, low=0.1 if op in POSITIVE else -1.0))
    torch.testing.assert_close(graph(x), answers(path, x), rtol=1e-5, atol=1e-6)


class Headed(nn.Module):
    """A graph with ReLUs in front of it and logits behind."""

    def __init__(self, graph: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.graph = graph
        with torch.no_grad():
            g = torch.Generator().manual_seed(1)
            count = self.graph(x).flatten(1).shape[1]
        self.last = nn.Linear(count, 3)
        self.last.weight.data = torch.randn(3, count, generator=g) / count**0.5

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.graph(x.relu()).flatten(1))
        return out


BOUNDED = ("ibp", "crown", "deepz", "hybrid", "fast-lip", "recur-jac", "op-norm")


WINDOWS = [case for case in CASES if "Conv" in case[0] or "Pool" in case[0]]


@pytest.mark.parametrize("case", [c for c in WINDOWS if len(c[1]) == 4 and c[0] != "GlobalMaxPool"],
                         ids=lambda case: case[0])  # fmt: skip
def test_bounds_through_windows_hold(case: Case) -> None:
    """By every kind of method; one image, with the pixel box away."""
    op, shape, constants, attributes, opset = case
    shape, inputs = (1, *shape[1:]), ["x", *constants]
    nodes = [helper.make_node(op, inputs, ["y"], **attributes)]
    proto = model_of(nodes, shape, constants, opset)
    x = torch.from_numpy(numbers(*shape)).double()
    net = Headed(_graph(onnx, proto, "op.onnx")[0], x.float()).double().eval()
    graph = graph_of(net.requires_grad_(False), x)
    y, about = net(x).argmax(1), Threat(Linf(), 0.1, low=-torch.inf, high=torch.inf)
    noise = torch.rand(400, *shape[1:], generator=torch.Generator().manual_seed(2)).double()
    z = net(x + torch.where(torch.arange(400).view(-1, *[1] * (len(shape) - 1)) % 2 == 0,
                            0.2 * noise - 0.1, 0.1 * (noise - 0.5).sign()))  # fmt: skip
    others = [t for t in range(3) if t != int(y)]
    reached = (z[:, y] - z[:, others]).amin(0)
    for method in BOUNDED:
        found = METHODS[method](graph, x, y, about).lower[0]
        assert not found.isnan().any(), method
        assert (found <= reached + 1e-7).all(), (method, found, reached)


def test_slopes_of_channels_and_squares_are_known_to_bounds(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("PRelu", ["x", "slope"], ["h"]),
        helper.make_node("Pow", ["h", "b"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    constants = {"slope": np.full((2, 1, 1), 0.5, np.float32), "b": scalar(2.0)}
    proto = model_of(nodes, (1, 2, 3, 1), constants)
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    graph = graph_of(read_onnx(path), torch.zeros(1, 2, 3, 1))
    assert [n.kind for n in graph.nodes if n.name in graph.live][:2] == ["prelu", "square"]


def test_operators_without_bounds_are_named_as_in_the_file() -> None:
    """Whether the graph was exported, as here for the sake of Pow, or written down."""
    nodes = [
        helper.make_node("Pow", ["x", "b"], ["p"], name="root"),
        helper.make_node("ReduceMax", ["p"], ["q"], axes=[1], name="top"),
        helper.make_node("Pow", ["q", "b"], ["r"], name="again"),
        helper.make_node("Flatten", ["r"], ["y"]),
    ]
    proto = model_of(nodes, (1, 3, 4, 4), {"b": scalar(1.5)}, 13)
    net = _graph(onnx, proto, "op.onnx")[0].eval()
    with pytest.raises(ModelError, match=r"Pow \(node 'root'\)[^;]*; pow at .Pow \(node 'again'\)"):
        graph_of(net, torch.rand(1, 3, 4, 4))


def test_every_row_of_the_table_is_tested() -> None:
    elsewhere = {"BatchNormalization", "Cast", "Shape"}  # in the networks of test_onnx
    assert set(OPS) == {case[0] for case in CASES} | elsewhere
