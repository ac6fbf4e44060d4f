"""A network cut in two at a layer, f = h after e, without a change to the network: e is what a hook
sees, h is the network run with that value replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import home, precision, untouched
from torchproof.core.errors import InputError, ModelError, unknown

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """The place of the cut: the output of the module called `name`, or its (first) input.

    The output of a linear layer is what comes before its ReLU; the input of a ResNet's last layer
    is the pooled feature vector. Raises InputError for another side.
    """

    name: str
    side: Literal["output", "input"] = "output"

    def __post_init__(self) -> None:
        if self.side not in ("output", "input"):
            remedy = "say which side of the module is meant"
            raise InputError(f"side = {self.side!r}", "output or input", remedy)

    def of(self, model: nn.Module) -> nn.Module:
        """The module itself; raises UnknownName."""
        modules: dict[str, nn.Module] = dict(model.named_modules())
        if self.name not in modules or not self.name:
            raise unknown("layer", self.name, (name for name in modules if name))
        return modules[self.name]


@contextmanager
def _changed(model: nn.Module, layer: Layer, change: Change) -> Iterator[list[int]]:
    """Inside, the value at the cut goes through `change`; the list counts how often."""
    calls: list[int] = []

    def one(value: Any) -> Tensor:
        if not isinstance(value, Tensor) or value.dim() < 2:
            given = f"a {type(value).__name__} at the {layer.side} of {layer.name}"
            raise ModelError(given, "one tensor with a row per image", "cut at another layer")
        calls.append(1)
        return change(value)

    def after(module: nn.Module, inputs: tuple[Any, ...], out: Any) -> Tensor:
        return one(out)

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (one(inputs[0]), *inputs[1:])

    module = layer.of(model)
    hook = (
        module.register_forward_hook(after)
        if layer.side == "output"
        else module.register_forward_pre_hook(before)
    )
    try:
        yield calls
    finally:
        hook.remove()


def _once(calls: list[int], layer: Layer) -> None:
    if len(calls) != 1:
        given = f"a network that passes {layer.name} {len(calls)} times"
        raise ModelError(given, "a layer that is passed once", "cut at another layer")


@torch.no_grad()
def encode(model: nn.Module, layer: Layer, x: Tensor, slots: int = 256) -> Tensor:
    """e(x): (N, D) values at the cut for images x (N, C, H, W), flattened, on the CPU; in eval
    mode, and the model stays as it was.

    Raises UnknownName for a layer that is not there, ModelError for one that has not one tensor in
    every pass.
    """
    found: list[Tensor] = []

    def seen(value: Tensor) -> Tensor:
        found.append(value.flatten(1).cpu())
        return value

    with untouched(model):
        for part in torch.split(x, slots):
            with _changed(model, layer, seen) as calls:
                model(part.to(home(model), precision(model)))
            _once(calls, layer)
    return torch.cat(found)


def answer(model: nn.Module, layer: Layer, z: Tensor, like: Tensor) -> Tensor:
    """h(z): logits (N, K) for values z (N, D) at the cut, with their graph.

    like: an image (C, H, W) of the network's size; what it shows does not matter. The model is run
    in the mode it is in.
    """
    images = like.to(home(model), precision(model)).expand(len(z), *like.shape)
    with _changed(model, layer, lambda value: z.to(value).reshape(value.shape)) as calls:
        logits: Tensor = model(images)
    _once(calls, layer)
    return logits
