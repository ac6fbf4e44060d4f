"""LADDER's attention SVM: the interval of beta, gradients against autograd, a naive training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.errors import InputError, UnknownName
from torchproof.train.ladder.svm import SVM, Recipe, descend, fresh, interval, train_pairs


def naive_beta(q: Tensor, kind: str) -> Tensor:
    p = torch.softmax(torch.tanh(q), -1)
    return torch.exp(p) if kind == "paper" else q.shape[-1] * p


def naive_loss(parts: list[Tensor], z: Tensor, sign: Tensor, hinge: float, kind: str) -> Tensor:
    attention, bias, w, b = parts
    rows = []
    for one, s in zip(z, sign, strict=True):
        score = ((naive_beta(attention @ one + bias, kind) * one) * w).sum() + b
        rows.append(torch.clamp(1 - s * score, min=0))
    return hinge * torch.stack(rows).mean() + (w**2).mean()


def some(size: int = 7, n: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    sign = torch.tensor([1.0, -1.0]).double().repeat(n)[:n]
    return torch.randn(n, size, generator=g, dtype=torch.float64) * 2, sign


def svm_of(size: int = 7, kind: str = "paper") -> SVM:
    found = fresh(size, keys.mix(3), kind, torch.float64)
    found.w.mul_(3)
    return found


def parts_of(svm: SVM) -> list[Tensor]:
    return [t.clone() for t in (svm.attention, svm.attention_bias, svm.w, svm.b)]


def test_the_interval_of_beta() -> None:
    """By hand at D = 500, reached by one coordinate far from all others, never left."""
    low, high = interval(500)
    assert (low, high) == pytest.approx((1.0002712, 1.0146987), abs=2e-7)
    q = torch.full((500,), -50.0, dtype=torch.float64)
    q[3] = 50.0
    assert float(naive_beta(q, "paper")[3]) == pytest.approx(high, abs=1e-12)
    assert float(naive_beta(-q, "paper")[3]) == pytest.approx(low, abs=1e-12)
    g = torch.Generator().manual_seed(0)
    for scale in (0.1, 10, 1000):
        svm = SVM(
            torch.randn(500, 500, generator=g, dtype=torch.float64) * scale,
            torch.randn(500, generator=g, dtype=torch.float64), torch.ones(500).double(),
            torch.zeros(()).double(),
        )  # fmt: skip
        beta = svm.beta(torch.randn(20, 500, generator=g, dtype=torch.float64))
        assert low - 1e-12 <= float(beta.min()) and float(beta.max()) <= high + 1e-12


def test_scaled_attention_has_mean_one() -> None:
    z, _ = some()
    beta = svm_of(kind="scaled").beta(z)
    assert torch.allclose(beta.mean(1), torch.ones(6, dtype=torch.float64))
    assert float((beta - 1).abs().max()) > 0.1


@pytest.mark.parametrize("kind", ["paper", "scaled"])
@pytest.mark.parametrize("n", [1, 6])
def test_a_step_is_that_of_autograd(kind: str, n: int) -> None:
    z, sign = some(n=n)
    svm = svm_of(kind=kind)
    live = [t.requires_grad_() for t in parts_of(svm)]
    loss = naive_loss(live, z, sign, 0.7, kind)
    grads = torch.autograd.grad(loss, live)
    with torch.no_grad():
        score = torch.stack([(naive_beta(live[0] @ v + live[1], kind) * v) @ live[2] for v in z])
        assert torch.allclose(svm.score(z), score + live[3])
    descend(svm, z, sign, 0.7, 0.05)
    for got, before, grad in zip(parts_of(svm), live, grads, strict=True):
        assert torch.allclose(got, before.detach() - 0.05 * grad, atol=1e-13)
        assert n == 1 or float(grad.abs().max()) > 1e-6


def test_a_wide_margin_only_shrinks_w() -> None:
    z, _ = some(n=1)
    svm = svm_of()
    svm.w.copy_(100 * z[0])
    before = parts_of(svm)
    descend(svm, z, torch.ones(1).double(), 1.0, 0.1)
    for got, old, factor in zip(parts_of(svm), before, (1, 1, 1 - 0.2 / 7, 1), strict=True):
        assert torch.allclose(got, factor * old)


def clusters(per: int = 30, size: int = 5) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    y = torch.arange(3 * per) % 3 * 2  # classes 0, 2, 4
    z = torch.randn(3 * per, size, generator=g, dtype=torch.float64)
    z[torch.arange(3 * per), y // 2] += 6
    return z, y


def test_training_is_the_naive_one() -> None:
    z, y = clusters()
    recipe = Recipe(n=12, hinge=0.5, lr=0.1, epochs=2)
    found = train_pairs(z, y, recipe, seed=5)
    assert found.pairs.tolist() == [[0, 2], [0, 4], [2, 4]] and found.classes == [0, 2, 4]
    s, t = 0, 4
    halves = {}
    for c in (s, t):
        mine, order = z[y == c][:12], keys.permutation(12, 5, "svm split", c)
        halves[c] = mine[order[:8]], mine[order[8:]]  # 67 % of 12
    x = torch.cat([halves[s][0], halves[t][0]])
    sign = torch.tensor([-1.0] * 8 + [1.0] * 8).double()
    key = keys.mix(5, "svm", s, t)
    live = [p.requires_grad_() for p in parts_of(fresh(5, key, "paper", torch.float64))]
    for epoch in range(2):
        order = keys.mix(key, "order", epoch, torch.arange(16)).argsort(stable=True)
        assert sorted(order.tolist()) == list(range(16))
        for i in order:
            loss = naive_loss(live, x[i : i + 1], sign[i : i + 1], 0.5, "paper")
            grads = torch.autograd.grad(loss, live)
            live = [
                (p - 0.1 * g).detach().requires_grad_() for p, g in zip(live, grads, strict=True)
            ]
    svm = found.svm(1)
    for got, want in zip(parts_of(svm), live, strict=True):
        assert torch.allclose(got, want, atol=1e-12)
    right = [bool(svm.score(v[None]) < 0) for v in halves[s][1]]
    right += [bool(svm.score(v[None]) > 0) for v in halves[t][1]]
    assert float(found.accuracy[1]) == pytest.approx(sum(right) / 8)


def test_clusters_are_told_apart_by_pairs_of_their_own() -> None:
    z, y = clusters(60)
    recipe = Recipe(hinge=1.0, lr=0.05)
    found = train_pairs(z, y, recipe)
    assert float(found.accuracy.min()) >= 0.9
    two = train_pairs(z[y != 2], y[y != 2], recipe)
    assert torch.equal(two.attention[0], found.attention[1]) and torch.equal(two.w[0], found.w[1])
    assert not torch.equal(train_pairs(z, y, recipe, seed=1).w, found.w)


def test_fresh_weights_lie_in_the_usual_range() -> None:
    svm = fresh(400, keys.mix(0), "paper", torch.float32)
    for part in (svm.attention, svm.attention_bias, svm.w):
        assert float(part.abs().max()) <= 0.05 and abs(float(part.mean())) < 0.01
        assert float(part.std()) == pytest.approx(0.05 / math.sqrt(3), rel=0.1)
    assert len({float(svm.attention[0, 0]), float(svm.attention_bias[0]), float(svm.w[0])}) == 3


@pytest.mark.parametrize(
    "given",
    [{"n": 2}, {"epochs": 0}, {"hinge": 0.0}, {"lr": -1.0}, {"attention": "softmax"}],
    ids=str,
)
def test_refused(given: dict[str, Any]) -> None:
    with pytest.raises((InputError, UnknownName)) as caught:
        Recipe(**given)
    assert caught.value.remedy


def test_too_few_latents_are_refused() -> None:
    z, y = clusters(3)
    with pytest.raises(InputError, match="two"):
        train_pairs(z[y == 2], y[y == 2])
    with pytest.raises(InputError, match="class 4"):
        train_pairs(z[:-1], y[:-1])
