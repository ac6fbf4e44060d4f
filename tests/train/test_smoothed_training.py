"""Training for smoothing against naive loops, its identities, its noise, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from torchproof.core.errors import InputError, UnknownName
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import Threat, parse
from torchproof.train import (
    ADRE,
    AT,
    FAT,
    MACER,
    Batch,
    Consistency,
    LabelSmoothing,
    Method,
    NoiseAugmentation,
    Settings,
    SmoothAdv,
    Stability,
    Standard,
    Sum,
    catalogue,
    fit,
)
from torchproof.train.method import drawn, read
from torchproof.train.smoothed.votes import NOISE

SIGMA = 0.3
L2_BALL = Threat(L2(), 0.4)
EXACT = {"rtol": 0.0, "atol": 1e-10}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = nn.Sequential(nn.Flatten(), nn.Linear(9, 12), nn.Tanh(), nn.Linear(12, 4)).double()
        with torch.no_grad():
            net[1].weight.mul_(3)  # answers far enough apart for the terms to differ by image
            net[3].weight.mul_(6)
        return net.train()


def batch(n: int = 9, progress: float = 0.5, dtype: torch.dtype = torch.float64) -> Batch:
    g = torch.Generator().manual_seed(2)
    x = 0.3 + 0.4 * torch.rand(n, 1, 3, 3, generator=g, dtype=torch.float64)
    with torch.no_grad():
        y = network()(x).argmax(1)
    y[::3] = (y[::3] + 1) % 4  # a third of the labels is not what the network answers
    return Batch(x.to(dtype), y, torch.arange(20, 20 + n), progress, seed=11)


def exactly(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def losses(method: Method, net: nn.Module, b: Batch | None = None) -> Tensor:
    ready = method.prepare(net, batch() if b is None else b)
    with drawn(ready):
        return read(method, net, ready)


def probabilities(net: nn.Module, image: Tensor) -> list[float]:
    """Softmax of one image (C, H, W), by hand."""
    with torch.no_grad():
        z = net(image[None])[0].tolist()
    top = max(z)
    total = sum(math.exp(v - top) for v in z)
    return [math.exp(v - top) / total for v in z]


def noisy_answers(method: Method, net: nn.Module) -> tuple[Batch, list[list[list[float]]]]:
    """The prepared batch, and the probabilities of each image and version, one call each."""
    ready = method.prepare(net, batch())
    part = ready.parts[0] if ready.parts else ready
    centre = ready.x if ready.adv is None else ready.adv
    every = [
        [probabilities(net, x + n) for n in noise]
        for x, noise in zip(centre, part.drawn[NOISE], strict=True)
    ]
    return ready, every


def averaged(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


# ---- the noise


def test_noise_is_keyed_by_seed_image_and_version() -> None:
    method, b = NoiseAugmentation(sigma=SIGMA, m=3), batch()
    noise = method.prepare(network(), b).drawn[NOISE]
    assert noise.shape == (9, 3, 1, 3, 3) and noise.dtype == torch.float64
    order = torch.tensor([4, 0, 5])
    part = replace(b, x=b.x[order], y=b.y[order], ids=b.ids[order])
    assert torch.equal(method.prepare(network(), part).drawn[NOISE], noise[order])
    more = NoiseAugmentation(sigma=SIGMA, m=5).prepare(network(), b).drawn[NOISE]
    assert torch.equal(more[:, :3], noise)
    other = method.prepare(network(), replace(b, seed=12)).drawn[NOISE]
    assert not torch.isclose(other, noise).any()
    assert len({round(float(v), 9) for v in noise.flatten()}) == noise.numel()


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "uniform"])
def test_sigma_is_the_standard_deviation(kind: str) -> None:
    x = torch.full((4, 1, 60, 60), 0.5)
    b = Batch(x, torch.zeros(4, dtype=torch.int64), torch.arange(4), 0.0, seed=1)
    noise = NoiseAugmentation(sigma=SIGMA, m=3, noise=kind).prepare(network(), b).drawn[NOISE]
    assert float(noise.std()) == pytest.approx(SIGMA, rel=0.02)
    assert abs(float(noise.mean())) < 0.01
    fourth = float((noise / SIGMA).pow(4).mean())  # 3, 6 and 9/5 for the three laws
    assert fourth == pytest.approx({"gaussian": 3, "laplace": 6, "uniform": 1.8}[kind], rel=0.1)


def test_noise_of_a_half_precision_batch_is_finite() -> None:
    b = batch(dtype=torch.bfloat16)
    noise = NoiseAugmentation(sigma=SIGMA).prepare(network(), b).drawn[NOISE]
    assert noise.dtype == torch.bfloat16 and bool(noise.isfinite().all())


# ---- losses, one at a time


def test_augmentation_is_the_mean_loss_over_versions() -> None:
    method = NoiseAugmentation(sigma=SIGMA, m=3)
    ready, every = noisy_answers(method, net := network())
    expected = [
        sum(-math.log(p[y]) for p in rows) / 3
        for rows, y in zip(every, ready.y.tolist(), strict=True)
    ]
    assert torch.allclose(losses(method, net), exactly(expected), **EXACT)
    assert method.passes == 3


@pytest.mark.parametrize("noisy", [False, True])
def test_stability(noisy: bool) -> None:
    method = Stability(sigma=SIGMA, m=2, lam=1.7, noisy=noisy)
    ready, every = noisy_answers(method, net := network())
    expected = []
    for image, rows, y in zip(ready.x, every, ready.y.tolist(), strict=True):
        clean = probabilities(net, image)
        apart = [-sum(c * math.log(p) for c, p in zip(clean, row, strict=True)) for row in rows]
        learnt = sum(-math.log(row[y]) for row in rows) / 2 if noisy else -math.log(clean[y])
        expected.append(learnt + 1.7 * sum(apart) / 2)
    assert torch.allclose(losses(method, net), exactly(expected), **EXACT)
    plain = losses(replace(method, lam=0.0), net)
    twin: Method = NoiseAugmentation(sigma=SIGMA, m=2) if noisy else Standard()
    assert torch.allclose(plain, losses(twin, net), **EXACT)


def test_macer() -> None:
    method = MACER(sigma=SIGMA, m=5, lam=2.0, gamma=1.5, beta=2.0)
    net = network()
    ready = method.prepare(net, batch())
    kinds, expected = set(), []
    for image, noise, y in zip(ready.x, ready.drawn[NOISE], ready.y.tolist(), strict=True):
        with torch.no_grad():
            z = net(image + noise).numpy()
        soft = [[math.exp(v) / sum(map(math.exp, row)) for v in row] for row in z]
        sharp = [[math.exp(2 * v) / sum(math.exp(2 * w) for w in row) for v in row] for row in z]
        loss, q = -math.log(averaged(soft)[y]), averaged(sharp)
        first, second = sorted(q)[-1], sorted(q)[-2]
        gap = norm.ppf(first) - norm.ppf(second)
        right = q.index(first) == y
        kinds.add((right, gap < 1.5))
        if right and gap < 1.5:
            loss += 2.0 * SIGMA / 2 * (1.5 - gap)
        expected.append(loss)
    assert {(True, True), (True, False)} <= kinds and any(not right for right, _ in kinds)
    assert torch.allclose(losses(method, net), exactly(expected), **EXACT)


def test_macer_without_its_term_is_the_loss_of_the_soft_vote() -> None:
    net = network()
    ready, every = noisy_answers(MACER(sigma=SIGMA, m=4, lam=0.0), net)
    expected = [
        -math.log(averaged(rows)[y]) for rows, y in zip(every, ready.y.tolist(), strict=True)
    ]
    want = exactly(expected)
    assert torch.allclose(losses(MACER(sigma=SIGMA, m=4, lam=0.0), net), want, **EXACT)
    late = MACER(sigma=SIGMA, m=4, deferred=0.6)
    assert torch.allclose(losses(late, net), want, **EXACT)
    assert not torch.allclose(losses(late, net, batch(progress=0.6)), want, **EXACT)


@pytest.mark.parametrize("scale", [1.0, 50.0, 1e4])
def test_the_gradient_of_macer_is_finite_however_sure_the_network(scale: float) -> None:
    z = (torch.tensor([[3.0, 0.0, 1.0], [0.0, 2.9, 0.1], [1.0, 1.0, 1.0]]) * scale)[:, None]
    z = z.repeat(1, 4, 1).requires_grad_()
    b = Batch(torch.rand(3, 1, 3, 3), torch.tensor([0, 0, 0]), torch.arange(3), 0.5, seed=1)
    for method in (MACER(sigma=0.25), ADRE(NoiseAugmentation(sigma=0.25))):
        loss = method.judged(z, b)
        (grad,) = torch.autograd.grad(loss.sum(), z)
        assert bool(loss.isfinite().all()) and bool(grad.isfinite().all())


def test_the_gradient_of_macer_is_that_of_its_loss() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(4, 3, 4, generator=g, dtype=torch.float64).requires_grad_()
    b = Batch(torch.rand(4, 1, 3, 3), z.detach().mean(1).argmax(1), torch.arange(4), 0.5, seed=1)
    method = MACER(sigma=SIGMA, beta=1.0)
    assert bool((method.missing(z, b) > 0).any())
    assert torch.autograd.gradcheck(lambda v: method.judged(v, b), (z,))


@pytest.mark.parametrize("around", [NoiseAugmentation(sigma=SIGMA, m=3), None])
def test_consistency(around: Any) -> None:
    inner = around or SmoothAdv(L2_BALL, steps=2, ramp=0.0, sigma=SIGMA, m=3)
    method, net = Consistency(inner, lam=1.3, eta=0.7), network()
    ready, every = noisy_answers(method, net)
    expected = []
    for rows, y in zip(every, ready.y.tolist(), strict=True):
        p = averaged(rows)
        apart = [
            sum(a * math.log(a / b) for a, b in zip(p, row, strict=True) if a > 0) for row in rows
        ]
        entropy = -sum(a * math.log(a) for a in p)
        learnt = sum(-math.log(row[y]) for row in rows) / 3
        expected.append(learnt + 1.3 * sum(apart) / 3 + 0.7 * entropy)
    assert torch.allclose(losses(method, net), exactly(expected), **EXACT)
    assert torch.equal(losses(replace(method, lam=0.0, eta=0.0), net), losses(inner, net))
    assert method.passes == 3 and method.threat is getattr(inner, "threat", None)


def test_a_network_that_does_not_see_the_noise_is_consistent() -> None:
    net = network()
    with torch.no_grad():
        net[1].weight.zero_()
    inner = NoiseAugmentation(sigma=SIGMA, m=3)
    assert torch.allclose(
        losses(Consistency(inner, lam=9, eta=0), net), losses(inner, net), **EXACT
    )


def test_adre() -> None:
    inner, net = NoiseAugmentation(sigma=SIGMA, m=3), network()
    method = ADRE(inner, lam=1.4)
    ready, every = noisy_answers(method, net)
    terms, answers = [], set()
    for rows, y in zip(every, ready.y.tolist(), strict=True):
        p = averaged(rows)
        terms.append(1.4 * math.log(max(v for k, v in enumerate(p) if k != y)))
        answers.add(p.index(max(p)) == y)
    found = losses(method, net) - losses(inner, net)
    assert torch.allclose(found, exactly(terms), **EXACT) and answers == {True, False}
    assert torch.equal(losses(replace(method, lam=0.0), net), losses(inner, net))


# ---- SmoothAdv


def by_hand(net: nn.Module, b: Batch, noise: Tensor, eps: float, steps: int) -> Tensor:
    """x' image by image: normalised gradient steps of 2 eps / steps from x, back into the ball;
    images stay clear of 0 and 1.
    """
    found = []
    for x, y, n in zip(b.x, b.y.tolist(), noise, strict=True):
        delta = torch.zeros_like(x)
        for _ in range(steps):
            delta.requires_grad_()
            p = net(x + delta + n).softmax(1).mean(0)[y]
            (grad,) = torch.autograd.grad(-p.log(), delta)
            delta = delta.detach() + 2 * eps / steps * grad / grad.norm()
            delta = delta * min(1.0, eps / float(delta.norm()))
        found.append(x + delta)
    return torch.stack(found)


@pytest.mark.parametrize("m", [1, 4])
def test_smoothadv_climbs_the_soft_vote_with_the_noise_it_learns_from(m: int) -> None:
    threat, net = Threat(L2(), 0.2), network()
    method = SmoothAdv(threat, steps=4, ramp=0.0, sigma=SIGMA, m=m)
    ready = method.prepare(net, batch())
    noise = ready.drawn[NOISE]
    expected = by_hand(net, batch(), noise, 0.2, 4)
    assert bool(((expected > 0) & (expected < 1)).all())
    assert torch.allclose(ready.adv, expected, rtol=0, atol=1e-9)
    assert ready.spent == (9 * 4 * m, 9 * 4 * m)  # the last iterate is not judged
    rows = torch.stack([net(x + n).log_softmax(1) for x, n in zip(expected, noise, strict=True)])
    loss = -rows.mean(1).gather(1, ready.y[:, None])[:, 0]
    assert torch.allclose(losses(method, net), loss, rtol=0, atol=1e-8)


def test_smoothadv_with_a_tiny_ball_is_augmentation() -> None:
    tiny = SmoothAdv(Threat(L2(), 1e-12), steps=2, sigma=SIGMA, m=2)
    plain = NoiseAugmentation(sigma=SIGMA, m=2)
    assert torch.allclose(losses(tiny, network()), losses(plain, network()), rtol=0, atol=1e-9)


def test_the_radius_grows_in_steps_and_images_stay_images() -> None:
    net, far = network(), batch()
    far = replace(far, x=far.x.round())  # corners of the range of images
    method = SmoothAdv(L2_BALL, steps=5, ramp=0.5, sigma=SIGMA, m=2)
    lengths = []
    for progress in (0.0, 0.125, 0.25, 0.5, 0.9):
        now = method.prepare(net, replace(batch(), progress=progress))
        lengths.append(float((now.adv - now.x).flatten(1).norm(dim=1).max()))
        cut = method.prepare(net, replace(far, progress=progress)).adv
        assert float(cut.min()) >= 0 and float(cut.max()) <= 1
    assert lengths[0] < 0.001 and lengths[1] == pytest.approx(0.1, rel=1e-6)
    assert lengths[2] == pytest.approx(0.2, rel=1e-6)
    assert lengths[3] == lengths[4] == pytest.approx(0.4, rel=1e-6)


def test_images_that_are_wrong_already_are_attacked_to_the_end() -> None:
    """A patience of others does not mix up which noise belongs to which image."""
    net = network()
    method = SmoothAdv(L2_BALL, steps=3, ramp=0.0, sigma=SIGMA, m=2)
    friendly = FAT(Sum(AT(L2_BALL, steps=3), method), tau=0).prepare(net, batch())
    assert torch.equal(friendly.parts[1].adv, method.prepare(net, batch()).adv)
    with pytest.raises(InputError, match="SmoothAdv in FAT"):
        FAT(method)


# ---- parts and refusals


def test_terms_nest_and_labels_are_smoothed() -> None:
    net, inner = network(), NoiseAugmentation(sigma=SIGMA, m=2)
    base = losses(inner, net)
    both = losses(ADRE(Consistency(inner)), net) - base
    apart = (losses(ADRE(inner), net) - base) + (losses(Consistency(inner), net) - base)
    assert torch.allclose(both, apart, **EXACT)
    ready, every = noisy_answers(inner, net)
    smooth = [
        sum(-0.8 * math.log(p[y]) - sum(0.05 * math.log(q) for q in p) for p in rows) / 2
        for rows, y in zip(every, ready.y.tolist(), strict=True)
    ]
    found = losses(LabelSmoothing(inner, amount=0.2), net)
    assert torch.allclose(found, exactly(smooth), **EXACT)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: NoiseAugmentation(sigma=0.0), "sigma"),
        (lambda: NoiseAugmentation(sigma=math.inf), "sigma"),
        (lambda: NoiseAugmentation(sigma=0.25, m=0), "m = 0"),
        (lambda: NoiseAugmentation(sigma=0.25, m=1.5), "m = 1.5"),
        (lambda: Stability(sigma=0.25, lam=-1.0), "lam"),
        (lambda: MACER(sigma=0.25, lam=math.inf), "lam"),
        (lambda: MACER(sigma=0.25, gamma=0.0), "gamma"),
        (lambda: MACER(sigma=0.25, beta=0.0), "beta"),
        (lambda: MACER(sigma=0.25, deferred=1.5), "deferred"),
        (lambda: SmoothAdv(L2_BALL, sigma=-1.0), "sigma"),
        (lambda: SmoothAdv(L2_BALL, steps=0, sigma=0.25), "steps"),
        (lambda: SmoothAdv(L2_BALL, length=-1.0, sigma=0.25), "length"),
        (lambda: SmoothAdv(L2_BALL, ramp=2.0, sigma=0.25), "ramp"),
        (lambda: Consistency(NoiseAugmentation(sigma=0.25)), "two noises"),
        (lambda: Consistency(NoiseAugmentation(sigma=0.25, m=2), lam=-1), "lam"),
        (lambda: Consistency(NoiseAugmentation(sigma=0.25, m=2), eta=math.nan), "eta"),
        (lambda: Consistency(AT(L2_BALL)), "AT in Consistency"),
        (lambda: ADRE(Stability(sigma=0.25)), "Stability in ADRE"),
        (lambda: ADRE(NoiseAugmentation(sigma=0.25), lam=-1), "lam"),
        (lambda: ADRE(NoiseAugmentation(sigma=0.25), lam=math.nan), "lam"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


def test_other_noise_is_unknown() -> None:
    with pytest.raises(UnknownName, match="gaussian"):
        NoiseAugmentation(sigma=0.25, noise="pink")


@pytest.mark.parametrize(
    "text",
    [
        "NoiseAugmentation(sigma=0.1, m=2)",
        "Stability(sigma=0.1)",
        "SmoothAdv(steps=2, sigma=0.1, m=2)",
        "MACER(sigma=0.1, m=4, lam=1)",
        "Consistency(SmoothAdv(steps=2, sigma=0.1, m=2), lam=1)",
        "ADRE(NoiseAugmentation(sigma=0.1, m=2))",
    ],
)
def test_every_method_trains(text: str, data: Any, network: Any) -> None:
    settings = Settings.of(epochs=4, batch_size=16, lr=0.1, held_out=12, held_out_steps=2)
    method = catalogue.method(text, parse("l2:0.1"))
    records = list(fit(network(), data(), method, settings))
    assert records[-1].loss < records[0].loss and records[-1].clean > 0.5


def test_smoothadv_in_linf_moves_by_the_sign() -> None:
    method = SmoothAdv(Threat(Linf(), 0.1), steps=1, length=1.0, ramp=0.0, sigma=SIGMA, m=2)
    ready = method.prepare(network(), batch())
    assert torch.allclose((ready.adv - ready.x).abs(), exactly(0.1), atol=1e-9)
