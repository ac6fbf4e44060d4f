"""Activations by name, for networks that let one choose."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from torchproof.core.errors import unknown

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "relu": F.relu,
    "leaky-relu": partial(F.leaky_relu, negative_slope=0.1),
    "silu": F.silu,
    "gelu": F.gelu,
    "softplus": partial(F.softplus, beta=10.0),
}
"""Without weights: the name changes no parameter. The last three are smooth; leaky-relu has the
slope 0.1 (Madry et al. 2018), softplus beta = 10.
"""


def activation_of(name: str) -> Activation:
    """The activation of that name; raises UnknownName."""
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]
