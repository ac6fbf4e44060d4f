"""A graph read from a file as a model of images, whatever batch and shape it was traced with."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx.traceback
from torch import Tensor, nn

from torchproof.core.errors import FileError, ModelError
from torchproof.core.labels import STEP

Shape = tuple[int | None, ...]
"""The declared shape of a graph's input, batch first; None where any number will do."""


@dataclass(frozen=True)
class Ref:
    """Stands among the arguments of a Step for the tensor or size of that name."""

    name: str


DEVICE = Ref("the device of the input")
"""Stands for the device the images are on."""


@dataclass(frozen=True)
class Step:
    """One operation of a graph: `call(*args, **keywords)`, whose answers get the names of
    `outputs`.

    `label` names it in errors; `writes` says that it changes its first argument in place.
    """

    call: Callable[..., Any]
    args: tuple[Any, ...]
    keywords: Mapping[str, Any]
    outputs: tuple[str | None, ...]
    label: str
    writes: bool = False

    def reads(self) -> Iterator[str]:
        """The names this step needs."""
        for value in (*self.args, *self.keywords.values()):
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, Ref) and item != DEVICE:
                    yield item.name


class Graph(nn.Module):
    """Steps walked in their order, from the tensor `input` to the tensor `output`.

    `bound` says which path in the module `weights` each named tensor has. A value is dropped after
    its last use. Raises FileError for a name that nothing has made, and for a step that writes into
    a weight.
    """

    def __init__(
        self,
        weights: nn.Module,
        bound: Mapping[str, tuple[str, ...]],
        steps: tuple[Step, ...],
        input: str,
        output: str,
    ) -> None:
        super().__init__()
        self.weights, self.bound, self.steps = weights, dict(bound), steps
        self.input, self.output = input, output
        self.writes = any(step.writes for step in steps)
        self.dropped = _last_uses(steps, {output, *bound})
        self._check()

    def forward(self, x: Tensor) -> Tensor:
        # a graph with in-place steps may write into its input, which belongs to the caller
        values: dict[str, Any] = {self.input: x.clone() if self.writes else x}
        for name, path in self.bound.items():
            values[name] = functools.reduce(getattr, path, self.weights)
        values[DEVICE.name] = x.device
        for step, dropped in zip(self.steps, self.dropped, strict=True):
            try:
                with _named(step.label):
                    answer = step.call(
                        *_filled(step.args, values), **_filled(step.keywords, values)
                    )
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                error.args = (f"{step.label}: {error}",)  # the same error, saying where
                raise
            answers = answer if isinstance(answer, list | tuple) else (answer,)
            values |= {n: a for n, a in zip(step.outputs, answers, strict=False) if n is not None}
            for name in dropped:
                values.pop(name, None)
        logits: Tensor = values[self.output]
        return logits

    def _check(self) -> None:
        made = {self.input, *self.bound}
        remedy = "export the model again; this file is damaged or was edited"
        for step in self.steps:
            reads = list(step.reads())
            if missing := [name for name in reads if name not in made]:
                raise FileError(
                    f"{step.label} before {missing[0]!r} is made", "an ordered graph", remedy
                )
            if step.writes and reads[:1] and reads[0] in self.bound:
                raise FileError(f"{step.label} into a weight", "a model in eval mode", remedy)
            made |= {name for name in step.outputs if name is not None}
        if self.output not in made:
            raise FileError(f"a graph that never makes {self.output!r}", "its answer", remedy)


def _named(label: str) -> AbstractContextManager[object]:
    """Tells an export that is under way what a step is called, whose line is that of all steps;
    torch before 2.9 cannot be told.
    """
    exporting = getattr(torch.compiler, "is_exporting", None)
    annotate = getattr(torch.fx.traceback, "annotate", None)
    if annotate is None or exporting is None or not exporting():
        return nullcontext()
    told: AbstractContextManager[object] = annotate({STEP: label})
    return told


def _last_uses(steps: tuple[Step, ...], kept: set[str]) -> list[list[str]]:
    """For each step the names nothing needs after it."""
    seen, dropped = set(kept), []
    for step in reversed(steps):
        names = {n for n in (*step.reads(), *step.outputs) if n is not None} - seen
        seen |= names
        dropped.append(sorted(names))
    return dropped[::-1]


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    """The arguments with their Refs replaced."""
    if isinstance(value, Ref):
        return values[value.name]
    if isinstance(value, list | tuple):
        return type(value)(_filled(v, values) for v in value)
    if isinstance(value, dict):
        return {k: _filled(v, values) for k, v in value.items()}
    return value


def attach(root: nn.Module, name: str, tensor: Tensor) -> tuple[str, ...]:
    """Give `root` the tensor under its dotted name, with modules for the dots; answers the path.

    A part that is empty, or that the module has already, gets an underscore.
    """
    *folders, leaf = name.split(".")
    path: list[str] = []
    module = root
    for part in folders:
        part = part or "_"
        while hasattr(module, part) and part not in module._modules:
            part += "_"
        if part not in module._modules:
            module.add_module(part, nn.Module())
        path, module = [*path, part], module.get_submodule(part)
    leaf = leaf or "_"
    while hasattr(module, leaf):
        leaf += "_"
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(leaf, tensor)
    else:
        module.register_buffer(leaf, tensor)
    return (*path, leaf)


class Traced(nn.Module):
    """Images x (B, C, H, W) to logits (B, K) by `graph`, which takes tensors of `shape`.

    Many graphs are traced with a fixed batch of n examples (mostly 1) and have it written into
    their reshapes. Such a graph is asked n examples at a time, vectorised by `torch.func.vmap` and
    padded with copies of the first example, whose answers are dropped; examples must not depend on
    each other, as in any model in eval mode. A graph that takes flat vectors gets the images
    flattened.

    Raises ModelError for images of another shape.
    """

    def __init__(self, graph: nn.Module, shape: Shape) -> None:
        super().__init__()
        self.steps, self.shape = graph, shape  # not `graph`: torch.export has one of its own

    def forward(self, x: Tensor) -> Tensor:
        x, batch = self._fitted(x), self.shape[0]
        if batch is None or batch == len(x):
            return _logits(self.steps(x))
        missing = -len(x) % batch
        padded = torch.cat([x, x[:1].expand(missing, *x.shape[1:])]) if missing else x
        blocks = padded.reshape(-1, batch, *x.shape[1:])
        answers = torch.func.vmap(lambda block: _logits(self.steps(block)))(blocks)
        return answers.flatten(0, 1)[: len(x)]

    def _fitted(self, x: Tensor) -> Tensor:
        """x in the shape the graph declares, flat where that is what it takes."""
        rest = self.shape[1:]
        if x.ndim != len(self.shape) and None not in rest:
            size = math.prod(n for n in rest if n is not None)
            if size == math.prod(x.shape[1:]):
                return x.reshape(len(x), *(n or 0 for n in rest))
        same = x.ndim == len(self.shape) and all(
            n in (None, m) for n, m in zip(rest, x.shape[1:], strict=True)
        )
        if not same:
            given, expected = f"images of shape {tuple(x.shape)}", f"{_text(self.shape)}"
            raise ModelError(given, expected, "use the data the model was exported for")
        return x


def probe(model: Traced, source: str) -> None:
    """Ask `model` for the logits of two blank images; raises FileError, naming `source`, if it
    cannot.

    What cannot work is so found when the file is read. A graph that declares no size is not asked.
    """
    rest = [n for n in model.shape[1:] if n is not None]
    if len(rest) < len(model.shape) - 1:
        return
    like = next(
        iter(t for t in model.state_dict().values() if t.is_floating_point()), torch.zeros(0)
    )
    remedy = "export it again, in eval mode and with a dynamic batch dimension"
    try:
        with torch.no_grad():
            logits = model(torch.zeros(2, *rest, dtype=like.dtype, device=like.device))
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise FileError(f"{source} ({error})", "a model that runs on two images", remedy) from error
    if logits.ndim != 2 or len(logits) != 2:
        given = f"{source}, which answers two images with shape {tuple(logits.shape)}"
        raise FileError(given, "logits (2, K)", remedy)


def _logits(answer: Tensor) -> Tensor:
    """(B, K, 1, ...) as (B, K): column vectors, or convolutions for a last linear layer."""
    return answer.flatten(1) if answer.ndim > 2 and answer[0, 0].numel() == 1 else answer


def _text(shape: Shape) -> str:
    return "(" + ", ".join("B" if i == 0 else str(n or "any") for i, n in enumerate(shape)) + ")"
