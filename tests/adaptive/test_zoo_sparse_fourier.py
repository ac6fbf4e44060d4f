"""The sparse Fourier transform equals scipy's, and a projection has the slope that it hides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import fft
from torch import Tensor

from torchproof.adaptive.judge import Judge
from torchproof.adaptive.trial import carry_out
from torchproof.adaptive.zoo.sparse_fourier import (
    Cosines,
    Projection,
    SparseFourier,
    largest,
    naive,
)
from torchproof.core.threats import parse


def images(height: int = 8, width: int = 6) -> Tensor:
    return torch.rand(4, 1, height, width, generator=torch.Generator().manual_seed(0))


def keep(a: np.ndarray, count: int) -> np.ndarray:
    """All but the `count` largest entries put to 0."""
    flat = a.ravel().copy()
    flat[np.argsort(-np.abs(flat))[count:]] = 0
    return flat.reshape(a.shape)


def test_the_transform_is_scipys() -> None:
    x = images()
    found = Cosines(8, 6)(x)
    expected = np.stack([[fft.dctn(part[0], norm="ortho")] for part in x.double().numpy()])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    torch.testing.assert_close(Cosines(8, 6).back(found), x)


@pytest.mark.parametrize(("wild", "rounds"), [(0, 1), (3, 5)])
def test_thresholding_is_the_naive_computation(wild: int, rounds: int) -> None:
    x = images()
    x[:, :, 2, 3] += 2.0  # a wild pixel
    found = SparseFourier(8, 6, 10, wild, rounds)(x)
    for image, answer in zip(x.double().numpy(), found.numpy(), strict=True):
        y, e = image[0], np.zeros((8, 6))
        for number in range(rounds):
            c = keep(fft.dctn(y - e, norm="ortho"), 10)
            if number < rounds - 1:
                e = keep(y - fft.idctn(c, norm="ortho"), wild)
        np.testing.assert_allclose(answer[0], fft.idctn(c, norm="ortho"), atol=1e-4)
    assert torch.equal(found[1:2], SparseFourier(8, 6, 10, wild, rounds)(x[1:2]))


def test_a_sparse_signal_comes_back_without_its_wild_pixels() -> None:
    c = torch.zeros(1, 1, 16, 16)
    c[0, 0, 0, 0], c[0, 0, 1, 2], c[0, 0, 2, 0] = 8.0, 2.0, -1.5
    clean = Cosines(16, 16).back(c)
    spoilt = clean.clone()
    spoilt[0, 0, 4, 11], spoilt[0, 0, 9, 3] = 3.0, -3.0
    sparse = SparseFourier(16, 16, 3, 2, 20)
    torch.testing.assert_close(sparse(spoilt), clean, atol=1e-3, rtol=1e-3)
    plain = SparseFourier(16, 16, 3, 0, 1)
    assert float((plain(spoilt) - clean).abs().max()) > 0.01


def test_the_projection_has_the_slope_of_its_coefficients() -> None:
    x = images().requires_grad_()
    sparse = SparseFourier(8, 6, 10, 0, 1)
    projection = Projection(sparse)
    torch.testing.assert_close(projection(x), sparse(x))
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    (slope,) = torch.autograd.grad((projection(x) * v).sum(), [x])
    chosen = sparse.parts(x)[0] != 0
    transform = sparse.transform
    torch.testing.assert_close(slope, transform.back(transform(v) * chosen))  # it is symmetric
    assert not sparse(x).requires_grad


def test_the_largest_entries() -> None:
    x = torch.tensor([[3.0, -4.0, 1.0], [0.5, 0.2, -0.1]])
    assert largest(x, 2).tolist() == [[3.0, -4.0, 0.0], [0.5, torch.tensor(0.2).item(), 0.0]]


def test_without_a_gradient_nothing_is_found(made_row: Callable[..., Any]) -> None:
    material, defended, _ = made_row("sparse-fourier")
    assert defended.parts == ("fourier",)
    x, y, judge = material.test.x, material.test.y, Judge(defended)
    first = naive(defended, parse("l0:4"), material)[0]
    won = carry_out(first, judge, x, y, torch.arange(len(x))).won
    assert won == int((~judge.clean(x, y)).sum())
