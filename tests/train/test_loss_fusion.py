"""Loss fusion: one bound of the cross-entropy instead of one per margin."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack import Restarts
from torchproof.attack.catalogue import pgd
from torchproof.core.errors import InputError
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import Threat
from torchproof.train import CROWNIBP, IBP, Batch, LabelSmoothing, Ramp, catalogue
from torchproof.train.certified.bounding import margins
from torchproof.train.certified.fusion import fused_loss
from torchproof.train.method import drawn, read
from torchproof.verify import margins as certified
from torchproof.verify.bounds import CROWN_IBP, Pass, graph_of
from torchproof.verify.inputs import InputSet

Make = Callable[..., Any]
EPS = 0.08
THREAT = Threat(Linf(), EPS)
HALF, OVER = Ramp(0.0, 1.0), Ramp(0.0, 0.4)  # at progress 0.5: half way, over
CLASSES = 6


@pytest.fixture(scope="module")
def plain(seeded: Make) -> Make:
    return functools.partial(seeded, spread=1.0)


@pytest.fixture(scope="module")
def shallow(plain: Make) -> nn.Module:
    return plain(nn.Flatten(), nn.Linear(25, 12), nn.ReLU(), nn.Linear(12, CLASSES))


@pytest.fixture(scope="module")
def mlp(plain: Make) -> nn.Module:
    return plain(nn.Flatten(), nn.Linear(25, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(),
                 nn.Linear(8, CLASSES))  # fmt: skip


def conv_of(classes: int, plain: Make) -> nn.Module:
    net: nn.Module = plain(nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 2),
                           nn.ReLU(), nn.Flatten(), nn.Linear(16, classes))  # fmt: skip
    return net


@pytest.fixture(scope="module")
def conv(plain: Make) -> nn.Module:
    return conv_of(CLASSES, plain)


def batch(n: int = 5, classes: int = CLASSES) -> Batch:
    g = torch.Generator().manual_seed(5)
    x = torch.rand(n, 1, 5, 5, generator=g, dtype=torch.float64)
    return Batch(x, torch.randint(classes, (n,), generator=g), torch.arange(n), 0.5, seed=9)


def passed(net: nn.Module, b: Batch, threat: Threat = THREAT) -> Pass:
    with torch.no_grad():
        still = copy.deepcopy(net).eval()
        return Pass.of(graph_of(still, b.x), InputSet.of(b.x, threat), CROWN_IBP)


def losses(method: Any, net: nn.Module, b: Batch) -> Tensor:
    ready = method.prepare(net, b)
    with drawn(ready):
        return read(method, net, ready)


@pytest.mark.parametrize("kind", ["shallow", "mlp", "conv"])
@pytest.mark.parametrize("threat", [THREAT, Threat(L2(), 0.3)], ids=["linf", "l2"])
@torch.no_grad()
def test_no_input_has_a_larger_loss(
    kind: str, threat: Threat, request: pytest.FixtureRequest
) -> None:
    net, b = request.getfixturevalue(kind), batch()
    bounds = [fused_loss(passed(net, b, threat), b.y, share) for share in (0.0, 0.4, 1.0)]
    g = torch.Generator().manual_seed(1)
    corners = (torch.randint(2, (2000, 1, 5, 5), generator=g) * 2 - 1).double()
    corners *= EPS if threat is THREAT else 0.3 / 5
    found = Restarts(pgd(threat, steps=40), 3)(net, b.x, b.y)
    tries = [(b.x[:, None] + corners).clamp(0, 1), (b.x + found.value)[:, None]]
    for points in tries:
        flat = points.flatten(0, 1)
        many = points.shape[1]
        worst = F.cross_entropy(net(flat), b.y.repeat_interleave(many), reduction="none")
        for bound in bounds:
            assert bool((worst.view(-1, many) <= bound[:, None] + 1e-9).all())


def chords(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes and intercepts of the lines through (low, exp low) and (high, exp high)."""
    slope = (high.exp() - low.exp()) / (high - low)
    return slope, high.exp() - slope * high


@torch.no_grad()
def by_hand(net: nn.Module, x: Tensor, y: int) -> float:
    """The fused bound for one image and a network of two hidden layers, entry by entry."""
    layers = [m for m in net if isinstance(m, nn.Linear)]
    low, high = (x.flatten() - EPS).clamp(0, 1), (x.flatten() + EPS).clamp(0, 1)
    inputs, before = (low, high), []
    for layer in layers[:-1]:
        w, b = layer.weight, layer.bias
        ends = [[sum(max(v * lo, v * hi) if up else min(v * lo, v * hi)
                     for v, lo, hi in zip(row, low, high, strict=True)) + c
                 for row, c in zip(w, b, strict=True)] for up in (False, True)]  # fmt: skip
        before.append((torch.stack(ends[0]), torch.stack(ends[1])))
        low, high = (end.clamp_min(0) for end in before[-1])
    last = layers[-1]
    others = [t for t in range(CLASSES) if t != y]
    rows = last.weight[others] - last.weight[y]
    at = last.bias[others] - last.bias[y]
    up, down = rows.clamp_min(0), rows.clamp_max(0)
    slope, const = chords(up @ low + down @ high + at, up @ high + down @ low + at)
    row, total = slope @ rows, slope @ at + const.sum()
    for layer, (lo, hi) in zip(reversed(layers[:-1]), reversed(before), strict=True):
        new = torch.zeros_like(row)
        for j in range(len(row)):
            if lo[j] >= 0:
                new[j] = row[j]
            elif hi[j] > 0 and row[j] > 0:  # below the chord
                new[j] = row[j] * hi[j] / (hi[j] - lo[j])
                total = total - new[j] * lo[j]
            elif hi[j] > 0 and hi[j] > -lo[j]:  # above z, or above 0
                new[j] = row[j]
        row, total = new @ layer.weight, total + new @ layer.bias
    most = total + row.clamp_min(0) @ inputs[1] + row.clamp_max(0) @ inputs[0]
    return math.log1p(float(most))


def test_the_bound_is_that_of_a_loop_over_entries(mlp: nn.Module) -> None:
    b = batch()
    found = fused_loss(passed(mlp, b), b.y)
    expected = [by_hand(mlp, x, int(y)) for x, y in zip(b.x, b.y, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-10)


@torch.no_grad()
def test_with_the_whole_share_it_is_the_loss_of_intervals(conv: nn.Module) -> None:
    b = batch()
    lower = certified(copy.deepcopy(conv).eval(), b.x, b.y, THREAT, "ibp")
    expected = (1 + (-lower).exp().sum(1)).log()
    assert torch.allclose(fused_loss(passed(conv, b), b.y, 1.0), expected, rtol=0, atol=1e-10)
    half = fused_loss(passed(conv, b), b.y, 0.5).exp()
    ends = [fused_loss(passed(conv, b), b.y, share).exp() for share in (0.0, 1.0)]
    assert torch.allclose(half, (ends[0] + ends[1]) / 2, rtol=1e-10)


@pytest.mark.parametrize("eps", [EPS, 0.005])
@torch.no_grad()
def test_the_sum_at_once_is_below_the_chords_one_by_one(shallow: nn.Module, eps: float) -> None:
    """Where lower lines are below upper ones wherever the walk goes: with one layer of ReLUs. The
    chords are above the exponentials up to their ends, so this orders nothing between the losses:
    what chords lose grows with the square of the radius, what the sum gains with the radius.
    """
    b = batch(40)
    p = passed(shallow, b, Threat(Linf(), eps))
    linear = -margins(p, b.y)
    low, high = _ends(shallow, b, eps)
    slope, const = chords(low, high)
    one_by_one = (1 + (slope * linear + const).sum(1)).log()
    fused = fused_loss(p, b.y)
    assert bool((fused <= one_by_one + 1e-10).all())
    assert float((one_by_one - fused).max()) > 1e-3 * eps / EPS
    within = (1 + torch.minimum(linear, high).exp().sum(1)).log()
    assert bool((one_by_one >= within - 1e-10).all())
    difference = fused - (1 + linear.exp().sum(1)).log()
    assert bool((difference > 1e-3).any() if eps == EPS else (difference < -1e-5).any())


def _ends(net: nn.Module, b: Batch, eps: float) -> tuple[Tensor, Tensor]:
    """What intervals say of z_t - z_y, from the last layer and the interval before it."""
    layers = [m for m in net if isinstance(m, nn.Linear)]
    x = b.x.flatten(1)
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    up, down = layers[0].weight.clamp_min(0), layers[0].weight.clamp_max(0)
    low, high = (
        (low @ up.T + high @ down.T + layers[0].bias).clamp_min(0),
        (high @ up.T + low @ down.T + layers[0].bias).clamp_min(0),
    )
    w, c = layers[1].weight, layers[1].bias
    others = torch.stack([torch.tensor([t for t in range(CLASSES) if t != y]) for y in b.y])
    rows, at = w[others] - w[b.y][:, None], c[others] - c[b.y][:, None]
    up, down = rows.clamp_min(0), rows.clamp_max(0)
    low, high = low[:, :, None], high[:, :, None]
    return (up @ low + down @ high)[..., 0] + at, (up @ high + down @ low)[..., 0] + at


def test_one_row_an_image_reaches_the_input_whatever_the_classes(
    plain: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    lowest = InputSet.lowest

    def counted(self: InputSet, rows: Tensor, example: Tensor) -> Tensor:
        seen.append(len(rows))
        return lowest(self, rows, example)

    monkeypatch.setattr(InputSet, "lowest", counted)
    for classes in (3, 12):
        net, b = conv_of(classes, plain), batch(4, classes)
        for fused, each in ((True, 1), (False, classes - 1)):
            method = CROWNIBP(THREAT, HALF, fused=fused)
            seen.clear()
            losses(method, net, b)
            assert sum(seen) == 4 * each
            assert method.prepare(net, b).spent == (4 * each, 4 * each)


def test_the_method_mixes_sums_and_ends_as_ibp(conv: nn.Module) -> None:
    b, near = batch(), Threat(Linf(), EPS / 2)
    sums = [fused_loss(passed(conv, b, near), b.y, share).exp() for share in (0.0, 1.0)]
    expected = 0.25 * (0.5 * sums[0] + 0.5 * sums[1]).log()
    expected += 0.75 * F.cross_entropy(conv(b.x), b.y, reduction="none")
    found = losses(CROWNIBP(THREAT, HALF, fused=True), conv, b)
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)
    over = CROWNIBP(THREAT, OVER, fused=True)
    assert torch.equal(losses(over, conv, b), losses(IBP(THREAT, OVER), conv, b))
    assert over.prepare(conv, b).spent == (0, 0)


def test_its_gradients_are_finite_differences(conv: nn.Module) -> None:
    net = copy.deepcopy(conv)
    method = CROWNIBP(THREAT, HALF, kappa=(0.0, 0.0), fused=True)
    ready = method.prepare(net, batch(3))
    for parameter in net.parameters():
        (slope,) = torch.autograd.grad(method.losses(net, ready).sum(), parameter)
        entry, values = int(slope.abs().argmax()), []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.view(-1)[entry] += step
            values.append(float(method.losses(net, ready).detach().sum()))
            with torch.no_grad():
                parameter.view(-1)[entry] -= step
        measured = (values[0] - values[1]) / 2e-6
        assert measured != 0
        assert float(slope.reshape(-1)[entry]) == pytest.approx(measured, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_margins_of_any_size_give_finite_losses_in_float32(conv: nn.Module, scale: float) -> None:
    net, b = copy.deepcopy(conv).float(), batch()
    small = Batch(b.x.float(), b.y, b.ids, b.progress, b.seed)
    with torch.no_grad():
        net[-1].weight.mul_(scale)
        net[-1].bias.mul_(scale)
        clean = F.cross_entropy(net(small.x), b.y, reduction="none")
    method = CROWNIBP(THREAT, HALF, kappa=(0.0, 0.0), fused=True)
    found = losses(method, net, small)
    found.sum().backward()
    assert bool(found.isfinite().all())
    assert bool((found.detach() >= clean * (1 - 1e-4)).all())
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters() if p.grad is not None)


def test_it_is_named_in_expressions_and_refuses_smoothed_labels(conv: nn.Module) -> None:
    made = catalogue.method("CROWNIBP(fused=True, ramp=Ramp(0, 1))", THREAT)
    assert made == CROWNIBP(THREAT, HALF, fused=True)
    with pytest.raises(InputError, match="label smoothing"):
        LabelSmoothing(made).prepare(conv, batch())
