"""Sums, averages, label smoothing and extra data, each against a plain computation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.train import (
    AT,
    AWP,
    EMA,
    SWA,
    TRADES,
    Batch,
    LabelSmoothing,
    Method,
    Standard,
    Sum,
    fit,
    method,
)
from torchproof.train.rows import order, steps_of

Make = Callable[..., Any]
THREAT = Threat(Linf(), 0.1)


def weights(net: nn.Module) -> Tensor:
    return torch.cat([t.flatten().double() for t in net.state_dict().values()])


def trained(network: Make, data: Make, how: Method, chosen: Any, **more: Any) -> Tensor:
    net = network()
    list(fit(net, data(), how, chosen, **more))
    return weights(net)


def batch() -> Batch:
    g = torch.Generator().manual_seed(3)
    x = torch.rand(6, 1, 3, 3, generator=g, dtype=torch.float64)
    return Batch(x, torch.randint(3, (6,), generator=g), torch.arange(6), 0.5, 4)


def test_a_sum_of_one_part_is_that_part(network: Make, data: Make, settings: Make) -> None:
    alone = trained(network, data, AT(THREAT, steps=2), settings())
    summed = trained(network, data, Sum(AT(THREAT, steps=2)), settings())
    assert torch.equal(alone, summed)


def test_a_sum_adds_the_weighted_losses_of_its_parts(network: Make) -> None:
    net, b = network().eval(), batch()
    first, second = AT(THREAT, steps=2), TRADES(THREAT, steps=3)
    both = Sum(first, second, weights=(1.0, 0.25))
    ready = both.prepare(net, b)
    one, other = first.prepare(net, b), second.prepare(net, b)
    wanted = first.losses(net, one) + 0.25 * second.losses(net, other)
    torch.testing.assert_close(both.losses(net, ready), wanted, rtol=0, atol=1e-14)
    assert ready.spent == tuple(a + b for a, b in zip(one.spent, other.spent, strict=True))
    assert both.passes == 3 and both.threat == THREAT


def test_figures_of_the_same_name_are_told_apart(network: Make) -> None:
    class Noting(Standard):
        def __init__(self, **figures: float) -> None:
            object.__setattr__(self, "own", figures)

        def prepare(self, model: nn.Module, batch: Batch) -> Batch:
            return batch.with_note(**self.own)

    how = Sum(Noting(a=1.0, b=2.0), Standard(), Noting(a=3.0))
    noted = how.prepare(network(), batch().with_note(c=4.0)).noted
    wanted = {"c": 4.0, "a 1": 1.0, "b": 2.0, "a 3": 3.0}
    assert {name: float(rows[0]) for name, rows in noted.items()} == wanted


def test_weight_perturbation_around_a_sum_raises_its_loss(network: Make) -> None:
    net, b = network().eval(), batch()
    both = Sum(AT(THREAT, steps=2), Standard())
    ready = AWP(both, gamma=0.05).prepare(net, b)
    assert ready.shift is not None and len(ready.parts) == 2
    before = both.losses(net, ready).mean()
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.add_(ready.shift.get(name, torch.zeros_like(p)))
    assert both.losses(net, ready).mean() > before
    size = torch.cat([v.flatten() for v in ready.shift.values()]).norm()
    torch.testing.assert_close(ready.noted["weight_shift"], size.float().expand(6))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Sum()", "at least one method"),
        ("Sum(AT(), weights=(1, 2))", "a weight for each"),
        ("Sum(AWP(AT()), Standard())", "parts perturb weights"),
        ("AWP(Sum(AWP(AT()), Standard()))", "parts perturb weights"),
        ("Sum(EMA(AT()))", "EMA outermost"),
        ("AWP(EMA(AT()))", "EMA outermost"),
        ("EMA(SWA(AT()))", "one average"),
        ("EMA(AT(), decay=1)", "decay = 1"),
        ("SWA(AT(), start=1)", "start = 1"),
        ("LabelSmoothing(AT(), amount=1)", "amount = 1"),
        ("LabelSmoothing(AWP(LGD()))", "a method whose loss looks at labels"),
        ("FAT(AT(patience=2), tau=5)", "one of both: tau is the patience"),
        ("EMA(3)", "3 in EMA"),
        ("AT(patience=-1)", "patience = -1"),
        ("AT(patience='1')", "patience = '1'"),
        ("AT(ramp='1')", "ramp = '1'"),
        ("AT(noise=None)", "noise = None"),
        ("NFGSM(k='2')", "k = '2'"),
        ("FreeAT(length='1')", "length = '1'"),
        ("AWP(AT(), gamma=1)", "weights' length below 1"),
        ("AWP(AT(), gamma=2)", "weights' length below 1"),
        ("FAT(AT(steps=0))", "steps = 0 in FAT"),
        ("FAT(Sum(AT(steps=0), Standard()), tau=0)", "steps = 0 in FAT"),
        ("Sum(JSIGR())", "regularisers alone"),
        ("Sum(JSIGR(), FirstLayer())", "regularisers alone"),
        ("Sum(AT(), JSIGR(), weights=(0, 1))", "regularisers alone"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, why: str) -> None:
    """When it is built, before there is any network."""
    with pytest.raises(InputError, match=why):
        method(text, THREAT)


def test_label_smoothing_is_the_mixture_of_its_definition(network: Make) -> None:
    net, b = network().eval(), batch()
    how = LabelSmoothing(AT(THREAT, steps=2), amount=0.3)
    ready, plain = how.prepare(net, b), AT(THREAT, steps=2).prepare(net, b)
    assert torch.equal(ready.adv, plain.adv)  # attacks keep the hard labels
    logs = F.log_softmax(net(plain.adv), 1)
    soft = 0.7 * F.one_hot(b.y, 3) + 0.1
    torch.testing.assert_close(how.losses(net, ready), -(soft * logs).sum(1))
    zero = LabelSmoothing(AT(THREAT, steps=2), amount=0.0)
    assert torch.equal(zero.losses(net, zero.prepare(net, b)), AT(THREAT).losses(net, plain))


def test_the_average_as_a_method_is_the_average_as_a_setting(
    network: Make, data: Make, settings: Make
) -> None:
    a = trained(network, data, EMA(AT(THREAT, steps=2), decay=0.9), settings())
    b = trained(network, data, AT(THREAT, steps=2), settings(ema=0.9))
    assert torch.equal(a, b)
    with pytest.raises(InputError, match="one average"):
        trained(network, data, EMA(AT(THREAT)), settings(ema=0.9))


def test_equal_averaging_is_the_mean_of_the_last_weights(
    network: Make, data: Make, settings: Make
) -> None:
    """Statistics of batch normalisation are those of the training images under the mean."""
    chosen = settings(epochs=1, batch_size=8, held_out=12)
    seen: list[dict[str, Tensor]] = []
    plain = network()
    list(fit(plain, data(), Standard(), chosen))

    class Watched(Standard):
        def learn(self, batch: Batch) -> None:
            seen.append({k: v.detach().clone() for k, v in net.named_parameters()})

    net = network()
    list(fit(net, data(), SWA(Watched(), start=0.5), chosen))
    # `learn` sees the weights before each of the 6 steps; the last are those of the plain run
    after = [*seen[1:], dict(plain.named_parameters())]
    wanted = {k: torch.stack([w[k] for w in after[3:]]).mean(0) for k in after[0]}
    for name, mean in net.named_parameters():
        torch.testing.assert_close(mean, wanted[name], rtol=0, atol=1e-12)
    fresh = copy.deepcopy(net)
    assert not torch.equal(fresh[2].running_mean, plain[2].running_mean)


def test_figures_are_means_over_the_epoch(network: Make, data: Make, settings: Make) -> None:
    class Noting(Standard):
        def prepare(self, model: nn.Module, batch: Batch) -> Batch:
            return batch.with_note(row=batch.ids.double())

    (record, *_) = list(fit(network(), data(), Noting(), settings(held_out=0)))
    assert record.figures == {"row": pytest.approx(sum(range(60)) / 60)}


def test_extra_data_fill_their_share_of_every_batch() -> None:
    batches = order(100, 20, seed=1, epoch=0, extra=30, share=0.75)
    assert len(batches) == steps_of(100, 20, 0.75) == 20
    assert all((b < 100).sum() == 5 and (b >= 100).sum() == 15 for b in batches)
    flat = torch.cat(batches)
    assert sorted(flat[flat < 100].tolist()) == list(range(100))
    counts = torch.bincount(flat[flat >= 100] - 100, minlength=30)
    assert counts.min() == counts.max() == 10  # 300 drawn of 30, in rounds
    assert torch.equal(torch.cat(order(100, 20, 1, 0)), torch.cat(order(100, 20, 1, 0, 0, 0.0)))


def test_training_reads_extra_rows_and_holds_none_of_them_out(
    network: Make, data: Make, settings: Make
) -> None:
    x, y = data()
    seen: set[int] = set()

    class Noting(Standard):
        def prepare(self, model: nn.Module, batch: Batch) -> Batch:
            seen.update(batch.ids.tolist())
            return batch

    extra = (x[:20], y[:20])
    records = list(fit(network(), (x, y), Noting(), settings(extra_share=0.5), extra=extra))
    assert {i for i in seen if i >= 60} == set(range(60, 80))
    assert records[0].held_out == 12 and records[0].step == steps_of(48, 16, 0.5)
    with pytest.raises(InputError, match="extra_share"):
        list(fit(network(), (x, y), Standard(), settings(), extra=extra))
    with pytest.raises(InputError, match="extra labels"):
        wrong = (x[:20], y[:20] + 5)
        list(fit(network(), (x, y), Standard(), settings(extra_share=0.5), extra=wrong))


def test_replays_repeat_every_batch(network: Make, data: Make, settings: Make) -> None:
    batches: list[list[int]] = []

    class Twice(Standard):
        @property
        def replays(self) -> int:
            return 2

        def learn(self, batch: Batch) -> None:
            batches.append(batch.ids.tolist())

    (record, *_) = list(fit(network(), data(), Twice(), settings(epochs=1)))
    assert record.step == 6 and batches[0::2] == batches[1::2]
    once = [i for ids in batches[0::2] for i in ids]
    assert len(once) == len(set(once)) == 48
