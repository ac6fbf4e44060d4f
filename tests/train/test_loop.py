"""Splits and order, and the training loop against a plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.train import (
    AT,
    AWP,
    TRADES,
    Batch,
    Settings,
    Standard,
    fit,
)
from torchproof.train.method import drawn
from torchproof.train.rows import order, split, steps_of
from torchproof.train.shift import shifted

Make = Callable[..., Any]
THREAT = Threat(Linf(), 0.1)


def test_held_out_rows_and_training_rows_never_meet(data: Make) -> None:
    x, y = data(50)
    for seed in range(5):
        train, held = split(x, y, seed, None)
        assert len(held) == 5 and len(train) == 45
        assert set(train.index.tolist()).isdisjoint(held.index.tolist())
        assert set(train.index.tolist()) | set(held.index.tolist()) == set(range(50))
    assert len(split(*data(50), 0, 0)[1]) == 0
    with pytest.raises(InputError, match="held-out"):
        split(x, y, 0, 50)


def test_held_out_images_never_reach_the_method(data: Make, network: Make, settings: Make) -> None:
    seen: list[int] = []

    class Watching(Standard):
        def prepare(self, model: nn.Module, batch: Batch) -> Batch:
            seen.extend(batch.ids.tolist())
            assert torch.equal(batch.x, x[batch.ids]) and torch.equal(batch.y, y[batch.ids])
            return batch

    x, y = data(60)
    list(fit(network(), (x, y), Watching(), settings(seed=3)))
    _, held = split(x, y, 3, 12)
    assert set(seen).isdisjoint(held.index.tolist())
    assert len(seen) == 2 * 48 and sorted(seen[:48]) == sorted(seen[48:])
    assert seen[:48] != seen[48:]


def test_order_visits_every_row_once_in_even_batches() -> None:
    for n, size in [(48, 16), (50, 16), (7, 16), (33, 32)]:
        batches = order(n, size, 0, 4)
        assert sorted(torch.cat(batches).tolist()) == list(range(n))
        sizes = [len(b) for b in batches]
        assert max(sizes) - min(sizes) <= 1 and max(sizes) <= size
        assert len(batches) == steps_of(n, size)
    assert not torch.equal(torch.cat(order(48, 16, 0, 0)), torch.cat(order(48, 16, 0, 1)))


def naive(
    net: nn.Module, x: Tensor, y: Tensor, s: Settings, method: Any
) -> tuple[list[float], dict[str, Tensor]]:
    """A plain loop over the same batches; the mean losses of the epochs, and the averaged
    weights.
    """
    mean = {n: p.detach().clone() for n, p in net.named_parameters()}
    train, _ = split(x, y, s.seed, s.held_out)
    optimiser = torch.optim.SGD(net.parameters(), s.lr, s.momentum, weight_decay=s.weight_decay)
    batches = steps_of(len(train), s.batch_size)
    half, late = batches * s.epochs // 2, batches * s.epochs * 3 // 4
    means, t = [], 0
    for epoch in range(s.epochs):
        net.train()
        total = 0.0
        for chosen in order(len(train), s.batch_size, s.seed, epoch):
            rows = train.index[chosen]
            step = keys.seed_of(s.seed, "step", t)
            b = Batch(x[rows], y[rows], rows, t / (batches * s.epochs), step)
            b = method.prepare(net, b)
            optimiser.param_groups[0]["lr"] = (
                s.lr * (0.1 if t >= half else 1) * (0.1 if t >= late else 1)
            )
            optimiser.zero_grad()
            with shifted(net, b.shift), drawn(b):
                loss = method.losses(net, b).mean()
                loss.backward()
                optimiser.step()
            for n, p in net.named_parameters():
                d = min(s.ema or 0.0, (1 + t) / (10 + t))
                mean[n] = d * mean[n] + (1 - d) * p.detach()
            total += float(loss.detach()) * len(rows)
            t += 1
        means.append(total / len(train))
    return means, mean


@pytest.mark.parametrize("method", [Standard(), AT(THREAT, steps=2), AWP(TRADES(THREAT, steps=2))])
@pytest.mark.parametrize("ema", [None, 0.3])
def test_fit_equals_a_plain_loop(
    method: Any, ema: float | None, data: Make, network: Make, settings: Make
) -> None:
    x, y = data()
    s = settings(choose="clean", held_out=0, ema=ema)
    net, twin_ = network(), network()
    records = list(fit(net, (x, y), method, s))
    means, averaged = naive(twin_, x, y, s, method)
    twin_.load_state_dict({**twin_.state_dict(), **averaged})
    assert [r.loss for r in records] == pytest.approx(means, abs=1e-12)
    for got, want in zip(net.state_dict().values(), twin_.state_dict().values(), strict=True):
        assert torch.allclose(got.double(), want.double(), rtol=0, atol=1e-12)
    assert not net.training and records[-1].best_epoch == 2 and records[0].clean is None


def test_training_neither_reads_nor_changes_the_global_random_state(
    data: Make, network: Make, settings: Make
) -> None:
    x, y = data()
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one = network()
    list(fit(one, (x, y), AWP(AT(THREAT, steps=2)), settings()))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(12)
    other = network()
    for _ in fit(other, (x, y), AWP(AT(THREAT, steps=2)), settings()):
        torch.rand(5)  # the caller may draw numbers, and may leave eval mode behind
        other.eval()
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_another_seed_is_another_run(data: Make, network: Make, settings: Make) -> None:
    x, y = data()
    nets = [network(), network()]
    for seed, net in enumerate(nets):
        list(fit(net, (x, y), Standard(), settings(seed=seed)))
    assert not torch.equal(nets[0][1].weight, nets[1][1].weight)


def test_augmentation_is_keyed_by_example_and_epoch(
    data: Make, network: Make, settings: Make
) -> None:
    x, y = data()
    calls: list[tuple[Tensor, Tensor]] = []

    def darker(images: Tensor, key: Tensor) -> Tensor:
        calls.append((images, key))
        return images * 0.5

    class Watching(Standard):
        def prepare(self, model: nn.Module, batch: Batch) -> Batch:
            expected = keys.mix(7, batch.ids, "augment", (len(calls) - 1) // 3)
            assert torch.equal(calls[-1][1], expected)
            assert torch.equal(batch.x, x[batch.ids] * 0.5)
            return batch

    list(fit(network(), (x, y), Watching(), settings(seed=7), augment=darker))
    assert len(calls) == 6
