"""ALP, SCORE, HAT and HE against naive loops in float64, and their identities."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.starts import Zero
from torchproof.core import keys
from torchproof.core.errors import FileError, InputError, ModelError, ResumeError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.nn import build, cards
from torchproof.nn.cosine import CosineHead
from torchproof.recipes import Plan, prepare, run
from torchproof.train import (
    ALP,
    AT,
    HAT,
    HE,
    SCORE,
    TRADES,
    Batch,
    LabelSmoothing,
    Method,
    Settings,
    Standard,
    Sum,
    fit,
)  # fmt: skip
from torchproof.train import method as parse_method
from torchproof.train.method import read

EPS = 0.1
THREAT = Threat(Linf(), EPS)
Loss = Callable[[Tensor], Tensor]


def network(seed: int = 3, last: nn.Module | None = None) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(),
            nn.Conv2d(4, 4, 3, stride=2), nn.Softplus(), nn.Flatten(),
            nn.Linear(16, 3) if last is None else last,
        ).double().train()  # fmt: skip


def batch(n: int = 6) -> Batch:
    g = torch.Generator().manual_seed(5)
    x = torch.rand(n, 1, 6, 6, generator=g, dtype=torch.float64)
    y = torch.randint(3, (n,), generator=g)
    return Batch(x, y, torch.arange(10, 10 + n), progress=0.5, seed=77)


def naive_pgd(b: Batch, loss: Loss, sigma: float | None, length: float, steps: int = 4) -> Tensor:
    """Sign steps up `loss` from the keyed start: normal noise, or uniform in the ball."""
    key = keys.mix(b.seed, b.ids, torch.full_like(b.ids, -1), torch.zeros_like(b.ids))
    shape = tuple(b.x.shape[1:])
    if sigma is None:
        d = (keys.uniform(key, 0, shape, 0, torch.float64) * 2 - 1) * EPS
    else:
        d = keys.normal(key, 0, shape, 0, torch.float64) * sigma
    adv = (b.x + d.clamp(-EPS, EPS)).clamp(0, 1)
    for _ in range(steps):
        adv = adv.detach().requires_grad_(True)
        (g,) = torch.autograd.grad(loss(adv), adv)
        adv = adv.detach() + length * EPS * g.sign()
        adv = torch.min(torch.max(adv, b.x - EPS), b.x + EPS).clamp(0, 1)
    return adv.detach()


def check(
    method: Method, net: nn.Module, b: Batch, adv: Tensor, naive: Callable[..., Tensor]
) -> None:
    """The same x', the same losses, the same gradients."""
    ready = method.prepare(net, b)
    assert torch.allclose(ready.adv, adv, rtol=0, atol=1e-12)
    twin = copy.deepcopy(net)
    got, want = read(method, net, ready), naive(twin)
    assert torch.allclose(got, want, rtol=0, atol=1e-10)
    got.mean().backward()
    want.mean().backward()
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=0, atol=1e-10)


def ce(z: Tensor, y: Tensor) -> Tensor:
    return -z.log_softmax(1)[range(len(y)), y.tolist()]


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p.log() - q.log())).sum(1)


def test_alp() -> None:
    net, b = network(), batch()
    quiet = copy.deepcopy(net).eval()
    adv = naive_pgd(b, lambda x: ce(quiet(x), b.y).sum(), None, 0.25)

    def naive(net: nn.Module) -> Tensor:
        z, moved = net(b.x), net(adv)
        distance = sum((z[:, k] - moved[:, k]) ** 2 for k in range(3)) / 3
        return ce(z, b.y) / 2 + ce(moved, b.y) / 2 + 0.5 * distance

    check(ALP(THREAT, steps=4), net, b, adv, naive)


def test_alp_without_pairing_is_half_clean_half_adversarial() -> None:
    net, b = network(), batch()
    alp, half = ALP(THREAT, lam=0), Sum(Standard(), AT(THREAT), weights=(0.5, 0.5))
    one, other = alp.prepare(net, b), half.prepare(net, b)
    assert torch.allclose(read(alp, net, one), read(half, net, other), rtol=0, atol=1e-12)


@pytest.mark.parametrize("amount", [0.0, 0.2])
def test_score(amount: float) -> None:
    net, b = network(), batch()
    quiet = copy.deepcopy(net).eval()
    p = quiet(b.x).softmax(1).detach()
    adv = naive_pgd(b, lambda x: (quiet(x).softmax(1) - p).square().sum(), None, 0.25)
    y = (1 - amount) * torch.eye(3, dtype=torch.float64)[b.y] + amount / 3

    def naive(net: nn.Module) -> Tensor:
        p, q = net(b.x).softmax(1), net(adv).softmax(1)
        return ((p - y) ** 2).sum(1) + 4 * ((q - p) ** 2).sum(1)

    method = LabelSmoothing(SCORE(THREAT, steps=4), amount)
    check(method, net, b, adv, naive)


def test_score_is_zero_for_a_network_that_is_right_and_sure() -> None:
    class Sure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1e3 * F.one_hot(y, 3).to(x) + 0 * x.flatten(1).sum(1, keepdim=True)

    b = batch()
    y = b.y
    ready = SCORE(THREAT, steps=1).prepare(Sure(), b)
    assert torch.equal(read(SCORE(THREAT), Sure(), ready), torch.zeros(6, dtype=torch.float64))


def test_hat() -> None:
    net, standard, b = network(), network(seed=8), batch()
    quiet, fixed = copy.deepcopy(net).eval(), copy.deepcopy(standard).eval()
    p = quiet(b.x).softmax(1).detach()
    adv = naive_pgd(b, lambda x: kl(p, quiet(x).softmax(1)).sum(), 0.001, 0.007 / 0.031)
    labels = fixed(adv).argmax(1)

    def naive(net: nn.Module) -> Tensor:
        z, q, beyond = net(b.x), net(adv).softmax(1), net(b.x + 2 * (adv - b.x))
        return ce(z, b.y) + 2.5 * kl(z.softmax(1), q) + 0.5 * ce(beyond, labels)

    before = {k: v.clone() for k, v in standard.state_dict().items()}
    method = HAT(THREAT, steps=4, standard=standard)
    check(method, net, b, adv, naive)
    assert standard.training and all(p.grad is None for p in standard.parameters())
    assert all(torch.equal(v, before[k]) for k, v in standard.state_dict().items())
    ready = method.prepare(network(), b)
    assert ready.spent == (6 + 24 + 6, 24)
    assert torch.equal(ready.noted["standard_fooled"], (ready.drawn["standard"] != b.y).float())


def test_hat_without_its_helper_is_trades() -> None:
    net, b = network().eval(), batch()
    hat, trades = HAT(THREAT, gamma=0, beta=6, standard=network(8)), TRADES(THREAT)
    one, other = hat.prepare(net, b), trades.prepare(net, b)
    assert torch.equal(one.adv, other.adv)
    assert torch.equal(read(hat, net, one), read(trades, net, other))


def test_the_standard_network_may_compute_in_another_precision() -> None:
    b, standard = batch(), network(8).float()
    ready = HAT(THREAT, steps=2, standard=standard).prepare(network(), b)
    assert torch.equal(ready.drawn["standard"], standard.eval()(ready.adv.float()).argmax(1))


def test_a_run_is_known_by_the_weights_of_its_standard_network(tmp_path: Path) -> None:
    b, settings = batch(40), Settings.of(epochs=2, batch_size=20, checkpoint_steps=1)
    same, other = (HAT(THREAT, steps=1, standard=network(s)) for s in (8, 9))
    assert repr(same) == repr(HAT(THREAT, steps=1, standard=network(8))) != repr(other)
    assert "Conv2d" not in repr(same) and same.weights in repr(same)
    steps = iter(range(9))
    list(fit(network(), (b.x, b.y), same, settings, out=tmp_path, stop=lambda: next(steps) >= 1))
    with pytest.raises(ResumeError, match="method"):
        list(fit(network(), (b.x, b.y), other, settings, out=tmp_path, resume=True))
    twin = HAT(THREAT, steps=1, standard=network(8))
    assert list(fit(network(), (b.x, b.y), twin, settings, out=tmp_path, resume=True))


def test_a_plan_binds_its_teacher(tmp_path: Path) -> None:
    teacher = build("mlp", channels=1, size=8, classes=10, hidden=(4,), seed=1)
    cards.save(teacher, tmp_path / "standard")
    plan = Plan(
        model="mlp(hidden=(8,))", method="AWP(HAT(steps=1))", threat="linf:0.1", n=60,
        teacher=str(tmp_path / "standard"), settings=Settings.of(epochs=1, batch_size=20),
    )  # fmt: skip
    ready = prepare(plan, None, torch.device("cpu"))
    bound = ready.method.method.standard
    assert torch.equal(bound.net.layers[0].weight, teacher.net.layers[0].weight)
    (record,) = run(ready, tmp_path / "run")
    assert 0 <= record.figures["standard_fooled"] <= 1
    for part, error, word in (
        ({"method": "AT"}, InputError, "asks for one"),
        ({"teacher": str(tmp_path / "none")}, InputError, "the teacher"),
        ({"teacher": str(tmp_path / "no.safetensors")}, FileError, "the teacher"),
        ({"teacher": None}, InputError, "standard network"),
    ):
        with pytest.raises(error, match=word):
            prepare(plan.model_copy(update=part), None, torch.device("cpu"))


def test_he() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = network(last=CosineHead(16, 3, 10))
    b = batch()
    quiet = copy.deepcopy(net).eval()
    adv = naive_pgd(b, lambda x: ce(quiet(x), b.y).sum(), None, 0.25)  # without the margin

    def naive(net: nn.Module) -> Tensor:
        z = net(adv)
        lowered = torch.stack(
            [z[i] - 10 * 0.2 * torch.eye(3).double()[k] for i, k in enumerate(b.y.tolist())]
        )
        return ce(lowered, b.y)

    check(HE(THREAT, steps=4), net, b, adv, naive)
    plain, none = AT(THREAT, steps=4), HE(THREAT, steps=4, margin=0)
    net.eval()
    ready = none.prepare(net, b)
    assert torch.equal(read(none, net, ready), read(plain, net, plain.prepare(net, b)))
    with pytest.raises(ModelError, match="cosine head"):
        list(fit(network(), (b.x, b.y), HE(THREAT), Settings.of(epochs=1)))


def test_what_cannot_be_meant_is_refused() -> None:
    for make in (
        lambda: ALP(THREAT, lam=-1),
        lambda: SCORE(THREAT, beta=-1),
        lambda: SCORE(THREAT, start=Zero()),
        lambda: HE(THREAT, margin=-0.1),
        lambda: HAT(THREAT),
        lambda: HAT(THREAT, standard="runs/standard"),
        lambda: HAT(THREAT, standard=network(), gamma=-1),
        lambda: HAT(THREAT, standard=network(), helper=0),
        lambda: parse_method("HAT()", THREAT),
    ):
        with pytest.raises(InputError):
            make()
    assert isinstance(parse_method("HAT()", THREAT, standard=network()), HAT)
