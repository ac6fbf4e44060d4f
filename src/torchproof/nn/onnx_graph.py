"""`.onnx` files as differentiable torch modules: data and a graph of known operators, no code."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchproof.core.errors import FileError, MissingExtra, TorchproofError
from torchproof.nn.onnx_ops import BEFORE_13, OPS
from torchproof.nn.traced import Graph, Ref, Shape, Step, Traced, attach, probe

OLDEST = 7
"""The first operator set with the broadcasting of numpy, on which the table OPS relies."""

LEARNT: Mapping[str, tuple[int, ...]] = {
    "Add": (0, 1),
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
}
"""Which inputs of an operator are weights: a constant there becomes a parameter, elsewhere a
buffer.
"""

_REMEDY = "export it again as one float model from images to logits"
_REWRITE = "rewrite that part of the model, or add the operator to OPS in torchproof/nn/onnx_ops.py"


def read_onnx(path: Path) -> Traced:
    """The model in the ONNX file `path`, differentiable, with its weights as parameters and
    buffers.

    Raises MissingExtra where the package `onnx` is absent or does not load, FileError for a file
    that is truncated or something else, that keeps weights in other files, or that has several
    inputs or outputs or an operator (or one of its attributes) that the table OPS does not have.
    """
    onnx = _package()
    try:
        proto = onnx.load_model_from_string(path.read_bytes())
        graph, shape = _graph(onnx, proto, str(path))
    except TorchproofError:
        raise
    except Exception as error:  # protobuf has its own errors, which onnx does not name
        given = f"{path} ({type(error).__name__}: {error})"
        raise FileError(given, "an ONNX model", _REMEDY) from error
    model = Traced(graph, shape).eval()
    probe(model, str(path))
    return model


# which inputs are lists of integers, or one number
LISTS = {
    "Reshape": (1,), "Squeeze": (1,), "Unsqueeze": (1,), "Expand": (1,), "Slice": (1, 2, 3, 4),
    "Pad": (1, 3), "Pow": (1,), "ReduceMean": (1,), "ReduceSum": (1,), "ReduceMax": (1,),
}  # fmt: skip


def _package() -> ModuleType:
    try:
        import onnx
        import onnx.numpy_helper
    except Exception as error:  # a broken installation raises more than ImportError
        reason = f"{type(error).__name__}: {error}"
        remedy = "pip install 'torchproof[onnx]'"
        raise MissingExtra(f"an .onnx file ({reason})", "the package onnx", remedy) from error
    package: ModuleType = onnx
    return package


def _graph(onnx: ModuleType, proto: Any, source: str) -> tuple[Graph, Shape]:
    if not proto.opset_import or not proto.graph.output:
        given, remedy = f"{source}, which holds no network", "export or download it again"
        raise FileError(given, "an ONNX model with operators and an output", remedy)
    version = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if version < OLDEST:
        given = f"{source} of operator set {version}"
        raise FileError(given, f"at least {OLDEST}", "convert it with onnx.version_converter")
    constants = {t.name: _array(onnx, t, source) for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in constants]
    if len(inputs) != 1 or len(proto.graph.output) != 1:
        given = f"{source} with {len(inputs)} inputs and {len(proto.graph.output)} outputs"
        raise FileError(given, "images in, logits out", _REMEDY)
    _check(proto.graph.node, source)
    steps: list[Step] = []
    learnt: set[str] = set()
    for node in proto.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant(onnx, node, source)
            continue
        steps.append(_step(onnx, node, version, source, constants))
        places = LEARNT.get(node.op_type, ())
        learnt |= {name for i, name in enumerate(node.input) if i in places}
    weights, bound = nn.Module(), {}
    read = {name for step in steps for name in step.reads()}
    for name, tensor in constants.items():
        if name not in read:
            continue
        is_weight = name in learnt and tensor.is_floating_point()
        bound[name] = attach(weights, name, nn.Parameter(tensor) if is_weight else tensor)
    dims = inputs[0].type.tensor_type.shape.dim
    shape = tuple(d.dim_value if d.dim_value > 0 else None for d in dims)
    if shape in ((), (None,)):
        raise FileError(f"{source} for inputs of shape {shape}", "a batch of images", _REMEDY)
    first, last = inputs[0].name, proto.graph.output[0].name
    if len(shape) == 1:
        return _of_rows(weights, bound, steps, first, last, shape[0] or 0, source), (None, *shape)
    return Graph(weights, bound, tuple(steps), first, last), shape


def _of_rows(
    weights: nn.Module, bound: dict[str, tuple[str, ...]], steps: list[Step], first: str,
    last: str, size: int, source: str,
) -> Graph:  # fmt: skip
    """A graph of a single vector (n,) as one of rows (B, n): a matrix before the vector goes behind
    it. Raises FileError where rows are not answered as the vectors are.
    """
    rows = [
        replace(step, call=_turned)
        if step.label.startswith("MatMul ") and getattr(step.args[0], "name", "") in bound
        else step
        for step in steps
    ]
    graph, vector = (Graph(weights, bound, tuple(s), first, last) for s in (rows, steps))
    like = next((t for t in weights.state_dict().values() if t.is_floating_point()), None)
    x = (
        torch.linspace(-1.0, 1.3, 5 * size)
        .view(5, size)
        .to(torch.zeros(0) if like is None else like)
    )
    try:
        with torch.no_grad():
            together, alone = graph(x), torch.stack([vector(one) for one in x])
        same = together.shape == alone.shape and torch.allclose(together, alone, 1e-4, 1e-5)
    except (RuntimeError, ValueError, TypeError, IndexError):
        same = False
    if not same:
        given = f"{source} for a single vector of {size}, with steps that do not go row by row"
        raise FileError(given, "a batch in front", _REMEDY)
    return graph


def _turned(matrix: Tensor, rows: Tensor) -> Tensor:
    return rows @ matrix.mT


def _list(name: str, constants: Mapping[str, Tensor]) -> Any:
    """A constant shape, list of axes or number itself, so that whoever follows the steps meets no
    shape that depends on data, and sees a square in a power; else where it stands.
    """
    found = constants.get(name)
    if found is not None and found.ndim == 0:
        return found.item()
    if found is not None and found.ndim == 1 and not found.is_floating_point():
        return tuple(found.tolist())
    return Ref(name) if name else None


def _check(nodes: Any, source: str) -> None:
    """Raises FileError where OPS has not the operators of some nodes, and names all of these."""
    unknown = [
        f"{node.domain}{'.' if node.domain else ''}{_label(node)}"
        for node in nodes
        if node.op_type not in (*OPS, "Constant") or node.domain not in ("", "ai.onnx")
    ]
    if unknown:
        raise FileError(f"{source} with {', '.join(unknown)}", "known operators", _REWRITE)


def _label(node: Any) -> str:
    """The operator of a node, and its name or its first output's."""
    return f"{node.op_type} (node {node.name or ''.join(node.output[:1])!r})"


def _step(
    onnx: ModuleType, node: Any, version: int, source: str, constants: Mapping[str, Tensor]
) -> Step:
    """One node of OPS as a step; raises FileError where it has not the attribute."""
    label, remedy = _label(node), _REWRITE
    attributes = {a.name: _attribute(onnx, a) for a in node.attribute}
    if any(node.output[1:]):
        raise FileError(f"{source}: {label} with {len(node.output)} outputs", "one output", remedy)
    call = (BEFORE_13 if version < 13 else OPS)[node.op_type]
    lists = LISTS.get(node.op_type, ())
    args = tuple(
        _list(name, constants) if i in lists else Ref(name) if name else None
        for i, name in enumerate(node.input)
    )
    try:
        inspect.signature(call).bind(*args, **attributes)
    except TypeError as error:
        raise FileError(f"{source}: {label}: {error}", "known attributes", remedy) from error
    return Step(call, args, attributes, (node.output[0],), label)


def _attribute(onnx: ModuleType, attribute: Any) -> Any:
    """An attribute as numbers, text or lists of them."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    return value if isinstance(value, int | float | str) else list(value)


def _constant(onnx: ModuleType, node: Any, source: str) -> Tensor:
    """The tensor of a Constant node, in whichever of its attributes it stands."""
    attribute = node.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return _array(onnx, value, source)
    if attribute.name not in ("value_float", "value_floats", "value_int", "value_ints"):
        given = f"{source}: Constant with {attribute.name}"
        raise FileError(given, "numbers", _REMEDY)
    kind = torch.float32 if attribute.name.startswith("value_float") else torch.int64
    return torch.tensor(value, dtype=kind)


def _array(onnx: ModuleType, tensor: Any, source: str) -> Tensor:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        remedy = "save the model with its weights inside: onnx.save(model, path)"
        raise FileError(f"{source} with weights in other files", "one file", remedy)
    return torch.from_numpy(np.array(onnx.numpy_helper.to_array(tensor)))
