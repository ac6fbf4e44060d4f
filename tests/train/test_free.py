"""Free adversarial training against a hand-written loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import Threat, Universal
from torchproof.train import AWP, FAT, Batch, FreeAT, Sum, checkpoint, fit
from torchproof.train.method import joined
from torchproof.train.rows import order, split

Make = Callable[..., Any]
EPS = 0.1
THREAT = Threat(Linf(), EPS)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = [nn.Flatten(), nn.Linear(9, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)]
        return nn.Sequential(*layers).double()


def weights(net: nn.Module) -> Tensor:
    return torch.cat([t.flatten().double() for t in net.state_dict().values()])


def by_hand(data: tuple[Tensor, Tensor], chosen: Any, m: int) -> tuple[nn.Module, Tensor]:
    """The authors' loop: one backward pass for weights and perturbation, m times per batch, the
    perturbation by place in the batch and kept.
    """
    x, y = data
    net = network().train()
    rows, _ = split(x, y, chosen.seed, chosen.held_out)
    optimiser = torch.optim.SGD(net.parameters(), chosen.lr, chosen.momentum, weight_decay=5e-4)
    delta = torch.zeros(40, 1, 3, 3, dtype=torch.float64)
    for epoch in range(chosen.epochs):
        for at in order(len(rows), chosen.batch_size, chosen.seed, epoch):
            own = rows.index[at]
            for _ in range(m):
                d = delta[: len(own)].clone().requires_grad_()
                loss = F.cross_entropy(net((x[own] + d).clamp(0, 1)), y[own])
                optimiser.zero_grad()
                loss.backward()
                delta[: len(own)] += EPS * d.grad.sign()
                delta.clamp_(-EPS, EPS)
                optimiser.step()
    return net, delta


@pytest.mark.parametrize(("m", "batch_size"), [(1, 16), (2, 16), (3, 18)])
def test_free_at_equals_the_hand_written_loop(
    tmp_path: Path, data: Make, settings: Make, m: int, batch_size: int
) -> None:
    """Whichever epoch was best: the checkpoint holds the weights as they are at the end."""
    chosen = settings(schedule="constant", weight_decay=5e-4, batch_size=batch_size)
    x, y = data()
    x[:30, 0, 0, 0] = 0.02  # a pixel that the range of images cuts now and then
    expected, delta = by_hand((x, y), chosen, m)
    how = FreeAT(THREAT, m=m)
    (*_, last) = fit(network(), (x, y), how, chosen, out=tmp_path)
    assert last.step == 2 * 3 * m and last.forward == last.backward == 0
    tensors, _ = checkpoint.read(tmp_path / "checkpoint.safetensors")
    for name, value in expected.state_dict().items():
        assert torch.allclose(tensors[f"model/{name}"], value, rtol=0, atol=1e-10), name
    kept = tensors["memory/delta"]
    assert torch.equal(kept, how.delta) and len(kept) == 16 and float(kept.abs().max()) == EPS
    assert torch.allclose(kept, delta[:16], rtol=0, atol=1e-12)


@pytest.mark.parametrize("stop_after", [1, 4, 6, 7, 11])
def test_stopped_and_resumed_it_is_the_same_run(
    tmp_path: Path, data: Make, settings: Make, stop_after: int
) -> None:
    chosen = settings(checkpoint_steps=1)
    whole, whole_net = FreeAT(THREAT, m=2), network()
    wanted = list(fit(whole_net, data(), whole, chosen))
    steps = iter(range(1000))
    first = FreeAT(THREAT, m=2)
    list(fit(network(), data(), first, chosen, out=tmp_path,
             stop=lambda: next(steps) + 1 == stop_after))  # fmt: skip
    again, net = FreeAT(THREAT, m=2), network()
    records = list(fit(net, data(), again, chosen, out=tmp_path, resume=True))
    assert torch.equal(weights(net), weights(whole_net))
    assert torch.equal(again.delta, whole.delta) and bool(again.delta.abs().sum() > 0)
    assert records[-1].loss == wanted[-1].loss


def test_a_new_run_starts_from_zero(data: Make, settings: Make) -> None:
    how, losses = FreeAT(THREAT, m=2), []
    for _ in range(2):
        (record, _) = fit(network(), data(), how, settings())
        losses.append(record.loss)
    assert losses[0] == losses[1]


def test_the_perturbation_is_that_of_the_place_not_of_the_image() -> None:
    g = torch.Generator().manual_seed(5)
    x = torch.rand(6, 1, 3, 3, generator=g, dtype=torch.float64)
    b = Batch(x, torch.arange(6) % 3, torch.arange(6), 0.5, 4)
    net, how = network(), FreeAT(THREAT)
    ready = how.prepare(net, b)
    assert torch.equal(ready.adv, x) and ready.adv.is_leaf and ready.adv.requires_grad
    how.losses(net, ready).mean().backward()
    how.learn(ready)
    other = Batch(x.flip(0), b.y, b.ids + 10, 0.5, 4)
    moved = how.prepare(net, other).adv
    assert torch.equal(moved, (x.flip(0) + how.delta).clamp(0, 1))
    parts = [how.prepare(net, part) for part in Batch(
        x, b.y, b.ids, 0.5, 4, place=torch.arange(6)
    ).split(4)]  # fmt: skip
    whole = joined(parts)
    assert torch.equal(whole.adv, how.prepare(net, b).adv) and whole.adv.is_leaf
    how.losses(net, whole).mean().backward()
    assert whole.adv.grad is not None


def test_cut_pixels_give_no_gradient_and_l2_keeps_to_its_ball() -> None:
    x = torch.zeros(4, 1, 3, 3, dtype=torch.float64)
    b = Batch(x, torch.arange(4) % 3, torch.arange(4), 0.5, 4)
    net = network().eval()
    how = FreeAT(THREAT)
    for _ in range(3):
        ready = how.prepare(net, b)
        how.losses(net, ready).mean().backward()
        how.learn(ready)
    below = how.delta < 0  # x + d < 0 is cut: d stays where it is
    assert bool(below.any()) and bool((how.delta[below] == -EPS).all())
    euclidean = FreeAT(Threat(L2(), 0.3))
    for _ in range(3):
        ready = euclidean.prepare(net, b)
        euclidean.losses(net, ready).mean().backward()
        euclidean.learn(ready)
    assert float(euclidean.delta.flatten(1).norm(dim=1).max()) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: FreeAT(THREAT, m=0), "m ="),
        (lambda: FreeAT(THREAT, m=2.5), "m ="),
        (lambda: FreeAT(THREAT, length=0.0), "length"),
        (lambda: FreeAT(Threat(Linf(), EPS, Universal())), "images"),
        (lambda: FAT(FreeAT(THREAT)), "inner attack"),
        (lambda: Sum(FreeAT(THREAT)), "one step per batch"),
    ],
)
def test_what_cannot_be_meant_is_refused(build: Make, word: str) -> None:
    with pytest.raises(InputError, match=word):
        build()


def test_it_goes_under_weight_perturbation(data: Make, settings: Make) -> None:
    how = AWP(FreeAT(THREAT, m=2))
    (*_, record) = fit(network(), data(), how, settings(), threat=THREAT)
    assert how.replays == 2 and how.method.delta.shape[1:] == (1, 3, 3)
    assert record.figures["weight_shift"] > 0
