"""Self-paced adversarial training: closed forms, a naive loop, and what it refuses."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core import keys
from torchproof.core.errors import InputError, ModelError
from torchproof.core.norms import Linf
from torchproof.core.objectives import Goal
from torchproof.core.threats import Threat
from torchproof.train import SPAT, TRADES, Batch, Settings, fit
from torchproof.train.method import drawn, read
from torchproof.train.selfpaced import Consistency, consistency, self_paced

EPS = 0.1
THREAT = Threat(Linf(), EPS)
S = torch.tensor(8.0, dtype=torch.float64)


class Cosine(nn.Module):
    """A cosine head of its own make: what a method asks of one is `cosine_scale`."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(3, 16)), nn.Parameter(torch.randn(3) / 10)
        self.register_buffer("cosine_scale", torch.tensor(5.0))

    def forward(self, h: Tensor) -> Tensor:
        length = h.square().sum(1, keepdim=True).sqrt() * self.w.square().sum(1).sqrt()
        out: Tensor = self.cosine_scale * (h @ self.w.T / length + self.b)
        return out


def network(head: bool = True) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(),
            nn.Conv2d(4, 4, 3, stride=2), nn.Softplus(), nn.Flatten(),
            Cosine() if head else nn.Linear(16, 3),
        ).double().train()  # fmt: skip


def batch(n: int = 6) -> Batch:
    g = torch.Generator().manual_seed(5)
    x = torch.rand(n, 1, 6, 6, generator=g, dtype=torch.float64)
    y = torch.randint(3, (n,), generator=g)
    return Batch(x, y, torch.arange(10, 10 + n), progress=0.5, seed=77)


def losses(method: SPAT | TRADES, net: nn.Module, ready: Batch) -> Tensor:
    with drawn(ready):
        return read(method, net, ready)


def test_self_paced_logits_by_hand() -> None:
    c = torch.tensor([[0.5, -0.3, 0.9]], dtype=torch.float64)
    u = self_paced(c, torch.tensor([0]), S, margin=0.2)
    # 8 (1.2 - 0.5) 0.5, 8 (-0.3 + 0.2) (-0.3), 8 (0.9 + 0.2) 0.9
    want = torch.tensor([[2.8, 0.24, 7.92]], dtype=torch.float64)
    assert torch.allclose(u, want, rtol=0, atol=1e-12)


def slopes(own: float, other: float, detach: bool) -> tuple[float, float]:
    """d CE(u, 0) / d c_0 and d c_1 at the cosines (own, other)."""
    c = torch.tensor([[own, other]], dtype=torch.float64, requires_grad=True)
    loss = F.cross_entropy(self_paced(c, torch.tensor([0]), S, 0.2, detach), torch.tensor([0]))
    (g,) = torch.autograd.grad(loss, c)
    return float(g[0, 0]), float(g[0, 1])


def test_cosines_are_pulled_to_six_tenths_and_minus_one_tenth() -> None:
    assert slopes(0.5, 0.3, detach=False)[0] < 0 < slopes(0.7, 0.3, detach=False)[0]
    assert slopes(0.5, -0.05, detach=False)[1] > 0 > slopes(0.5, -0.15, detach=False)[1]
    at = slopes(0.6, -0.1, detach=False)
    assert abs(at[0]) < 1e-12 and abs(at[1]) < 1e-12
    # as in circle loss, the pull goes on to 1 + m and -m
    for own in (0.5, 0.6, 0.7, 1.0):
        assert slopes(own, 0.3, detach=True)[0] < 0
    for other in (0.3, -0.1, -0.15):
        assert slopes(0.5, other, detach=True)[1] > 0
    c = torch.tensor([[0.1, 0.9]], dtype=torch.float64, requires_grad=True)
    rate = torch.optim.SGD([c], lr=0.02)
    for _ in range(4000):
        rate.zero_grad()
        F.cross_entropy(self_paced(c, torch.tensor([0]), S), torch.tensor([0])).backward()
        rate.step()
    assert torch.allclose(c.detach(), torch.tensor([[0.6, -0.1]]).double(), atol=1e-3)


def test_both_gradients_are_those_of_their_formulas() -> None:
    """The same logits; with constant factors, the derivative of a product with one factor held."""
    c = torch.tensor([[0.5, -0.3, 0.9]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0])
    flowing, fixed = self_paced(c, y, S), self_paced(c, y, S, detach=True)
    assert torch.equal(flowing, fixed)
    (g,) = torch.autograd.grad(flowing.sum(), c)
    assert torch.allclose(g[0], 8 * torch.tensor([1.2 - 1.0, -0.6 + 0.2, 1.8 + 0.2]).double())
    (g,) = torch.autograd.grad(fixed.sum(), c)
    assert torch.allclose(g[0], 8 * torch.tensor([1.2 - 0.5, -0.3 + 0.2, 0.9 + 0.2]).double())


def test_consistency_by_hand() -> None:
    p, q = torch.tensor([[0.7, 0.2, 0.1]]).double(), torch.tensor([[0.5, 0.1, 0.4]]).double()
    k = [a * math.log(a / b) for a, b in zip(p[0].tolist(), q[0].tolist(), strict=True)]
    want = sum(v * v + 0.2 * v for v in k)
    assert float(consistency(p, q.log(), 0.2)) == pytest.approx(want, abs=1e-12)
    assert min(k) < 0
    sure = torch.tensor([[1.0, 0.0, 0.0]]).double()  # 0 log 0 = 0
    assert float(consistency(sure, q.log(), 0.2)) == pytest.approx(
        math.log(2) ** 2 + 0.2 * math.log(2), abs=1e-12
    )


def test_consistency_is_zero_for_equal_answers_only() -> None:
    g = torch.Generator().manual_seed(2)
    z = torch.randn(2000, 5, generator=g, dtype=torch.float64)
    p = z.softmax(1)
    assert bool((consistency(p, z.log_softmax(1)).abs() < 1e-15).all())
    for size in (1e-3, 0.1, 3.0):
        other = z + size * torch.randn(2000, 5, generator=g, dtype=torch.float64)
        assert bool((consistency(p, other.log_softmax(1)) > 0).all())
    bound = -5 * 0.2**2 / 4
    far = (10 * torch.randn(2000, 5, generator=g, dtype=torch.float64)).log_softmax(1)
    assert bool((consistency(p, far) >= bound).all())


def naive(net: nn.Module, b: Batch, adv: Tensor, offset: float, detach: bool) -> Tensor:
    """The losses row by row, from the formulas of the paper's code."""
    z, moved = net(b.x), net(adv)
    rows = []
    for i, label in enumerate(b.y.tolist()):
        c = z[i] / 5
        factor = c.detach() if detach else c
        u = [5 * ((1.2 - factor[k]) if k == label else (factor[k] + 0.2)) * c[k] for k in range(3)]
        accuracy = torch.logsumexp(torch.stack(u), 0) - u[label]
        p, q = z[i].softmax(0), moved[i].softmax(0)
        k = p * (p.log() - q.log())
        rows.append(accuracy + 6 * (k * (k + offset)).sum())
    return torch.stack(rows)


def naive_attack(net: nn.Module, b: Batch, steps: int) -> Tensor:
    net = copy.deepcopy(net).eval()
    p = net(b.x).softmax(1).detach()
    key = keys.mix(b.seed, b.ids, torch.full_like(b.ids, -1), torch.zeros_like(b.ids))
    noise = keys.normal(key, 0, tuple(b.x.shape[1:]), 0, torch.float64) * 0.001
    adv = (b.x + noise.clamp(-EPS, EPS)).clamp(0, 1)
    for _ in range(steps):
        adv = adv.detach().requires_grad_(True)
        k = p * (p.log() - net(adv).log_softmax(1))
        (g,) = torch.autograd.grad((k * (k + 0.2)).sum(), adv)
        adv = adv.detach() + 0.007 / 0.031 * EPS * g.sign()
        adv = torch.min(torch.max(adv, b.x - EPS), b.x + EPS).clamp(0, 1)
    return adv.detach()


@pytest.mark.parametrize("detach", [False, True])
def test_equals_the_naive_loop(detach: bool) -> None:
    net, b = network(), batch()
    method = SPAT(THREAT, steps=5, detach_weights=detach)
    ready = method.prepare(net, b)
    adv = naive_attack(net, b, 5)
    assert torch.allclose(ready.adv, adv, rtol=0, atol=1e-12)
    assert ready.spent == (36, 30)
    twin = copy.deepcopy(net)
    got, want = losses(method, net, ready), naive(twin, b, adv, 0.2, detach)
    assert torch.allclose(got, want, rtol=0, atol=1e-10)
    got.mean().backward()
    want.mean().backward()
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=0, atol=1e-10)


def test_the_attack_raises_the_consistency_loss() -> None:
    net, b = network().requires_grad_(False), batch(40)
    quiet = copy.deepcopy(net).eval()
    p = quiet(b.x).softmax(1).detach()

    def loss(adv: Tensor) -> float:
        goal = Goal(p, torch.full_like(b.y, -1), torch.zeros(40))
        return float(Consistency(0.2).loss(quiet(adv), goal).mean())

    means = [loss(SPAT(THREAT, steps=k).prepare(net, b).adv) for k in (1, 2, 4, 8)]
    assert loss(b.x) == pytest.approx(0, abs=1e-12)
    assert 0 < means[0] < means[1] < means[2] < means[3]


def test_the_ablation_starts_at_trades_on_the_cosine_head() -> None:
    net, b = network(), batch()
    off = SPAT(THREAT, steps=4, accuracy=False, consistency=False)
    trades = TRADES(THREAT, steps=4)
    net.eval()  # no pass changes the batch statistics that the next attack sees
    one, other = off.prepare(net, b), trades.prepare(net, b)
    assert torch.equal(one.adv, other.adv)
    assert torch.equal(losses(off, net, one), losses(trades, net, other))
    accuracy = SPAT(THREAT, steps=4, consistency=False)
    assert torch.equal(accuracy.prepare(net, b).adv, one.adv)
    c = net(b.x) / 5
    kl = (losses(trades, net, one) - F.cross_entropy(net(b.x), b.y, reduction="none")).detach()
    want = F.cross_entropy(self_paced(c, b.y, 5 * torch.ones(())), b.y, reduction="none") + kl
    assert torch.allclose(losses(accuracy, net, one), want, rtol=0, atol=1e-10)
    whole = SPAT(THREAT, steps=4)
    assert not torch.equal(whole.prepare(net, b).adv, one.adv)
    half = SPAT(THREAT, steps=4, accuracy=False)
    both = losses(half, net, one) + losses(accuracy, net, one)
    assert torch.allclose(both, losses(whole, net, one) + losses(off, net, one), atol=1e-10)


def test_cosines_are_noted() -> None:
    net, b = network(), batch()
    noted = SPAT(THREAT, steps=1).prepare(net, b).noted
    c = copy.deepcopy(net).eval()(b.x) / 5
    own = F.one_hot(b.y, 3).bool()
    assert torch.allclose(noted["label_cosine"], c[own], atol=1e-12)
    assert torch.allclose(noted["rival_cosine"], c.masked_fill(own, -9).amax(1), atol=1e-12)


def test_another_head_is_refused_before_the_first_step() -> None:
    net, b = network(head=False), batch(40)
    settings = Settings.of(epochs=1, batch_size=8)
    with pytest.raises(ModelError, match="0 cosine heads"):
        list(fit(net, (b.x, b.y), SPAT(THREAT, steps=1), settings))
    with pytest.raises(ModelError, match="2 cosine heads"):
        SPAT(THREAT).prepare(nn.ModuleList([Cosine(), Cosine()]), b)
    for more in ({"beta": -1}, {"offset": -0.1}, {"beta": float("nan")}):
        with pytest.raises(InputError):
            SPAT(THREAT, **more)
