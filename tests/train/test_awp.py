"""AWP against the formula, and against the authors' add, backward, step, subtract."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import ModelError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.train import AT, AWP, FAT, IAT, MART, TRADES, Batch, Method, Standard
from torchproof.train.method import drawn, read
from torchproof.train.shift import moved, shifted

EPS = 0.1
THREAT = Threat(Linf(), EPS)


def network(dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(), nn.Dropout(dropout),
            nn.Conv2d(4, 4, 3, stride=2), nn.Softplus(), nn.Flatten(), nn.Linear(16, 3),
        )  # fmt: skip
        return net.double().train()


def batch(n: int = 6) -> Batch:
    g = torch.Generator().manual_seed(5)
    x = torch.rand(n, 1, 6, 6, generator=g, dtype=torch.float64)
    y = torch.randint(3, (n,), generator=g)
    return Batch(x, y, torch.arange(10, 10 + n), progress=0.5, seed=77)


def gradients(net: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


def naive_shift(net: nn.Module, method: Method, b: Batch, gamma: float) -> dict[str, Tensor]:
    """v = gamma |w| g / |g| for tensors of more than one dimension with "weight" in the name, on a
    proxy copy.
    """
    proxy = copy.deepcopy(net).train()
    with drawn(b):
        method.losses(proxy, b).mean().backward()
    return {
        n: gamma * p.detach().norm() * p.grad / (p.grad.norm() + 1e-20)
        for n, p in proxy.named_parameters()
        if p.dim() > 1 and "weight" in n
    }


@pytest.mark.parametrize(
    "inner",
    [
        AT(THREAT, steps=3), TRADES(THREAT, steps=3), MART(THREAT, steps=3), IAT(THREAT, steps=3),
        FAT(AT(THREAT, steps=3), tau=1), FAT(TRADES(THREAT, steps=3), tau=0), Standard(),
    ],
    ids=["AT", "TRADES", "MART", "IAT", "FAT", "FAT of TRADES", "Standard"],
)  # fmt: skip
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_awp_shift_equals_the_formula(inner: Method, dropout: float) -> None:
    net, b = network(dropout), batch()
    ready = AWP(inner, gamma=0.01).prepare(net, b)
    expected = naive_shift(net, inner, inner.prepare(net, b), 0.01)
    assert ready.shift is not None and ready.shift.keys() == expected.keys()
    assert not any(("bias" in n) or n.startswith("1.") for n in ready.shift)
    weights = dict(net.named_parameters())
    for name, v in ready.shift.items():
        assert torch.allclose(v, expected[name], rtol=1e-10, atol=1e-14)
        assert math.isclose(float(v.norm() / weights[name].detach().norm()), 0.01, rel_tol=1e-9)


@pytest.mark.parametrize("inner", [AT(THREAT, steps=3), TRADES(THREAT, steps=3)])
def test_awp_step_equals_add_backward_step_subtract_exactly(inner: Method) -> None:
    """The same v: gradients, weights, momentum and buffers differ by exactly 0."""
    net, b = network(0.3), batch()
    method = AWP(inner, gamma=0.02)
    ready = method.prepare(net, b)
    twin = copy.deepcopy(net)
    sgd = [torch.optim.SGD(n.parameters(), 0.1, 0.9, weight_decay=0.05) for n in (net, twin)]
    with shifted(net, ready.shift), drawn(ready):
        read(method, net, ready).mean().backward()
        sgd[0].step()
    weights = dict(twin.named_parameters())
    with torch.no_grad():
        for name, v in ready.shift.items():
            weights[name] += v
    with drawn(ready):
        inner.losses(twin, ready).mean().backward()
    sgd[1].step()
    with torch.no_grad():
        for name, v in ready.shift.items():
            weights[name] -= v
    for got, want in zip(gradients(net), gradients(twin), strict=True):
        assert (got - want).abs().max() == 0
    for got, want in zip(net.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(got, want)


def test_weight_decay_acts_at_the_shifted_weights() -> None:
    """With a loss of zero gradient, w' = (w + v)(1 - lr decay) - v."""
    net = nn.Linear(3, 2, bias=False).double()
    w, v = net.weight.detach().clone(), torch.full((2, 3), 0.5, dtype=torch.float64)
    sgd = torch.optim.SGD(net.parameters(), 0.1, weight_decay=0.2)
    with shifted(net, {"weight": v}):
        (net.weight.sum() * 0).backward()
        sgd.step()
    assert torch.allclose(net.weight, (w + v) * (1 - 0.1 * 0.2) - v, rtol=0, atol=1e-15)


def test_awp_ascent_keeps_buffers_and_descent_moves_them() -> None:
    net, b = network(), batch()
    before = [t.clone() for t in net.buffers()]
    method = AWP(AT(THREAT, steps=2), gamma=0.01)
    ready = method.prepare(net, b)
    assert all(torch.equal(t, u) for t, u in zip(net.buffers(), before, strict=True))
    with shifted(net, ready.shift), drawn(ready):
        read(method, net, ready)
    assert not any(torch.equal(t, u) for t, u in zip(net.buffers(), before, strict=True))


def test_awp_with_a_tiny_gamma_is_plain_adversarial_training() -> None:
    net, b = network(), batch()
    inner = AT(THREAT, steps=3)
    method = AWP(inner, gamma=1e-13)
    ready, plain = method.prepare(net, b), inner.prepare(net, b)
    assert torch.equal(ready.adv, plain.adv)
    with shifted(net, ready.shift):
        moved_losses = read(method, net, ready)
    assert torch.allclose(moved_losses, inner.losses(net, plain), rtol=0, atol=1e-11)


@pytest.mark.parametrize("inner", [AT(THREAT, steps=3), TRADES(THREAT, steps=3), Standard()])
def test_awp_at_gamma_zero_is_the_inner_method(inner: Method) -> None:
    net, b = network(0.3), batch()
    method = AWP(inner, gamma=0)
    ready, plain = method.prepare(net, b), inner.prepare(net, b)
    assert ready.shift is None and ready.spent == plain.spent and not ready.noted
    twin = copy.deepcopy(net)
    for own, how, made in ((net, method, ready), (twin, inner, plain)):
        with shifted(own, made.shift), drawn(made):
            read(how, own, made).mean().backward()
    assert all(map(torch.equal, gradients(net), gradients(twin)))
    assert all(map(torch.equal, net.state_dict().values(), twin.state_dict().values()))


def test_awp_raises_the_loss_and_more_steps_raise_it_more() -> None:
    net, b = network(), batch(20)
    inner = AT(THREAT, steps=3)
    mean = []
    for method in (AWP(inner, gamma=0.05), AWP(inner, gamma=0.05, steps=8)):
        ready = method.prepare(net, b)
        lengths = [float(v.norm() / net.state_dict()[n].norm()) for n, v in ready.shift.items()]
        assert max(lengths) <= 0.05 * (1 + 1e-9)
        with shifted(net, ready.shift):
            mean.append(float(read(method, net, ready).mean().detach()))
    base = float(inner.losses(net, inner.prepare(net, b)).mean().detach())
    assert base < mean[0] <= mean[1] + 1e-6


def test_awp_waits_for_its_warmup_and_skips_zero_and_frozen_layers() -> None:
    net, b = network(), batch()
    late = AWP(AT(THREAT, steps=2), warmup=0.6)
    assert late.prepare(net, b).shift is None
    assert late.prepare(net, replace(b, progress=0.6)).shift is not None
    net[4].weight.requires_grad_(False)
    with torch.no_grad():
        net[7].weight.zero_()
    shift = AWP(Standard(), gamma=0.1).prepare(net, b).shift
    assert shift["4.weight"].abs().max() == 0 and shift["7.weight"].abs().max() == 0
    assert all(bool(v.isfinite().all()) for v in shift.values())


def test_awp_refuses_gradients_that_are_not_finite() -> None:
    class Broken(Standard):
        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            return super().losses(model, batch) * torch.inf

    net, b = network(), batch()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ModelError, match="NaN or infinite"):
        AWP(Broken()).prepare(net, b)
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())


def test_moved_gives_weights_back_bit_for_bit_even_after_an_error() -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    delta = {"0.weight": torch.full((1, 4, 1, 3, 3), 0.1, dtype=torch.float64)}
    with pytest.raises(RuntimeError, match="on purpose"), moved(net, delta):
        assert torch.equal(net[0].weight, before["0.weight"] + 0.1)
        raise RuntimeError("on purpose")
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())
