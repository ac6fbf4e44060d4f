"""Bounds of operator norms from above, and close to them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from torchproof.verify.lipschitz.spectral import conv_bound, gram_bound

SHAPES = [(1, 1), (5, 3), (3, 7), (40, 40), (200, 60)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gram_iteration_comes_from_above(shape: tuple[int, int]) -> None:
    """Against the singular values, within 1 % after a few steps and falling with each."""
    generator = torch.Generator().manual_seed(sum(shape))
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
    true = float(torch.linalg.matrix_norm(matrix, ord=2))
    found = [float(gram_bound(matrix, steps)) for steps in range(9)]
    assert all(value >= true for value in found)
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(found))
    assert found[0] == pytest.approx(float(matrix.norm()), rel=1e-9)
    assert found[-1] <= 1.01 * true
    assert float(gram_bound(matrix)) == pytest.approx(true, rel=5e-3)


def test_gram_iteration_where_numbers_would_overflow() -> None:
    """Equal singular values, the hardest for it, of any scale; nothing at all; many at once."""
    for scale in (1e-150, 1.0, 1e150):
        found = float(gram_bound(scale * torch.eye(64, dtype=torch.float64)))
        assert scale <= found <= 1.0021 * scale  # 64 ** (2 ** -11)
    assert 0 <= float(gram_bound(torch.zeros(3, 4))) < 1e-150
    many = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.complex128)
    assert bool((gram_bound(many) >= torch.linalg.matrix_norm(many, ord=2)).all())


CONVOLUTIONS: list[dict[str, Any]] = [
    {"stride": (1, 1)},
    {"padding": (1, 1)},
    {"stride": (2, 2), "padding": (1, 1)},
    {"stride": (3, 2), "padding": (0, 2)},
    {"dilation": (2, 2), "padding": (2, 2)},
    {"dilation": (2, 1), "stride": (2, 2), "padding": (1, 0)},
    {"groups": 2, "padding": (1, 1)},
]


def matrix_of(weight: Tensor, size: tuple[int, int], **options: Any) -> Tensor:
    groups = int(options.get("groups", 1))
    channels = weight.shape[1] * groups
    unit = torch.eye(channels * size[0] * size[1], dtype=weight.dtype)
    answer = F.conv2d(unit.view(-1, channels, *size), weight, **options)
    matrix: Tensor = answer.flatten(1).T
    return matrix


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_convolutions_are_bounded(options: dict[str, Any]) -> None:
    """Their matrix is, within 1 %; their kernel is, from above, with an excess that falls as the
    image grows.
    """
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64)
    excess = []
    for size in ((7, 8), (14, 13)):
        matrix = matrix_of(weight, size, **options)
        true = float(torch.linalg.matrix_norm(matrix, ord=2))
        assert true <= float(gram_bound(matrix)) <= 1.01 * true
        kernel = float(conv_bound(weight, size, **options))
        assert kernel >= true
        excess.append(kernel / true - 1)
    assert excess[1] < excess[0] and excess[1] < 0.1, excess
