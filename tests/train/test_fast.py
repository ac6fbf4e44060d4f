"""Single-step training and its remedies: FGSM-AT, masks, fast AT, N-FGSM, GradAlign, the first
layer, each against a plain computation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.starts import Uniform, Zero
from torchproof.core import keys
from torchproof.core.errors import InputError, ModelError
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import Threat, Universal
from torchproof.train import (
    AT,
    FGSMAT,
    NFGSM,
    Batch,
    FastAT,
    FirstLayer,
    FixedMask,
    GradAlign,
    Method,
    RandomMask,
    Sum,
    fit,
    method,
)  # fmt: skip
from torchproof.train.method import drawn, read

Make = Callable[..., Any]
EPS = 0.1
THREAT = Threat(Linf(), EPS)


def noise(b: Batch, radius: float) -> Tensor:
    """Keyed uniform noise in [-radius, radius], not cut to the range of images."""
    key = keys.mix(b.seed, b.ids, torch.full_like(b.ids, -1), torch.zeros_like(b.ids))
    u = keys.uniform(key, 0, tuple(b.x.shape[1:]), 0, torch.float64)
    return (u * 2 - 1) * radius


def weights(net: nn.Module) -> Tensor:
    return torch.cat([t.flatten().double() for t in net.state_dict().values()])


def trained(network: Make, data: Make, how: Method, chosen: Any) -> Tensor:
    net = network()
    list(fit(net, data(), how, chosen))
    return weights(net)


def test_fgsm_at_is_one_signed_step_from_the_image(conv: Make, batch: Make, gradient: Make) -> None:
    net, b = conv(), batch()
    ready = FGSMAT(THREAT).prepare(net, b)
    expected = (b.x + EPS * gradient(net, b.x, b.y).sign()).clamp(0, 1)
    assert torch.allclose(ready.adv, expected, rtol=0, atol=1e-12) and ready.spent == (20, 20)
    losses = read(FGSMAT(THREAT), copy.deepcopy(net), ready)
    wanted = F.cross_entropy(copy.deepcopy(net)(expected), b.y, reduction="none")
    assert torch.allclose(losses, wanted, rtol=0, atol=1e-12)


def test_fast_at_steps_from_noise_and_returns_to_the_ball(
    conv: Make, batch: Make, gradient: Make
) -> None:
    net, b = conv(), batch()
    start = (b.x + noise(b, EPS)).clamp(0, 1)
    delta = start - b.x + 1.25 * EPS * gradient(net, start, b.y).sign()
    expected = (b.x + delta.clamp(-EPS, EPS)).clamp(0, 1)
    found = FastAT(THREAT).prepare(net, b).adv
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    same = FGSMAT(THREAT, start=Uniform(), length=1.25).prepare(net, b).adv
    assert torch.equal(found, same)


def test_n_fgsm_leaves_the_ball_but_not_the_range_of_images(
    conv: Make, batch: Make, gradient: Make
) -> None:
    net, b = conv(), batch()
    eta = noise(b, 2 * EPS)
    step = EPS * gradient(net, (b.x + eta).clamp(0, 1), b.y).sign()
    expected = (b.x + eta + step).clamp(0, 1)
    found = NFGSM(THREAT).prepare(net, b).adv
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert EPS * 2.5 < float((found - b.x).abs().max()) <= 3 * EPS + 1e-12
    assert found.min() >= 0 and found.max() <= 1
    # the image range binds: noise that was cut away still counts against the step
    cut = (b.x + eta < 0) & (step > 0)
    assert bool(cut.any()) and bool((found[cut] < EPS).all())


def test_n_fgsm_in_other_norms_and_with_a_ramp(conv: Make, batch: Make) -> None:
    net, b = conv(), batch()
    euclidean = NFGSM(Threat(L2(), 0.4)).prepare(net, b).adv - b.x
    lengths = euclidean.flatten(1).norm(dim=1)
    assert bool((lengths <= 1.2 + 1e-9).all()) and bool((lengths > 0.4).any())
    half = NFGSM(THREAT, ramp=1.0).prepare(net, b).adv  # at progress 0.5
    assert torch.allclose(half, NFGSM(Threat(Linf(), EPS / 2)).prepare(net, b).adv, atol=1e-12)


def test_no_noise_no_mask_no_term_is_fgsm_at(network: Make, data: Make, settings: Make) -> None:
    chosen = settings(epochs=1)
    plain = trained(network, data, FGSMAT(THREAT), chosen)
    same: list[Method] = [
        AT(THREAT, steps=1, length=1.0, start=Zero()),
        FGSMAT(THREAT, mask=RandomMask(0.0)),
        FGSMAT(THREAT, mask=FixedMask(0.0)),
        NFGSM(THREAT, k=0.0),
        Sum(FGSMAT(THREAT), FirstLayer(0.0)),
        Sum(FGSMAT(THREAT), GradAlign(THREAT, lam=0.0)),
    ]
    for how in same:
        assert torch.equal(trained(network, data, how, chosen), plain), how
    for how in (FGSMAT(THREAT, mask=FixedMask(0.3)), Sum(FGSMAT(THREAT), FirstLayer(0.1))):
        assert not torch.equal(trained(network, data, how, chosen), plain), how


@pytest.mark.parametrize("share", [0.1, 0.4, 0.6])
def test_random_masks_hide_their_share_of_whole_pixels(share: float) -> None:
    x = torch.ones(400, 3, 16, 16)
    b = Batch(x, torch.zeros(400, dtype=torch.int64), torch.arange(400), 0.5, 4)
    masked = RandomMask(share)(b)
    assert set(masked.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(masked, masked[:, :1].expand_as(masked))
    hidden, n = float((masked[:, 0] == 0).double().mean()), 400 * 256
    assert abs(hidden - share) < 3 * math.sqrt(share * (1 - share) / n)
    assert len({tuple(m.flatten().tolist()) for m in masked[:, 0]}) == 400
    assert not torch.equal(masked, RandomMask(share)(replace(b, seed=5)))
    part = Batch(x[3:], b.y[3:], b.ids[3:], 0.5, 4)
    assert torch.equal(RandomMask(share)(part), masked[3:])


def test_the_fixed_mask_is_one_for_all_images_steps_and_runs() -> None:
    x = torch.ones(5, 3, 32, 32)
    b = Batch(x, torch.zeros(5, dtype=torch.int64), torch.arange(5), 0.5, 4)
    masked = FixedMask(0.4)(b)
    assert torch.equal(masked, masked[:1, :1].expand_as(masked))
    assert torch.equal(masked, FixedMask(0.4)(replace(b, seed=9, ids=b.ids + 7)))
    hidden = float((masked[0, 0] == 0).double().mean())
    assert abs(hidden - 0.4) < 3 * math.sqrt(0.24 / 1024)


def test_masked_fgsm_at_steps_from_the_masked_image(
    conv: Make, batch: Make, gradient: Make
) -> None:
    net, b = conv(), batch()
    ready = FGSMAT(THREAT, mask=RandomMask(0.5)).prepare(net, b)
    x0 = RandomMask(0.5)(b)
    expected = (x0 + EPS * gradient(net, x0, b.y).sign()).clamp(0, 1)
    assert torch.allclose(ready.adv, expected, rtol=0, atol=1e-12)
    assert torch.equal(ready.x, b.x)


def test_the_first_layer_alone_gets_its_decay(conv: Make, batch: Make) -> None:
    net, b = conv(), batch()
    how = FirstLayer(0.03)
    with drawn(b):
        read(how, net, how.prepare(net, b)).mean().backward()
    assert torch.allclose(net[0].weight.grad, 0.03 * net[0].weight.detach(), rtol=0, atol=1e-15)
    assert all(p.grad is None for n, p in net.named_parameters() if n != "0.weight")
    ready = how.prepare(net, b)
    assert float(ready.noted["first_layer"][0]) == pytest.approx(
        float(net[0].weight.detach().norm())
    )
    with pytest.raises(ModelError, match="convolution"):
        how.losses(nn.Flatten(), b)


def test_decay_of_the_first_layer_is_weight_decay_on_it(
    network: Make, data: Make, settings: Make
) -> None:
    """With SGD, the term and a parameter group of its own do the same."""
    chosen = settings(epochs=1, momentum=0.0, weight_decay=0.0, schedule="constant", held_out=0)
    with_term = trained(network, data, Sum(FGSMAT(THREAT), FirstLayer(0.2)), chosen)
    net, groups = network(), []
    real = torch.optim.SGD.__init__

    def split_groups(self: Any, parameters: Any, *args: Any, **more: Any) -> None:
        named = list(parameters)
        groups.extend([{"params": named[:1], "weight_decay": 0.2}, {"params": named[1:]}])
        real(self, groups, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "__init__", split_groups)
        list(fit(net, data(), FGSMAT(THREAT), chosen))
    assert len(groups) == 2
    assert torch.allclose(weights(net), with_term, rtol=0, atol=1e-12)


def test_what_is_watched_gets_into_the_records(data: Make, network: Make, settings: Make) -> None:
    how = method("Sum(FGSMAT(mask=RandomMask(0.2)), GradAlign(lam=0.2), FirstLayer())", THREAT)
    (record, _) = fit(network(), data(), how, settings())
    assert record.figures.keys() == {"gradient_cosine", "first_layer"}
    assert -1 <= record.figures["gradient_cosine"] <= 1 and record.figures["first_layer"] > 0


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: FGSMAT(THREAT, steps=2), "single step"),
        (lambda: FastAT(THREAT, steps=0), "single step"),
        (lambda: FGSMAT(THREAT, mask=0.4), "RandomMask"),
        (lambda: RandomMask(1.0), "share"),
        (lambda: FixedMask(-0.1), "share"),
        (lambda: NFGSM(THREAT, k=-1.0), "k ="),
        (lambda: NFGSM(THREAT, start=Zero()), "noise"),
        (lambda: NFGSM(THREAT, noise=0.1), "noise"),
        (lambda: NFGSM(Threat(Linf(), EPS, Universal())), "images"),
        (lambda: GradAlign(THREAT, lam=-1.0), "lam"),
        (lambda: GradAlign(Threat(Linf(), EPS, Universal())), "images"),
        (lambda: FirstLayer(-1.0), "decay"),
    ],
)
def test_what_cannot_be_meant_is_refused(build: Make, word: str) -> None:
    with pytest.raises(InputError, match=word):
        build()
