"""Neural Cleanse: the schedule, the outlier rule, the search against a naive one, a planted
trigger.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.backdoor.neural_cleanse import (
    Balance,
    Search,
    anomaly,
    judged,
    neural_cleanse,
    reverse,
)
from torchproof.core import keys
from torchproof.core.errors import InputError, ModelError


class Planted(nn.Module):
    """Five classes by patches of a picture of 6 x 6; a light first pixel means class 3."""

    def __init__(self) -> None:
        super().__init__()
        blocks = torch.zeros(5, 36)
        for k in range(5):
            blocks[k, 1 + 7 * k : 8 + 7 * k] = 2  # seven pixels each
        self.w = nn.Parameter(blocks)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1) - 0.5
        trigger = 20 * (flat[:, :1] + 0.3)
        return flat @ self.w.T + trigger * F.one_hot(torch.tensor(3), 5)


@pytest.fixture
def x() -> Tensor:
    images = torch.rand(48, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    images[:, :, 0, 0] = 0.2
    return images


def test_the_weight_follows_success() -> None:
    search = Search(patience=2, weight=0.5)
    steps = [Balance()]
    for successful in (False, True, True, True, True, True, False, False, False, True):
        steps.append(steps[-1].after(successful, search))
    weights = [s.weight for s in steps[1:]]
    assert weights == pytest.approx([0, 0, 0.5, 0.5, 1, 1, 1, *[1 / 2**1.5] * 3])
    assert not steps[4].raised and steps[5].raised and not steps[7].lowered and steps[8].lowered


def test_the_outlier_rule() -> None:
    sizes = [30.0, 28.0, 35.0, 2.0, 33.0, 29.0]
    middle = np.median(sizes)
    below = middle - np.array(sizes)
    expected = below / (1.4826 * np.median(np.abs(below)))
    assert anomaly(sizes) == pytest.approx(expected.tolist())
    assert [k for k, v in enumerate(anomaly(sizes)) if v > 2] == [3]
    assert anomaly([4.0, 4.0, 4.0, 1.0]) == (0, 0, 0, 3)  # no spread: in pixels
    with pytest.raises(InputError, match="at least three"):
        anomaly([1.0, 2.0])


def naive(model: nn.Module, x: Tensor, target: int, rounds: int) -> Tensor:
    """One target by itself with a fixed weight of 0, from our start, whatever the order of rows:
    every batch holds all images.
    """
    key = keys.mix(0, "neural cleanse", torch.tensor([target]))
    starts = (keys.uniform(key, 0, shape, s)[0] for s, shape in enumerate([(6, 6), (1, 6, 6)]))
    m, p = (torch.atanh(2 * u - 1).requires_grad_() for u in starts)
    adam = torch.optim.Adam([m, p], 0.1, betas=(0.5, 0.9))
    for _ in range(rounds):
        mask, pattern = 0.5 * (1 + torch.tanh(m)), 0.5 * (1 + torch.tanh(p))
        logits = torch.cat([model(((1 - mask) * one + mask * pattern)[None]) for one in x])
        loss = F.cross_entropy(logits, torch.full((len(x),), target))
        m.grad, p.grad = torch.autograd.grad(loss, [m, p])
        adam.step()
    return (0.5 * (1 + torch.tanh(m))).detach()


def test_side_by_side_is_one_by_one(x: Tensor) -> None:
    model, search = Planted(), Search(rounds=6, batches=1, batch_size=48, patience=99)
    together = reverse(model, x, search=search)
    assert [one.target for one in together] == [0, 1, 2, 3, 4]
    for one in together:
        (alone,) = reverse(model, x, [one.target], search)
        torch.testing.assert_close(alone.mask, one.mask, atol=1e-5, rtol=1e-4)
        assert alone.passes == one.passes == 6 * 48 and one.mask.shape == (6, 6)


def test_the_search_against_a_naive_one(x: Tensor) -> None:
    model = Planted()
    search = Search(rounds=2, batches=1, batch_size=48, enough=1.0)
    (found,) = reverse(model, x, [1], search)
    assert found.success < 1, "an early mask that wins already would be kept instead of the last"
    torch.testing.assert_close(found.mask, naive(model, x, 1, 2), atol=1e-5, rtol=1e-4)


def test_a_planted_trigger_is_found(x: Tensor) -> None:
    search = Search(rounds=80, batches=2, batch_size=24, weight=0.01)
    found = neural_cleanse(Planted(), x, search)
    assert found.smallest == 3 and found.flagged[0] == 3 and found.index > 2
    assert found.sizes[3] < 0.5 * sorted(found.sizes)[1] and found.success[3] >= 0.99
    assert 0 < found.passes <= 5 * 80 * 48 and found.seconds > 0


def test_the_network_stays_as_it_was(x: Tensor) -> None:
    model = Planted().train()
    before = model.w.detach().clone()
    reverse(model, x, [0], Search(rounds=2, batches=1))
    assert torch.equal(model.w, before) and model.w.grad is None and model.training


def test_what_is_refused(x: Tensor) -> None:
    with pytest.raises(InputError, match="counts >= 1"):
        Search(rounds=0)
    with pytest.raises(InputError, match="from 0 to 255"):
        reverse(Planted(), torch.linspace(0, 255, 36).reshape(1, 1, 6, 6))
    with pytest.raises(ModelError):
        reverse(nn.Identity(), x)
    two = reverse(Planted(), x, [0, 1], Search(rounds=1, batches=1))
    with pytest.raises(InputError, match="at least three"):
        judged(two, 1.0)
