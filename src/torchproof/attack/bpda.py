"""BPDA as a module: run a layer forwards, differentiate another one backwards (Athalye, Carlini
and Wagner 2018).
"""

from __future__ import annotations

from torch import Tensor, nn


class BPDA(nn.Module):
    """layer(x) in value, surrogate(x) in gradient; the surrogate (default: identity) has the
    layer's output shape.
    """

    def __init__(self, layer: nn.Module, surrogate: nn.Module | None = None) -> None:
        super().__init__()
        self.layer, self.surrogate = layer, surrogate if surrogate is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        smooth: Tensor = self.surrogate(x)
        exact: Tensor = self.layer(x)
        return exact.detach() + (smooth - smooth.detach())  # bit-exact in value
