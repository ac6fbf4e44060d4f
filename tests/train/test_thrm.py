"""Training against hypocritical examples: a naive loop, and its identities."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.starts import Zero
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import Threat
from torchproof.train import AT, THRM, Batch, Standard
from torchproof.train.method import read

EPS = 0.1
THREAT = Threat(Linf(), EPS)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(),
            nn.Conv2d(4, 4, 3, stride=2), nn.Softplus(), nn.Flatten(), nn.Linear(16, 3),
        ).double().train()  # fmt: skip


def batch(n: int = 6) -> Batch:
    g = torch.Generator().manual_seed(5)
    x = torch.rand(n, 1, 6, 6, generator=g, dtype=torch.float64) * 0.9 + 0.05
    y = torch.randint(3, (n,), generator=g)
    return Batch(x, y, torch.arange(10, 10 + n), progress=0.5, seed=77)


def naive_friends(net: nn.Module, b: Batch, steps: int) -> Tensor:
    """Sign steps of eps / 4 that make the cross-entropy *smaller*, from normal noise of 0.01."""
    net = copy.deepcopy(net).eval()
    key = keys.mix(b.seed, b.ids, torch.full_like(b.ids, -1), torch.zeros_like(b.ids))
    noise = keys.normal(key, 0, tuple(b.x.shape[1:]), 0, torch.float64) * 0.01
    adv = (b.x + noise.clamp(-EPS, EPS)).clamp(0, 1)
    for _ in range(steps):
        adv = adv.detach().requires_grad_(True)
        F.cross_entropy(net(adv), b.y, reduction="sum").backward()
        adv = adv.detach() - EPS / 4 * adv.grad.sign()
        adv = torch.min(torch.max(adv, b.x - EPS), b.x + EPS).clamp(0, 1)
    return adv.detach()


def test_equals_the_naive_loop() -> None:
    net, b, method = network(), batch(), THRM(THREAT, steps=5, beta=40)
    ready = method.prepare(net, b)
    adv = naive_friends(net, b, 5)
    assert torch.allclose(ready.adv, adv, rtol=0, atol=1e-12) and ready.spent == (30, 30)
    twin = copy.deepcopy(net)
    got = read(method, net, ready)
    z = twin(torch.cat([b.x, adv]))  # one batch, and its statistics
    p, q = z[:6].softmax(1), z[6:].softmax(1)
    own = p[range(6), b.y.tolist()]
    want = -own.log() + 40 * (p * (p.log() - q.log())).sum(1)
    assert torch.allclose(got, want, rtol=0, atol=1e-10)
    got.mean().backward()
    want.mean().backward()
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=0, atol=1e-10)


def test_hypocritical_images_look_better_and_adversarial_ones_worse() -> None:
    net, b = network(), batch(40)
    quiet = copy.deepcopy(net).eval().requires_grad_(False)

    def loss(x: Tensor) -> float:
        return float(F.cross_entropy(quiet(x), b.y))

    means = [loss(THRM(THREAT, steps=k).prepare(net, b).adv) for k in (1, 3, 9)]
    assert loss(b.x) > means[0] > means[1] > means[2]
    assert loss(AT(THREAT, steps=3).prepare(net, b).adv) > loss(b.x)


def test_without_a_perturbation_it_is_plain_training() -> None:
    """No noise and no ball to speak of: x' is x, bit for bit, and the KL is nothing."""
    net, b = network(), batch()
    method = THRM(Threat(Linf(), 1e-30), steps=1, start=Zero(), beta=100)
    ready = method.prepare(net, b)
    assert torch.equal(ready.adv, b.x)
    twin = copy.deepcopy(net)
    got, want = read(method, net, ready), read(Standard(), twin, b)
    assert torch.allclose(got, want, rtol=0, atol=1e-12)
    got.mean().backward()
    want.mean().backward()
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=0, atol=1e-12)


def test_beta_zero_is_plain_training_on_any_threat() -> None:
    net, b = network().eval(), batch()
    for threat in (THREAT, Threat(L2(), 0.5)):
        ready = THRM(threat, steps=2, beta=0).prepare(net, b)
        got = read(THRM(threat, beta=0), net, ready)
        assert torch.allclose(got, read(Standard(), net, b), rtol=0, atol=1e-12)


def test_a_beta_that_cannot_be_meant() -> None:
    for beta in (-1, float("nan")):
        with pytest.raises(InputError, match="beta"):
            THRM(THREAT, beta=beta)


def test_patience_that_would_count_wrong_answers() -> None:
    """As in FAT, where THRM is refused for the same reason."""
    for patience in (0, 3, "3", float("nan")):
        with pytest.raises(InputError, match="THRM with patience"):
            THRM(THREAT, patience=patience)
