"""Pictures that look like pictures: smooth shapes with edges, in grey and in colour."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F


@pytest.fixture(scope="session")
def pictures() -> Callable[..., Tensor]:
    """`pictures(n, channels, height, width)`: that many images of that shape, bytes / 255."""

    def make(n: int = 16, channels: int = 3, height: int = 32, width: int = 32) -> Tensor:
        g = torch.Generator().manual_seed(n + channels + height)
        coarse = torch.rand(n, channels, 5, 5, generator=g)
        shade = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
        rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
        a, b, c = torch.randn(3, n, 3, 1, 1, generator=g)
        halves = (a * rows + b * columns + 0.5 * c > 0).float().mean(1, keepdim=True)
        return ((0.5 * shade + 0.4 * halves + 0.05) * 255).round() / 255

    return make
