"""Distances between features, computed in float64, in which cancellation does not show."""

from __future__ import annotations

from torch import Tensor


def squared_distances(x: Tensor, points: Tensor) -> Tensor:
    """(B, P) float64: |x_b - points_p|^2 for x (B, D) and points (P, D), differentiable in both,
    also where they are equal.
    """
    x, points = x.double(), points.double()
    lengths = x.square().sum(1, keepdim=True) + points.square().sum(1)
    return (lengths - 2 * x @ points.T).clamp_min(0)
