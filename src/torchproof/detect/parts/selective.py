"""Selective classifiers: networks that answer a class and whether they want to answer at all.

Geifman and El-Yaniv 2019 (SelectiveNet), in the form of Aldahdooh et al. 2021: behind
autoencoders that look at one layer of another network (`LayerReader`), and behind the
probabilities of several of these (`Combiner`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError, ModelError
from torchproof.core.keys import permutation

COVERAGE_WEIGHT = 32.0


class Answer(NamedTuple):
    """logits (B, K); select (B,): the log-odds of g, the wish to answer, so g = sigmoid(select);
    auxiliary (B, K): logits of the head that has to answer everything, for training alone.
    """

    logits: Tensor
    select: Tensor
    auxiliary: Tensor


class Heads(nn.Module):
    """Features (B, D) to an `Answer`. One sigmoid, in the loss: a second one would hold g between
    0.5 and 0.7311, out of reach of every coverage above.
    """

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.classes = nn.Linear(inputs, classes)
        self.hidden = _dense(inputs, hidden)
        self.select = nn.Linear(hidden, 1)
        self.auxiliary = nn.Linear(inputs, classes, bias=False)

    def forward(self, features: Tensor) -> Answer:
        select = self.select(self.hidden(features) / 10)
        return Answer(self.classes(features), select.flatten(), self.auxiliary(features))


class Branch(nn.Module):
    """An autoencoder over channels beside a layer a of shape (B, C, H, W): r = |a + decoded(a)|,
    and then r + r enlarged twofold (bilinearly) twice and averaged back twice. In training normal
    noise of this deviation is added to a and to r.
    """

    down: Tensor
    across: Tensor

    def __init__(self, shape: Sequence[int], noise: float) -> None:
        super().__init__()
        channels, height, wide = shape
        # two small matrices do what needs maps of sixteen times the size otherwise
        self.register_buffer("down", _there_and_back(height), persistent=False)
        self.register_buffer("across", _there_and_back(wide).T.contiguous(), persistent=False)
        half, quarter, least = (max(channels // by, 1) for by in (2, 4, 16))
        sizes = (channels, half, quarter, least, quarter, half)
        inner = [_conv(a, b, 3) for a, b in itertools.pairwise(sizes)]
        self.autoencoder = nn.Sequential(*inner, nn.Conv2d(half, channels, 3, padding=1))
        self.noise = noise

    def forward(self, a: Tensor) -> Tensor:
        a = self._noisy(a)
        r = self._noisy((a + self.autoencoder(a)).abs())
        return r + self.down @ r @ self.across

    def _noisy(self, a: Tensor) -> Tensor:
        return a + self.noise * torch.randn_like(a) if self.training and self.noise else a


class LayerReader(nn.Module):
    """A layer of the classifier, maps (B, C, H, W) or units (B, C), to an `Answer`: two branches,
    one of them noisy, a bottleneck and the heads. `width` scales 1024, 512, 256, 512 and 512.
    """

    def __init__(
        self, shape: Sequence[int], classes: int, width: float = 1.0, noise: float = 0.05
    ) -> None:
        super().__init__()
        if len(shape) not in (1, 3):
            given = f"a layer that answers with {tuple(shape)} for an image"
            remedy = "name layers of convolutions or linear ones"
            raise ModelError(given, "maps (C, H, W) or units (C,)", remedy)
        maps = (shape[0], 1, 1) if len(shape) == 1 else tuple(shape)
        channels, height, wide = maps
        first, second, third, units = (scaled(n, width) for n in (1024, 512, 256, 512))
        self.branches = nn.ModuleList([Branch(maps, 0.0), Branch(maps, noise)])
        self.bottleneck = nn.Sequential(
            _conv(2 * channels, first, 1),
            _conv(first, second, 3),
            _conv(second, third, 1),
            nn.Flatten(),
            _dense(third * height * wide, units),
        )
        self.heads = Heads(units, units, classes)

    def forward(self, layer: Tensor) -> Answer:
        a = layer[:, :, None, None] if layer.ndim == 2 else layer
        answer: Answer = self.heads(self.bottleneck(torch.cat([b(a) for b in self.branches], 1)))
        return answer


class Combiner(nn.Module):
    """Probabilities of all readers, side by side (B, L K), to an `Answer`."""

    def __init__(self, inputs: int, classes: int, units: int = 128) -> None:
        super().__init__()
        self.trunk = _dense(inputs, units)
        self.heads = Heads(units, units, classes)

    def forward(self, probabilities: Tensor) -> Answer:
        answer: Answer = self.heads(self.trunk(probabilities))
        return answer


@dataclass(frozen=True)
class Training:
    """coverage: the least mean of g, epochs, batch size and learning rate of SGD with Nesterov
    momentum 0.9. `halving`: the rate is halved every so many epochs, never where it is 0.

    Raises InputError for numbers that cannot be meant.
    """

    coverage: float = 0.9
    epochs: int = 30
    batch: int = 200
    lr: float = 0.01
    halving: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.coverage <= 1 or self.epochs < 1 or self.batch < 2 or not self.lr > 0:
            given = (
                f"coverage {self.coverage!r}, {self.epochs!r} epochs, "
                f"batch {self.batch!r}, lr {self.lr!r}"
            )
            expected = "0 < coverage <= 1, epochs >= 1, batch >= 2, lr > 0"
            raise InputError(given, expected, "change what is out of range")


def selective_loss(answer: Answer, y: Tensor, coverage: float) -> Tensor:
    """Half of mean(g CE) + 32 max(0, coverage - mean g)^2, and half of the auxiliary head's CE."""
    g = answer.select.sigmoid()
    losses = F.cross_entropy(answer.logits, y, reduction="none")
    short = F.relu(coverage - g.mean()).square()
    selective = (g * losses).mean() + COVERAGE_WEIGHT * short
    return (selective + F.cross_entropy(answer.auxiliary, y)) / 2


def learn(
    networks: Sequence[nn.Module],
    inputs: Callable[[Tensor], Sequence[Tensor]],
    y: Tensor,
    training: Training,
    seed: int,
) -> None:
    """Trains the networks side by side, each on its own of `inputs(rows)` for rows of y (N,), and
    leaves them in eval mode and frozen. Noise comes from torch's global generator: fork it around.

    Raises ModelError for a loss that is not finite.
    """
    optimisers = [_optimiser(network, training.lr) for network in networks]
    for network in networks:
        network.train()
    for epoch in range(training.epochs):
        rate = training.lr / 2 ** (epoch // training.halving if training.halving else 0)
        order = permutation(len(y), seed, "order", epoch)
        for rows in order.tensor_split(-(-len(y) // training.batch)):
            layers = inputs(rows)
            for network, optimiser, layer in zip(networks, optimisers, layers, strict=True):
                loss = selective_loss(network(layer), y[rows].to(layer.device), training.coverage)
                _descend(optimiser, loss, rate)
    for network in networks:
        network.eval().requires_grad_(False)


def _there_and_back(size: int) -> Tensor:
    """(size, size): a line doubled twice by linear interpolation, averaged in fours."""
    line = torch.eye(size)[:, None]
    for _ in range(2):
        line = F.interpolate(line, scale_factor=2, mode="linear")
    return F.avg_pool1d(line, 4)[:, 0].T.contiguous()


def scaled(units: int, width: float) -> int:
    """At least 1."""
    return max(round(units * width), 1)


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    if not bool(loss.isfinite()):
        given = f"a loss of {float(loss.detach())} while a detector was trained"
        raise ModelError(given, "a finite loss", "lower its learning rate, and look at the layers")
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def _optimiser(network: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Decay 1e-3 of kernels, which is the gradient of 5e-4 of their squares."""
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, object]] = [{"params": kernels, "weight_decay": 1e-3}]
    groups.append({"params": others})
    return torch.optim.SGD(groups, lr, momentum=0.9, nesterov=True)


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def _dense(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())
