"""ONNX files: each operator against onnxruntime, batches for graphs of one image, refusals."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchproof.core.errors import FileError, MissingExtra
from torchproof.nn import load_model

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

Batch = int | str
Answers = Callable[[Path, torch.Tensor], torch.Tensor]
RANDOM = np.random.default_rng(0)


def numbers(*shape: int, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    return RANDOM.uniform(low, high, shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def model_proto(
    nodes: list[Any],
    constants: dict[str, np.ndarray],
    shape: tuple[Batch, ...],
    opset: int = 17,
    output: str = "y",
) -> Any:
    """A graph from x of `shape` to the tensor `output`."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(proto: Any, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def network(batch: Batch) -> Any:
    """Convolution, batch norm, pooling, residual sum, reshape with a Shape, Gemm."""
    first = "0" if isinstance(batch, str) else str(batch)
    constants = {
        "mean": numbers(1, 2, 1, 1),
        "w1": numbers(4, 2, 3, 3),
        "b1": numbers(4),
        **{name: numbers(4) for name in ("scale", "shift", "centre")},
        "spread": numbers(4, low=0.5),
        "w2": numbers(4, 4, 3, 3),
        "target": ints(int(first), -1),
        "w3": numbers(5, 64),
        "b3": numbers(5),
    }
    make = helper.make_node
    nodes = [
        make("Sub", ["x", "mean"], ["n"]),
        make("Conv", ["n", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[1, 1]),
        make("BatchNormalization", ["c1", "scale", "shift", "centre", "spread"], ["bn"]),
        make("Relu", ["bn"], ["r1"]),
        make("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        make("Add", ["c2", "r1"], ["sum"]),
        make("MaxPool", ["sum"], ["pool"], kernel_shape=[2, 2], strides=[2, 2]),
        make("Reshape", ["pool", "target"], ["flat"]),
        make("Gemm", ["flat", "w3", "b3"], ["y"], transB=1),
    ]
    return model_proto(nodes, constants, (batch, 2, 8, 8))


@pytest.mark.parametrize("batch", ["batch", 1, 3])
def test_a_network_agrees_with_onnxruntime(tmp_path: Path, answers: Answers, batch: Batch) -> None:
    path = saved(network(batch), tmp_path / "net.onnx")
    loaded = load_model(str(path))
    assert loaded.name == "net.onnx" and not loaded.model.training
    x = torch.rand(6, 2, 8, 8)
    chunks = [x] if isinstance(batch, str) else list(x.split(batch))
    expected = torch.cat([answers(path, chunk) for chunk in chunks])
    torch.testing.assert_close(loaded.model(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loaded.model(x[:5]), expected[:5], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", ["batch", 1])
def test_gradients_against_differences(tmp_path: Path, batch: Batch) -> None:
    model = load_model(str(saved(network(batch), tmp_path / "net.onnx"))).model.double()
    x = torch.rand(2, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    step = torch.zeros_like(x)
    step[1, 0, 3, 4] = 1e-6
    slope = (model(x + step) - model(x - step))[:, 0].sum() / 2e-6
    torch.testing.assert_close(gradient[1, 0, 3, 4], slope, rtol=1e-5, atol=1e-7)
    names = {n.rpartition(".")[2] for n, _ in model.named_parameters()}
    assert names == {"w1", "b1", "scale", "shift", "w2", "w3", "b3"}
    assert {"mean", "centre", "spread"} <= {n.rpartition(".")[2] for n, _ in model.named_buffers()}


def test_sizes_computed_in_the_graph(tmp_path: Path, answers: Answers) -> None:
    """`x.view(x.size(0), -1)` as torch writes it, with Constants and integer arithmetic."""
    make = helper.make_node
    value = numpy_helper.from_array
    nodes = [
        make("Shape", ["x"], ["shape"]),
        make("Constant", [], ["zero"], value=value(np.array(0, np.int64))),
        make("Gather", ["shape", "zero"], ["n"], axis=0),
        make("Constant", [], ["two"], value_int=2),
        make("Mul", ["n", "two"], ["double"]),
        make("Div", ["double", "two"], ["half"]),
        make("Constant", [], ["axes"], value_ints=[0]),
        make("Unsqueeze", ["half", "axes"], ["first"]),
        make("Constant", [], ["rest"], value=value(ints(-1))),
        make("Concat", ["first", "rest"], ["target"], axis=0),
        make("Cast", ["target"], ["target64"], to=TensorProto.INT64),
        make("Reshape", ["x", "target64"], ["flat"]),
        make("MatMul", ["flat", "w"], ["out"]),
        make("Constant", [], ["shift"], value_floats=[1.0, -1.0, 0.5, 0.0]),
        make("Add", ["out", "shift"], ["y"]),
    ]
    for batch in ("batch", 1):
        proto = model_proto(nodes, {"w": numbers(48, 4)}, (batch, 3, 4, 4))
        path = saved(proto, tmp_path / "net.onnx")
        x = torch.rand(5, 3, 4, 4)
        expected = torch.cat([answers(path, one) for one in x.split(1)])
        torch.testing.assert_close(load_model(str(path)).model(x), expected)


def test_flat_and_column_vectors(tmp_path: Path) -> None:
    """A graph over (1, 16, 1) columns is asked with images (B, 1, 4, 4) and answers (B, K)."""
    node = helper.make_node("MatMul", ["w", "x"], ["y"])
    weights = numbers(3, 16)
    proto = model_proto([node], {"w": weights}, (1, 16, 1))
    model = load_model(str(saved(proto, tmp_path / "net.onnx"))).model
    x = torch.rand(5, 1, 4, 4)
    torch.testing.assert_close(model(x), x.flatten(1) @ torch.from_numpy(weights).T)


def bare(op: str = "Relu", **attributes: Any) -> Any:
    return model_proto([helper.make_node(op, ["x"], ["y"], **attributes)], {}, ("batch", 4))


def external() -> Any:
    proto = network("batch")
    tensor = proto.graph.initializer[1]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    return proto


def two_inputs() -> Any:
    proto = bare()
    proto.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 4)))
    return proto


def old() -> Any:
    proto = bare()
    proto.opset_import[0].version = 6
    return proto


def of_a_vector(*extra: Any, size: int = 3) -> Any:
    """W2 relu(W1 x + b) for x (size,) without a batch, and what else is done to it."""
    nodes = [
        helper.make_node("MatMul", ["w1", "x"], ["a"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        *extra,
        helper.make_node("MatMul", ["w2", "r2" if extra else "r"], ["y"]),
    ]
    constants = {"w1": numbers(4, size), "b": numbers(4), "w2": numbers(2, 4)}
    return model_proto(nodes, constants, (size,))


def test_a_network_of_a_single_vector_takes_rows(tmp_path: Path, answers: Answers) -> None:
    path = saved(of_a_vector(), tmp_path / "vector.onnx")
    model, x = load_model(str(path)).model, torch.rand(5, 3)
    expected = torch.stack([answers(path, one) for one in x])
    torch.testing.assert_close(model(x), expected)


def foreign_domain() -> Any:
    proto = bare()
    proto.graph.node[0].domain = "com.evil"
    return proto


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: bare("HardSwish"), r"HardSwish .*add the operator to OPS"),
    (lambda: bare("LeakyRelu", beta=1.0), "beta"),
    (lambda: bare("MaxPool"), "kernel_shape"),
    (foreign_domain, r"com\.evil"),
    (external, "weights in other files"),
    (two_inputs, "2 inputs"),
    (lambda: of_a_vector(helper.make_node("Softmax", ["r"], ["r2"], axis=0)), "row by row"),
    (lambda: model_proto([helper.make_node("Relu", ["x"], ["y"])], {}, ("n",)), "batch of images"),
    (old, "operator set 6"),
    (lambda: model_proto([helper.make_node("Relu", ["q"], ["y"])], {}, (1, 4)), "'q'"),
    (lambda: model_proto([], {}, (1, 4)), "never makes 'y'"),
    (lambda: bare("Flatten", axis=0), "two images"),
    (lambda: bare("Softmax", axis=7), "Softmax"),
    (lambda: onnx.ModelProto(), "holds no network"),
]


@pytest.mark.parametrize(("make", "word"), REFUSED)
def test_what_is_refused(tmp_path: Path, make: Callable[[], Any], word: str) -> None:
    with pytest.raises(FileError, match=word):
        load_model(str(saved(make(), tmp_path / "bad.onnx")))


def test_all_unknown_operators_are_named_at_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("HardSwish", ["x"], ["a"], name="swish"),
        helper.make_node("Relu", ["a"], ["b"], name="known"),
        helper.make_node("Mystery", ["b"], ["c"], domain="com.evil"),
        helper.make_node("HardSwish", ["c"], ["y"]),
    ]
    path = saved(model_proto(nodes, {}, ("batch", 4)), tmp_path / "bad.onnx")
    with pytest.raises(FileError) as caught:
        load_model(str(path))
    named = r"HardSwish (node 'swish'), com.evil.Mystery (node 'c'), HardSwish (node 'y')"
    assert named in caught.value.given and "known'" not in caught.value.given


def test_truncated_files(tmp_path: Path) -> None:
    path = saved(network("batch"), tmp_path / "cut.onnx")
    whole = path.read_bytes()
    for content in (b"", b"hello, this is no graph", whole[: len(whole) // 2], whole[:-3]):
        path.write_bytes(content)
        with pytest.raises(FileError):
            load_model(str(path))


@pytest.mark.parametrize("broken", [ImportError("no such thing"), OSError("wrong ELF class")])
def test_without_the_package_it_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Exception
) -> None:
    path = saved(network(1), tmp_path / "net.onnx")

    class Breaks:
        def find_spec(self, name: str, *rest: Any) -> None:
            if name == "onnx":
                raise broken

    for name in [n for n in sys.modules if n == "onnx" or n.startswith("onnx.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Breaks(), *sys.meta_path])
    with pytest.raises(MissingExtra, match=r"torchproof\[onnx\]") as caught:
        load_model(str(path))
    assert str(broken) in str(caught.value)


REAL = [
    "mnist_fc/onnx/mnist-net_256x2",
    "cifar10_resnet/onnx/resnet_2b",
    "oval21/onnx/cifar_base_kw",
]


@pytest.mark.parametrize("name", REAL)
def test_networks_of_the_verification_competition(
    tmp_path: Path, data_dir: Path, answers: Answers, name: str
) -> None:
    packed = data_dir / "vnncomp" / f"{name}.onnx.gz"
    if not packed.is_file():
        pytest.skip(f"{packed.name} is not among the data")
    path = tmp_path / "net.onnx"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    model = load_model(str(path)).model
    shape = [n for n in model.shape[1:] if n is not None]  # type: ignore[union-attr,operator]
    x = torch.rand(4, *shape)
    expected = torch.cat([answers(path, one) for one in x.split(1)])
    torch.testing.assert_close(model(x), expected.flatten(1), rtol=1e-4, atol=1e-4)
