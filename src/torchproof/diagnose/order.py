"""Which layers a network has, and in which order they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import untouched
from torchproof.core.errors import InputError


def layers_of(model: nn.Module, x: Tensor) -> tuple[str, ...]:
    """The dotted names of the layers with parameters of their own that run once on x, on one
    tensor, in the order in which they run; of a layer inside another the inner one. What is left
    out, `without` tells. Raises InputError where there are none.
    """
    own = {n for n, m in model.named_modules() if n and _holds(m)}
    once = [name for name in _run(model, x) if name in own]
    found = tuple(n for n in once if not any(other.startswith(f"{n}.") for other in once))
    if not found:
        given = "a network none of whose layers with parameters runs once, on one tensor"
        raise InputError(given, "modules such as nn.Linear and nn.Conv2d", "name its layers")
    return found


def in_order(model: nn.Module, x: Tensor, names: Sequence[str]) -> tuple[str, ...]:
    """These layers in the order in which they run on x, each once; raises InputError for one that
    does not run once, on one tensor.
    """
    order = _run(model, x)
    strange = [name for name in names if name not in order]
    if strange:
        given = f"layers that do not run once, on one tensor: {', '.join(strange)}"
        raise InputError(given, f"any of {', '.join(order)}", "choose other layers")
    return tuple(name for name in order if name in names)


def without(model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """The layers with parameters of their own that are neither among the names nor inside of one
    of them, and the parameters that the network holds itself.
    """
    left = [name for name, _ in model.named_parameters(recurse=False)]
    for name, module in model.named_modules():
        inside = any(name == one or name.startswith(f"{one}.") for one in names)
        if name and not inside and _holds(module):
            left.append(name)
    return tuple(left)


def _holds(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _run(model: nn.Module, x: Tensor) -> list[str]:
    """The modules that run once on x, on one tensor, in the order in which they begin to."""
    order: list[str] = []

    def listener(name: str) -> Callable[..., None]:
        def before(module: nn.Module, args: tuple[object, ...]) -> None:
            one = len(args) == 1 and isinstance(args[0], Tensor)
            order.extend([name] if one else [name, name])  # as one that runs twice, left out

        return before

    named = [(n, m) for n, m in model.named_modules() if n]
    handles = [m.register_forward_pre_hook(listener(n)) for n, m in named]
    try:
        with untouched(model), torch.no_grad():
            model(x[:1])
    finally:
        for handle in handles:
            handle.remove()
    return [name for name in order if order.count(name) == 1]
