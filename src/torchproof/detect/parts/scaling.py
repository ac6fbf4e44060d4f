"""Features put on one scale by numbers from the training data alone, as a module.

The published comparisons fit these numbers on training and test images together; here they are
what `fit` has seen, and nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError


class Scaling(nn.Module):
    """(x - shift) * factor of features x (B, D), shift and factor (D,), computed in float64.

    A feature that is constant in training counts as one of spread 1, as scikit-learn does it.
    """

    shift: Tensor
    factor: Tensor

    def __init__(self, shift: Tensor, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift.detach().double().clone())
        self.register_buffer("factor", factor.detach().double().clone())
        self.training = False

    @classmethod
    def z_score(cls, features: Tensor) -> Scaling:
        """Mean 0 and standard deviation 1 (of the population) on features (N, D).

        Raises InputError for features that are not finite or not (N, D).
        """
        known = _checked(features)
        spread = known.std(0, correction=0)
        flat = spread <= 10 * torch.finfo(torch.float64).eps * known.abs().amax(0)
        return cls(known.mean(0), torch.where(flat, 1.0, 1 / spread.where(~flat, 1.0)))

    @classmethod
    def min_max(cls, features: Tensor, low: float = 0.0, high: float = 1.0) -> Scaling:
        """The smallest value of each of the features (N, D) to low, the largest to high.

        Raises InputError as `z_score` does. What lies outside in use is not clipped.
        """
        known = _checked(features)
        least, most = known.amin(0), known.amax(0)
        flat = most - least <= 10 * torch.finfo(torch.float64).eps * known.abs().amax(0)
        factor = (high - low) / (most - least).where(~flat, 1.0)
        return cls(least - low / factor, factor)

    def forward(self, x: Tensor) -> Tensor:
        return (x.double() - self.shift.double()) * self.factor.double()


def _checked(features: Tensor) -> Tensor:
    finite = features.ndim == 2 and len(features) > 0 and bool(features.isfinite().all())
    if not finite:
        given = f"features of shape {tuple(features.shape)}, or NaN or infinity among them"
        raise InputError(given, "finite numbers (N, D)", "look at the images they come from")
    return features.detach().double()
