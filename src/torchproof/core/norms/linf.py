"""The largest absolute coordinate."""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.norms.norm import Norm, flat, widened
from torchproof.core.values import expand


class Linf(Norm):
    """Largest absolute coordinate."""

    def length(self, d: Tensor) -> Tensor:
        return flat(d).abs().amax(1) if d.numel() else d.new_zeros(len(d))

    def steepest(self, g: Tensor) -> Tensor:
        return g.sign()

    def move(self, d: Tensor, g: Tensor, length: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.addcmul(
            d, g.sign(), expand(length, g).to(g.dtype)
        )  # signs times lengths are exact

    def project(self, d: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.clamp(d, low, high)

    def bring(self, d: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return d.clamp_(low, high)

    def maximiser(self, a: Tensor, radius: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.where(a > 0, high, torch.where(a < 0, low, 0.0))

    def random(self, key: Tensor, like: Tensor, stream: int = 0) -> Tensor:
        """Uniform noise stretched until it touches the sphere, as APGD starts (Croce and Hein
        2020a).
        """
        u = keys.uniform(key, 0, tuple(like.shape[1:]), stream, like.dtype).mul_(2).sub_(1)
        return u / expand(self.length(u).clamp_min(1e-12), u)

    def sample(self, key: Tensor, radius: Tensor, like: Tensor, stream: int = 0) -> Tensor:
        u = keys.uniform(key, 0, tuple(like.shape[1:]), stream, like.dtype).mul_(2).sub_(1)
        return u * expand(radius, u)

    def whole_levels(self, size: Tensor, radius: Tensor, room: Tensor) -> Tensor:
        """To the nearest level that the ball allows."""
        reach = torch.maximum(widened(radius), size.amax(1))
        near = size.round()
        return torch.minimum(torch.where(near <= expand(reach, near), near, size.floor()), room)
