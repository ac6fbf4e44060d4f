"""Rotations and shifts against scipy and by hand; the search against trying everything."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.detect.bench.spatial import Spatial, moved


def test_whole_shifts_move_pixels() -> None:
    x = torch.rand(2, 1, 6, 8)
    out = moved(x, 0, 2, -1)
    assert torch.allclose(out[:, :, :-1, 2:], x[:, :, 1:, :-2], atol=1e-6)
    assert out[:, :, -1].max() < 1e-6 and out[:, :, :, :2].max() < 1e-6


def test_a_quarter_turn_is_counter_clockwise() -> None:
    x = torch.rand(1, 3, 7, 7)
    assert torch.allclose(moved(x, 90, 0, 0), torch.rot90(x, 1, (2, 3)), atol=1e-5)
    both = moved(x, 90, 1, 0)
    assert torch.allclose(both[..., 1:], torch.rot90(x, 1, (2, 3))[..., :-1], atol=1e-5)


def test_turns_equal_scipy() -> None:
    x = torch.rand(1, 1, 15, 15, dtype=torch.float64)
    x[..., :4, :] = x[..., -4:, :] = x[..., :, :4] = x[..., :, -4:] = 0  # borders are drawn apart
    turned = ndimage.rotate(x[0, 0].numpy(), 30, reshape=False, order=1, prefilter=False)
    assert torch.allclose(moved(x, 30, 0, 0)[0, 0], torch.from_numpy(turned), atol=1e-9)


class Watched(nn.Module):
    """The label 1 where the left half is brighter than the right by a little; counts images."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        left = x[..., :4].mean((1, 2, 3)) - x[..., 4:].mean((1, 2, 3))
        return torch.stack([0.01 - left, left - 0.01], 1)


def test_the_search_finds_what_there_is_and_stops_there() -> None:
    x = torch.zeros(3, 1, 8, 8)
    x[0, :, 2:6, 2] = x[1, :, 2:6, :3] = 1.0
    x[2] = 1.0  # shifts move whole columns of it out, turns change nothing
    model, attack = Watched(), Spatial(2, 0, angles=1, shifts=5)
    y = torch.ones(3, dtype=torch.int64)
    out = attack(model, x, y)
    asked = model.asked
    every = torch.stack([model(moved(x, *pose))[:, 0] > 0 for pose in attack.poses(0)])
    assert ((model(out).argmax(1) != y) == every.any(0)).all()
    assert every.any(0).tolist() == [True, False, True]
    first = [int(found.nonzero()[0]) + 1 if found.any() else len(every) for found in every.T]
    assert asked == sum(first)
    assert torch.equal(out, attack(model, x, y, batch_size=1))


def test_settings_that_cannot_be_meant() -> None:
    with pytest.raises(InputError, match="pixels"):
        Spatial(0, 0)
    with pytest.raises(InputError, match="queries"):
        Spatial(1, 1, queries=0)
    assert len(Spatial(2, 30).poses(0)) == 100 and (0.0, 0.0, 0.0) not in Spatial(2, 30).poses(0)
