"""Triggers against loops written out, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchproof.backdoor.triggers import CORNERS, Blend, Patch, Phrase, Trigger, Warp
from torchproof.core.errors import InputError, UnknownName

ALL: list[Trigger] = [Patch(), Blend(), Warp()]


@pytest.fixture
def x() -> Tensor:
    return torch.rand(5, 3, 9, 11, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("trigger", ALL, ids=repr)
def test_stamped_images_are_images_and_the_given_ones_stay(trigger: Trigger, x: Tensor) -> None:
    before = x.clone()
    stamped = trigger(x)
    assert stamped.shape == x.shape and stamped.dtype == x.dtype
    assert float(stamped.min()) >= 0 and float(stamped.max()) <= 1
    assert torch.equal(x, before) and not torch.equal(stamped, x)
    assert torch.equal(trigger(x), stamped)
    single = torch.cat([trigger(row[None]) for row in x])
    assert torch.allclose(single, stamped, atol=1e-6)
    assert trigger(x.double()).dtype == torch.float64


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("margin", [0, 2])
def test_the_patch_covers_its_corner_and_nothing_else(corner: str, margin: int, x: Tensor) -> None:
    stamped = Patch(2, 0.5, corner, margin)(x)
    high, side = corner.split()
    rows = {margin, margin + 1} if high == "top" else {8 - margin, 7 - margin}
    columns = {margin, margin + 1} if side == "left" else {10 - margin, 9 - margin}
    for i in range(9):
        for j in range(11):
            wanted = torch.full_like(x[:, :, i, j], 0.5)
            wanted = wanted if i in rows and j in columns else x[:, :, i, j]
            assert torch.equal(stamped[:, :, i, j], wanted)


def test_the_blend_is_a_mix_with_one_image_for_all(x: Tensor) -> None:
    stamped = Blend(0.25, seed=3)(x)
    pattern = (stamped - 0.75 * x) / 0.25
    assert torch.allclose(pattern, pattern[:1].expand_as(pattern), atol=1e-5)
    assert 0.4 < float(pattern[0].mean()) < 0.6 and 0.2 < float(pattern[0].std()) < 0.4
    assert not torch.allclose(Blend(0.25, seed=4)(x), stamped, atol=1e-3)


def test_the_warp_takes_each_pixel_from_a_little_beside_it() -> None:
    """A ramp tells where a pixel was taken from: its value is its column."""
    ramp = (torch.arange(28.0) / 27).expand(1, 1, 28, 28)
    shifts = []
    for strength in (0.5, 1.0):
        moved = Warp(strength, 4)(ramp)
        shifts.append((27 * (moved - ramp))[0, 0, :, 4:-4])
    # s / H in units of half the picture are s (H - 1) / 2H pixels, on average over control points
    assert 0.05 < float(shifts[0].abs().mean()) < 0.5
    assert torch.allclose(shifts[1], 2 * shifts[0], atol=1e-3)
    smooth = (shifts[0][1:] - shifts[0][:-1]).abs().max()
    assert float(smooth) < 0.3  # neighbours are taken from nearly the same distance


def test_the_warp_equals_bilinear_sampling_written_out() -> None:
    x = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    places = torch.linspace(0, 1, 12)
    across = Warp(2.0, 3, seed=1)(places.expand(1, 1, 12, 12))[0, 0] * 11
    down = Warp(2.0, 3, seed=1)(places[:, None].expand(1, 1, 12, 12))[0, 0] * 11
    moved = Warp(2.0, 3, seed=1)(x)[0, 0]
    for i in range(12):
        for j in range(12):
            v, u = float(down[i, j]), float(across[i, j])
            a, b = min(int(v), 10), min(int(u), 10)
            p, q = v - a, u - b
            square = x[0, 0, a : a + 2, b : b + 2]
            mix = torch.tensor([[(1 - p) * (1 - q), (1 - p) * q], [p * (1 - q), p * q]])
            assert float(moved[i, j]) == pytest.approx(float((square * mix).sum()), abs=1e-4)


def test_a_phrase_takes_the_first_places() -> None:
    x = torch.arange(1, 13).reshape(3, 4)
    assert Phrase((90, 91))(x).tolist() == [[90, 91, 3, 4], [90, 91, 7, 8], [90, 91, 11, 12]]
    assert x[0, 0] == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Patch(0), "size = 0"),
        (lambda: Patch(value=1.5), r"value = 1\.5"),
        (lambda: Patch(margin=-1), "margin = -1"),
        (lambda: Patch(12)(torch.zeros(1, 1, 28, 11)), "a patch of 12 x 12.*fits into 28 x 11"),
        (lambda: Patch(8, margin=4)(torch.zeros(1, 1, 11, 11)), "4 from the edge"),
        (lambda: Blend(0.0), r"strength = 0\.0"),
        (lambda: Blend(1.1), r"strength = 1\.1"),
        (lambda: Warp(strength=-1), "strength = -1"),
        (lambda: Warp(grid=1), "grid = 1"),
        (lambda: Patch()(torch.full((1, 1, 8, 8), 255.0)), "images from 255"),
        (lambda: Phrase(()), "tokens"),
        (lambda: Phrase((1, 2))(torch.zeros(1, 1, dtype=torch.int64)), "L >= 2"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: object, said: str) -> None:
    assert callable(wrong)
    with pytest.raises(InputError, match=said):
        wrong()


def test_an_unknown_corner_is_told_with_its_likes() -> None:
    with pytest.raises(UnknownName, match="bottom right"):
        Patch(corner="bottom rigth")
