"""Selective networks against loops, interpolation and arithmetic written out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchproof.core.errors import InputError, ModelError
from torchproof.detect.parts.selective import (
    Answer,
    Branch,
    Combiner,
    LayerReader,
    Training,
    learn,
    selective_loss,
)


@pytest.mark.parametrize("shape", [(8, 7, 5), (16, 1, 1), (1, 4, 4)])
def test_a_branch_is_the_published_one(shape: tuple[int, int, int]) -> None:
    branch = Branch(shape, 0.05).double().eval()
    a = torch.rand(3, *shape, dtype=torch.float64) - 0.3
    with torch.no_grad():
        r = (a + branch.autoencoder(a)).abs()
        large = F.interpolate(r, scale_factor=2, mode="bilinear")
        large = F.interpolate(large, scale_factor=2, mode="bilinear")
        expected = r + F.avg_pool2d(F.avg_pool2d(large, 2), 2)
        # the two matrices were worked out in float32
        torch.testing.assert_close(branch(a), expected, rtol=1e-6, atol=1e-6)


def test_noise_is_that_of_training_alone() -> None:
    branch = Branch((8, 4, 4), 0.05)
    for module in branch.modules():  # batch norm as in use, so that noise is all that differs
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    a = torch.rand(500, 8, 4, 4)
    with torch.no_grad():
        noisy = branch._noisy(a) - a
        assert float(noisy.mean()) == pytest.approx(0, abs=1e-3)
        assert float(noisy.std()) == pytest.approx(0.05, rel=0.02)
        branch.eval()
        assert torch.equal(branch._noisy(a), a) and torch.equal(branch(a), branch(a))


def test_the_full_width_is_the_published_one() -> None:
    def sizes(net: nn.Module) -> list[tuple[int, ...]]:
        return [
            tuple(m.weight.shape) for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)
        ]

    reader = LayerReader((64, 2, 3), 10)
    assert sizes(reader.branches[0]) == [
        (32, 64, 3, 3), (16, 32, 3, 3), (4, 16, 3, 3),
        (16, 4, 3, 3), (32, 16, 3, 3), (64, 32, 3, 3),
    ]  # fmt: skip
    expected = [(1024, 128, 1, 1), (512, 1024, 3, 3), (256, 512, 1, 1), (512, 256 * 6)]
    assert sizes(reader.bottleneck) == expected
    assert sorted(sizes(reader.heads)) == [(1, 512), (10, 512), (10, 512), (512, 512)]
    assert sizes(Combiner(30, 10))[0] == (128, 30)
    assert sizes(LayerReader((64,), 10, width=0.01).bottleneck)[0] == (10, 128, 1, 1)


def test_the_loss_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    logits, select, auxiliary = rng.normal(size=(6, 3)), rng.normal(size=6), rng.normal(size=(6, 3))
    y = np.array([0, 1, 2, 0, 1, 2])
    g = 1 / (1 + np.exp(-select))

    def cross(z: np.ndarray) -> list[float]:
        return [
            float(np.log(np.exp(row).sum()) - row[label]) for row, label in zip(z, y, strict=True)
        ]

    weighted = sum(gi * ce for gi, ce in zip(g, cross(logits), strict=True)) / 6
    for coverage in (0.2, 0.95):
        short = max(coverage - g.mean(), 0.0)
        expected = 0.5 * (weighted + 32 * short**2) + 0.5 * sum(cross(auxiliary)) / 6
        answer = Answer(*(torch.from_numpy(v) for v in (logits, select, auxiliary)))
        found = selective_loss(answer, torch.from_numpy(y), coverage)
        assert float(found) == pytest.approx(expected, rel=1e-12)


def test_learning_is_keyed_by_the_seed_and_ends_frozen() -> None:
    x, y = torch.rand(60, 6), torch.arange(60) % 3
    fresh = Combiner(6, 3, 12)

    def learned(seed: int) -> Combiner:
        net = copy.deepcopy(fresh)
        learn([net], lambda rows: [x[rows]], y, Training(0.9, epochs=2, batch=20), seed)
        return net

    one, same, other = (learned(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    net = learned(0)
    assert not any(m.training for m in net.modules())
    assert not any(p.requires_grad for p in net.parameters())


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(InputError, match=r"coverage 1\.5"):
        Training(coverage=1.5)
    with pytest.raises(InputError, match="batch 1"):
        Training(batch=1)
    with pytest.raises(ModelError, match="maps"):
        LayerReader((5, 7), 10)
    net = Combiner(6, 3, 12)
    x = torch.full((20, 6), torch.nan)
    with pytest.raises(ModelError, match="finite loss"):
        learn([net], lambda rows: [x[rows]], torch.zeros(20).long(), Training(), 0)
