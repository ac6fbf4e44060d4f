"""A small problem, a small network and short settings, as factories."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.train import Batch, Settings


def _data(n: int = 60, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Images whose label is the brightest of three rows, with noise."""
    g = torch.Generator().manual_seed(0)
    y = torch.randint(3, (n,), generator=g)
    x = torch.rand(n, 1, 3, 3, generator=g, dtype=dtype) * 0.5
    x[torch.arange(n), 0, y] += 0.4
    return x, y


def _network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(9, 8),
            nn.BatchNorm1d(8),
            nn.Tanh(),
            nn.Dropout(0.2),
            nn.Linear(8, 3),
        )
        return net.double()


def _settings(**more: Any) -> Settings:
    given = {"epochs": 2, "batch_size": 16, "lr": 0.1, "held_out": 12, "held_out_steps": 3}
    return Settings.of(given, **more)


def _conv() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(),
            nn.Flatten(), nn.Linear(144, 3),
        )  # fmt: skip
        return net.double().train()


def _batch(n: int = 20) -> Batch:
    g = torch.Generator().manual_seed(5)
    x = torch.rand(n, 2, 6, 6, generator=g, dtype=torch.float64)
    y = torch.randint(3, (n,), generator=g)
    return Batch(x, y, torch.arange(10, 10 + n), progress=0.5, seed=77)


def _gradient(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of the summed cross-entropy in x, in eval mode."""
    point = x.clone().requires_grad_()
    loss = F.cross_entropy(copy.deepcopy(net).eval()(point), y, reduction="sum")
    return torch.autograd.grad(loss, point)[0]


def _seeded(*parts: nn.Module, spread: float = 1.5, bias: float = 0.3) -> nn.Module:
    net = nn.Sequential(*parts).double()
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in net.parameters():
            size = spread / math.sqrt(p[0].numel()) if p.dim() > 1 else bias
            p.copy_(size * torch.randn(p.shape, generator=g, dtype=torch.float64))
    return net.train()


@pytest.fixture(scope="session")
def seeded() -> Callable[..., nn.Module]:
    """`seeded(*parts, spread, bias)`: a float64 network in train mode with weights of standard
    deviation spread / sqrt(inputs), and biases of `bias`, always the same.
    """
    return _seeded


@pytest.fixture
def data() -> Callable[..., Any]:
    """`data(n, dtype)`: images and labels."""
    return _data


@pytest.fixture
def network() -> Callable[..., Any]:
    """`network(seed)`: a new float64 network with batch norm and dropout."""
    return _network


@pytest.fixture
def settings() -> Callable[..., Any]:
    """`settings(**more)`: two short epochs, unless `more` says otherwise."""
    return _settings


@pytest.fixture
def conv() -> Callable[..., Any]:
    """`conv()`: a float64 convolutional network in train mode, always the same."""
    return _conv


@pytest.fixture
def batch() -> Callable[..., Any]:
    """`batch(n)`: float64 images for `conv`, labels and ids, always the same."""
    return _batch


@pytest.fixture
def gradient() -> Callable[..., Any]:
    """`gradient(net, x, y)`: of the summed cross-entropy in x, in eval mode."""
    return _gradient
