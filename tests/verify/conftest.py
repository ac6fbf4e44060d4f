"""Small networks of many operators, with the bounds that auto_LiRPA 0.7.1 finds for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.norms import L0, L1, L2, Linf, Norm
from torchproof.core.threats import Threat
from torchproof.verify import graph_of
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet


class Golden(NamedTuple):
    """A network with its stored weights, its input x (3, 1, 6, 6), stored arrays by name, and its
    graph.
    """

    net: nn.Module
    x: Tensor
    stored: dict[str, np.ndarray]
    graph: Graph


def _mlp(*between: nn.Module) -> nn.Module:
    first, second = between if len(between) == 2 else (*between, *between)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(36, 20), first, nn.Linear(20, 20), second, nn.Linear(20, 5)
    )


def _pooled(pool: nn.Module, features: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU(), pool, nn.Conv2d(4, 6, 3, 1, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(features, 5),
    )  # fmt: skip


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.c3, self.f = nn.Conv2d(4, 4, 3, 1, 1), nn.Linear(144, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.c1(x))
        h = F.relu(self.c3(F.relu(self.c2(h))) + h)
        logits: Tensor = self.f(h.flatten(1))
        return logits


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 6) for _ in range(3))
        self.f = nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 6, 6)
        weights = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) / 2.45, -1)
        logits: Tensor = self.f((weights @ self.v(x)).flatten(1))
        return logits


NETS: dict[str, Callable[[], nn.Module]] = {
    "mlp_relu": lambda: _mlp(nn.ReLU()),
    "mlp_leaky": lambda: _mlp(nn.LeakyReLU(0.1)),
    "mlp_sigmoid": lambda: _mlp(nn.Sigmoid()),
    "mlp_tanh": lambda: _mlp(nn.Tanh()),
    "mlp_gelu": lambda: _mlp(nn.GELU()),
    "mlp_elu": lambda: _mlp(nn.ELU()),
    "mlp_softplus": lambda: _mlp(nn.Softplus()),
    "mlp_silu": lambda: _mlp(nn.SiLU()),
    "mlp_hardtanh": lambda: _mlp(nn.Hardtanh()),
    "mlp_relu6": lambda: _mlp(nn.ReLU6()),
    "prelu": lambda: _mlp(nn.PReLU(), nn.PReLU()),
    "conv_relu": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(54, 5),
    ),
    "conv_maxpool": lambda: _pooled(nn.MaxPool2d(2), 54),
    "conv_maxpool_overlap": lambda: _pooled(nn.MaxPool2d(3, 2), 24),
    "conv_avgpool": lambda: _pooled(nn.AvgPool2d(2), 54),
    "conv_bn": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    ),
    "conv_groups_dil": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, 1, 2, dilation=2), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1, groups=2),
        nn.ReLU(), nn.Flatten(), nn.Linear(144, 5),
    ),
    "convtranspose": lambda: nn.Sequential(
        nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(3, 2, 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(72, 5),
    ),
    "adaptive_avg": lambda: nn.Sequential(
        nn.Conv2d(1, 6, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 5),
    ),
    "upsample": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3, 1, 1), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Flatten(),
        nn.Linear(288, 5),
    ),
    "layernorm": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(36, 20), nn.LayerNorm(20), nn.ReLU(), nn.Linear(20, 5)
    ),
    "dropout": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(36, 20), nn.Dropout(0.5), nn.ReLU(), nn.Linear(20, 5)
    ),
    "residual": Residual,
    "attention": Attention,
}  # fmt: skip


RADII: dict[str, tuple[Norm, float]] = {
    "inf": (Linf(), 0.05), "2": (L2(), 0.2), "1": (L1(), 0.5), "0": (L0(), 2.0)
}  # fmt: skip


@pytest.fixture(params=sorted(RADII))
def norm(request: pytest.FixtureRequest) -> str:
    """Every norm that `threat` has a radius for."""
    return str(request.param)


@pytest.fixture(scope="session")
def threat() -> Callable[[str, bool], Threat]:
    """`threat(norm, box)`, of a size that suits these networks, with the pixel box or without."""

    def made(norm: str, box: bool) -> Threat:
        kind, eps = RADII[norm]
        return Threat(kind, eps) if box else Threat(kind, eps, low=-np.inf, high=np.inf)

    return made


def _tried(net: nn.Module, x: Tensor, about: Threat, draws: int) -> Tensor:
    seeds = [torch.Generator().manual_seed(seed) for seed in range(draws)]
    noise = torch.cat([torch.randn(x.shape, generator=g) for g in seeds])
    scale = torch.tensor([0.1, 3.0]).repeat_interleave(len(x)).repeat(draws // 2)
    ball = InputSet.of(x.repeat(draws, 1, 1, 1), about).ball
    points = [torch.zeros_like(x), ball.project(noise * scale[:, None, None, None])]
    points.append(ball.maximiser(noise))
    ball = InputSet.of(x, about).ball
    with torch.enable_grad():
        at = x.clone().requires_grad_()
        for z in net(at).sum(0):
            (slope,) = torch.autograd.grad(z, at, retain_graph=True)
            points += [ball.maximiser(slope), ball.maximiser(-slope)]
    delta = torch.cat(points)
    return x.repeat(len(delta) // len(x), 1, 1, 1) + delta


@pytest.fixture(scope="session")
def tried() -> Callable[[nn.Module, Tensor, Threat, int], Tensor]:
    """`tried(net, x, threat, draws)`, (N, C, H, W): the centres x, so many random points (an even
    number) and corners around each, and the corners that gradients point to.
    """
    return _tried


@pytest.fixture(scope="session")
def names() -> list[str]:
    """Of every network, in order."""
    return sorted(NETS)


@pytest.fixture(params=sorted(NETS))
def every_net(request: pytest.FixtureRequest) -> str:
    """The name of every network."""
    return str(request.param)


@pytest.fixture(scope="session")
def golden(data_dir: Path) -> Callable[[str], Golden]:
    """`golden(name)`, in float32, in eval mode."""

    @cache
    def made(name: str) -> Golden:
        path = data_dir / "certification" / "golden_bounds" / f"{name}.npz"
        with np.load(path, allow_pickle=False) as file:
            stored = {key: file[key] for key in file.files}
        net = NETS[name]()
        for i, p in enumerate(net.parameters()):
            p.data = torch.from_numpy(stored[f"p_{i}"])
        x = torch.from_numpy(stored["x"])
        if name == "conv_bn":  # its statistics are those of one pass in train mode
            net.train()(x)
        net.eval().requires_grad_(False)
        return Golden(net, x, stored, graph_of(net, x))

    return made
