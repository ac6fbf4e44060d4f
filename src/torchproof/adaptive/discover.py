"""The parts of a model that does not name them: its own modules without weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from torchproof.adaptive.predictor import DefendedPredictor, Inside
from torchproof.attack.untouched import untouched
from torchproof.core.sites import Model
from torchproof.nn.normalise import Normalise


class _Function(nn.Module):
    """A plain function as a module."""

    def __init__(self, call: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> object:
        return self.call(x)


def predictor_of(model: Model, x: Tensor) -> DefendedPredictor:
    """The model itself where it is a `DefendedPredictor`, else one around it that declares nothing,
    in which the types of module that are not torch's own, have no parameters and answer with the
    shape they are asked with are parts by the name of their type.

    x: a few images. The model is not copied.
    """
    if isinstance(model, DefendedPredictor):
        return model
    network = model if isinstance(model, nn.Module) else _Function(model)
    found = {kind.__name__: Inside(kind) for kind in _kinds(network, x)}
    return DefendedPredictor(network, inside=found, declared=None)


def _kinds(network: nn.Module, x: Tensor) -> list[type[nn.Module]]:
    """Types of leaf modules that may be parts, in the order in which they answer."""
    fits: dict[type[nn.Module], bool] = {}

    def listener(module: nn.Module, args: tuple[object, ...], out: object) -> None:
        same = len(args) == 1 and isinstance(args[0], Tensor) and isinstance(out, Tensor)
        same = same and args[0].shape == out.shape  # type: ignore[attr-defined]
        fits[type(module)] = fits.get(type(module), True) and same

    leaves = [
        module
        for module in network.modules()
        if module is not network
        and not any(module.children())
        and not any(True for _ in module.parameters())
        and not type(module).__module__.startswith("torch.")
        and not isinstance(module, Normalise)
    ]
    hooks = [module.register_forward_hook(listener) for module in leaves]
    try:
        with untouched(network), torch.no_grad():
            network(x[:2])
    finally:
        for hook in hooks:
            hook.remove()
    return [kind for kind, fit in fits.items() if fit]
