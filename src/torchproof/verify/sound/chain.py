"""A network as a plain list of layers, which anybody can read: what certificates are about."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from torchproof.core.errors import ModelError
from torchproof.verify.graph import Graph, Node, Ref, Values, bind
from torchproof.verify.sound.constants import doubts

Array = np.ndarray[Any, Any]
FLAT = frozenset({"view", "reshape", "_unsafe_view", "flatten", "clone", "contiguous", "alias",
                  "detach", "_to_copy", "to"})  # fmt: skip
"""Operations that leave the entries of an input in their order."""


@dataclass(frozen=True)
class Chain:
    """layers: kinds dense, conv, relu, and add, mul, div by a vector; arrays: what they hold, in
    float32 where that is exact; before: the nodes whose answers ReLUs read, in order; input: the
    shape of an example.
    """

    layers: tuple[dict[str, Any], ...]
    arrays: dict[str, Array]
    before: tuple[str, ...]
    input: tuple[int, ...]

    @property
    def sha256(self) -> str:
        """Of the input's shape, and of each layer's description (JSON, keys sorted), the shapes of
        its arrays, and the arrays (float64): other shapes of the same numbers are another network.
        """
        digest = hashlib.sha256(json.dumps(self.input).encode())
        for layer in self.layers:
            own = [self.arrays[layer[key]] for key in ("weight", "bias") if key in layer]
            said = json.dumps([layer, [array.shape for array in own]], sort_keys=True)
            digest.update(said.encode())
            for array in own:
                digest.update(array.astype("<f8").tobytes())
        return digest.hexdigest()


def chain_of(graph: Graph, x: Tensor) -> Chain:
    """The layers of a graph without branches; raises ModelError that names what is in the way."""
    values = graph.run(x[:1].double())
    inexact, _ = doubts(graph, {k: v for k, v in values.items() if k not in graph.live})
    made = _Chaining(values)
    strange, last = [], graph.input
    for node in graph.nodes:
        if node.name not in graph.live:
            continue
        plain = graph.inputs(node) == (last,) and not any(n in inexact for n in node.refs)
        if not (plain and node.args[0] == Ref(last) and made.take(node)):
            strange.append(node)
        last = node.name
    if strange:
        told = "; ".join(f"{node.kind} at {node.where!r}" for node in strange)
        raise ModelError(
            f"a network that is no chain of known layers: {told}",
            "dense and convolutional layers, ReLU, and sums, products and quotients with constants",
            "certify without a proof file, or fold other layers (batch norm) into these",
        )
    shape = tuple(x.shape[1:])
    return Chain(tuple(made.layers), made.arrays, tuple(made.before), shape)


class _Chaining:
    def __init__(self, values: Values) -> None:
        self.values = values
        self.layers: list[dict[str, Any]] = []
        self.arrays: dict[str, Array] = {}
        self.before: list[str] = []

    def take(self, node: Node) -> bool:
        """Adds the node; False where it is not known."""
        source, *rest = node.args
        z, answer = self.values[source.name], self.values[node.name]
        others = bind(rest, self.values)
        if node.kind in FLAT:
            return True  # `refuse` has seen to other precisions
        if node.kind == "relu":
            self.before.append(source.name)
            self.layers.append({"kind": "relu"})
        elif node.kind == "linear" and z.dim() == 2:
            self._add({"kind": "dense"}, *others)
        elif node.kind == "conv2d":
            return self._convolve(z, *others)
        elif node.kind in ("add", "sub", "mul", "div") and answer.shape == z.shape:
            value = -others[0] if node.kind == "sub" else others[0]
            full = z.new_zeros(z.shape) + value
            self._add({"kind": "add" if node.kind == "sub" else node.kind}, full.flatten())
        else:
            return False
        return True

    def _convolve(
        self, z: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
        padding: Any = 0, dilation: Any = 1, groups: int = 1,
    ) -> bool:  # fmt: skip
        if isinstance(padding, str) or z.dim() != 4:
            return False
        sides = {"stride": stride, "padding": padding, "dilation": dilation}
        lists = {k: [v] if isinstance(v, int) else list(v) for k, v in sides.items()}
        two = {k: v * (3 - len(v)) for k, v in lists.items()}
        self._add({"kind": "conv", **two, "groups": groups}, weight, bias)
        return True

    def _add(self, layer: dict[str, Any], weight: Tensor, bias: Tensor | None = None) -> None:
        for key, value in (("weight", weight), ("bias", bias)):
            if value is not None:
                name = layer[key] = f"{len(self.layers)}.{key}"
                array = value.detach().cpu().double().numpy()
                small = array.astype(np.float32)
                self.arrays[name] = small if bool((small == array).all()) else array
        self.layers.append(layer)
