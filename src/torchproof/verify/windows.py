"""What the entries of a convolutional node can see: a window of every node before it.

Windows have the same shape everywhere. So they are the answers of one small network, whose examples
are places in images, and a walk through it is a walk like any other: its convolutions are without
padding, its values and lines are cut out of the whole network's and are 0 outside the maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from torchproof.core.sets import Ball
from torchproof.verify.graph import Graph, Node, Ref, Values, bind
from torchproof.verify.inputs import InputSet
from torchproof.verify.linear import Held, Walk
from torchproof.verify.operators import nonlinear
from torchproof.verify.transpose import Transpose
from torchproof.verify.window import SLIDING, Places, Slide, Window

WORTH = 0.5  # windows are used where they have at most this share of the entries of whole maps
ALONE = frozenset({"add", "sub", "neg", "mul", "div", "clone", "contiguous", "alias", "detach"})
"""Affine operations of each entry by itself."""


@dataclass(frozen=True)
class Windows:
    """The small network of what entries of the node `name` see. shown: its nodes, each a window of
    a node of the whole network; masked: those that have to be closed outside the map.
    """

    name: str
    graph: Graph
    shown: Mapping[str, tuple[str, Window]]
    masked: tuple[str, ...]
    single: Values
    transposes: dict[str, Transpose] = field(default_factory=dict)

    @classmethod
    def of(cls, walk: Walk, name: str) -> Windows | None:
        """None where something before the node has no windows, or they are not worth it."""
        seen = _Seen.of(walk, name)
        return None if seen is None else seen.network()

    def starts(
        self, walk: Walk, open_: Tensor, most: int
    ) -> Iterator[tuple[Walk, Tensor, Tensor, tuple[Tensor, ...]]]:
        """Walks from the open entries, open_ (B, C, ...), of at most so many rows: the walk, rows
        at `name`, their examples in it, and their places in open_.
        """
        shape = tuple(open_.shape[2:])
        spots = open_.any(1).nonzero()
        number, channel = open_.movedim(1, -1)[tuple(spots.unbind(1))].nonzero().unbind(1)
        for part in torch.split(torch.arange(len(number), device=open_.device), most):
            first, last = int(number[part[0]]), int(number[part[-1]])
            own, example = spots[first : last + 1].unbind(1), number[part] - first
            around = self.around(walk, Places(own[0], own[1:], shape))
            rows = F.one_hot(channel[part], open_.shape[1]).to(walk.single[self.name].dtype)
            index = (own[0][example], channel[part], *(at[example] for at in own[1:]))
            yield around, rows.view(*rows.shape, *[1] * len(shape)), example, index

    def around(self, walk: Walk, places: Places) -> Walk:
        """The walk through the small network whose examples are these places."""

        def cut(values: Tensor, name: str, outside: float = 0.0) -> Tensor:
            return self.shown[name][1].cut(values, places, outside)

        lines = {}
        for name, held in walk.lines.items():
            if name in self.shown:
                low, high = (
                    tuple(cut(s, name) for s in slopes) for slopes in (held.low, held.high)
                )
                free = None if held.free is None else cut(held.free, name, torch.nan)
                lines[name] = Held(low, cut(held.low_at, name), high, cut(held.high_at, name), free)
        for name in self.masked:
            mask = cut(torch.ones_like(walk.reference[name]), name)
            zero = torch.zeros_like(mask)
            lines[name] = Held((mask,), zero, (mask,), zero)
        ball, start = walk.inside.ball, self.graph.input
        floor, ceiling = cut(ball.floor, start), cut(ball.ceiling, start)
        radius, scale = ball.radius[places.example], ball.scale[places.example]
        inside = InputSet(
            cut(walk.inside.x, start),
            Ball(ball.norm, radius, scale, floor, ceiling, floor, ceiling),
        )
        reference = _Cut(walk.reference, self.shown, places)
        return Walk(self.graph, inside, reference, self.single, lines, transposes=self.transposes)


class _Cut(dict[str, Any]):
    """The values of the small network, cut out when they are asked for."""

    def __init__(
        self, whole: Mapping[str, Any], shown: Mapping[str, tuple[str, Window]], places: Places
    ) -> None:
        super().__init__()
        self._whole, self._shown, self._places = whole, shown, places

    def __missing__(self, name: str) -> Tensor:
        source, window = self._shown[name]
        self[name] = found = window.cut(self._whole[source], self._places)
        return found


@dataclass(frozen=True)
class _Seen:
    """windows: of every node before (and of) `name`; reads: what each reads of its inputs; slides:
    those that slide; masked: rows there must not leak into the padding of the node before.
    """

    walk: Walk
    name: str
    windows: dict[str, Window] = field(default_factory=dict)
    reads: dict[str, Window] = field(default_factory=dict)
    slides: dict[str, Slide] = field(default_factory=dict)
    masked: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, walk: Walk, name: str) -> _Seen | None:
        made, shape = cls(walk, name), walk.single[name].shape[2:]
        if not shape:
            return None
        made.windows[name] = Window.itself(len(shape))
        outside: set[str] = set()  # nodes whose rows may not be 0 outside the map
        for node in reversed(walk.graph.nodes):
            if node.name in made.windows and not made._visit(node, outside, tuple(shape)):
                return None
        return made if made._worth() else None

    def _visit(self, node: Node, outside: set[str], places: tuple[int, ...]) -> bool:
        graph, single, window = self.walk.graph, self.walk.single, self.windows[node.name]
        names, bent = graph.inputs(node), nonlinear(node, graph)
        if node.kind in SLIDING and names == node.refs[:1]:
            slide = SLIDING[node.kind](*bind(node.args, single))
            if slide is None:
                return False
            self.slides[node.name], read = slide, slide.read(window)
            shape = tuple(single[node.name].shape[2:])
            if node.name in outside and any(map(any, window.beyond(shape, places))):
                self.masked.add(node.name)
            outside.update(names)
        elif self._alone(node, names, bent):
            read = window
            outside.update(names if node.name in outside and not bent else ())
        else:
            return False
        self.reads[node.name] = read
        for name in names:
            joined = read.joined(self.windows.get(name))
            if joined is None:
                return False
            self.windows[name] = joined
        return True

    def _alone(self, node: Node, names: tuple[str, ...], bent: bool) -> bool:
        """Does every entry come from its own entries alone, in the same way everywhere?"""
        single, shape = self.walk.single, self.walk.single[node.name].shape
        if any(single[name].shape != shape for name in names):
            return False
        others = [single[name] for name in node.refs if name not in names]
        even = all(isinstance(v, Tensor) and not _varies(v, len(shape) - 2) for v in others)
        return bent or (node.kind in ALONE and even)

    def _worth(self) -> bool:
        single = self.walk.single
        whole = sum(single[name].numel() for name in self.windows)
        parts = [single[n].shape[1] * prod(w.size) for n, w in self.windows.items()]
        return bool(sum(parts) <= WORTH * whole)

    def network(self) -> Windows:
        nodes, shown = [], {name: (name, window) for name, window in self.windows.items()}
        graph = self.walk.graph
        for node in graph.nodes:
            if node.name not in self.reads:
                continue
            refs = {name: Ref(name) for name in node.refs}
            for name in graph.inputs(node):
                if self.reads[node.name] != self.windows[name]:
                    crop = self._crop(name, node)
                    nodes.append(crop)
                    shown[crop.name], refs[name] = (name, self.reads[node.name]), Ref(crop.name)
            args = list(bind(node.args, refs))
            if node.name in self.slides and len(args) > self.slides[node.name].which:
                args[self.slides[node.name].which] = [0] * len(self.windows[node.name].size)
            inner = f"{node.name}.whole" if node.name in self.masked else node.name
            nodes.append(replace(node, name=inner, args=tuple(args)))
            if node.name in self.masked:
                nodes.append(Node(node.name, "inside", torch.clone, (Ref(inner),), node.where))
                shown[inner] = shown[node.name]
        single = {**self.walk.single}
        for name, (source, window) in shown.items():
            whole = self.walk.single[source]
            single[name] = whole.new_zeros(*whole.shape[:2], *window.size)
        small = Graph(tuple(nodes), graph.input, self.name, graph.constants)
        return Windows(self.name, small, shown, tuple(self.masked), single)

    def _crop(self, name: str, node: Node) -> Node:
        """What `node` reads of a window that is larger."""
        has, read = self.windows[name], self.reads[node.name]
        first = tuple(r - h for r, h in zip(read.start, has.start, strict=True))
        call = partial(_part, first=first, size=read.size)
        return Node(f"{name}@{node.name}", "slice", call, (Ref(name),), node.where)


def _part(x: Tensor, first: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    for axis, (start, length) in enumerate(zip(first, size, strict=True), 2):
        x = x.narrow(axis, start, length)
    return x


def _varies(values: Tensor, axes: int) -> bool:
    """Do they differ along any of the last axes?"""
    return any(n > 1 for n in values.shape[max(values.dim() - axes, 0) :])
