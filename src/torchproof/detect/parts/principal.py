"""Principal components of features far wider than there are rows of them, as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError


class Principal(nn.Module):
    """Features x (B, D), or (B, ...), which are flattened, to the first components (B, k), in the
    dtype of x: (x - mean) @ axes.T, mean (D,), axes (k, D) in order of falling variance.
    """

    mean: Tensor
    axes: Tensor

    def __init__(self, mean: Tensor, axes: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)
        self.training = False

    @classmethod
    def of(cls, features: Tensor, components: int) -> Principal:
        """At most so many components of features (N, D), and no more than have variance: N - 1 at
        most. They come from the N x N products of the rows, since D may be large; numbers are kept
        in the dtype of the features.

        Raises InputError for features that are not finite, and for rows that are all the same.
        """
        if features.ndim != 2 or not bool(features.isfinite().all()):
            given = f"features of shape {tuple(features.shape)}, or not finite"
            raise InputError(given, "finite numbers (N, D)", "look at the images they come from")
        known = features.double()
        mean = known.mean(0)
        known = known - mean
        variance, rows = torch.linalg.eigh(known @ known.T)
        variance, rows = variance.flip(0), rows.flip(1)
        count = int((variance > 1e-10 * variance[0]).sum()) if variance[0] > 0 else 0
        if not count:
            remedy = "choose another layer"
            raise InputError(f"{len(features)} rows that are all the same", "some spread", remedy)
        kept = min(count, components)
        axes = (rows[:, :kept].T @ known) / variance[:kept, None].sqrt()
        return cls(mean.to(features.dtype), axes.to(features.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - self.mean) @ self.axes.T
