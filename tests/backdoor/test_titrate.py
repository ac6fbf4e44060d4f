"""Noise responses: counts against a naive loop, a closed form, what is kept and refused."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from torchproof.backdoor.titrate import area, noise_images, sigma_50, titrate
from torchproof.core.errors import InputError, ModelError


class Linear(nn.Module):
    """Fixed random logits of images; remembers what it was asked."""

    def __init__(self, classes: int = 4, pixels: int = 12) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(classes)
        self.w = nn.Parameter(6 * torch.randn(classes, pixels, generator=g))
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.clone())
        return (x.flatten(1) - 0.5) @ self.w.T


class Step(nn.Module):
    """Logits -c (x0 - 1/2) and c (x0 - 1/2) of the first pixel."""

    def forward(self, x: Tensor) -> Tensor:
        z = 4 * (x.flatten(1)[:, 0] - 0.5)
        return torch.stack([-z, z], 1)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(30, 3, 2, 2, generator=torch.Generator().manual_seed(1))


def test_counts_against_a_naive_loop(x: Tensor) -> None:
    model, sigmas = Linear(), (0.3, 1.0, 4.0)
    found = titrate(model, x, sigmas, 0.9, batch_size=30)
    clean, *noisy = model.asked
    assert torch.equal(clean, x) and len(noisy) == 3
    model.requires_grad_(False)
    for row, batch in enumerate(noisy):
        hist, flips, changed = [0] * 4, [0] * 4, 0
        for image, before in zip(batch, x, strict=True):
            p = model(image[None])[0].softmax(0)
            was, now = int(model(before[None]).argmax()), int(p.argmax())
            hist[now] += 1
            changed += now != was
            flips[now] += now != was and float(p[now]) > 0.9
        assert found.histogram[row] == tuple(hist) and found.flips[row] == tuple(flips)
        assert found.share[row] == pytest.approx(sum(flips) / 30)
        assert found.share_of_flips[row] == pytest.approx(sum(flips) / changed)
    assert found.concentration()[0] == max(found.histogram[0]) / 30 and found.classes == 4


def test_one_noise_at_all_strengths_and_for_all_networks(x: Tensor) -> None:
    models = [Linear(4), Linear(7)]
    for model in models:
        titrate(model, x, (0.5, 2.0), batch_size=30)
    first, second = ((m.asked[1] - x) / 0.5 for m in models)
    assert torch.equal(first, second)
    torch.testing.assert_close((models[0].asked[2] - x) / 2, first, atol=1e-5, rtol=1e-4)
    assert abs(float(first.mean())) < 0.2 and abs(float(first.std()) - 1) < 0.1
    assert models[0].asked[2].min() < 0 and models[0].asked[2].max() > 1  # nothing is clipped


def test_clipping_is_asked_for(x: Tensor) -> None:
    model = Linear()
    found = titrate(model, x, (2.0,), clip=True)
    assert model.asked[1].min() == 0 and model.asked[1].max() == 1 and found.setting.clip


def test_the_batch_size_changes_nothing(x: Tensor) -> None:
    assert titrate(Linear(), x, batch_size=7) == titrate(Linear(), x, batch_size=30)
    assert titrate(Linear(), x, seed=1) != titrate(Linear(), x, seed=2)


def test_a_curve_in_closed_form() -> None:
    """From black images, P(answer flips with confidence) = P(4 (sigma xi - 1/2) > logit(g) / 2)."""
    x, sigmas, gamma = torch.zeros(4000, 1, 1, 2), (0.5, 1.0, 3.0), 0.95
    found = titrate(Step(), x, sigmas, gamma)
    bar = 0.5 + math.log(gamma / (1 - gamma)) / 8
    for sigma, share, of in zip(sigmas, found.share, found.share_of_flips, strict=True):
        expected, flipped = norm.sf(bar / sigma), norm.sf(0.5 / sigma)
        assert share == pytest.approx(expected, abs=4 * math.sqrt(expected / 4000))
        assert of == pytest.approx(expected / flipped, abs=0.05)
    assert found.target(0.5, 3.0) == 1


def test_draws_are_averaged(x: Tensor) -> None:
    once, thrice = (titrate(Linear(), x, (1.0,), draws=n) for n in (1, 3))
    assert sum(once.histogram[0]) == 30 and sum(thrice.histogram[0]) == 90
    assert thrice.share[0] == sum(thrice.flips[0]) / 90 and thrice.setting.draws == 3


def test_references(x: Tensor) -> None:
    model = Linear().requires_grad_(False)
    own = model(x).argmax(1)
    at_zero = titrate(model, x, (0.0, 1.0))
    assert at_zero.share[0] == 0 and at_zero.setting.reference == "own prediction"
    shifted = (own + 1) % 4
    wrong = titrate(model, x, (0.0, 1.0), 0.5, y=shifted)
    sure = (model(x).softmax(1).amax(1) > 0.5).double().mean()
    assert wrong.share[0] == pytest.approx(float(sure)) and wrong.setting.reference == "label"
    same = titrate(model, x, (0.0, 1.0), y=own)
    assert same.share == at_zero.share and same.flips == at_zero.flips


def test_area_and_sigma_50() -> None:
    assert area((1.0, 10.0, 100.0), (0.0, 1.0, 0.5)) == pytest.approx((0.5 + 0.75) / 2)
    assert area((0.0, 1.0, 2.0), (0.9, 0.3, 0.3)) == pytest.approx(0.3)  # 0 has no logarithm
    assert area((0.7,), (0.2,)) == 0.2
    assert sigma_50((1.0, 100.0), (0.0, 1.0)) == pytest.approx(10.0)
    assert sigma_50((1.0, 2.0), (0.6, 0.1)) == 1.0 and sigma_50((1.0, 2.0), (0.1, 0.49)) is None


def test_the_result_is_plain_numbers(x: Tensor) -> None:
    found = titrate(Linear(), x, (0.5, 1.0))
    stored = json.loads(json.dumps(asdict(found), allow_nan=False))
    assert stored["share"] == list(found.share) and stored["setting"]["n"] == 30
    assert stored["sigma_50"] == found.sigma_50


def test_the_network_stays_as_it_was(x: Tensor) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3)).train()
    before = {name: v.clone() for name, v in model.state_dict().items()}
    state = torch.get_rng_state()
    titrate(model, x)
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())


def test_noise_images() -> None:
    found = noise_images(5, (2, 6, 6), seed=3)
    assert found.shape == (5, 2, 6, 6)
    assert torch.equal(found.flatten(1).amin(1), torch.zeros(5))
    assert torch.equal(found.flatten(1).amax(1), torch.ones(5))
    assert torch.equal(found[:2], noise_images(2, (2, 6, 6), seed=3))
    with pytest.raises(InputError, match="400 images"):
        noise_images(0, (1, 2, 2))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sigmas": ()}, "ascending"),
        ({"sigmas": (1.0, 0.5)}, "ascending"),
        ({"sigmas": (-1.0, 0.5)}, ">= 0"),
        ({"sigmas": (1.0, math.inf)}, "finite"),
        ({"sigmas": (0.0,)}, "sigma > 0"),
        ({"gamma": 1.0}, "confidence"),
        ({"draws": 0}, "draws = 0"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, "labels"),
        ({"x": torch.zeros(2, 3, 2, 2, dtype=torch.uint8)}, "uint8"),
        ({"x": torch.full((2, 3, 2, 2), 255.0)}, "0 to 255|255"),
        ({"x": torch.zeros(0, 3, 2, 2)}, "empty"),
    ],
)
def test_what_is_refused(x: Tensor, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        titrate(Linear(), **{"x": x, **changed})


def test_where_nothing_flips_there_is_no_target(x: Tensor) -> None:
    still = titrate(lambda v: torch.tensor([[9.0, 0.0, 1.0]]).expand(len(v), 3), x, (0.5, 1.0))
    assert still.target() is None and still.share == (0.0, 0.0)


def test_networks_without_finite_logits_are_refused(x: Tensor) -> None:
    class Broken(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).where(x.flatten(1)[:, :4] < 1, torch.nan)

    with pytest.raises(ModelError, match=r"[Ff]inite|NaN"):
        titrate(Broken(), x)
    with pytest.raises(ModelError):
        titrate(nn.Flatten(0), x)
    with pytest.raises(InputError, match="at least one measured sigma"):
        titrate(Linear(), x, (5.0,)).target()
