"""Digits, a network that knows them, its twin trained by PGD, parts of broken defences, and the
rows of the zoo, each trained once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.adaptive.defence import Material
from torchproof.adaptive.zoo import PLACES, ZOO
from torchproof.attack.catalogue import pgd
from torchproof.attack.run import Run
from torchproof.attack.untouched import forked
from torchproof.core.threats import Threat, parse
from torchproof.data import load

THREAT = parse("linf:0.1")


class Images(NamedTuple):
    """Images (N, 1, 8, 8) and labels (N,)."""

    x: Tensor
    y: Tensor


@pytest.fixture(scope="module")
def short_searches() -> Iterator[None]:
    """Attacks without gradients and fits of substitutes with half their steps or fewer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("torchproof.adaptive.suspicion"), "QUERIES", 100)
        patch.setattr(import_module("torchproof.adaptive.estimators"), "_STEPS", 60)
        patch.setattr(import_module("torchproof.adaptive.sweep"), "_QUERIES", 200)
        yield


@pytest.fixture(scope="session")
def threat() -> Threat:
    return THREAT


@pytest.fixture(scope="session")
def train_images() -> Images:
    data = load("digits", split="train")
    return Images(data.x, data.y)


@pytest.fixture(scope="session")
def images() -> Images:
    """60 test images."""
    data = load("digits").take(60)
    return Images(data.x, data.y)


@pytest.fixture(scope="session")
def held() -> Images:
    """100 others, for thresholds."""
    data = load("digits")
    return Images(data.x[100:200], data.y[100:200])


def fit(net: nn.Module, data: Images, epochs: int, hard: bool = False) -> nn.Module:
    """A short run of Adam; `hard`: on PGD examples (Madry et al. 2018)."""
    attack = pgd(THREAT, 5, 0.5)
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    with forked(0, torch.device("cpu")):
        for epoch in range(epochs):
            for rows in torch.randperm(len(data.x)).split(128):
                x, y = data.x[rows], data.y[rows]
                if hard:
                    found = attack(net, x, y, run=Run(seed=epoch, patience=99, last=True)).value
                    assert isinstance(found, Tensor)
                    x = x + found
                loss = F.cross_entropy(net(x), y)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return net.eval()


def network(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    with forked(1, torch.device("cpu")):
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1), activation(), nn.Flatten(),
            nn.Linear(256, 64), activation(), nn.Linear(64, 10),
        )  # fmt: skip


@pytest.fixture(scope="session")
def net(train_images: Images) -> nn.Module:
    return fit(network(), train_images, 8)


@pytest.fixture(scope="session")
def hardened(train_images: Images) -> nn.Module:
    return fit(network(), train_images, 8, hard=True)


class Levels(nn.Module):
    """Rounds to a few grey levels."""

    def __init__(self, steps: int = 4) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.steps).round() / self.steps


class Noise(nn.Module):
    """Adds noise to every image, also when tested."""

    def __init__(self, sigma: float = 0.1) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        return x + self.sigma * torch.randn_like(x)


class Winners(nn.Module):
    """Keeps the largest share of the activations (Xiao et al. 2020)."""

    def __init__(self, share: float = 0.1) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        least = flat.topk(max(1, int(self.share * flat.shape[1])), dim=1).values[:, -1:]
        return x * (flat >= least).view_as(x)


class Distance(nn.Module):
    """How far the hidden layer is from the nearest of a bank's: a detector."""

    def __init__(self, net: nn.Module, bank: Tensor) -> None:
        super().__init__()
        self.body = nn.Sequential(*list(net)[:5])  # type: ignore[call-overload]
        with torch.no_grad():
            self.register_buffer("bank", self.body(bank))

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        return torch.cdist(self.body(x), self.bank).amin(1)


@pytest.fixture(scope="session")
def parts() -> dict[str, type[nn.Module]]:
    return {"levels": Levels, "noise": Noise, "winners": Winners, "distance": Distance}


@pytest.fixture(scope="session")
def winners(train_images: Images) -> nn.Module:
    """A network of winners."""
    return fit(network(Winners), train_images, 8)


class Small(NamedTuple):
    """How a row is trained on few digits: how many images it is trained on, calibrated with and
    tested on, and constants of its module.
    """

    train: int
    held: int
    test: int
    constants: dict[str, Any]


SMALL = {
    "k-wta": Small(1000, 297, 40, {"SHARE": 0.3}),
    "odds-are-odd": Small(1000, 297, 40, {"EPOCHS": 15}),
    "generative": Small(1000, 297, 40, {"STEPS": 400, "EPOCHS": 25}),
    "sparse-fourier": Small(1000, 297, 40, {"EPOCHS": 15, "SHARE": 0.25}),
    "mahalanobis": Small(1000, 297, 40, {"EPOCHS": 25}),
    "ecoc": Small(800, 200, 30, {}),
    "ensemble-diversity": Small(1000, 100, 16, {"EPOCHS": 16}),
    "empir": Small(800, 100, 20, {"EPOCHS": 12}),
    "temporal": Small(800, 200, 30, {}),
    "mixup-inference": Small(1000, 100, 20, {}),
    "me-net": Small(1000, 100, 20, {}),
    "asymmetrical": Small(800, 200, 20, {}),
    "weakness": Small(1000, 200, 20, {}),
}


class Made(NamedTuple):
    """A row that was trained: defended, and the network without the defence."""

    material: Material
    defended: Any
    base: Any


@pytest.fixture(scope="session")
def made_row() -> Callable[[str], Made]:
    """The row of a name; it is shared, so leave it as it is."""
    kept: dict[str, Made] = {}

    def made(name: str) -> Made:
        if name not in kept:
            small, data, test = SMALL[name], load("digits", split="train"), load("digits")
            held = data.subset(torch.arange(1000, 1000 + small.held))
            material = Material(data.take(small.train), held, test.take(small.test))
            module = import_module(f"torchproof.adaptive.zoo.{PLACES[name]}")
            with pytest.MonkeyPatch.context() as patch:
                for constant, value in small.constants.items():
                    patch.setattr(module, constant, value)
                kept[name] = Made(material, *ZOO[name].train(material, 0))
        return kept[name]

    return made
