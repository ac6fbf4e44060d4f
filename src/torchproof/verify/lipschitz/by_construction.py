"""Networks of layers whose constants in L2 are known: certificates for one forward pass.

A module says what it has as `lipschitz`, a number that holds whatever its weights. The margin over
sqrt(2) times the product is a radius, since the constant is one of all logits together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torchproof.core.errors import ModelError
from torchproof.core.norms import L2
from torchproof.verify.inputs import rows_of
from torchproof.verify.lipschitz.margin import from_joint

KNOWN: dict[type[nn.Module], float] = {
    nn.Flatten: 1.0,
    nn.Identity: 1.0,
    nn.Unflatten: 1.0,
    nn.PixelUnshuffle: 1.0,
    nn.ReLU: 1.0,
    nn.Tanh: 1.0,
    nn.Sigmoid: 0.25,
}


def constant(model: nn.Module) -> float:
    """The product of the constants of a chain of modules (`nn.Sequential`, nested or not).

    Raises ModelError naming those that have none.
    """
    if isinstance(model, nn.Sequential) and not hasattr(model, "lipschitz"):
        return math.prod(constant(part) for part in model)
    if type(model) in KNOWN:
        return KNOWN[type(model)]
    own = getattr(model, "lipschitz", None)
    if not isinstance(own, float):
        raise ModelError(
            f"{type(model).__name__}, whose Lipschitz constant does not follow from its kind",
            "a chain of modules with an attribute `lipschitz`",
            "use 1-Lipschitz layers, or radius(method='op-norm') for any weights",
        )
    return own


def radius(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(B,) certified L2 radii, input units, without the pixel box: the least margin over sqrt(2)
    times the constant; 0 where the class is not y. Rounding in the layers is not accounted for.
    """
    with torch.no_grad():
        logits = model(x)
        rows = rows_of(y, logits.shape[1]).to(logits.dtype)
        return from_joint((rows @ logits.unsqueeze(2))[..., 0], constant(model), L2())
