"""A network as a list of operations: what `torch.export` sees, in a form that every bound reads.

Export has one canonical operation for every idiom; the parameters are the model's own, so that
bounds are differentiable in them and a graph is traced once.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.fx.traceback
from torch import Tensor, nn

from torchproof.core.errors import InputError, ModelError
from torchproof.core.labels import STEP
from torchproof.verify.attention import batches_first

Values = dict[str, Any]


@dataclass(frozen=True)
class Ref:
    """The answer of another node, among the arguments of one."""

    name: str


@dataclass(frozen=True)
class Node:
    """An operation. kind: the name in the operator tables, such as "conv2d"; call: its function;
    args: positional arguments, with Refs for answers of other nodes; where: its source line, or the
    label of its step in a graph that was read from a file; named: the arguments that only have a
    name, which are in `call` already.
    """

    name: str
    kind: str
    call: Callable[..., Any]
    args: tuple[Any, ...]
    where: str
    named: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def refs(self) -> tuple[str, ...]:
        """The nodes it reads, in the order of the arguments."""
        return tuple(_refs(self.args))

    def answer(self, values: Mapping[str, Any]) -> Any:
        return self.call(*bind(self.args, values))


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can run; constants: parameters, buffers and literals by
    name; `live` nodes depend on the input's values.
    """

    nodes: tuple[Node, ...]
    input: str
    output: str
    constants: Mapping[str, Tensor]

    @cached_property
    def live(self) -> frozenset[str]:
        found = {self.input}
        for node in self.nodes:
            if node.kind not in SHAPES and found & set(node.refs):
                found.add(node.name)
        return frozenset(found)

    @cached_property
    def by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    def inputs(self, node: Node) -> tuple[str, ...]:
        """The live nodes that it reads."""
        return tuple(dict.fromkeys(name for name in node.refs if name in self.live))

    def run(self, x: Tensor) -> Values:
        """The answer of every node to x (B, ...)."""
        values: Values = {**self.constants, self.input: x}
        for node in self.nodes:
            values[node.name] = node.answer(values)
        return values


SHAPES = frozenset({"sym_size", "size", "numel", "scale", "shift", "zeros_like", "ones_like",
                    "full_like", "new_zeros", "new_ones", "new_full"})  # fmt: skip
"""Operations whose answers do not depend on the values of what they read, only on its shape."""


def bind(argument: Any, values: Mapping[str, Any]) -> Any:
    """The argument with values in the place of Refs."""
    if isinstance(argument, Ref):
        return values[argument.name]
    if isinstance(argument, (list, tuple)):
        return type(argument)(bind(part, values) for part in argument)
    return argument


def _refs(argument: Any) -> Iterator[str]:
    if isinstance(argument, Ref):
        yield argument.name
    elif isinstance(argument, (list, tuple)):
        for part in argument:
            yield from _refs(part)


def traced(model: nn.Module, x: Tensor) -> Graph:
    """The graph of a model in eval mode for inputs like x (B, ...), of any batch size.

    A model that runs with one input at a time only, as many files made elsewhere do, is traced so,
    and its reshapes are taken for those of a batch; whether that is what it means is tried.

    Raises InputError for a model in train mode, ModelError for one that export cannot follow, such
    as a Python `if` on values, with export's own words.
    """
    if any(module.training for module in model.modules()):
        raise InputError("a model in train mode", "a model in eval mode", "call model.eval()")
    one = x[:1].detach()
    from torchproof.verify.recorded import recorded  # which reads this module

    inner, shape = getattr(model, "steps", None), getattr(model, "shape", ())
    if isinstance(inner, nn.Module) and shape[:1] == (1,):  # a batch of one is written into it
        graph = recorded(inner, one) or _read(_exported(inner, one, None), inner)
        return _tried(_of_batches(graph, 1), model, one)
    rows = torch.cat([one, one])
    graph = recorded(model, rows, 5) or _read(
        _exported(model, rows, ({0: torch.export.Dim.AUTO},)), model
    )
    try:
        return _tried(graph, model, one)
    except ModelError:  # `x.reshape(len(x), -1)`: len() makes a number of the batch's size
        return _tried(_of_batches(graph, len(rows)), model, one)


def _exported(model: nn.Module, x: Tensor, dynamic: Any) -> Any:
    try:
        with warnings.catch_warnings(), _quietly(), _kept(), batches_first(model):
            warnings.simplefilter("ignore")
            program = torch.export.export(model, (x,), dynamic_shapes=dynamic)
            return program.run_decompositions({})
    except Exception as error:  # whatever export may raise about a model
        words = _said(error)
        raise ModelError(
            f"a model that torch.export cannot follow ({type(error).__name__}: {words})",
            "one tensor in, logits out, no Python branch on values",
            "rewrite the branch with torch.where, or bound the part before it",
        ) from error


def _kept() -> AbstractContextManager[object]:
    """Lets an export keep what steps say of themselves, where this torch can."""
    keep = getattr(torch.fx.traceback, "preserve_node_meta", nullcontext)
    told: AbstractContextManager[object] = keep()
    return told


_PLACE = re.compile(r'File "([^"]*)", line (\d+), in \w+\n\s*(.*)')


def _said(error: Exception) -> str:
    """What export says, after the line of the model that it is about, where it names one."""
    text, places = str(error), _PLACE.findall(str(error))
    own = [p for p in places if not p[0].startswith(str(Path(torch.__file__).parent))]
    at = "" if not own else "at {2!r}, {0}, line {1}: ".format(*own[-1])
    return at + " ".join(text.split())[:400]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what export prints and logs on its way to an error, which says it all."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _of_batches(graph: Graph, rows: int) -> Graph:
    """The graph, whose reshapes to (rows, ...) keep as many rows as there are."""
    nodes = [
        replace(node, call=keeping_rows)
        if node.kind in ("view", "reshape", "_unsafe_view") and list(node.args[1])[:1] == [rows]
        else node
        for node in graph.nodes
    ]
    return replace(graph, nodes=tuple(nodes))


def keeping_rows(x: Tensor, shape: Any) -> Tensor:
    """x in this shape, but for the number of rows."""
    return x.reshape(len(x), *shape[1:])


def _tried(graph: Graph, model: nn.Module, one: Tensor) -> Graph:
    """The graph; raises ModelError where rows of a batch are not answered as they are alone."""
    rows = torch.cat([one, one * 0.5, one * 0.25])
    with torch.no_grad():
        alone = torch.cat([model(row[None]) for row in rows])
        try:
            together = graph.run(rows)[graph.output]
        except RuntimeError:  # a size of the batch that was traced
            together = alone[:0]
    if bool(alone.isnan().any()):
        given = "a model that answers NaN, to one of the images given times 1, 0.5 and 0.25"
        raise ModelError(given, "numbers", "look for damaged weights, and quotients of zeros")
    if len(together) == len(alone) == 3:
        together, alone = together.flatten(1), alone.flatten(1)
    if together.shape != alone.shape or not torch.allclose(together, alone, rtol=1e-3, atol=1e-4):
        raise ModelError(
            "a model whose answers about one input depend on the others of the batch, or that has "
            "the size of a batch written into it in a way that is not understood",
            "rows that do not mix",
            "take out what is shared by a batch, or export it with a dynamic batch dimension",
        )
    return graph


def _read(program: Any, model: nn.Module) -> Graph:
    own = {**dict(model.named_parameters(remove_duplicate=False)),
           **dict(model.named_buffers(remove_duplicate=False))}  # fmt: skip
    constants: dict[str, Tensor] = {}
    start = ""
    for spec in program.graph_signature.input_specs:
        if spec.target is None:
            start = spec.arg.name
        else:
            constants[spec.arg.name] = own.get(spec.target, program.constants.get(spec.target))
    nodes: list[Node] = []
    output = ""
    for node in program.graph.nodes:
        if node.op == "call_function":
            nodes.append(_node(node))
        elif node.op == "output":
            (answers,) = node.args
            if len(answers) != 1:
                given = f"a model with {len(answers)} answers"
                raise ModelError(given, "one tensor of logits", "wrap it in a module of one answer")
            output = answers[0].name
    return Graph(_needed(nodes, output), start, output, constants)


def _node(node: Any) -> Node:
    """One call of export's graph; keyword arguments take their places where they have one."""
    target = node.target
    kind = str(getattr(target, "_opname", getattr(target, "__name__", target)))
    args, rest = _placed(target, node.args, node.kwargs)
    lines = (node.meta.get("stack_trace") or "").strip().splitlines()
    where = (node.meta.get("custom") or {}).get(STEP) or (lines[-1].strip() if lines else "")
    call = torch.reshape if kind in ("view", "_unsafe_view") else target  # whatever the strides
    return Node(node.name, kind, partial(call, **rest) if rest else call, args, where, rest)


def _placed(target: Any, args: Any, kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], Values]:
    """Positional arguments, and those that only have a name."""
    taken = [_argument(value) for value in args]
    schema = target._schema.arguments if kwargs else []
    named = {a.name: kwargs[a.name] for a in schema if a.kwarg_only and a.name in kwargs}
    places = [a for a in schema if not a.kwarg_only]
    last = max((i for i, a in enumerate(places) if a.name in kwargs), default=-1)
    for a in places[len(taken) : last + 1]:
        taken.append(_argument(kwargs.get(a.name, a.default_value)))
    return tuple(taken), named


def _argument(value: Any) -> Any:
    if isinstance(value, torch.fx.Node):
        return Ref(value.name)
    if isinstance(value, (list, tuple)):
        return [_argument(part) for part in value]
    return value


def _needed(nodes: list[Node], output: str) -> tuple[Node, ...]:
    """Without assertions and whatever else the output does not read."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if node.name in wanted:
            wanted |= set(node.refs)
            kept.append(node)
    return tuple(reversed(kept))
