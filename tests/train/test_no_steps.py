"""Zero attack steps: x' is x itself, and every method plain training of its own loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import Threat
from torchproof.train import AT, FAT, IAT, MART, THRM, TRADES, Batch, Method, Standard, Sum, fit
from torchproof.train.method import drawn, read

Make = Callable[..., Any]
THREAT = Threat(Linf(), 0.1)


def after(net: nn.Module, loss: Callable[[nn.Module, Batch], Tensor], batch: Batch) -> list[Tensor]:
    """Losses, gradients and buffers of a training pass on a copy."""
    net = copy.deepcopy(net)
    with drawn(batch):
        losses = loss(net, batch)
    losses.mean().backward()
    return [losses, *(p.grad for p in net.parameters() if p.grad is not None), *net.buffers()]


def kl(z: Tensor, moved: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(moved, 1), F.softmax(z, 1), reduction="none").sum(1)


def entropy(z: Tensor, b: Batch) -> Tensor:
    return F.cross_entropy(z, b.y, reduction="none")


def of_mart(net: nn.Module, b: Batch) -> Tensor:
    z, moved = net(b.x), net(b.x)
    clean, p, own = z.softmax(1), moved.softmax(1), b.y[:, None]
    rival = p.detach().scatter(1, own, -1.0).argmax(1, keepdim=True)
    boosted = entropy(moved, b) - (1.0001 - p.gather(1, rival)[:, 0] + 1e-12).log()
    apart = F.kl_div((p + 1e-12).log(), clean, reduction="none").sum(1)
    return boosted + 5 * apart * (1.0000001 - clean.gather(1, own)[:, 0])


def of_trades(net: nn.Module, b: Batch) -> Tensor:
    z, moved = net(b.x), net(b.x)
    return entropy(z, b) + 6 * kl(z, moved)


def of_thrm(net: nn.Module, b: Batch) -> Tensor:
    z, moved = net(torch.cat([b.x, b.x])).chunk(2)
    return entropy(z, b) + 6 * kl(z, moved)


# method without an attack -> its loss, written down with x in both places
PLAIN: dict[str, tuple[Callable[[Threat], Method], Callable[[nn.Module, Batch], Tensor]]] = {
    "AT": (lambda threat: AT(threat, steps=0), lambda net, b: entropy(net(b.x), b)),
    "TRADES": (lambda threat: TRADES(threat, steps=0), of_trades),
    "MART": (lambda threat: MART(threat, steps=0), of_mart),
    "IAT": (
        lambda threat: IAT(threat, steps=0, alpha=0),
        lambda net, b: (entropy(net(b.x), b) + entropy(net(b.x), b)) / 2,
    ),
    "THRM": (lambda threat: THRM(threat, steps=0), of_thrm),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("threat", [THREAT, Threat(L2(), 0.5)], ids=["linf", "l2"])
def test_it_is_plain_training_of_the_same_loss(
    name: str, threat: Threat, conv: Make, batch: Make
) -> None:
    """Images, losses, gradients and statistics, bit for bit."""
    make, loss = PLAIN[name]
    net, b, how = conv(), batch(), make(threat)
    ready = how.prepare(net, b)
    assert torch.equal(ready.adv, b.x) and ready.spent == (0, 0)
    got, want = after(net, partial(read, how), ready), after(net, loss, b)
    assert len(got) > 5 and all(map(torch.equal, got, want))


def test_adversarial_training_is_plain_training(network: Make, data: Make, settings: Make) -> None:
    """A whole run, bit for bit."""
    nets = []
    for method in (AT(THREAT, steps=0), Standard()):
        net = network()
        records = list(fit(net, data(), method, settings()))
        nets.append(torch.cat([t.flatten().double() for t in net.state_dict().values()]))
        assert records[-1].backward == 0
    assert torch.equal(*nets)


def test_fifty_fifty_without_an_attack_is_plain_training(conv: Make, batch: Make) -> None:
    net, b = conv(), batch()
    half = IAT(THREAT, steps=0, alpha=0)
    got = after(net, partial(read, half), half.prepare(net, b))
    want = after(net, partial(read, Standard()), b)
    assert torch.equal(got[0], want[0])
    count = sum(1 for _ in net.parameters())
    for one, other in zip(got[1 : count + 1], want[1 : count + 1], strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-14)


@pytest.mark.parametrize("how", [TRADES(THREAT, steps=0), THRM(THREAT, steps=0)])
def test_the_divergence_of_equal_answers_is_nothing(how: Method, conv: Make, batch: Make) -> None:
    net, b = conv().eval(), batch()
    got = after(net, partial(read, how), how.prepare(net, b))
    want = after(net, partial(read, Standard()), b)
    for one, other in zip(got, want, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("inner", [AT, TRADES, THRM, IAT])
def test_nothing_is_friendly_without_a_step(inner: type[Any]) -> None:
    with pytest.raises(InputError, match=f"{inner.__name__} with steps = 0 in FAT"):
        FAT(inner(THREAT, steps=0), tau=1)


def test_a_part_of_a_sum_may_have_no_steps(conv: Make, batch: Make) -> None:
    net, b = conv(), batch()
    assert FAT(Sum(AT(THREAT, steps=0), AT(THREAT, steps=2)), tau=1).schedule
    both = Sum(AT(THREAT, steps=0), AT(THREAT, steps=2))
    ready = both.prepare(net, b)
    assert ready.spent == AT(THREAT, steps=2).prepare(net, b).spent
    assert [float(part.taken.double().mean()) for part in ready.parts] == [0, 2]
    assert ready.split(7)[0].parts[1].taken.tolist() == [2] * 7
