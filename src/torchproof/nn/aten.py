"""The operators and the notation of graphs made by `torch.export`, as far as they may be walked."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch

from torchproof.core.errors import FileError
from torchproof.nn.traced import DEVICE, Ref, Step

_ALLOWED = """
    abs adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d add addmm alias all amax amin
    any arange argmax argmin avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bitwise_and
    bitwise_not bitwise_or bmm cat ceil celu chunk clamp clamp_max clamp_min clone constant_pad_nd
    contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d convolution copy cos cumsum
    detach detach_ div dropout einsum elu embedding eq erf exp expand expand_as expm1
    feature_dropout fill flatten flip floor floor_divide full full_like gather ge gelu glu
    group_norm gt hardsigmoid hardswish hardtanh im2col index index_select instance_norm isnan
    layer_norm le leaky_relu lerp lift_fresh_copy linalg_vector_norm linear log log1p log2
    log_sigmoid log_softmax logical_and logical_not logical_or logsumexp lt masked_fill matmul max
    max_pool1d max_pool2d max_pool2d_with_indices max_pool3d maximum mean min minimum mish mm
    movedim mul narrow native_batch_norm native_group_norm native_layer_norm ne neg new_ones
    new_zeros norm ones ones_like pad permute pixel_shuffle pixel_unshuffle pow prelu reciprocal
    reflection_pad2d relu relu6 remainder repeat repeat_interleave replication_pad2d reshape
    rms_norm roll round rsqrt rsub scalar_tensor scaled_dot_product_attention select selu sigmoid
    sign silu sin slice softmax softplus split split_with_sizes sqrt square squeeze stack std sub
    sum swapaxes sym_size t tanh threshold tile to topk transpose tril triu type_as unbind unflatten
    unfold unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_nearest2d var var_mean view
    view_as where zeros zeros_like _adaptive_avg_pool2d _log_softmax
    _native_batch_norm_legit_no_training _softmax _to_copy _unsafe_view
"""
OPERATORS = frozenset(_ALLOWED.split())
"""The operators of aten a graph may use: pure functions of tensors, none that reads files or memory
it was not given. Their in-place forms (`relu_`) are allowed too. A missing one is added here.
"""

SYMBOLIC: Mapping[str, Callable[..., Any]] = {
    "_operator.add": operator.add,
    "_operator.sub": operator.sub,
    "_operator.mul": operator.mul,
    "_operator.floordiv": operator.floordiv,
    "_operator.mod": operator.mod,
    "_operator.neg": operator.neg,
    "_operator.getitem": operator.getitem,
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "torch.sym_max": torch.sym_max,
    "torch.sym_min": torch.sym_min,
}
"""Arithmetic of sizes."""

_CHECKS = frozenset({"_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size"})
_TRAINING = {
    "batch_norm": "training",
    "dropout": "train",
    "feature_dropout": "train",
    "native_batch_norm": "training",
    "scaled_dot_product_attention": "dropout_p",
}
"""Operator -> the argument which, when it is not false or zero, makes it act as in training."""

_NUMBERS = ("as_int", "as_ints", "as_int_lists", "as_float", "as_floats", "as_bool", "as_bools")
_AS_IS = (*_NUMBERS, "as_string", "as_strings")
DTYPES = {
    **{1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64},
    **{6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16},
}
_FORMATS = {
    **{1: torch.contiguous_format, 2: torch.channels_last},
    **{3: torch.channels_last_3d, 4: torch.preserve_format},
}

_CONVERT: dict[str, Callable[[Any], Any]] = {
    "as_none": lambda value: None,
    "as_tensor": lambda value: Ref(value["name"]),
    "as_tensors": lambda value: [Ref(v["name"]) for v in value],
    "as_optional_tensor": lambda value: argument(value),
    "as_optional_tensors": lambda value: [argument(v) for v in value],
    "as_sym_int": lambda value: argument(value),
    "as_sym_ints": lambda value: [argument(v) for v in value],
    "as_sym_float": lambda value: argument(value),
    "as_name": Ref,
    "as_scalar_type": DTYPES.__getitem__,
    "as_memory_format": _FORMATS.__getitem__,
    "as_layout": {7: torch.strided}.__getitem__,
    "as_device": lambda value: DEVICE,  # the model may have been moved since
}
_CONVERT |= dict.fromkeys(_AS_IS, lambda value: value)


def argument(tagged: Mapping[str, Any]) -> Any:
    """An argument as the file has it, {kind: value}, with Refs where tensors and sizes will stand.

    Raises ValueError for kinds that are not data: objects, operators, graphs of control flow.
    """
    ((kind, value),) = tagged.items()
    if kind not in _CONVERT:
        raise ValueError(f"an argument of kind {kind}")
    return _CONVERT[kind](value)


def step_of(node: Mapping[str, Any], source: str) -> Step | None:
    """The step that `node` describes, None for one that only checks.

    Raises FileError for an operator outside the tables and for one that acts as in training.
    """
    target, label = node["target"], f"{node['target']} (node {node.get('name')!r})"
    name, _, overload = target.removeprefix("torch.ops.aten.").partition(".")
    function = name.removesuffix("_")
    if target in SYMBOLIC:
        call = SYMBOLIC[target]
    elif target.startswith("torch.ops.aten.") and name in _CHECKS:
        return None
    elif target.startswith("torch.ops.aten.") and function in OPERATORS:
        packet = getattr(torch.ops.aten, name)
        if overload not in packet.overloads() or overload.endswith("out"):
            raise _strange(label, source)
        call = getattr(packet, overload)
    else:
        raise _strange(label, source)
    named = {i["name"]: argument(i["arg"]) for i in node["inputs"]}
    if named.get(_TRAINING.get(function, "")):
        remedy = "call model.eval() before torch.export.export"
        raise FileError(f"{source}: {label} as in training", "a model in eval mode", remedy)
    by_name = [i["name"] for i in node["inputs"] if i.get("kind") == 2]
    return Step(
        call,
        tuple(v for k, v in named.items() if k not in by_name),
        {k: named[k] for k in by_name},
        tuple(name for output in node["outputs"] for name in _names(output)),
        label,
        writes=name != function,
    )


def _strange(label: str, source: str) -> FileError:
    remedy = (
        "rewrite that part of the model, or add the operator to OPERATORS in torchproof/nn/aten.py"
    )
    return FileError(f"{source} with {label}", "operators that are known to be safe", remedy)


def _names(output: Mapping[str, Any]) -> list[str | None]:
    """The names an output binds: one, or those of a list of tensors; None for what is not used."""
    found = argument(output)
    return [
        v.name if isinstance(v, Ref) else None
        for v in (found if isinstance(found, list) else [found])
    ]
