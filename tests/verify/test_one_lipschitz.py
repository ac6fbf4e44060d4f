"""Layers that never stretch, and the certificates that they give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.attack import PGD, Attack
from torchproof.core.errors import InputError, ModelError
from torchproof.core.norms import L2
from torchproof.core.objectives import Margin
from torchproof.core.threats import Threat
from torchproof.nn.one_lipschitz import AOLConv2d, AOLLinear, MaxMin
from torchproof.verify.lipschitz.by_construction import constant, radius


def norm_of(layer: nn.Module, shape: tuple[int, ...]) -> float:
    """The largest singular value of an affine layer on inputs of this shape."""
    size = int(np.prod(shape))
    unit = torch.eye(size, dtype=torch.float64).view(size, *shape)
    matrix = (layer(unit) - layer(torch.zeros_like(unit[:1]))).flatten(1).T
    return float(torch.linalg.matrix_norm(matrix.detach(), ord=2))


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_norms_are_at_most_one_for_any_weights(scale: float) -> None:
    torch.manual_seed(0)
    layers: list[tuple[nn.Module, tuple[int, ...]]] = [
        (AOLLinear(9, 5), (9,)),
        (AOLLinear(4, 12), (4,)),
        (AOLConv2d(2, 3, 3, padding=1), (2, 6, 5)),
        (AOLConv2d(3, 4, 3, stride=2), (3, 7, 7)),
        (AOLConv2d(2, 6, 2, stride=2, padding=1), (2, 4, 4)),
    ]
    for layer, shape in layers:
        layer.double()
        with torch.no_grad():
            for p in layer.parameters():
                p.mul_(scale)
        assert 0.2 < norm_of(layer, shape) <= 1 + 1e-12


def test_exact_for_orthogonal_weights_and_nothing() -> None:
    """What has norm 1 already is left alone; columns of zeros stay zeros."""
    generator = torch.Generator().manual_seed(1)
    square, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    layer = AOLLinear(6, 6, bias=False).double()
    layer.weight.data = 5 * square
    x = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    assert torch.allclose(layer(x), x @ square.T, atol=1e-7)
    layer.weight.data[:, 2] = 0
    assert bool(torch.isfinite(layer(x)).all()) and norm_of(layer, (6,)) <= 1 + 1e-12
    layer(x).sum().backward()
    assert layer.weight.grad is not None and bool(torch.isfinite(layer.weight.grad).all())


def test_max_min_sorts_pairs() -> None:
    x = torch.tensor([[1.0, 5.0, 3.0, 2.0]])
    assert MaxMin()(x).tolist() == [[3.0, 5.0, 1.0, 2.0]]
    with pytest.raises(InputError, match="even"):
        MaxMin()(x[:, :3])


def net() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        AOLConv2d(1, 4, 3, padding=1), MaxMin(), AOLConv2d(4, 4, 2, stride=2), MaxMin(),
        nn.Flatten(), AOLLinear(16, 3),
    ).double().eval().requires_grad_(False)  # fmt: skip


def test_certificates_by_construction() -> None:
    """margin / sqrt(2), which no attack breaks; a chain of known constants is their product."""
    model = net()
    x = torch.rand(5, 1, 4, 4, dtype=torch.float64)
    y = model(x).argmax(1)
    found = radius(model, x, y)
    ordered = model(x).sort(1).values
    assert torch.allclose(found, (ordered[:, -1] - ordered[:, -2]) / 2**0.5)
    assert not bool(radius(model, x, (y + 1) % 3).any())
    for row in range(len(x)):
        about = Threat(L2(), 0.999 * float(found[row]), low=-np.inf, high=np.inf)
        attack = Attack(about, Margin(), PGD(steps=10), restarts=2)
        delta = attack(model, x[row : row + 1], y[row : row + 1]).value
        assert isinstance(delta, Tensor)
        assert torch.equal(model(x[row : row + 1] + delta).argmax(1), y[row : row + 1])
    assert constant(nn.Sequential(model, nn.Sigmoid())) == 0.25
    with pytest.raises(ModelError, match="Linear"):
        constant(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))
