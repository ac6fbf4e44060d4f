"""A linear model, for which every library's answer is known, and images for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """Two classes told apart by a linear function of 4 x 4 pixels, behind a batch norm that must
    not learn.
    """

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(1)
        weight = torch.randn(16, generator=g)
        self.weight = nn.Parameter(weight - weight.mean())
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.norm(x).flatten(1) @ self.weight
        return torch.stack([-top, top], 1)


@pytest.fixture
def model() -> nn.Module:
    return Linear().eval()


@pytest.fixture
def data(model: nn.Module) -> tuple[Tensor, Tensor]:
    """30 images in the middle of the box, classified correctly but for the first."""
    x = 0.3 + 0.4 * torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = model(x).argmax(1)
    y[0] = 1 - y[0]
    return x, y
