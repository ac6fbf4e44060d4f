"""The fifteen kinds: what each does to images it can be worked out for, and what all promise."""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from torch import Tensor

from torchproof.core import keys
from torchproof.core.errors import InputError, UnknownName
from torchproof.corrupt import CORRUPTIONS, STRENGTHS, blur, corrupt, digital, noise, sampling
from torchproof.corrupt.sheet import contact_sheet
from torchproof.data import load

Pictures = Callable[..., Tensor]
RANDOM = [
    "gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost",
    "fog", "elastic_transform",
]  # fmt: skip


def test_there_are_the_fifteen_of_the_paper() -> None:
    assert len(CORRUPTIONS) == 15 and STRENGTHS == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 20, 33)])
def test_any_size_grey_or_colour_and_nothing_else_is_touched(
    kind: str, shape: tuple[int, ...], pictures: Pictures
) -> None:
    x = pictures(3, *shape)
    before, state = x.clone(), torch.random.get_rng_state()
    for strength in (1, 5):
        made = corrupt(x, kind, strength)
        assert made.shape == x.shape and made.dtype == x.dtype and not made.requires_grad
        assert made.isfinite().all() and made.min() >= 0 and made.max() <= 1
        assert (made != x).any()
    assert torch.equal(x, before)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_neither_batch_nor_order_matters_but_seed_and_id_do(kind: str, pictures: Pictures) -> None:
    x = pictures(4).double()
    whole = corrupt(x, kind, 3, seed=5)
    order = torch.tensor([2, 0, 3])
    part = corrupt(x[order], kind, 3, seed=5, ids=order)
    torch.testing.assert_close(part, whole[order], rtol=0, atol=1e-12)
    others = (corrupt(x, kind, 3, seed=6), corrupt(x, kind, 3, seed=5, ids=torch.arange(4) + 9))
    for other in others:
        assert torch.equal(other, whole) == (kind not in RANDOM)


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28)])
def test_strengths_rise(kind: str, shape: tuple[int, ...], pictures: Pictures) -> None:
    _rises(pictures(24, *shape), kind)


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_strengths_rise_on_real_images(name: str, data_dir: Path) -> None:
    x = load(name, data_dir=data_dir, split="test").x[:24]
    for kind in CORRUPTIONS:
        _rises(x, kind)


def _rises(x: Tensor, kind: str) -> None:
    """The mean distance to the clean image rises with every strength."""
    away = [float((corrupt(x, kind, s) - x).flatten(1).norm(dim=1).mean()) for s in STRENGTHS]
    assert away[0] > 0 and all(a < b for a, b in pairwise(away)), (kind, away)


def test_gaussian_noise_has_its_standard_deviation() -> None:
    x = torch.full((64, 1, 32, 32), 0.5)
    sigmas = [float((corrupt(x, "gaussian_noise", s) - 0.5).std()) for s in STRENGTHS]
    np.testing.assert_allclose(sigmas, [0.04, 0.06, 0.08, 0.09, 0.10], rtol=0.01)


def test_the_pattern_is_the_same_at_every_strength() -> None:
    x = torch.full((2, 3, 16, 16), 0.5)
    weak, strong = (corrupt(x, "gaussian_noise", s) - 0.5 for s in (1, 3))
    torch.testing.assert_close(strong, 2 * weak, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mean", [0.02, 0.7, 5.0, 9.99, 10.0, 40.0, 500.0])
def test_poisson_quantiles_are_those_of_scipy(mean: float) -> None:
    u = torch.linspace(1e-6, 1 - 1e-6, 20_001, dtype=torch.float64)
    ours = noise.poisson(u, torch.full_like(u, mean))
    theirs = stats.poisson.ppf(u.numpy(), mean)
    off = np.abs(ours.numpy() - theirs)
    if mean < 10:
        assert off.max() == 0
    else:
        assert off.max() <= 1 and (off > 0).mean() < 0.0015


def test_shot_noise_keeps_the_mean_and_has_poissons_variance() -> None:
    x = torch.full((64, 1, 32, 32), 0.5)
    made = corrupt(x, "shot_noise", 5)
    assert abs(float(made.mean()) - 0.5) < 2e-3
    assert float(made.var()) == pytest.approx(0.5 / 50, rel=0.03)
    assert torch.equal(corrupt(0 * x, "shot_noise", 5), 0 * x)  # no light, no photons


def test_impulse_noise_replaces_its_share_by_black_and_white() -> None:
    x = torch.full((64, 3, 32, 32), 0.5)
    made = corrupt(x, "impulse_noise", 5)
    hit = made != 0.5
    assert float(hit.float().mean()) == pytest.approx(0.07, rel=0.03)
    assert set(made[hit].tolist()) == {0.0, 1.0}
    assert float(made[hit].mean()) == pytest.approx(0.5, abs=0.02)
    weaker = corrupt(x, "impulse_noise", 1) != 0.5
    assert (hit | ~weaker).all()  # what is hit stays hit


def test_smoothing_is_scipys_gaussian_filter(pictures: Pictures) -> None:
    x = pictures(2).double()
    for sigma in (0.4, 1.0, 2.5):
        ours = sampling.smoothed(x, sigma)
        for image, expected in zip(ours.flatten(0, 1), x.flatten(0, 1), strict=True):
            reach = max(1, math.ceil(4 * sigma))
            theirs = ndimage.gaussian_filter(expected.numpy(), sigma, mode="nearest", radius=reach)
            np.testing.assert_allclose(image.numpy(), theirs, atol=1e-12)


def test_reading_between_pixels_is_scipys_linear_interpolation(pictures: Pictures) -> None:
    x = pictures(2, 1, 12, 17).double()
    key = keys.mix(1, torch.arange(2))
    down, right = (keys.normal(key, i, (12, 17), dtype=torch.float64) * 5 for i in (0, 1))
    ours = sampling.moved(x, down, right)
    rows, columns = np.mgrid[:12, :17]
    for i in range(2):
        at = [rows + down[i].numpy(), columns + right[i].numpy()]
        theirs = ndimage.map_coordinates(x[i, 0].numpy(), at, order=1, mode="mirror")
        np.testing.assert_allclose(ours[i, 0].numpy(), theirs, atol=1e-9)


def test_a_zoom_stretches_a_ramp_about_its_middle() -> None:
    ramp = torch.arange(9, dtype=torch.float64).expand(1, 1, 9, 9)
    expected = 4 + (ramp - 4) / 1.25
    torch.testing.assert_close(sampling.zoomed(ramp, 1.25), expected, rtol=0, atol=1e-12)


def test_a_streak_is_a_weighted_mean_along_its_line() -> None:
    x = torch.zeros(1, 1, 9, 21, dtype=torch.float64)
    x[0, 0, 4, 10] = 1
    made = sampling.streaked(x, 6, 2.0, torch.zeros(1, dtype=torch.float64))
    weights = np.exp(-0.5 * (np.arange(7) / 2.0) ** 2)
    expected = np.zeros((9, 21))
    expected[4, 10:17] = weights / weights.sum()  # the light trails behind, to the right
    np.testing.assert_allclose(made[0, 0].numpy(), expected, atol=1e-9)


def test_the_kernel_of_a_defocused_lens_is_a_disk() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    kernel = blur._disk(3.0, 0.05, like)[0, 0]
    side = len(kernel) // 2
    g = np.random.default_rng(0)
    points = g.uniform(-3, 3, (400_000, 2))
    points = points[(points**2).sum(1) <= 9]
    edges = np.arange(-side - 0.5, side + 1)
    covered = np.histogram2d(points[:, 0], points[:, 1], bins=(edges, edges))[0] / len(points)
    np.testing.assert_allclose(kernel.numpy(), covered, atol=2e-3)
    assert float(kernel.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    "kind", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform",
             "pixelate", "contrast"]
)  # fmt: skip
def test_what_moves_light_about_leaves_an_even_image_alone(kind: str) -> None:
    x = torch.full((2, 3, 32, 32), 0.3, dtype=torch.float64)
    torch.testing.assert_close(corrupt(x, kind, 5), x, rtol=0, atol=1e-9)


def test_pixelate_shows_the_mean_of_every_block() -> None:
    x = torch.rand(1, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = (digital._blocks(6, 0.5, x) @ x) @ digital._blocks(6, 0.5, x).T
    for c in range(2):
        for i in range(0, 6, 2):
            for j in range(0, 6, 2):
                block = made[0, c, i : i + 2, j : j + 2]
                assert block.std() < 1e-12
                assert float(block.mean()) == pytest.approx(
                    float(x[0, c, i : i + 2, j : j + 2].mean())
                )


def test_brightness_raises_the_value_of_hsv(pictures: Pictures) -> None:
    x = pictures(1, 3, 6, 6).double()
    x[0, :, 0, 0] = 0  # black has no hue
    made = corrupt(x, "brightness", 4)
    for i in range(6):
        for j in range(6):
            h, s, v = colorsys.rgb_to_hsv(*x[0, :, i, j].tolist())
            expected = colorsys.hsv_to_rgb(h, s, min(v + 0.2, 1))
            np.testing.assert_allclose(made[0, :, i, j].numpy(), expected, atol=1e-9)


def test_contrast_draws_every_channel_to_its_mean(pictures: Pictures) -> None:
    x = pictures(2).double()
    mean = x.numpy().mean((2, 3), keepdims=True)
    expected = mean + 0.15 * (x.numpy() - mean)
    np.testing.assert_allclose(corrupt(x, "contrast", 5).numpy(), expected, atol=1e-12)


def test_weather_adds_light_to_a_dark_scene() -> None:
    dark = torch.full((4, 3, 32, 32), 0.1)
    for kind in ("snow", "frost"):
        made = corrupt(dark, kind, 3)
        assert float(made.mean()) > 0.15 and (made >= 0.085).all()
    flakes = corrupt(torch.zeros(8, 1, 32, 32), "snow", 2)
    assert 0.05 < float((flakes > 0.15).float().mean()) < 0.7  # some flakes, and darkness between


def test_fog_lowers_the_contrast_and_keeps_the_brightest_value(pictures: Pictures) -> None:
    x = pictures(6)
    made = corrupt(x, "fog", 2)
    top = x.amax((1, 2, 3))
    assert (made.amax((1, 2, 3)) <= top + 1e-6).all()
    fine = [(t[..., 1:] - t[..., :-1]).abs().mean() for t in (x, made)]
    assert fine[1] < 0.8 * fine[0]


def test_elastic_shifts_are_as_long_as_they_are_said_to_be() -> None:
    side = 64
    slope = torch.arange(side, dtype=torch.float64) / (2 * side) + 0.25
    across = slope.expand(24, 1, side, side)
    shift = (corrupt(across, "elastic_transform", 1) - across) * 2 * side
    inner = shift[..., 12:-12, 12:-12]  # the border mirrors
    local, affine = 0.3 * 2, 0.5 * 2  # pixels of a 64-pixel image
    rows = (torch.arange(side) - 31.5)[12:-12] / (side / 3)
    expected = local**2 + affine**2 / 3 * (1 + 2 * float((rows**2).mean()))
    assert float((inner**2).mean()) == pytest.approx(expected, rel=0.25)


def test_jpeg_is_pillows(pictures: Pictures) -> None:
    for channels in (1, 3):
        x = pictures(1, channels)
        levels = (x[0] * 255).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(levels.squeeze()).save(file, "JPEG", quality=58)
        expected = np.asarray(Image.open(file)).reshape(levels.shape)
        made = corrupt(x, "jpeg_compression", 3)[0].permute(1, 2, 0).numpy() * 255
        np.testing.assert_allclose(made, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("x", "kind", "strength", "said"),
    [
        (torch.rand(1, 3, 8, 8), "fogg", 1, "did you mean fog"),
        (torch.rand(1, 3, 8, 8), "fog", 0, "one of 1, 2, 3, 4, 5"),
        (torch.rand(1, 3, 8, 8), "fog", 6, "one of 1, 2, 3, 4, 5"),
        (torch.rand(1, 2, 8, 8), "fog", 1, "grey or colour"),
        (torch.rand(1, 3, 2, 8), "fog", 1, "4 x 4"),
        (torch.rand(1, 3, 8, 8) + 1, "fog", 1, "[0, 1]"),
    ],
)
def test_what_cannot_be_meant_is_refused(x: Tensor, kind: str, strength: int, said: str) -> None:
    with pytest.raises((InputError, UnknownName)) as caught:
        corrupt(x, kind, strength)
    assert said in str(caught.value)


def test_ids_are_one_per_image() -> None:
    with pytest.raises(InputError, match="one id per image"):
        corrupt(torch.rand(2, 1, 8, 8), "fog", 1, ids=torch.arange(3))


def test_the_contact_sheet_shows_the_clean_image_and_every_cell(pictures: Pictures) -> None:
    image = pictures(1)[0]
    png = contact_sheet(image, ("fog", "brightness"), (1, 5), seed=2)
    sheet = np.asarray(Image.open(io.BytesIO(png))).astype(float) / 255
    assert sheet.shape == (22 + 2 * 100, 150 + 3 * 100, 3)
    for row, kind in enumerate(("fog", "brightness")):
        shown = [image, *(corrupt(image[None], kind, s, seed=2)[0] for s in (1, 5))]
        for column, expected in enumerate(shown):
            top, left = 22 + 100 * row, 150 + 100 * column
            cell = sheet[top : top + 96 : 3, left : left + 96 : 3]
            np.testing.assert_allclose(cell, expected.permute(1, 2, 0).numpy(), atol=0.003)
