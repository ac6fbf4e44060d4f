"""The graph of a plain network, by writing down what it calls.

`torch.export` takes seconds to be imported, and some tenths of a second for each network. Where
every call is one of a short table and no value of a tensor reaches Python, a run or two say the
same; whatever else is met is left to `torch.export`.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from torchproof.verify.graph import Graph, Node, Ref, keeping_rows

LOOKS = frozenset({"shape", "ndim", "device", "dtype", "dim", "size", "numel", "is_floating_point"})
"""Questions about a tensor that its values do not decide."""

_SIZES = ("input", "*sizes")
_TWO = ("input", "other")
_CONV: tuple[Any, ...] = ("input", "weight", ("bias", None), ("stride", 1), ("padding", 0),
                          ("dilation", 1), ("groups", 1))  # fmt: skip


def _batch_norm(x: Tensor, mean: Tensor, var: Tensor, *more: Any) -> Tensor:
    weight, bias, momentum, eps = more
    return F.batch_norm(x, mean, var, weight, bias, False, momentum, eps)


_POOL: tuple[Any, ...] = ("input", "kernel_size", ("stride", None), ("padding", 0), ("dilation", 1),
                          ("ceil_mode", False), ("return_indices", False))  # fmt: skip
_PLACE = ("inplace", False)

_ENTRIES = ("neg", "abs", "square", "exp", "log", "sqrt", "rsqrt", "reciprocal", "erf", "atan",
            "sigmoid", "tanh")  # fmt: skip

CALLS: Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    **{name: (getattr(torch, name), ("input",)) for name in _ENTRIES},
    "add": (torch.add, _TWO),
    "sub": (torch.sub, _TWO),
    "mul": (torch.mul, _TWO),
    "div": (torch.div, _TWO),
    "clamp": (torch.clamp, ("input", ("min", None), ("max", None))),
    "matmul": (torch.matmul, _TWO),
    "linear": (F.linear, ("input", "weight", ("bias", None))),
    "conv1d": (torch.conv1d, _CONV),
    "conv2d": (torch.conv2d, _CONV),
    "conv_transpose2d": (torch.conv_transpose2d, (
        *_CONV[:5], ("output_padding", 0), ("groups", 1), ("dilation", 1))),
    "relu": (torch.relu, ("input", _PLACE)),
    "leaky_relu": (F.leaky_relu, ("input", ("negative_slope", 0.01), _PLACE)),
    "prelu": (torch.prelu, ("input", "weight")),
    "elu": (F.elu, ("input", ("alpha", 1.0), _PLACE)),
    "silu": (F.silu, ("input", _PLACE)),
    "mish": (F.mish, ("input", _PLACE)),
    "gelu": (F.gelu, ("input", ("approximate", "none"))),
    "softplus": (F.softplus, ("input", ("beta", 1.0), ("threshold", 20.0))),
    "hardtanh": (F.hardtanh, ("input", ("min_val", -1.0), ("max_val", 1.0), _PLACE)),
    "hardswish": (F.hardswish, ("input", _PLACE)),
    "hardsigmoid": (F.hardsigmoid, ("input", _PLACE)),
    "selu": (F.selu, ("input", _PLACE)),
    "celu": (F.celu, ("input", ("alpha", 1.0), _PLACE)),
    "max_pool2d": (F.max_pool2d, _POOL),
    "avg_pool2d": (F.avg_pool2d, (
        *_POOL[:4], ("ceil_mode", False), ("count_include_pad", True), ("divisor_override", None))),
    "adaptive_avg_pool2d": (F.adaptive_avg_pool2d, ("input", "output_size")),
    "batch_norm": (_batch_norm, (
        "input", "running_mean", "running_var", ("weight", None), ("bias", None),
        ("training", False), ("momentum", 0.1), ("eps", 1e-5))),
    "layer_norm": (F.layer_norm, (
        "input", "normalized_shape", ("weight", None), ("bias", None), ("eps", 1e-5))),
    "reshape": (torch.reshape, _SIZES),
    "permute": (torch.permute, _SIZES),
    "flatten": (torch.flatten, ("input", ("start_dim", 0), ("end_dim", -1))),
    "t": (torch.t, ("input",)),
    "pad": (F.pad, ("input", "pad", ("mode", "constant"), ("value", None))),
}  # fmt: skip
"""Name of a call -> the function, and its arguments in order, with the defaults of those that have
one. The names are kinds of operations too. What is done in place, or in train mode, is not written
down.
"""

USUAL: Mapping[str, Any] = {
    "inplace": False, "training": False, "return_indices": False, "approximate": "none",
}  # fmt: skip
"""Arguments that are left out, and what they have to be."""


class Strange(Exception):
    """A call that the table does not have, or not with such arguments."""


def recorded(model: nn.Module, x: Tensor, rows: int | None = None) -> Graph | None:
    """The graph of a model for inputs like x (B, ...); None where it calls what is not in CALLS.

    rows: run it with so many rows of x too, and take sizes in which the two runs differ for the
    batch's; None where the batch is written into the network.
    """
    try:
        graph = _run(model, x)
        return graph if rows is None else _of_any_batch(graph, _run(model, x[:1].expand(
            rows, *x.shape[1:])), len(x), rows)  # fmt: skip
    except Strange:
        return None


def _run(model: nn.Module, x: Tensor) -> Graph:
    own = [*model.named_parameters(remove_duplicate=False),
           *model.named_buffers(remove_duplicate=False)]  # fmt: skip
    constants = {f"own {name}": tensor for name, tensor in own}
    start = x.detach().clone()
    known = {id(tensor): name for name, tensor in constants.items()} | {id(start): "input"}
    with torch.no_grad(), _Recorder(known) as recorder:
        answer = model(start)
    output = recorder.known.get(id(answer))
    if output is None:
        raise Strange
    return Graph(tuple(recorder.nodes), "input", output, constants)


class _Recorder(TorchFunctionMode):
    """Writes down the calls of CALLS. known: the names of tensors, by their identity."""

    def __init__(self, known: Mapping[int, str]) -> None:
        super().__init__()
        self.known, self.nodes = dict(known), list[Node]()
        self.kept: list[Any] = []  # so that no identity is used twice

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        name = func.__self__.__name__ if func.__name__ == "__get__" else func.__name__
        if name == "dropout" and args and (kwargs or {}).get("training") is False:
            self.known[id(answer)] = self._named(args[0]).name
            self.kept.append((args, answer))
            return answer
        if name in LOOKS and not isinstance(answer, Tensor):
            return answer
        if name == "mT" and len(args) == 1:
            self._add("transpose", torch.transpose, (args[0], -2, -1), answer)
        elif name in CALLS:
            call, places = CALLS[name]
            self._add(name, call, _placed(places, args, kwargs or {}), answer)
        else:
            raise Strange
        return answer

    def _add(self, kind: str, call: Callable[..., Any], args: tuple[Any, ...], answer: Any) -> None:
        if id(answer) in self.known or not isinstance(answer, Tensor):
            raise Strange
        name = f"{kind} {len(self.nodes)}"
        told = tuple(self._named(value) for value in args)
        self.nodes.append(Node(name, kind, call, told, _line()))
        self.known[id(answer)] = name
        self.kept.append((args, answer))

    def _named(self, value: Any) -> Any:
        """A tensor by its name, sizes as a list, any other argument as it is."""
        if isinstance(value, Tensor):
            if id(value) not in self.known:
                raise Strange
            return Ref(self.known[id(value)])
        if isinstance(value, (list, tuple)):
            if not all(isinstance(part, int) for part in value):
                raise Strange
            return list(value)
        if value is not None and not isinstance(value, (int, float, str)):
            raise Strange
        return value


def _line() -> str:
    """The source line of the model that makes the call which is being written down."""
    frame = layer = sys._getframe(2)
    own = (_TORCH, __file__)
    while (before := frame.f_back) is not None and frame.f_code.co_filename.startswith(own):
        if frame.f_code is _run.__code__:  # the model's own code is all torch's
            frame = layer
            break
        if layer.f_code.co_name != "forward":
            layer = frame
        frame = before
    if frame.f_globals.get("__name__") == "torchproof.nn.traced":  # whose steps all have one line
        return str(frame.f_locals["step"].label)
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()


_TORCH = str(Path(torch.__file__).parent)


def _placed(
    places: tuple[Any, ...], args: Sequence[Any], named: Mapping[str, Any]
) -> tuple[Any, ...]:
    """All arguments in the order of `places`, but for those that are as usual."""
    if places[-1] == "*sizes":
        sizes = args[1] if len(args) == 2 and not isinstance(args[1], int) else args[1:]
        if named:
            raise Strange
        return args[0], list(sizes)
    names = [p if isinstance(p, str) else p[0] for p in places]
    given = dict(zip(names, args, strict=False)) | dict(named)
    defaults = dict(p for p in places if not isinstance(p, str))
    if len(args) > len(names) or set(given) - set(names) or set(names) - {*given, *defaults}:
        raise Strange
    if any(given.get(name, usual) != usual for name, usual in USUAL.items()):
        raise Strange
    return tuple(given.get(name, defaults.get(name)) for name in names if name not in USUAL)


def _of_any_batch(one: Graph, other: Graph, rows: int, others: int) -> Graph:
    """The first graph, whose reshapes to (rows, ...) keep as many rows as there are, where the
    second has `others` in their place.
    """
    nodes = []
    same = len(one.nodes) == len(other.nodes) and one.output == other.output
    for a, b in zip(one.nodes, other.nodes, strict=False):
        same = same and a.name == b.name
        if a.args != b.args:
            (x, sizes), changed = (a.args, b.args) if a.kind == "reshape" else ((None, []), ())
            if not sizes or changed != (x, [others, *sizes[1:]]) or sizes[0] != rows:
                raise Strange
            a = replace(a, call=keeping_rows)
        nodes.append(a)
    if not same:
        raise Strange
    return replace(one, nodes=tuple(nodes))
