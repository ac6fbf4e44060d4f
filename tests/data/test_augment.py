"""Augmentations against naive loops; an image's fate does not depend on its batch."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.data import (
    AUGMENTATIONS,
    Augmentation,
    Compose,
    Crop,
    Cutout,
    Flip,
    GaussianNoise,
)

ALL = [
    Crop(1),
    Crop(2),
    Flip(),
    Cutout(1),
    Cutout(2),
    Cutout(3, fill=0.5),
    Cutout(50),
    GaussianNoise(),
    GaussianNoise((0.1,), p=1),
    Compose(),
    Compose(Crop(2), Flip(), Cutout(2)),
    Compose(Compose(Crop(1)), Crop(1)),
]
everyone = pytest.mark.parametrize("augment", ALL, ids=repr)


def images(count: int, channels: int = 2, height: int = 4, width: int = 5) -> Tensor:
    """Pixels in (0, 1), all different, so that every shift and cut can be told from every other."""
    torch_numbers = torch.arange(1, count * channels * height * width + 1, dtype=torch.float64)
    order = keys.permutation(len(torch_numbers), "test images")
    return (torch_numbers[order] / (len(order) + 2)).reshape(count, channels, height, width)


def example_keys(count: int, epoch: int = 0) -> Tensor:
    return keys.mix(7, torch.arange(count), "augment", epoch)


@everyone
def test_an_image_is_treated_the_same_in_every_batch(augment: Augmentation) -> None:
    x, key = images(13), example_keys(13)
    whole = augment(x, key)
    alone = torch.cat([augment(x[i : i + 1], key[i : i + 1]) for i in range(13)])
    order = torch.arange(12, -1, -1)
    assert torch.equal(whole, alone)
    assert torch.equal(augment(x[order], key[order]), whole[order])
    assert torch.equal(augment(torch.cat([x, x]), torch.cat([key, key])), torch.cat([whole, whole]))


@everyone
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_nothing_else_changes(augment: Augmentation, dtype: torch.dtype) -> None:
    x, key = images(6).to(dtype), example_keys(6)
    before, keys_before, state = x.clone(), key.clone(), torch.get_rng_state()
    out = augment(x, key)
    assert out.shape == x.shape and out.dtype == dtype and out.device == x.device
    assert torch.equal(x, before) and torch.equal(key, keys_before)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(augment(x, key), out)
    assert out.min() >= 0 and out.max() <= 1


@everyone
def test_an_empty_batch_stays_empty(augment: Augmentation) -> None:
    assert augment(images(3)[:0], example_keys(3)[:0]).shape == (0, 2, 4, 5)


def naive_crop(image: Tensor, pad: int, top: int, left: int) -> list[list[list[float]]]:
    channels, height, width = image.shape

    def pixel(c: int, i: int, j: int) -> float:
        i, j = i + top - pad, j + left - pad
        return float(image[c, i, j]) if 0 <= i < height and 0 <= j < width else 0.0

    return [
        [[pixel(c, i, j) for j in range(width)] for i in range(height)] for c in range(channels)
    ]


def naive_cutout(image: Tensor, size: int, y: int, x: int) -> list[list[list[float]]]:
    top, left = y - size // 2, x - size // 2

    def pixel(c: int, i: int, j: int) -> float:
        covered = top <= i < top + size and left <= j < left + size
        return 0.0 if covered else float(image[c, i, j])

    channels, height, width = image.shape
    return [
        [[pixel(c, i, j) for j in range(width)] for i in range(height)] for c in range(channels)
    ]


def tally(counts: Counter[object], total: int, places: int) -> float:
    """Chi-squared of counts over equally likely places."""
    share = total / places
    return sum((counts[k] - share) ** 2 / share for k in counts) + share * (places - len(counts))


@pytest.mark.parametrize("pad", [1, 2])
def test_crop_is_one_of_the_naive_crops_each_as_likely(pad: int) -> None:
    draws, side = 1500, 2 * pad + 1
    image = images(1)[0]
    outcomes = {
        str(naive_crop(image, pad, top, left)): (top, left)
        for top in range(side)
        for left in range(side)
    }
    assert len(outcomes) == side**2
    out = Crop(pad)(image.expand(draws, -1, -1, -1), example_keys(draws))
    counts: Counter[object] = Counter(outcomes[str(o.tolist())] for o in out)
    # 99.9 % points of chi-squared with 8 and 24 degrees of freedom
    assert tally(counts, draws, side**2) < {3: 26.1, 5: 51.2}[side]


def test_flip_mirrors_half_of_the_images() -> None:
    draws = 2000
    image = images(1)[0]
    mirrored = [[[float(v) for v in reversed(row)] for row in plane] for plane in image]
    out = Flip()(image.expand(draws, -1, -1, -1), example_keys(draws))
    outcomes = Counter(str(o.tolist()) for o in out)
    assert set(outcomes) == {str(image.tolist()), str(mirrored)}
    assert abs(outcomes[str(mirrored)] - draws / 2) < 3.3 * (draws / 4) ** 0.5


@pytest.mark.parametrize("size", [1, 2, 3])
def test_cutout_is_one_of_the_naive_squares_each_as_likely(size: int) -> None:
    draws = 1500
    image = images(1)[0]
    outcomes = {str(naive_cutout(image, size, y, x)): (y, x) for y in range(4) for x in range(5)}
    assert len(outcomes) == 20
    out = Cutout(size)(image.expand(draws, -1, -1, -1), example_keys(draws))
    counts: Counter[object] = Counter(outcomes[str(o.tolist())] for o in out)
    assert tally(counts, draws, 20) < 43.8  # the 99.9 % point with 19 degrees of freedom


def test_cutout_paints_what_it_is_told_to() -> None:
    x, key = images(50), example_keys(50)
    black, grey = Cutout(2)(x, key), Cutout(2, fill=0.25)(x, key)
    assert torch.equal(black == 0, grey != x)
    assert bool((grey[black == 0] == 0.25).all())


def test_noise_falls_on_its_share_with_each_sigma_as_often() -> None:
    draws, sigmas = 1200, (0.01, 0.03, 0.06)
    x = torch.full((draws, 1, 20, 20), 0.5, dtype=torch.float64)  # far from 0 and 1
    noise = (GaussianNoise(sigmas)(x, example_keys(draws)) - x).flatten(1)
    noisy = noise.abs().amax(1) > 0
    assert abs(int(noisy.sum()) - draws / 2) < 3.3 * (draws / 4) ** 0.5
    spread = noise[noisy].std(1)
    which = (spread[:, None] - torch.tensor(sigmas)).abs().argmin(1)
    assert tally(Counter(which.tolist()), len(which), 3) < 13.8  # the 99.9 % point, 2 degrees
    for i, sigma in enumerate(sigmas):
        drawn = noise[noisy][which == i] / sigma
        assert abs(float(drawn.std()) - 1) < 0.02 and abs(float(drawn.mean())) < 0.02
        assert abs(float((drawn.abs() < 1).double().mean()) - 0.6827) < 0.01  # a normal one
    none, every = GaussianNoise(p=0), GaussianNoise(p=1)
    assert torch.equal(none(x, example_keys(draws)), x)
    black = every(torch.zeros(20, 1, 9, 9), example_keys(20))
    share = float((black == 0).float().mean())  # what fell below 0 is clipped
    assert 0.45 < share < 0.55


def test_epochs_and_parts_are_drawn_apart() -> None:
    x = images(200)
    first, second = (Crop(2)(x, example_keys(200, epoch)) for epoch in (0, 1))
    same = sum(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert same < 30  # 200 / 25 are expected by chance
    flips = Flip()(x, example_keys(200))
    twice = Compose(Flip(), Flip())(x, example_keys(200))
    flipped = [not torch.equal(a, b) for a, b in zip(flips, x, strict=True)]
    undone = [torch.equal(a, b) for a, b in zip(twice, x, strict=True)]
    assert 60 < sum(flipped) < 140 and 60 < sum(undone) < 140


def test_a_composition_is_its_parts_in_order() -> None:
    x, key = images(20), example_keys(20)
    once = Crop(2)(x, keys.mix(key, 0))
    assert torch.equal(Compose(Crop(2), Cutout(2))(x, key), Cutout(2)(once, keys.mix(key, 1)))
    assert torch.equal(Compose()(x, key), x)


@everyone
def test_its_text_rebuilds_it(augment: Augmentation) -> None:
    rebuilt = eval(repr(augment), dict(AUGMENTATIONS))
    assert rebuilt == augment and hash(rebuilt) == hash(augment)
    x, key = images(9), example_keys(9)
    assert torch.equal(rebuilt(x, key), augment(x, key))


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "4"])
@pytest.mark.parametrize("kind", [Crop, Cutout])
def test_settings_that_cannot_be_meant_are_refused(kind: type, wrong: object) -> None:
    with pytest.raises(InputError, match="pixels"):
        kind(wrong)


def test_other_mistakes_are_refused() -> None:
    with pytest.raises(InputError, match="colour"):
        Cutout(2, fill=1.5)
    for wrong in ({"sigmas": ()}, {"sigmas": (0.1, -1)}, {"sigmas": 0.1}, {"p": 1.5}):
        with pytest.raises(InputError, match="numbers > 0"):
            GaussianNoise(**wrong)
    with pytest.raises(InputError, match="Crop"):
        Compose(Flip(), "Crop")  # type: ignore[arg-type]
    x = images(3)
    for bad_x, bad_key in (
        (x, example_keys(2)),
        (x, example_keys(3).float()),
        (x, example_keys(3)[:, None]),
        (x[0], example_keys(2)),
    ):
        with pytest.raises(InputError, match="one key per image"):
            Flip()(bad_x, bad_key)
