"""Each method against an independent loop, and AWP against the authors' add, backward, step,
subtract.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.starts import Gaussian, Uniform, Zero
from torchproof.core import keys
from torchproof.core.errors import InputError, ModelError
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import Threat, parse
from torchproof.train import AT, AWP, MART, TRADES, Batch, Standard
from torchproof.train.method import read

EPS = 0.1
THREAT = Threat(Linf(), EPS)


def network(dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(), nn.Dropout(dropout),
            nn.Conv2d(4, 4, 3, stride=2), nn.Softplus(), nn.Flatten(), nn.Linear(16, 3),
        )  # fmt: skip
        return net.double().train()


def batch(n: int = 6) -> Batch:
    g = torch.Generator().manual_seed(5)
    x = torch.rand(n, 1, 6, 6, generator=g, dtype=torch.float64)
    y = torch.randint(3, (n,), generator=g)
    return Batch(x, y, torch.arange(10, 10 + n), progress=0.5, seed=77)


def start(b: Batch, sigma: float | None) -> Tensor:
    """The keyed first perturbation, cut to ball and box: normal of std sigma, or uniform in the
    ball.
    """
    key = keys.mix(b.seed, b.ids, torch.full_like(b.ids, -1), torch.zeros_like(b.ids))
    shape = tuple(b.x.shape[1:])
    if sigma is None:
        d = (keys.uniform(key, 0, shape, 0, torch.float64) * 2 - 1) * EPS
    else:
        d = keys.normal(key, 0, shape, 0, torch.float64) * sigma
    return (b.x + d.clamp(-EPS, EPS)).clamp(0, 1) - b.x


def naive_pgd(net: nn.Module, b: Batch, d: Tensor, steps: int, length: float, kl: bool) -> Tensor:
    """The textbook loop on a copy in eval mode: sign step, cut to the ball, cut to [0, 1]; the
    last iterate.
    """
    net = copy.deepcopy(net).eval()
    p = net(b.x).softmax(1).detach()
    adv = b.x + d
    for _ in range(steps):
        adv = adv.detach().requires_grad_(True)
        z = net(adv)
        if kl:
            loss = (p * (p.log() - z.log_softmax(1))).sum()
        else:
            loss = F.cross_entropy(z, b.y, reduction="sum")
        loss.backward()
        assert adv.grad is not None
        adv = adv.detach() + length * EPS * adv.grad.sign()
        adv = torch.min(torch.max(adv, b.x - EPS), b.x + EPS).clamp(0, 1)
    return adv.detach()


def naive_at(net: nn.Module, b: Batch, adv: Tensor) -> Tensor:
    return -net(adv).log_softmax(1)[range(len(b.y)), b.y]


def naive_trades(net: nn.Module, b: Batch, adv: Tensor) -> Tensor:
    p, q = net(b.x).softmax(1), net(adv).softmax(1)
    kl = (p * (p.log() - q.log())).sum(1)
    return -p[range(len(b.y)), b.y].log() + 6 * kl


def naive_mart(net: nn.Module, b: Batch, adv: Tensor) -> Tensor:
    p, q = net(b.x).softmax(1), net(adv).softmax(1)
    rows = []
    for i, label in enumerate(b.y.tolist()):
        row = q[i].tolist()
        k = max((k for k in range(3) if k != label), key=row.__getitem__)
        bce = -q[i, label].log() - (1.0001 - q[i, k] + 1e-12).log()
        kl = (p[i] * (p[i].log() - (q[i] + 1e-12).log())).sum()
        rows.append(bce + 5 * kl * (1.0000001 - p[i, label]))
    return torch.stack(rows)


def gradients(net: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    ("method", "sigma", "kl", "naive"),
    [
        (AT(THREAT, steps=5), None, False, naive_at),
        (TRADES(THREAT, steps=5), 0.001, True, naive_trades),
        (MART(THREAT, steps=5), 0.001, False, naive_mart),
    ],
    ids=["AT", "TRADES", "MART"],
)
def test_method_equals_naive_loop(method, sigma, kl, naive) -> None:
    net, b = network(), batch()
    ready = method.prepare(net, b)
    adv = naive_pgd(net, b, start(b, sigma), 5, method.length, kl)
    assert ready.adv is not None
    assert torch.allclose(ready.adv, adv, rtol=0, atol=1e-12)
    twin = copy.deepcopy(net)
    losses, expected = read(method, net, ready), naive(twin, b, adv)
    assert torch.allclose(losses, expected, rtol=0, atol=1e-10)
    losses.mean().backward()
    expected.mean().backward()
    for got, want in zip(gradients(net), gradients(twin), strict=True):
        assert torch.allclose(got, want, rtol=0, atol=1e-10)


def test_standard_is_cross_entropy_on_clean_images() -> None:
    net, b = network(), batch()
    ready = Standard().prepare(net, b)
    assert ready.adv is None
    assert torch.equal(
        Standard().losses(net, ready), F.cross_entropy(net(b.x), b.y, reduction="none")
    )


def test_attack_returns_the_last_iterate_not_the_worst() -> None:
    """A step of two eps leaves the best point behind: the last one is where the sign of the last
    gradient points.
    """
    net, b = network(), batch(40)
    method = AT(THREAT, steps=4, length=2.0)
    last = naive_pgd(net, b, start(b, None), 4, 2.0, kl=False)
    assert torch.allclose(method.prepare(net, b).adv, last, rtol=0, atol=1e-12)
    clean = copy.deepcopy(net).eval()
    losses = [
        F.cross_entropy(
            clean(naive_pgd(net, b, start(b, None), k, 2.0, kl=False)), b.y, reduction="none"
        )
        for k in range(5)
    ]
    assert (torch.stack(losses[:4]).amax(0) > losses[4] + 1e-9).any()


def test_costs_are_counted() -> None:
    net, b = network(), batch()
    assert AT(THREAT, steps=5).prepare(net, b).spent == (30, 30)
    assert TRADES(THREAT, steps=5).prepare(net, b).spent == (36, 30)
    assert AWP(AT(THREAT, steps=5)).prepare(net, b).spent == (36, 36)
    assert AWP(TRADES(THREAT, steps=5)).prepare(net, b).spent == (48, 42)


def test_ramp_lets_eps_grow_in_a_straight_line() -> None:
    net, b = network(), batch()
    method = AT(THREAT, steps=3, length=1.0, ramp=0.8)
    for progress, share in [(0.2, 0.25), (0.4, 0.5), (0.8, 1.0), (0.95, 1.0)]:
        adv = method.prepare(net, replace(b, progress=progress)).adv
        assert math.isclose(float((adv - b.x).abs().max()), share * EPS, rel_tol=1e-9)


def test_impossible_methods_are_refused_at_construction() -> None:
    with pytest.raises(InputError, match="random start"):
        TRADES(THREAT, start=Zero())
    for make in (
        lambda: TRADES(THREAT, beta=-1),
        lambda: MART(THREAT, lam=-1),
        lambda: AT(THREAT, steps=-1),
        lambda: AT(THREAT, steps=False),
        lambda: AT(THREAT, length=0),
        lambda: AT(THREAT, ramp=2),
        lambda: AWP(AT(THREAT), gamma=-0.01),
        lambda: AWP(AT(THREAT), warmup=2),
        lambda: AWP(AT(THREAT), steps=0),
        lambda: AWP(AWP(AT(THREAT))),
        lambda: AWP("AT"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError):
            make()


def test_losses_of_another_shape_are_refused() -> None:
    class Mean(Standard):
        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            return super().losses(model, batch).mean()

    with pytest.raises(ModelError, match="one loss per example"):
        read(Mean(), network(), batch())


def test_weights_of_examples_multiply_the_losses() -> None:
    net, b = network(), batch()
    weight = torch.arange(6, dtype=torch.float64)
    plain = read(Standard(), net, b)
    assert torch.equal(read(Standard(), net, replace(b, weight=weight)), plain * weight)


def test_other_threats_and_starts_train_too() -> None:
    net, b = network(), batch()
    ready = AT(Threat(L2(), 0.5), steps=3, start=Gaussian(0.01)).prepare(net, b)
    assert float((ready.adv - b.x).flatten(1).norm(dim=1).max()) <= 0.5 * (1 + 1e-9)
    box = TRADES(parse("linf:0.5"), steps=3, start=Uniform()).prepare(net, b).adv
    assert box.min() >= 0 and box.max() <= 1
