"""Activations by name, for networks that let one choose.

A network has one activation for each width of its maps: those with weights are shared by all layers
of that width (in a ResNet: of a stage), so that a trained one fits a deeper network.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from torchproof.core.errors import InputError
from torchproof.core.expression import parse
from torchproof.nn.parametric import PSiLU, PSoftplus, PSSiLU
from torchproof.nn.sparta import Sparta

ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": partial(nn.LeakyReLU, negative_slope=0.1),
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": partial(nn.Softplus, beta=10.0),
    "psilu": PSiLU,
    "pssilu": PSSiLU,
    "psoftplus": PSoftplus,
    "sparta": Sparta,
}
"""Name -> module of x (B, C, ...), same shape out. leaky-relu has the slope 0.1 (Madry et al.
2018), softplus beta = 10. One with weights takes `channels`, and `maps`: False where x is (B, C).
"""


def activation_of(text: str, channels: int, maps: bool = True) -> nn.Module:
    """The activation that `text` names, such as "silu" or "softplus(beta=5)", for x (B, channels,
    H, W), or for (B, channels) without `maps`; raises UnknownName, InputError.
    """
    made = parse(text, ACTIVATIONS, channels=channels, maps=maps)
    if not isinstance(made, nn.Module):
        known = ", ".join(ACTIVATIONS)
        raise InputError(f"activation {text!r}", "an activation", f"choose one of {known}")
    return made
