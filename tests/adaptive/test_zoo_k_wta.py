"""k-winners-take-all: exactly the winners pass; its gradients mislead, differences do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from torchproof.adaptive.zoo.k_wta import Winners


def test_the_winners_of_each_image_and_no_others() -> None:
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    kept = Winners(0.25)(x)
    for row, out in zip(x.flatten(1).tolist(), kept.flatten(1).tolist(), strict=True):
        least = sorted(row, reverse=True)[11]
        assert out == [v if v >= least else 0.0 for v in row]
        assert sum(v != 0 for v in out) == 12
    assert torch.equal(kept[2:3], Winners(0.25)(x[2:3]))
    few = Winners(0.001)(x)
    assert bool(((few != 0).flatten(1).sum(1) == 1).all())


def test_every_activation_is_one_and_none_is_left_without_it(made_row: Callable[..., Any]) -> None:
    defended = made_row("k-wta").defended
    shares = [m.share for m in defended.modules() if isinstance(m, Winners)]
    assert shares == [0.3, 0.3]
    assert not any(isinstance(m, Winners) for m in defended.without("k-wta").modules())
