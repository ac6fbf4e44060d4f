"""Small networks, counters and watches that the tests of attacks share."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn


class Noisy(nn.Module):
    """Draws from torch's global generator even in eval mode, and adds next to nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.0 * torch.rand(())


@dataclass(frozen=True)
class Problem:
    """A model with images and labels; `target` is a wrong class of each example."""

    model: nn.Module
    x: Tensor
    y: Tensor
    target: Tensor


@cache
def network(k: int, seed: int, noisy: bool) -> nn.Module:
    """conv, batch norm, dropout and a linear head, with statistics of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[tuple[str, nn.Module]] = [
            ("conv", nn.Conv2d(1, 4, 3, padding=1)), ("bn", nn.BatchNorm2d(4)), ("relu", nn.SiLU()),
            ("drop", nn.Dropout(0.5)), ("flat", nn.Flatten()), ("head", nn.Linear(4 * 4 * 4, k)),
        ]  # fmt: skip
        if noisy:
            layers.insert(4, ("noise", Noisy()))
        model = nn.Sequential(OrderedDict(layers))
        model.train()
        for _ in range(3):
            model(torch.rand(8, 1, 4, 4))
        with torch.no_grad():
            model.get_parameter("head.weight").mul_(3)
    return model.eval()


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    """`make_problem(n, k, dtype)`: a small conv net and n images, most of them labelled as it
    classifies them.
    """

    def make(
        n: int = 4,
        k: int = 5,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        noisy: bool = False,
        wrong: int = 0,
    ) -> Problem:
        model = copy.deepcopy(network(k, seed, noisy)).to(dtype)
        g = torch.Generator().manual_seed(seed + 1)
        x = torch.rand(n, 1, 4, 4, generator=g, dtype=torch.float64).to(dtype)
        x[:, :, 0, 0], x[:, :, 3, 3] = 0.0, 1.0  # saturated pixels
        with torch.no_grad():
            y = model(x).argmax(1)
        y[:wrong] = (y[:wrong] + 1) % k
        return Problem(model, x, y, (y + 1) % k)

    return make


class Counter(nn.Module):
    """Counts the samples that go forwards and backwards through the model inside."""

    def __init__(self, inner: nn.Module | Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.forwards, self.backwards = inner, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        out: Tensor = self.inner(x)
        if out.requires_grad:
            out.register_hook(self._went_back)
        return out

    def _went_back(self, grad: Tensor) -> None:
        self.backwards += len(grad)


@pytest.fixture
def counted() -> Callable[[Any], Counter]:
    """`counted(model)`: the model with `.forwards` and `.backwards`, in samples."""
    return Counter


class Watch:
    """Everything an attack must leave as it was, and whether it did."""

    def __init__(self, model: nn.Module, *tensors: Tensor) -> None:
        self.model, self.tensors = model, tensors
        self.before = self.look()

    def look(self) -> dict[str, Any]:
        m = self.model
        seen: dict[str, Any] = {
            "parameters": {
                n: (id(p), p.detach().clone(), p.requires_grad) for n, p in m.named_parameters()
            },
            "grads": {
                n: (id(p.grad), None if p.grad is None else p.grad.clone())
                for n, p in m.named_parameters()
            },
            "buffers": {n: (id(b), b.clone()) for n, b in m.named_buffers()},
            "modes": {n: child.training for n, child in m.named_modules()},
            "hooks": {
                n: len(child._forward_hooks) + len(child._forward_pre_hooks)
                for n, child in m.named_modules()
            },
            "generator": torch.get_rng_state(),
            "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
            "tensors": [(t.clone(), t.requires_grad, t.is_leaf, id(t.grad)) for t in self.tensors],
        }
        return seen

    def check(self) -> None:
        after = self.look()
        for what, value in self.before.items():
            assert _same(value, after[what]), f"{what} changed"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_same(v, w) for v, w in zip(a, b, strict=True))
    return bool(a == b)


@pytest.fixture
def watch() -> type[Watch]:
    """`watch(model, *tensors)` looks; its `check()` says what changed since."""
    return Watch
