"""RAT and LADDER as methods of one run: what they make before an epoch, and that runs resume."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.core.errors import InputError, UnknownName
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.train import AWP, RAT, Batch, BoundaryGuided, Method, Settings, fit
from torchproof.train.ladder import Course, Fixed, Layer, encode, ladder_training
from torchproof.train.ladder.stages import DECODING
from torchproof.train.region import region_perturbations
from torchproof.train.rows import Rows

THREAT = Threat(Linf(), 0.3)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Flatten(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)
        return nn.Sequential(*layers).double()


def few(n: int = 24) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    x = torch.rand(n, 1, 3, 3, generator=g, dtype=torch.float64) * 0.6
    x[torch.arange(n), 0, y] += 0.4
    return x, y


def rows() -> Rows:
    return Rows(*few(), torch.arange(24))


class Decoder(nn.Module):
    def __init__(self, latent: int, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(latent, 9, generator=g))

    def forward(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z @ self.w).reshape(-1, 1, 3, 3)


def decoder(latent: int, channels: int, size: int, seed: int) -> nn.Module:
    assert (latent, channels, size) == (7, 1, 3)
    return Decoder(latent, seed)


def guided(**more: Any) -> BoundaryGuided:
    return BoundaryGuided("1", decoder, decoding=(2, 8, 0.01), **more)


def begun(method: Method, model: nn.Module, progress: float, seed: int = 3) -> int:
    """Begins an epoch as the loop does; what is drawn from the generator then."""
    with forked(seed, torch.device("cpu")):
        drawn = int(torch.randint(2**31, ()))
    with forked(seed, torch.device("cpu")):
        method.begin(model, rows(), progress)
    return drawn


def test_patterns_are_those_of_every_round() -> None:
    method, model = RAT(THREAT, rounds=2, steps=40, batch=8), network()
    before = copy.deepcopy(model.state_dict())
    seed = begun(method, model, 0.0)
    found = region_perturbations(model, *few(), THREAT, seed=seed, steps=40, batch=8)
    assert torch.equal(method.patterns, found.values) and method.classes.tolist() == [0, 1, 2]
    assert method.success == pytest.approx(float(found.share.mean()))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    with torch.no_grad():
        model[3].weight.add_(1.0)  # type: ignore[index]
    begun(method, model, 0.4)  # still the first round
    assert torch.equal(method.patterns, found.values)
    begun(method, model, 0.5, 4)
    assert method.made == 2 and not torch.equal(method.patterns, found.values)
    begun(method, network(), 0.0)  # another run begins anew
    assert method.made == 1 and torch.equal(method.patterns, found.values)


def test_every_version_of_an_image_is_equally_likely() -> None:
    method, model, (x, y) = RAT(THREAT), network(), few()
    g = torch.Generator().manual_seed(1)
    patterns = torch.rand(3, 1, 3, 3, generator=g, dtype=torch.float64) - 0.5
    object.__setattr__(method, "patterns", patterns)
    object.__setattr__(method, "classes", torch.arange(3))
    counts = torch.zeros(24, 4)
    for seed in range(600):
        batch = Batch(x, y, torch.arange(24), 0.3, seed)
        adv = method.prepare(model, batch).adv
        assert adv is not None
        versions = [x, *((x + v).clamp(0, 1) for v in method.patterns)]
        same = torch.stack([(adv == v).flatten(1).all(1) for v in versions], 1)
        assert bool((same.sum(1) == 1).all())
        counts += same
    own = counts[torch.arange(24), y + 1]
    others = counts.sum(0).sum() - own.sum()
    assert not own.any() and int(others) == 24 * 600
    shares = counts.sum(0) / (24 * 600)
    # the image, and each pattern for the two thirds of other classes: a third each, of those
    assert shares[0] == pytest.approx(1 / 3, abs=0.02)
    assert shares[1:].tolist() == pytest.approx([2 / 9] * 3, abs=0.02)
    loss = method.losses(model, method.prepare(model, batch))
    torch.testing.assert_close(loss, F.cross_entropy(model(adv), y, reduction="none"))


def test_guided_images_are_those_of_the_stages() -> None:
    model, (x, y) = network(), few()
    for unit, raw in (("raw", True), ("distance", False), ("share", False)):
        method = guided(eps=0.7, unit=unit)
        seed = begun(method, model, 0.0)
        length = float(encode(model, Layer("1"), x).norm(dim=1).mean()) if unit == "share" else 1.0
        course = Course(
            Layer("1"),
            distance=Fixed(0.7 * length),
            unit="raw" if raw else "distance",
            decoding=DECODING.model_copy(update={"epochs": 2, "batch_size": 8, "lr": 0.01}),
            fine_tuning=Settings.of(epochs=1, batch_size=24, lr=1e-9, held_out=0),
            seed=seed,
        )
        tuned, own = copy.deepcopy(model), decoder(7, 1, 3, seed).double()
        with forked(9, torch.device("cpu")):
            wanted = ladder_training(tuned, (x, y), own, course).examples.images
        assert torch.equal(method.images, wanted.to(method.images)), unit
    batch = Batch(x[5:9], y[5:9], torch.arange(5, 9), 0.3, 1)
    ready = method.prepare(model, batch)
    halves = [F.cross_entropy(model(v), y[5:9], reduction="none") for v in (wanted[5:9], x[5:9])]
    torch.testing.assert_close(method.losses(model, ready), (halves[0] + halves[1]) / 2)
    begun(method, network(1), 0.5)
    assert torch.equal(method.images, wanted)  # made once


@pytest.mark.parametrize("make", [lambda: AWP(RAT(THREAT, rounds=2, steps=2)), guided])
def test_runs_resume(make: Any, tmp_path: Path) -> None:
    settings = Settings.of(epochs=4, batch_size=8, lr=0.05, held_out=0, checkpoint_steps=1)
    whole, cut = network(), network()
    list(fit(whole, few(), make(), settings))
    steps = iter(range(100))
    first = list(
        fit(cut, few(), make(), settings, out=tmp_path, stop=lambda: next(steps) >= 5)
    )  # in the second epoch, whose round is the first
    assert len(first) < 4
    again = network(5)
    list(fit(again, few(), make(), settings, out=tmp_path, resume=True))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(whole.state_dict()["1.weight"], network().state_dict()["1.weight"])


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: RAT(THREAT, rounds=0), InputError),
        (lambda: RAT(THREAT, steps=2.5), InputError),  # type: ignore[arg-type]
        (lambda: RAT("linf:0.3"), InputError),  # type: ignore[arg-type]
        (lambda: guided(unit="metres"), UnknownName),
        (lambda: guided(eps=-1), InputError),
        (lambda: BoundaryGuided("1", decoder, side="middle"), InputError),  # type: ignore[arg-type]
        (lambda: BoundaryGuided("1", decoder, decoding=(1, 2)), InputError),  # type: ignore[arg-type]
        (lambda: begun(BoundaryGuided("nowhere", decoder), network(), 0.0), UnknownName),
    ],
)
def test_what_cannot_be_meant(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


def test_no_pattern_before_there_is_one() -> None:
    x, y = few()
    batch = Batch(x, y, torch.arange(24), 0.3, keys.seed_of(1, "x"))
    assert RAT(THREAT).prepare(network(), batch).adv is None
