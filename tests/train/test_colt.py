"""COLT against zonotopes by hand: where its latents are, what they are, and what stays frozen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof import data
from torchproof.core import keys
from torchproof.core.errors import InputError, UnknownName
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import Threat
from torchproof.nn import build
from torchproof.train import AT, COLT, Batch, Ramp, Settings, catalogue, fit
from torchproof.train.certified.latent import cuts
from torchproof.train.method import drawn, joined, read
from torchproof.verify import graph_of

Make = Callable[..., Any]
EPS = 0.06
THREAT = Threat(Linf(), EPS)
SOON = Ramp(0.0, 0.05)
EXACT = {"rtol": 0.0, "atol": 1e-10}
SIZES = (16, 7, 6, 5, 3)


@pytest.fixture(scope="module")
def shared(seeded: Make) -> nn.Module:
    """Three layers of ReLUs: stages at the input and behind the first two."""
    a, b, c, d, e = SIZES
    return seeded(nn.Flatten(), nn.Linear(a, b), nn.ReLU(), nn.Linear(b, c), nn.ReLU(),
                  nn.Linear(c, d), nn.ReLU(), nn.Linear(d, e), bias=0.2)  # fmt: skip


@pytest.fixture
def mlp(shared: nn.Module) -> nn.Module:
    shared.zero_grad()
    return shared


def batch(progress: float, n: int = 4) -> Batch:
    g = torch.Generator().manual_seed(5)
    x = torch.rand(n, 1, 4, 4, generator=g, dtype=torch.float64)
    return Batch(x, torch.randint(3, (n,), generator=g), torch.arange(n), progress, seed=9)


Zonotope = tuple[Tensor, Tensor]


def start(x: Tensor, eps: float) -> Zonotope:
    """Centre (D,) and generators (D, m) of the box around one image."""
    low, high = (x - eps).clamp(0, 1).flatten(), (x + eps).clamp(0, 1).flatten()
    return (low + high) / 2, torch.diag((high - low) / 2)


@torch.no_grad()
def by_hand(
    net: nn.Module, x: Tensor, eps: float, layer: int, wide: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The zonotope behind the layer-th ReLUs, and the radii of what each layer of them adds; wide:
    lines from intervals, not from the zonotope itself.
    """
    (c, g), radii, seen = start(x, eps), [], 0
    low, high = c - g.abs().sum(1), c + g.abs().sum(1)
    for part in net:
        if isinstance(part, nn.Linear):
            up, down = part.weight.clamp_min(0), part.weight.clamp_max(0)
            low, high = up @ low + down @ high + part.bias, up @ high + down @ low + part.bias
            c, g = part.weight @ c + part.bias, part.weight @ g
            if not wide:
                low, high = c - g.abs().sum(1), c + g.abs().sum(1)
        elif isinstance(part, nn.ReLU):
            lam, mu = torch.zeros_like(c), torch.zeros_like(c)
            for i, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
                lam[i] = 1.0 if a >= 0 else 0.0 if b <= 0 else b / (b - a)
                mu[i] = -a * b / (2 * (b - a)) if a < 0 < b else 0.0
            c, g = lam * c + mu, torch.cat([lam[:, None] * g, torch.diag(mu)], 1)
            radii.append(mu)
            low, high, seen = low.clamp_min(0), high.clamp_min(0), seen + 1
            if seen == layer:
                return c, g, radii
    raise AssertionError


def contains(zonotope: Zonotope, point: Tensor) -> bool:
    """Is there an e in [-1, 1]^m with c + G e = point? A linear programme with slack."""
    c, g = (t.numpy() for t in zonotope)
    n, m = g.shape
    whole = np.block([[g, -np.ones((n, 1))], [-g, -np.ones((n, 1))]])
    off = point.numpy() - c
    found = linprog(
        np.r_[np.zeros(m), 1.0], A_ub=whole, b_ub=np.r_[off, -off],
        bounds=[(-1, 1)] * m + [(0, None)],
    )  # fmt: skip
    return bool(found.status == 0 and found.fun < 1e-9)


def behind(net: nn.Module, layer: int) -> nn.Sequential:
    """The layers behind the layer-th ReLUs."""
    places = [i for i, part in enumerate(net) if isinstance(part, nn.ReLU)]
    return net[places[layer - 1] + 1 :] if layer else net


def latents(ready: Batch, which: str = "latent ") -> Tensor:
    (found,) = [v for name, v in ready.drawn.items() if name.startswith(which)]
    return found


@pytest.mark.parametrize("middle", ["zonotope", "interval"])
@pytest.mark.parametrize("k", [1, 2])
def test_latents_never_leave_the_relaxation(mlp: nn.Module, k: int, middle: str) -> None:
    b = batch(progress=(k + 0.9) / 3)
    for length in (0.3, 50.0):  # the second ends in corners
        method = COLT(THREAT, SOON, steps=4, length=length, middle=middle, growth=1.2)
        found = latents(method.prepare(mlp, b))
        eps = EPS * 1.2 ** (2 - k)
        for i, x in enumerate(b.x):
            c, g, _ = by_hand(mlp, x, eps, k, middle == "interval")
            assert contains((c, g), found[i])
            smaller = (c, 0.9 * g)  # the test can fail: corners are not in a smaller one
            assert length < 1 or not contains(smaller, found[i])


def test_the_relaxation_holds_what_the_network_does(mlp: nn.Module) -> None:
    g, x = torch.Generator().manual_seed(1), batch(0.5).x[0]
    for k in (1, 2):
        c, generators, _ = by_hand(mlp, x, EPS, k, wide=False)
        head = mlp[: 2 * k + 1]
        for _ in range(5):
            noise = torch.rand(x.shape, generator=g, dtype=torch.float64) * 2 - 1
            with torch.no_grad():
                there = head((x + EPS * noise.sign()).clamp(0, 1)[None])[0]
            assert contains((c, generators), there)


@pytest.mark.parametrize("k", [1, 2])
def test_pgd_is_that_on_noise_symbols_by_hand(mlp: nn.Module, k: int) -> None:
    steps, length = 5, 0.3
    b = batch(progress=(k + 0.9) / 3)
    method = COLT(THREAT, SOON, steps=steps, length=length, growth=1.0)
    found = latents(method.prepare(mlp, b))
    names = [node.name for node in graph_of(copy.deepcopy(mlp).eval(), b.x).nodes]
    relus = [name for name in names if name.startswith("relu")]
    key = keys.mix(b.seed, "latent", b.ids)
    for i, x in enumerate(b.x):
        low, high = (x - EPS).clamp(0, 1), (x + EPS).clamp(0, 1)
        signs = [
            2 * keys.uniform(keys.mix(key[i : i + 1], relus[j]), 0, (SIZES[j + 1],),
                             dtype=torch.float64)[0] - 1
            for j in range(k)
        ]  # fmt: skip
        tail, point = behind(mlp, k), None
        delta = _sampled(x, key[i : i + 1])
        e = torch.cat(signs)
        for step in range(steps + 1):
            d, s = delta.clone().requires_grad_(), e.clone().requires_grad_()
            value, place = (x + d).flatten(), 0
            for j in range(1, k + 1):
                radius = by_hand(mlp, x, EPS, j, wide=False)[2][-1]
                value = mlp[2 * j - 1](value)
                after = place + len(radius)
                value = _slopes(mlp, x, j) * value + radius * (1 + s[place:after])
                place = after
            if step == steps:
                point = value.detach()
                break
            loss = F.cross_entropy(tail(value[None]), b.y[i : i + 1])
            grads = torch.autograd.grad(loss, (d, s), allow_unused=True)
            delta = (delta + length * EPS * grads[0].sign()).clamp(-EPS, EPS)
            delta = torch.maximum(torch.minimum(delta, high - x), low - x)
            e = (e + length * grads[1].sign()).clamp(-1, 1)
        assert point is not None and torch.allclose(found[i], point, **EXACT)


def _sampled(x: Tensor, key: Tensor) -> Tensor:
    """A point of the box, as the set itself draws it."""
    return THREAT.set(lambda images: images, x[None]).sample(key)[0]


@torch.no_grad()
def _slopes(net: nn.Module, x: Tensor, layer: int) -> Tensor:
    """The slopes of the layer-th ReLUs' strips."""
    c, g = start(x, EPS)
    if layer > 1:
        c, g, _ = by_hand(net, x, EPS, layer - 1, wide=False)
    part = net[2 * layer - 1]
    c, g = part.weight @ c + part.bias, part.weight @ g
    low, high = c - g.abs().sum(1), c + g.abs().sum(1)
    return torch.where(low >= 0, 1.0, torch.where(high <= 0, 0.0, high / (high - low)))


def test_the_loss_mixes_two_stages(mlp: nn.Module) -> None:
    method = COLT(THREAT, SOON, steps=3, mix=0.5, decay=0.01)
    for k, kappa in ((1, 0.2), (1, 1.0), (2, 0.6)):
        b = batch(progress=(k + min(kappa * 0.5, 0.8)) / 3)
        ready, tail = method.prepare(mlp, b), behind(mlp, k)
        expected = kappa * F.cross_entropy(tail(latents(ready)), b.y, reduction="none")
        if kappa < 1:
            other = latents(ready, "earlier ")
            expected = expected + (1 - kappa) * F.cross_entropy(tail(other), b.y, reduction="none")
        weights = sum(float(m.weight.detach().abs().sum()) for m in tail if hasattr(m, "weight"))
        with drawn(ready):
            assert torch.allclose(read(method, mlp, ready), expected + 0.01 * weights, **EXACT)
        assert ("earlier" in "".join(ready.drawn)) == (kappa < 1)


def test_the_earlier_latents_are_carried_on_by_the_network(mlp: nn.Module) -> None:
    b = batch(progress=1.1 / 3)
    ready = COLT(THREAT, SOON, steps=50, length=0.5, mix=1.0, growth=1.0).prepare(mlp, b)
    carried = latents(ready, "earlier ")
    low, high = (b.x - EPS).clamp(0, 1).flatten(1), (b.x + EPS).clamp(0, 1).flatten(1)
    assert bool((carried >= 0).all())
    weight, bias = mlp[1].weight.detach(), mlp[1].bias.detach()
    up, down = weight.clamp_min(0), weight.clamp_max(0)
    top = (high @ up.T + low @ down.T + bias).clamp_min(0)
    bottom = (low @ up.T + high @ down.T + bias).clamp_min(0)
    assert bool((carried <= top + 1e-12).all()) and bool((carried >= bottom - 1e-12).all())


@pytest.mark.parametrize("k", [0, 1, 2])
def test_layers_before_the_cut_are_frozen(mlp: nn.Module, k: int) -> None:
    method = COLT(THREAT, SOON, steps=2, decay=1e-3)
    ready = method.prepare(mlp, batch(progress=(k + 0.1) / 3))
    with drawn(ready):
        read(method, mlp, ready).mean().backward()
    for i, part in enumerate(m for m in mlp if isinstance(m, nn.Linear)):
        for p in part.parameters():
            assert (p.grad is None) if i < k else bool(p.grad.abs().sum() > 0)


def test_stage_0_is_adversarial_training_mixed_with_the_clean_loss(mlp: nn.Module) -> None:
    method = COLT(THREAT, SOON, steps=3, mix=0.5, decay=0.0, growth=1.1)
    b = batch(progress=0.1)
    ready = method.prepare(mlp, b)
    same = AT(Threat(Linf(), EPS * 1.1**2), 3, 0.25).prepare(mlp, b)
    assert ready.adv is not None and torch.equal(ready.adv, same.adv)
    both = [F.cross_entropy(mlp(x), b.y, reduction="none") for x in (ready.adv, b.x)]
    with drawn(ready):
        found = read(method, mlp, ready)
    assert torch.allclose(found, 0.6 * both[0] + 0.4 * both[1], **EXACT)
    first = method.prepare(mlp, batch(progress=0.0))
    assert first.adv is None and float(first.noted["eps"][0]) == 0


def test_the_stage_and_its_radius() -> None:
    method = COLT(THREAT, SOON, growth=1.5, mix=0.5, widen=1.1)
    table = {0.0: (0, 0.0), 0.2: (0, 1.0), 0.25: (1, 0.0), 0.3125: (1, 0.5), 0.99: (3, 1.0)}
    for progress, (k, kappa) in table.items():
        assert method.stage(progress, 4) == (k, pytest.approx(kappa))
    b = batch(progress=0.6)
    assert method.radius(b, 2, 4) == pytest.approx(EPS * 1.1 * 1.5)
    assert method.radius(b, 3, 4) == pytest.approx(EPS * 1.1)


class Residual(nn.Module):
    """What is behind the first ReLUs reads two values from before."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.skip = nn.Conv2d(1, 2, 1)
        self.inner = nn.Conv2d(2, 2, 3, padding=1)
        self.last = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        aside = self.skip(x)
        h = torch.relu(self.norm(self.conv(x)))
        h = torch.relu(self.inner(h) + aside)
        logits: Tensor = self.last(h.flatten(1))
        return logits


def test_skips_and_statistics(seeded: Make) -> None:
    net, b = seeded(Residual(), bias=0.2), batch(progress=0.9, n=6)
    method = COLT(THREAT, SOON, steps=3, decay=0.0)
    graph = graph_of(copy.deepcopy(net).eval(), b.x)
    cut = cuts(graph, None)[1]
    reference = graph.run(b.x)
    assert len(cut.frontier) == 2
    there = {name: reference[name] for name in cut.frontier}
    assert torch.equal(cut.answer(reference, there), reference[graph.output])
    ready = method.prepare(net, b)
    mean = net[0].norm.running_mean.clone()
    with drawn(ready):
        read(method, net, ready).mean().backward()
    assert torch.equal(net[0].norm.running_mean, mean)
    moved = {name.split(".")[1] for name, p in net.named_parameters() if p.grad is not None}
    assert moved == {"inner", "last"}
    pieces = torch.cat([method.losses(net, piece) for piece in ready.split(4)])
    whole = method.losses(net, joined(ready.split(4)))
    assert torch.allclose(pieces, whole, **EXACT)


def test_latents_are_keyed_by_seed_and_ids(mlp: nn.Module) -> None:
    method, b = COLT(THREAT, SOON, steps=2), batch(progress=0.7)
    before = [p.detach().clone() for p in mlp.parameters()]
    whole = latents(method.prepare(mlp, b))
    part = method.prepare(mlp, Batch(b.x[1:], b.y[1:], b.ids[1:], b.progress, b.seed))
    assert torch.allclose(latents(part), whole[1:], **EXACT)
    assert not torch.allclose(latents(method.prepare(mlp, replace(b, seed=4))), whole)
    assert all(torch.equal(p, q) for p, q in zip(mlp.parameters(), before, strict=True))
    assert all(p.grad is None and p.requires_grad for p in mlp.parameters())


def test_other_norms_keep_to_their_ball(mlp: nn.Module) -> None:
    b = batch(progress=0.5)
    ready = COLT(Threat(L2(), 0.3), SOON, steps=4, length=0.5).prepare(mlp, b)
    assert bool(latents(ready).isfinite().all()) and ready.spent[0] > 4 * len(b.x)


@pytest.mark.parametrize(
    "given",
    [{"mix": 0}, {"mix": 1.5}, {"growth": 0}, {"decay": -1}, {"depth": -1}, {"depth": 1.5},
     {"middle": "crown"}, {"steps": 0}],
)  # fmt: skip
def test_settings_that_cannot_be_meant(given: dict[str, object]) -> None:
    with pytest.raises((InputError, UnknownName)):
        COLT(THREAT, **given)


def test_a_depth_beyond_the_network_is_refused(mlp: nn.Module) -> None:
    with pytest.raises(InputError, match="3 layers"):
        COLT(THREAT, depth=4).prepare(mlp, batch(0.5))


def test_it_is_named_in_expressions() -> None:
    made = catalogue.method("COLT(steps=4, mix=0.5, middle='interval', depth=2)", THREAT)
    assert made == COLT(THREAT, steps=4, mix=0.5, middle="interval", depth=2)


def test_a_tiny_training_freezes_layer_after_layer() -> None:
    digits = data.load("digits", split="train").take(240)
    settings = Settings.of(epochs=6, batch_size=40, lr=5e-3, optimiser="adam", weight_decay=1e-3,
                           schedule="constant", held_out=0)  # fmt: skip
    net = build("mlp", channels=1, size=8, classes=10, hidden=(20, 20, 20), seed=0)
    method = COLT(Threat(Linf(), 0.05), steps=2, length=0.5, middle="interval")
    kept, stages = [], []
    for record in fit(net, (digits.x, digits.y), method, settings):
        kept.append([p.detach().clone() for p in net.parameters()])
        stages.append(record.figures["stage"])
    assert stages == [0, 0, 1, 1, 2, 2]
    for epoch, stage in ((2, 1), (3, 1), (4, 2), (5, 2)):
        for i, (old, new) in enumerate(zip(kept[epoch - 1], kept[epoch], strict=True)):
            assert torch.equal(old, new) == (i < 2 * stage)  # weight and bias of each layer
