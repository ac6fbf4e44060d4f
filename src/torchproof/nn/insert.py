"""Blocks put behind layers of a network that knows nothing of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, unknown
from torchproof.core.expression import parse
from torchproof.nn.blocks import BLOCKS

Block = str | Callable[[int], nn.Module]
"""A text such as "NonLocal(form='dot')", a name of BLOCKS with its options; or channels -> module
that takes (B, C, H, W) to the same shape.
"""


class Behind(nn.Module):
    """`layer`, and `block` on its answer."""

    def __init__(self, layer: nn.Module, block: nn.Module) -> None:
        super().__init__()
        self.layer, self.block = layer, block

    def forward(self, *args: Any) -> Any:
        return self.block(self.layer(*args))


def insert(
    model: nn.Module, layer: str | Sequence[str], block: Block, x: Tensor | None = None
) -> nn.Module:
    """A copy of `model` with a fresh block behind each named layer, whose weights come from torch's
    random state; `model` stays as it is.

    layer: names of submodules, as in `model.named_modules()`, whose answers are maps (B, C, H, W);
    x: two or more example inputs, which a network of `build` does not need. Such a network with
    blocks given as text can be saved and loaded like any other. Weights keep their names but for
    a `.layer` behind that of the layer.

    Raises UnknownName for a layer or a block that is not there, InputError for a layer that does
    not answer with one tensor of maps, and for a block that changes their shape.
    """
    made = copy.deepcopy(model)
    for name in (layer,) if isinstance(layer, str) else tuple(layer):
        _put(made, name, block, _example(model) if x is None else x)
        _remember(made, name, block)
    return made


def _remember(net: nn.Module, name: str, block: Block) -> None:
    """A network of `build` knows how to make it again, or, with a block that no text makes, that
    nobody does.
    """
    options = getattr(net, "options", None)
    if not isinstance(options, dict):
        return
    own, before = name.removeprefix("net."), options.get("insert", {})
    if isinstance(block, str) and own != name and own not in before:
        net.__dict__["options"] = {**options, "insert": {**before, own: block}}
    else:
        net.__dict__["name"] = f"{net.__dict__['name']} with a block behind {name}"


def insert_all(net: nn.Module, blocks: Mapping[str, str], x: Tensor) -> None:
    """Puts the blocks into `net` itself: layer -> block as text; x as in `insert`."""
    for name, text in blocks.items():
        _put(net, name, text, x)


def _put(net: nn.Module, name: str, block: Block, x: Tensor) -> None:
    modules = dict(net.named_modules())
    if name not in modules or not name:
        raise unknown("layer", name, [n for n in modules if n])
    maps, classes = _answers(net, modules[name], name, x)
    channels = maps.shape[1]
    made = _made(block, channels, classes).to(device=maps.device, dtype=maps.dtype)
    with _evaluating(made), torch.no_grad():
        after = made(maps)
    if not isinstance(after, Tensor) or after.shape != maps.shape:
        shape = tuple(getattr(after, "shape", ()))
        given = f"a block that turns maps {tuple(maps.shape)} into {shape}"
        raise InputError(given, "the same shape", "choose another block")
    parent, _, own = name.rpartition(".")
    setattr(net.get_submodule(parent), own, Behind(modules[name], made.train(net.training)))


def _made(block: Block, channels: int, classes: int) -> nn.Module:
    if not isinstance(block, str):
        return block(channels)
    made = parse(block, BLOCKS, channels=channels, classes=classes)
    if not isinstance(made, nn.Module):
        raise InputError(f"block {block!r}", "a block", f"choose one of {', '.join(BLOCKS)}")
    return made


def _answers(net: nn.Module, layer: nn.Module, name: str, x: Tensor) -> tuple[Tensor, int]:
    """The layer's maps of x, and the number of classes of the network."""
    seen: list[Any] = []
    handle = layer.register_forward_hook(lambda module, args, out: seen.append(out))
    try:
        with _evaluating(net), torch.no_grad():
            logits = net(x)
    finally:
        handle.remove()
    if len(seen) != 1 or not isinstance(seen[0], Tensor) or seen[0].dim() != 4:
        shapes = [tuple(getattr(s, "shape", ())) for s in seen]
        given = f"layer {name!r}, which answered {shapes} to one batch"
        raise InputError(given, "maps (B, C, H, W), once", "choose a convolution or a stage")
    return seen[0], logits.shape[-1]


def _example(model: nn.Module) -> Tensor:
    options = getattr(model, "options", {})
    if not {"channels", "size"} <= set(options):
        given = f"a {type(model).__name__} of an unknown input shape"
        raise InputError(given, "example inputs", "pass x, two images (2, C, H, W)")
    weight = next(model.parameters())
    shape = (2, options["channels"], options["size"], options["size"])
    return torch.zeros(shape, device=weight.device, dtype=weight.dtype)


@contextmanager
def _evaluating(net: nn.Module) -> Any:
    """Eval mode inside, every module's own mode afterwards."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
