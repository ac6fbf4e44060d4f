"""Asymmetrical adversarial training: detectors, their deceptions, and the row."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from torchproof.adaptive.zoo.asymmetrical import (
    Detectors,
    Doubt,
    deceived,
    detection,
)


@pytest.fixture
def detectors() -> Detectors:
    torch.manual_seed(0)
    return Detectors(64, 10, hidden=8).requires_grad_(False)


def test_detectors_are_networks_of_one_hidden_layer(detectors: Detectors) -> None:
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = detectors(x)
    for k in range(10):
        hidden = (x.flatten(1) @ detectors.first[k] + detectors.inner[k]).relu()
        alone = (hidden @ detectors.last[k] + detectors.outer[k])[:, 0]
        torch.testing.assert_close(found[:, k], alone)
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(1))
    doubt = Doubt(detectors)(x, logits)
    for n in range(5):
        assert float(doubt[n]) == pytest.approx(-float(found[n, int(logits[n].argmax())]))


def test_only_other_classes_deceive(detectors: Detectors) -> None:
    x = torch.rand(6, 64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 3, 4, 5])
    own = y[None] == torch.arange(10)[:, None]
    moved = deceived(detectors, x, own, eps=0.1, steps=5)
    assert torch.equal(moved[own], x.expand(10, 6, 64)[own])
    assert float((moved - x).abs().max()) <= 0.1 + 1e-6
    assert float(moved.min()) >= 0 and float(moved.max()) <= 1
    before, after = detectors.apart(x.expand(10, 6, 64)), detectors.apart(moved)
    assert bool((after > before)[~own].all())


def test_both_kinds_weigh_the_same(detectors: Detectors) -> None:
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 3, 4, 5])
    torch.manual_seed(0)
    found = detection(detectors, x, y)
    torch.manual_seed(0)
    own = y[None] == torch.arange(10)[:, None]
    logits = detectors.apart(deceived(detectors, x.flatten(1), own))
    total = torch.tensor(0.0)
    for k in range(10):
        for n in range(6):
            mine = int(y[n]) == k
            total += 9 * F.softplus(-logits[k, n]) if mine else F.softplus(logits[k, n])
    torch.testing.assert_close(found, total / 60)
