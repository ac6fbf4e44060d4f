"""What every method promises: one row per method."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.asides import tell
from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.nn.cosine import CosineHead
from torchproof.nn.purified import Purified
from torchproof.nn.unet import DUNET
from torchproof.train import (
    ADRE,
    ALP,
    AT,
    AWP,
    CCIBP,
    CGD,
    CIFSAT,
    COLT,
    CROWNIBP,
    EMA,
    FAT,
    FGD,
    FGSMAT,
    HAT,
    HE,
    IAT,
    IBP,
    JSIGR,
    L1,
    LGD,
    MACER,
    MART,
    METHODS,
    MMA,
    MTLIBP,
    NFGSM,
    RAT,
    SABR,
    SCORE,
    SPAT,
    SWA,
    TAPS,
    THRM,
    TRADES,
    Batch,
    BoundaryGuided,
    Consistency,
    ConvexAdversarial,
    DiffAI,
    EnsembleAT,
    ExpIBP,
    FastAT,
    FastWarmUp,
    FirstLayer,
    FreeAT,
    GloRo,
    GradAlign,
    LabelSmoothing,
    LaplacianSmoothness,
    Method,
    NoiseAugmentation,
    Parseval,
    PixelGuided,
    Ramp,
    RandomMask,
    ReLUStability,
    SmoothAdv,
    Stability,
    Standard,
    Sum,
    TisODE,
)  # fmt: skip
from torchproof.train.certified.bounding import Bounding
from torchproof.train.denoiser import Guided
from torchproof.train.method import drawn, joined, layers, read
from torchproof.train.shift import shifted
from torchproof.train.wrapper import Wrapper

THREAT = Threat(Linf(), 0.1)
STANDARD = nn.Sequential(nn.Flatten(), nn.Linear(25, 3)).eval()
EPS = (0.05, 0.1)
RAMP = Ramp(0.1, 0.4)
ROWS: list[Method] = [
    Standard(),
    AT(THREAT, steps=3),
    AT(THREAT, steps=3, ramp=0.9),
    TRADES(THREAT, steps=3),
    MART(THREAT, steps=3),
    AWP(Standard()),
    AWP(AT(THREAT, steps=3)),
    AWP(TRADES(THREAT, steps=3), gamma=0.005, steps=3),
    AWP(MART(THREAT, steps=3)),
    FAT(AT(THREAT, steps=3, noise=0.001)),
    FAT(MART(THREAT, steps=3), tau=0),
    AWP(FAT(TRADES(THREAT, steps=3), tau=1)),
    FGSMAT(THREAT, mask=RandomMask(0.4)),
    FastAT(THREAT),
    NFGSM(THREAT),
    FreeAT(THREAT, m=2),
    MMA(THREAT, steps=3),
    EMA(AWP(FreeAT(THREAT, m=2))),
    Sum(FGSMAT(THREAT), GradAlign(THREAT), FirstLayer(0.01)),
    AWP(Sum(FastAT(THREAT), GradAlign(THREAT))),
    IAT(THREAT, steps=3, layers=("2",)),
    IAT(THREAT, steps=3, alpha=0),
    EMA(AWP(IAT(THREAT, steps=3))),
    SPAT(THREAT, steps=3),
    THRM(THREAT, steps=3),
    ALP(THREAT, steps=3),
    SCORE(THREAT, steps=3),
    Sum(AT(THREAT, steps=3), Parseval(0.1)),
    Sum(Standard(), LaplacianSmoothness()),
    HAT(THREAT, steps=3, standard=STANDARD),
    AWP(HAT(THREAT, steps=3, standard=STANDARD)),
    HE(THREAT, steps=3),
    CIFSAT(THREAT, steps=3),
    EnsembleAT(THREAT, sources={"A": STANDARD}, attacks=("FGSM", "I-FGSM-2")),
    PixelGuided(EPS),
    FGD(EPS, sources={"A": STANDARD}),
    LGD(EPS),
    AWP(CGD(EPS)),
    AWP(SPAT(THREAT, steps=3, detach_weights=True)),
    Sum(AT(THREAT, steps=3), Standard(), weights=(1.0, 0.5)),
    AWP(Sum(TRADES(THREAT, steps=3), Standard())),
    LabelSmoothing(AT(THREAT, steps=3)),
    Sum(Standard(), JSIGR(stride=2, blur=3)),  # alone it says nothing about the last bias
    EMA(AWP(AT(THREAT, steps=3))),
    SWA(TRADES(THREAT, steps=3)),
    RAT(THREAT, rounds=2, steps=2),
    BoundaryGuided("2", lambda *shape: STANDARD),
    TisODE(Standard()),
    AWP(TisODE(TRADES(THREAT, steps=3), lam=2.0)),
    Sum(IBP(THREAT, RAMP), FastWarmUp(THREAT, RAMP), ReLUStability(THREAT, RAMP), L1(1e-3)),
    AWP(CROWNIBP(THREAT, RAMP, kappa=(0, 0))),
    CROWNIBP(THREAT, RAMP, fused=True),
    SABR(THREAT, RAMP, steps=3),
    CCIBP(THREAT, RAMP, steps=3),
    EMA(MTLIBP(THREAT, RAMP, steps=3)),
    ExpIBP(THREAT, RAMP, steps=3),
    ConvexAdversarial(THREAT, RAMP, kappa=(1, 0.5)),
    DiffAI(THREAT, RAMP, symbols=3),
    COLT(THREAT, RAMP, steps=3, depth=1),
    TAPS(THREAT, Ramp(0.0, 0.2), steps=3, lam=0.5),
    GloRo(THREAT, RAMP),
    AWP(NoiseAugmentation(sigma=0.2, m=2)),
    Stability(sigma=0.2, m=2),
    SmoothAdv(THREAT, steps=3, ramp=0.5, sigma=0.2, m=2),
    MACER(sigma=0.2, m=4),
    EMA(Consistency(SmoothAdv(THREAT, steps=3, sigma=0.2, m=2), lam=1)),
    ADRE(Consistency(NoiseAugmentation(sigma=0.2, m=3, noise="uniform"))),
]
every_method = pytest.mark.parametrize("method", ROWS, ids=lambda m: repr(m)[:24])


def test_every_method_of_the_table_has_a_row() -> None:
    assert {type(part) for m in ROWS for _, part in layers(m)} == set(METHODS.values())


class Restless(nn.Module):
    """Tells what an ODE block would."""

    def forward(self, h: Tensor) -> Tensor:
        tell("steady", h.abs().mean(1))
        return h


def network(method: Method) -> nn.Module:
    if any(isinstance(part, Guided) for _, part in layers(method)):
        return purifier()
    if any(isinstance(part, Bounding) for _, part in layers(method)):
        return renewed()
    return usual(lambda: CosineHead(16, 3, 4))


def usual(head: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3),
            nn.Flatten(), nn.Linear(100, 16), nn.BatchNorm1d(16), nn.ReLU(), Restless(),
            head(),
        )  # fmt: skip
        net.train()
        net[1].eval()  # modes need not be uniform
        net[0].bias.requires_grad_(False)
        net(torch.rand(8, 1, 5, 5)).sum().backward()  # gradients that have to stay
        return net


@functools.cache
def ever(_: str) -> nn.Module:
    """The networks of methods that train on bounds, for which they are traced: once for all
    tests.
    """
    return usual(lambda: nn.Linear(16, 3))


def as_in(net: nn.Module, other: nn.Module) -> nn.Module:
    """`net`, with the weights, statistics and modes that `other` has."""
    for module, like in zip(net.modules(), other.modules(), strict=True):
        module.training = like.training
        module._buffers = copy.deepcopy(like._buffers)
    for parameter, like in zip(net.parameters(), other.parameters(), strict=True):
        parameter.data = like.data.clone()
        parameter.grad = None if like.grad is None else like.grad.clone()
    return net


def renewed() -> nn.Module:
    """That network, as it was at first."""
    return as_in(ever("trained"), usual(lambda: nn.Linear(16, 3)))


def twin(net: nn.Module) -> nn.Module:
    """A copy."""
    return as_in(ever("compared"), net) if net is ever("trained") else copy.deepcopy(net)


def purifier() -> nn.Module:
    """A network for methods that train a denoiser."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        maps = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.3))
        head = nn.Sequential(nn.Flatten(), nn.Linear(100, 3))
        net = Purified(DUNET(1, (4, 6), (1, 1), zero=False), nn.Sequential(maps, head))
        net(torch.rand(8, 1, 5, 5)).sum().backward()
        return net


def batch(dtype: torch.dtype = torch.float32) -> Batch:
    g = torch.Generator().manual_seed(5)
    x = torch.rand(8, 1, 5, 5, generator=g).to(dtype)
    return Batch(x, torch.randint(3, (8,), generator=g), torch.arange(8), progress=0.3, seed=9)


def trace(net: nn.Module) -> list[Any]:
    """Everything a method may not change."""
    return [
        [t.clone() for t in net.state_dict().values()],
        [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        [p.requires_grad for p in net.parameters()],
        [m.training for m in net.modules()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()],
        torch.get_rng_state(),
        torch.is_grad_enabled(),
    ]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(u, v) for u, v in zip(a, b, strict=True))
    return bool(a == b)


Cast = Callable[[], AbstractContextManager[Any]]
PRECISIONS: dict[str, Cast] = {
    "fp32": nullcontext,
    "bf16": lambda: torch.autocast("cpu", torch.bfloat16),
}
every_precision = pytest.mark.parametrize("cast", PRECISIONS.values(), ids=PRECISIONS)


@every_method
@every_precision
def test_prepare_leaves_no_trace(method: Method, cast: Cast) -> None:
    net = network(method)
    before = trace(net)
    b = batch()
    images = b.x.clone()
    with cast():
        method.prepare(net, b)
    assert same(before, trace(net))
    assert torch.equal(b.x, images) and b.adv is None and b.shift is None


@every_method
@every_precision
def test_losses_can_be_descended_after_prepare_in_one_autocast_block(
    method: Method, cast: Cast
) -> None:
    """Every trainable weight gets the gradient that it gets without autocast's cached copies."""
    net, b = network(method), batch()
    net.zero_grad()
    with cast():
        ready = method.prepare(net, b)
        with shifted(net, ready.shift), drawn(ready):
            losses = read(method, net, ready)
            losses.mean().backward()
    assert losses.dtype == torch.float32 and losses.shape == (8,)
    live = [p for p in net.parameters() if p.requires_grad]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in live)
    fresh = twin(net)
    fresh.zero_grad()
    with shifted(fresh, ready.shift), drawn(ready), torch.autocast("cpu", enabled=False):
        full = read(method, fresh, ready)
        full.mean().backward()
    assert torch.allclose(losses, full, rtol=0.1, atol=0.1)
    got = torch.cat([p.grad.flatten() for p in live])
    want = torch.cat([p.grad.flatten() for p in fresh.parameters() if p.requires_grad])
    assert torch.nn.functional.cosine_similarity(got, want, dim=0) > 0.95  # bf16


@every_method
def test_losses_are_a_function_of_model_and_batch(method: Method) -> None:
    net = network(method)
    ready = method.prepare(net, batch())
    with drawn(ready):
        first = read(method, net, ready)
    torch.rand(3)  # whatever else draws numbers meanwhile
    with drawn(ready):
        second = read(method, net, ready)
    assert torch.equal(first, second)


@every_method
def test_prepare_is_keyed_by_seed_and_ids_alone(method: Method) -> None:
    """The same batch again: the same. One row more in front of it: the same adversarial rows."""
    net, b = network(method).double(), batch(torch.float64)
    first, again = method.prepare(net, b), method.prepare(net, b)
    for one, other in ((first.adv, again.adv), (first.shift, again.shift)):
        leaves = list(one.values()) if isinstance(one, dict) else [one]
        others = list(other.values()) if isinstance(other, dict) else [other]
        assert all(same(u, v) for u, v in zip(leaves, others, strict=True))
    if first.adv is not None:
        part = Batch(b.x[3:], b.y[3:], b.ids[3:], b.progress, b.seed)
        assert torch.allclose(method.prepare(net, part).adv, first.adv[3:], rtol=0, atol=1e-12)
        assert method.replays > 1 or not torch.equal(first.adv, b.x)  # free AT starts at x


@every_method
def test_wrappers_keep_what_the_inner_method_made(method: Method) -> None:
    net, b = network(method), batch()
    if isinstance(method, Wrapper) and not isinstance(method, FAT):  # FAT changes the attack
        inner, outer = method.method.prepare(net, b), method.prepare(net, b)
        assert same(inner.adv, outer.adv)
        assert outer.weight is None and torch.equal(outer.ids, b.ids)
    if not any(isinstance(part, AWP) for _, part in layers(method)):
        assert method.prepare(net, b).shift is None


@every_method
def test_what_was_prepared_can_be_split_and_joined(method: Method) -> None:
    ready = method.prepare(network(method), batch())
    if ready.entire:
        with pytest.raises(InputError, match="fits into memory"):
            joined([ready, ready])
        return
    pieces = ready.split(3)
    whole = joined(pieces)
    assert [len(p.x) for p in pieces] == [3, 3, 2]
    for name in ("x", "y", "ids", "adv", "weight"):
        assert same(getattr(whole, name), getattr(ready, name))
    for name in ("drawn", "noted"):
        old, new = getattr(ready, name), getattr(whole, name)
        assert old.keys() == new.keys() and all(torch.equal(old[k], new[k]) for k in old)
    assert len(whole.parts) == len(ready.parts)
