"""Small images of four classes, and a float64 network that knows them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.catalogue import apgd_t, fab_t, pgd, square
from torchproof.core.fingerprints import model_sha256
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.evaluate import Member, Report, evaluate

SIDE, CLASSES = 6, 4


class Blobs(NamedTuple):
    """Images (N, 1, 6, 6) float64 in [0, 1] and labels (N,)."""

    x: Tensor
    y: Tensor


def make_blobs() -> Blobs:
    """60 noisy pictures of four shapes, stored as bytes would be; some are hard to tell apart."""
    g = torch.Generator().manual_seed(0)
    shapes = torch.rand(CLASSES, 1, SIDE, SIDE, generator=g, dtype=torch.float64)
    y = torch.arange(60) % CLASSES
    noise = torch.randn(60, 1, SIDE, SIDE, generator=g, dtype=torch.float64)
    x = (shapes[y] + 0.6 * noise).clamp(0, 1)
    return Blobs((x * 255).round() / 255, y)


@pytest.fixture(scope="session")
def blobs() -> Blobs:
    return make_blobs()


def trained(net: nn.Module, blobs: Blobs) -> nn.Module:
    """A short full-batch fit that leaves a few examples wrong."""
    for step in range(30):
        loss = F.cross_entropy(net(blobs.x), blobs.y)
        grads = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for p, g in zip(net.parameters(), grads, strict=True):
                p -= (0.5 if step < 20 else 0.2) * g
    return net


def fitted(blobs: Blobs) -> nn.Module:
    """A float64 network that has learnt the blobs."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(1)
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(SIDE * SIDE, 12), nn.Tanh(), nn.Linear(12, CLASSES)
        ).double()
    return trained(net, blobs)


@pytest.fixture(scope="session")
def _fitted(blobs: Blobs) -> nn.Module:
    return fitted(blobs)


@pytest.fixture
def net(_fitted: nn.Module) -> nn.Module:
    """The float64 network, its gradients and modes as new."""
    return _fitted.eval().requires_grad_(True)


class Killed(Exception):
    """Stands for a process that ends."""


class Interrupted(nn.Module):
    """A model that raises at its n-th call, and answers as `inner` otherwise."""

    def __init__(self, inner: nn.Module, calls: int, error: BaseException) -> None:
        super().__init__()
        self.inner, self.left, self.error = inner, calls, error

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise self.error
        out: Tensor = self.inner(x)
        return out


@pytest.fixture
def interrupted() -> Callable[[nn.Module, int], nn.Module]:
    """`interrupted(net, n)`: a model that answers as `net` and dies at call n, with `Killed`."""

    def make(inner: nn.Module, calls: int, error: BaseException | None = None) -> nn.Module:
        return Interrupted(inner, calls, error or Killed("the process ends"))

    return make


@pytest.fixture
def killed() -> type[Exception]:
    """What an interrupted model raises."""
    return Killed


THREAT = Threat(Linf(), 0.1)


@pytest.fixture(scope="session")
def threat() -> Threat:
    """Linf 0.1, which breaks about a third of the examples."""
    return THREAT


def short_suite() -> list[Member]:
    """The four kinds of search, each a few steps long."""
    attacks = {
        "PGD": pgd(THREAT, 5),
        "APGD-T": apgd_t(THREAT, 8, 2),
        "FAB-T": fab_t(THREAT, 8, 2),
        "Square": square(THREAT, 20),
    }
    return [Member(name, attack) for name, attack in attacks.items()]


@pytest.fixture(scope="session")
def short() -> list[Member]:
    return short_suite()


Same = Callable[[Report, Report], None]


@pytest.fixture(scope="session")
def same() -> Same:
    """`same(a, b)`: equal in all but seconds, date and command; images up to float noise."""

    def content(report: Report) -> dict[str, Any]:
        found = report.result.model_dump()
        for attack in found["attacks"]:
            attack["seconds"] = 0.0
        found["probes"]["seconds"] = 0.0
        return found | {"seconds": 0.0, "date": "", "command": ""}

    def check(a: Report, b: Report) -> None:
        assert content(a) == content(b)
        assert a.examples == b.examples
        assert a.adversarial is not None and b.adversarial is not None
        torch.testing.assert_close(a.adversarial, b.adversarial, rtol=0, atol=1e-9)

    return check


Go = Callable[..., Report]


@pytest.fixture(scope="session")
def go(_fitted: nn.Module, blobs: Any, threat: Threat, short: list[Member]) -> Go:
    """The same evaluation each time, with whatever is different this time."""

    def run(model: nn.Module | None = None, **more: Any) -> Report:
        more = {"slots": 16, "model_sha256": model_sha256(_fitted), "name": "net"} | more
        return evaluate(model or _fitted, blobs, threat, short, **more)

    return run


@pytest.fixture(scope="session")
def once(go: Go, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = tmp_path_factory.mktemp("once") / "run"
    report = go(out=folder)
    assert 0.2 < report.robust_accuracy < report.clean_accuracy < 1  # something of each kind
    return folder, report


@pytest.fixture
def undisturbed(once: tuple[Path, Report], tmp_path: Path) -> Report:
    """A run that nothing happened to, and a copy of what it wrote, in `undisturbed`."""
    shutil.copytree(once[0], tmp_path / "undisturbed")
    return once[1]
