"""Certified training against independent bounds, its identities, and a tiny training."""

from __future__ import annotations

import copy
import functools
import gc
import itertools
import math
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof import data
from torchproof.core.errors import InputError, ModelError
from torchproof.core.norms import Linf
from torchproof.core.threats import Relative, Threat
from torchproof.nn import build
from torchproof.train import (
    AT,
    CCIBP,
    CROWNIBP,
    IBP,
    L1,
    MTLIBP,
    SABR,
    Batch,
    ConvexAdversarial,
    ExpIBP,
    FastWarmUp,
    Method,
    Ramp,
    ReLUStability,
    Settings,
    Standard,
    Sum,
    catalogue,
    fit,
)
from torchproof.train.certified import initialise
from torchproof.train.method import drawn, read
from torchproof.verify import margins

Make = Callable[..., Any]
EPS = 0.05
THREAT = Threat(Linf(), EPS)
OVER, HALF = Ramp(0.0, 0.4), Ramp(0.0, 1.0)  # at progress 0.5: reached, half way
EXACT = {"rtol": 0.0, "atol": 1e-10}


@pytest.fixture(scope="module")
def plain(seeded: Make) -> Make:
    return functools.partial(seeded, spread=1.0)


@pytest.fixture(scope="module")
def mlp(plain: Make) -> nn.Module:
    return plain(nn.Flatten(), nn.Linear(25, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(),
                  nn.Linear(6, 3))  # fmt: skip


@pytest.fixture(scope="module")
def conv(plain: Make) -> nn.Module:
    return plain(nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.ReLU(),
                  nn.Flatten(), nn.Linear(16, 3))  # fmt: skip


def normed(plain: Make) -> nn.Module:
    """With batch norm, whose statistics are those of some batch."""
    net = plain(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([0.8, -1.1, 1.3]))
        for _ in range(30):
            net(batch().x)
    return net


def batch(progress: float = 0.5, n: int = 6) -> Batch:
    g = torch.Generator().manual_seed(5)
    x = torch.rand(n, 1, 5, 5, generator=g, dtype=torch.float64)
    return Batch(x, torch.randint(3, (n,), generator=g), torch.arange(n), progress, seed=9)


def losses(method: Method, net: nn.Module, b: Batch | None = None) -> Tensor:
    ready = method.prepare(net, batch() if b is None else b)
    with drawn(ready):
        return read(method, net, ready)


@torch.no_grad()
def by_hand(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> tuple[Tensor, list[Tensor]]:
    """Lower bounds (B, K) of z_y - z_t by intervals, and the ends (B, 2, ...) before each ReLU."""
    low, high, before = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1), []
    parts = [m for m in net if not isinstance(m, nn.Flatten)]
    for layer in parts[:-1]:
        if isinstance(layer, nn.ReLU):
            before.append(torch.stack([low, high], 1))
            low, high = low.clamp_min(0), high.clamp_min(0)
            continue
        w, b = layer.weight, layer.bias
        if isinstance(layer, nn.Linear):
            low, high = low.flatten(1), high.flatten(1)
            up, down = w.clamp_min(0), w.clamp_max(0)
            low, high = low @ up.T + high @ down.T + b, high @ up.T + low @ down.T + b
        else:
            kind = {"stride": layer.stride, "padding": layer.padding}
            up, down = w.clamp_min(0), w.clamp_max(0)
            low, high = (
                F.conv2d(low, up, **kind) + F.conv2d(high, down, b, **kind),
                F.conv2d(high, up, **kind) + F.conv2d(low, down, b, **kind),
            )
    last, low, high = parts[-1], low.flatten(1), high.flatten(1)
    c = last.weight[y][:, None] - last.weight[None]
    bounds = (c.clamp_min(0) * low[:, None] + c.clamp_max(0) * high[:, None]).sum(2)
    return bounds + last.bias[y][:, None] - last.bias[None], before


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_ibp_is_the_loss_of_intervals_with_margins_merged(
    kind: str, request: pytest.FixtureRequest
) -> None:
    net, b = request.getfixturevalue(kind), batch()
    for ramp, share in ((OVER, 1.0), (HALF, 0.5)):
        found = losses(IBP(THREAT, ramp, widen=1.2, kappa=(1, 0.3)), net)
        lower, _ = by_hand(net, b.x, b.y, 1.2 * EPS * share)
        kappa = 1 + (0.3 - 1) * share
        clean = F.cross_entropy(net(b.x), b.y, reduction="none")
        robust = F.cross_entropy(-lower, b.y, reduction="none")
        assert torch.allclose(found, kappa * clean + (1 - kappa) * robust, **EXACT)
        assert bool((robust > clean).all())


@pytest.mark.parametrize(
    "method",
    [
        IBP(THREAT, OVER), CROWNIBP(THREAT, HALF), SABR(THREAT, OVER, steps=2),
        CCIBP(THREAT, OVER, steps=2), MTLIBP(THREAT, OVER, steps=2), ExpIBP(THREAT, OVER, steps=2),
        ConvexAdversarial(THREAT, OVER),
        Sum(Standard(), FastWarmUp(THREAT, HALF), ReLUStability(THREAT, OVER)),
    ],
    ids=lambda m: type(m).__name__,
)  # fmt: skip
@pytest.mark.parametrize("kind", ["conv", "frozen_norm"])
def test_gradients_equal_finite_differences(
    method: Method, kind: str, request: pytest.FixtureRequest
) -> None:
    net = request.getfixturevalue(kind)
    ready = method.prepare(net, batch(n=3))
    live = [p for p in net.parameters() if p.dim() > 1 or kind == "frozen_norm"]
    slopes = torch.autograd.grad(method.losses(net, ready).sum(), live)
    for parameter, slope in zip(live, slopes, strict=True):
        entry, step = int(slope.abs().argmax()), 1e-6
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.view(-1)[entry] += sign * step
            values.append(float(method.losses(net, ready).detach().sum()))
            with torch.no_grad():
                parameter.view(-1)[entry] -= sign * step
        measured = (values[0] - values[1]) / (2 * step)
        assert float(slope.reshape(-1)[entry]) == pytest.approx(measured, rel=1e-4, abs=1e-7)
        assert measured != 0


@pytest.fixture(scope="module")
def frozen_norm(plain: Make) -> nn.Module:
    """The network with batch norm in eval mode, so that losses do not move its statistics."""
    net = normed(plain)
    net[1].eval()
    return net


def test_crown_ibp_goes_from_linear_bounds_to_intervals(conv: nn.Module) -> None:
    b, still = batch(), copy.deepcopy(conv).eval()
    ibp, crown = (
        margins(still, b.x, b.y, replace(THREAT, eps=EPS / 2), name)
        for name in ("ibp", "crown-ibp")
    )
    method = CROWNIBP(THREAT, HALF)
    assert torch.allclose(method.lower(conv, b, 0.5), 0.5 * ibp + 0.5 * crown, **EXACT)
    over = CROWNIBP(THREAT, OVER)
    assert torch.equal(losses(over, conv), losses(IBP(THREAT, OVER), conv))
    assert over.prepare(conv, b).spent == (0, 0)
    assert method.prepare(conv, b).spent == (12, 12)


def test_the_convex_loss_is_that_of_the_dual(mlp: nn.Module) -> None:
    b = batch()
    lower = margins(copy.deepcopy(mlp).eval(), b.x, b.y, THREAT, "fast-lin")
    rows = torch.stack(
        [torch.cat([-m[:y], m.new_zeros(1), -m[y:]]) for m, y in zip(lower, b.y, strict=True)]
    )
    expected = F.cross_entropy(rows, b.y, reduction="none")
    assert torch.allclose(losses(ConvexAdversarial(THREAT, OVER), mlp), expected, **EXACT)


def test_sabr_with_the_whole_box_is_ibp(conv: nn.Module) -> None:
    whole = losses(SABR(THREAT, OVER, lam=1), conv)
    assert torch.equal(whole, losses(IBP(THREAT, OVER, kappa=(0, 0)), conv))
    b, small = batch(), SABR(THREAT, OVER, lam=0.3, steps=3)
    ready = small.prepare(conv, b)
    assert ready.adv is not None
    reach = (ready.adv - b.x).abs().amax()
    assert 0.5 * 0.7 * EPS < float(reach) <= 0.7 * EPS + 1e-9
    lower, _ = by_hand(conv, ready.adv, b.y, 0.3 * EPS)
    expected = F.cross_entropy(-lower, b.y, reduction="none")
    assert torch.allclose(losses(small, conv), expected, **EXACT)
    assert bool((expected < whole).all())


def test_expressive_losses_go_from_adversarial_training_to_ibp(conv: nn.Module) -> None:
    attacked = losses(AT(THREAT, steps=3), conv)
    bounded = losses(IBP(THREAT, OVER, kappa=(0, 0)), conv)
    assert bool((attacked < bounded).all())
    between: dict[str, Tensor] = {}
    for kind in (CCIBP, MTLIBP, ExpIBP):
        ends = [losses(kind(THREAT, OVER, alpha=a, steps=3), conv) for a in (0, 1)]
        assert torch.allclose(ends[0], attacked, **EXACT)
        assert torch.allclose(ends[1], bounded, **EXACT)
        between[kind.__name__] = losses(kind(THREAT, OVER, alpha=0.3, steps=3), conv)
    assert torch.allclose(between["MTLIBP"], 0.7 * attacked + 0.3 * bounded, **EXACT)
    assert torch.allclose(between["ExpIBP"], attacked**0.7 * bounded**0.3, **EXACT)
    # the log of a sum of exponentials is convex in the margins
    assert bool((between["CCIBP"] <= between["MTLIBP"] + 1e-12).all())


def test_the_ramp_reaches_its_end() -> None:
    for smoothed in (False, True):
        ramp = Ramp(0.1, 0.6, smoothed)
        assert ramp(0) == ramp(0.1) == 0 and ramp(0.6) == ramp(1) == pytest.approx(1)
        steps = [ramp(0.1 + 0.5 * i / 1000) for i in range(1001)]
        slopes = [b - a for a, b in itertools.pairwise(steps)]
        assert all(s > 0 for s in slopes)
        assert slopes[250] == pytest.approx(slopes[999], rel=1e-6)
    assert Ramp(0.1, 0.6)(0.35) == pytest.approx(0.5)
    assert slopes[249] == pytest.approx(slopes[250], rel=0.01) and slopes[10] < 1e-3 * slopes[250]


def test_the_radius_that_is_due(conv: nn.Module) -> None:
    seen = []
    for progress in (0.0, 0.2, 0.4, 0.9):
        ready = IBP(THREAT, Ramp(0.1, 0.3), widen=1.5).prepare(conv, batch(progress))
        seen.append(float(ready.noted["eps"][0]) / EPS)
    assert seen == pytest.approx([0, 0.75, 1.5, 1.5])
    before = batch(progress=0.05)
    clean = F.cross_entropy(conv(before.x), before.y, reduction="none")
    ramp = Ramp(0.1, 0.3)
    for method in (IBP(THREAT, ramp), SABR(THREAT, ramp), ExpIBP(THREAT, ramp, alpha=0.5)):
        assert torch.equal(losses(method, conv, before), clean)
        assert method.prepare(conv, before).adv is None


def test_bounds_use_the_statistics_that_were_there_in_prepare(plain: Make) -> None:
    net, b = normed(plain), batch()
    method = IBP(THREAT, OVER, kappa=(0, 0))
    ready = method.prepare(net, b)
    mean = net[1].running_mean.clone()
    lower = margins(copy.deepcopy(net).eval(), b.x, b.y, THREAT, "ibp")
    first = method.losses(net, ready)
    assert not torch.equal(net[1].running_mean, mean)  # a pass of their own has moved them
    assert torch.equal(method.losses(net, ready), first)
    assert torch.allclose(method.lower(net, ready, 1.0), lower, **EXACT)
    net.eval()
    mean = net[1].running_mean.clone()
    method.losses(net, ready)
    assert torch.equal(net[1].running_mean, mean)


def test_a_batch_in_pieces_has_the_same_losses(conv: nn.Module) -> None:
    method = Sum(MTLIBP(THREAT, OVER, steps=2), FastWarmUp(THREAT, HALF))
    ready = method.prepare(conv, batch())
    pieces = torch.cat([method.losses(conv, piece) for piece in ready.split(4)])
    assert torch.allclose(pieces, method.losses(conv, ready), **EXACT)


def test_the_regularisers_by_hand(conv: nn.Module) -> None:
    b = batch()
    _, layers = by_hand(conv, b.x, b.y, EPS)
    stable = torch.stack([torch.tanh(1 + z[:, 0] * z[:, 1]).flatten(1).sum(1) for z in layers]).sum(
        0
    )
    found = losses(ReLUStability(THREAT, OVER, lam=0.2), conv)
    assert torch.allclose(found, -0.2 * stable, **EXACT)
    _, layers = by_hand(conv, b.x, b.y, EPS / 2)
    for tol in (0.3, 2.0):
        found = losses(FastWarmUp(THREAT, HALF, lam=0.4, tol=tol), conv).detach()
        for row in range(len(b.x)):
            box = (b.x[row] + EPS / 2).clamp(0, 1) - (b.x[row] - EPS / 2).clamp(0, 1)
            total = 0.0
            for z in layers:
                low, high = z[row, 0], z[row, 1]
                ratio = float(box.mean() / (high - low).mean())
                c = (low + high) / 2
                on, off = c[low > 0], c[high < 0]
                means = float(on.sum() / -off.sum()) if len(on) and len(off) else 0.0
                spread = [float((part - c.mean()).square().sum()) for part in (on, off)]
                variances = spread[0] / spread[1] if len(on) and len(off) else 0.0
                both = [min(r, 1 / r) if r else 0.0 for r in (means, variances)]
                total += sum(max(tol - r, 0) / tol for r in (ratio, *both))
            assert float(found[row]) == pytest.approx(0.4 * 0.5 * total / len(layers), abs=1e-9)
    over = losses(FastWarmUp(THREAT, OVER), conv)
    assert torch.equal(over, torch.zeros_like(over))
    weights = sum(float(p.detach().abs().sum()) for p in conv.parameters() if p.dim() > 1)
    assert losses(L1(0.1), conv).detach().tolist() == pytest.approx([0.1 * weights] * 6)


def test_initial_weights_keep_the_width_of_intervals() -> None:
    sizes = [400] * 6
    net = nn.Sequential(
        nn.Flatten(),
        *(part for n, m in itertools.pairwise(sizes)
          for part in (nn.Linear(n, m), nn.ReLU())),
        nn.Linear(400, 3),
    ).double()  # fmt: skip
    before = net[-1].weight.clone()
    initialise(net, seed=3)
    again = copy.deepcopy(net)
    initialise(again, seed=3)
    assert torch.equal(net[-1].weight, before) and torch.equal(net[1].weight, again[1].weight)
    assert float(net[1].weight.detach().std()) == pytest.approx(
        math.sqrt(2 * math.pi) / 400, rel=0.02
    )
    x = torch.rand(4, 1, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, layers = by_hand(net, x, torch.zeros(4, dtype=torch.int64), 1e-4)
    widths = [float((z[:, 1] - z[:, 0]).mean()) for z in layers]
    assert widths[-1] / widths[0] == pytest.approx(1, abs=0.5)


def test_new_parameters_are_traced_again_and_dead_models_forgotten(plain: Make) -> None:
    net, b, method = (
        copy.deepcopy(plain(nn.Flatten(), nn.Linear(25, 3))),
        batch(),
        IBP(THREAT, OVER),
    )
    first = losses(method, net)
    with torch.no_grad():
        net[1].weight.mul_(2)
    assert not torch.allclose(losses(method, net), first)
    net[1].weight = nn.Parameter(net[1].weight.detach() / 2)
    assert torch.allclose(losses(method, net), first, **EXACT)
    net[1] = nn.Sequential(nn.Linear(25, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    assert losses(method, net, b).shape == (6,)
    gone = weakref.ref(net)
    del net
    gc.collect()  # nothing that is kept for a model keeps the model
    assert gone() is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: IBP(Relative(0.01)),
        lambda: IBP(THREAT, widen=0),
        lambda: IBP(THREAT, ramp=0.3),
        lambda: IBP(THREAT, kappa=0.5),
        lambda: IBP(THREAT, kappa=(1, 2)),
        lambda: SABR(THREAT, lam=0),
        lambda: SABR(THREAT, steps=-1),
        lambda: MTLIBP(THREAT, alpha=1.5),
        lambda: FastWarmUp(THREAT, tol=0),
        lambda: ReLUStability(THREAT, lam=-1),
        lambda: L1(-1),
        lambda: Ramp(0.5, 0.5),
    ],
)
def test_settings_that_cannot_be_meant(make: type[Method]) -> None:
    with pytest.raises(InputError):
        make()


def test_networks_whose_bounds_have_no_gradients_are_refused(plain: Make) -> None:
    smooth = plain(nn.Flatten(), nn.Linear(25, 4), nn.Tanh(), nn.Linear(4, 3))
    with pytest.raises(ModelError, match="tanh"):
        IBP(THREAT).prepare(smooth, batch())
    linear = plain(nn.Flatten(), nn.Linear(25, 3))
    with pytest.raises(ModelError, match="without ReLUs"):
        losses(ReLUStability(THREAT), linear)


def test_methods_are_named_in_expressions() -> None:
    made = catalogue.method("Sum(SABR(lam=0.6, ramp=Ramp(0.1, 0.5), widen=1.1), L1(1e-6))", THREAT)
    assert made == Sum(SABR(THREAT, Ramp(0.1, 0.5), 1.1, lam=0.6), L1(1e-6))


def test_a_tiny_training_certifies_where_standard_training_does_not() -> None:
    digits = data.load("digits", split="train").take(600)
    threat, found = Threat(Linf(), 0.2), {}
    settings = Settings.of(epochs=15, batch_size=50, lr=5e-3, optimiser="adam", schedule="cyclic",
                           weight_decay=0.0, held_out=0)  # fmt: skip
    for name, method in (("standard", Standard()), ("ibp", IBP(threat, Ramp(0.1, 0.6)))):
        net = build("mlp", channels=1, size=8, classes=10, hidden=(40, 40), seed=0)
        records = list(fit(net, (digits.x, digits.y), method, settings))
        test = data.load("digits", split="test").take(200)
        sure = (margins(net, test.x, test.y, threat, "best") > 0).all(1)
        found[name] = float(sure.double().mean())
    assert records[-1].figures["eps"] == pytest.approx(0.2)
    assert found["standard"] == 0 and found["ibp"] > 0.05, found
