"""Training on the joint loss: against a naive computation, with the label leak."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.catalogue import averaged, pgd
from torchproof.attack.combine import Attack
from torchproof.attack.joint import JointCrossEntropy, heads, joint_pgd
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.starts import Zero
from torchproof.core.asides import labels, labels_of, tell
from torchproof.core.errors import InputError, ModelError, TorchproofError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.train import AT, CIFSAT, Batch, fit

THREAT = Threat(Linf(), 0.1)


class Probed(nn.Module):
    """Two probes and a last head that sees the label where it may: `leak` times its one-hot."""

    def __init__(self, leak: float = 0.0) -> None:
        super().__init__()
        self.leak = leak
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Tanh())
        self.one, self.two, self.last = (nn.Linear(6, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        tell("probe", self.one(h))
        tell("probe", 2 * self.two(h))
        y = labels_of(x)
        z: Tensor = self.last(h)
        return z if y is None else z + self.leak * F.one_hot(y, 3)


def network(leak: float = 0.0) -> Probed:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Probed(leak).double()


def batch(n: int = 7) -> Batch:
    g = torch.Generator().manual_seed(4)
    x = torch.rand(n, 1, 3, 3, generator=g, dtype=torch.float64)
    return Batch(x, torch.randint(3, (n,), generator=g), torch.arange(n), 0.0, 3)


def naive(net: Probed, x: Tensor, y: Tensor, beta: float, leak: float = 0.0) -> Tensor:
    h = net.body(x)
    final = net.last(h) + leak * F.one_hot(y, 3)
    parts = [-z.log_softmax(1)[torch.arange(len(y)), y]
             for z in (final, net.one(h), 2 * net.two(h))]  # fmt: skip
    return 3 / (beta + 1) * (parts[0] + beta * (parts[1] + parts[2]) / 2)


@pytest.mark.parametrize("beta", [0.0, 2.0, 10.0])
@pytest.mark.parametrize("masks", ["label", "predicted"])
def test_losses_are_the_joint_loss(beta: float, masks: str) -> None:
    net, b = network(leak=1.5), batch()
    how = CIFSAT(THREAT, steps=3, beta=beta, masks=masks)
    ready = how.prepare(net, b)
    wanted = naive(net, ready.adv, b.y, beta, 1.5 if masks == "label" else 0.0)
    torch.testing.assert_close(how.losses(net, ready), wanted)


def test_the_inner_attack_ascends_the_joint_loss_without_labels() -> None:
    """Signed steps of the naive loss, from the clean image, cut to the ball."""
    net, b = network(leak=5.0), batch()
    how = CIFSAT(THREAT, steps=4, length=0.3, start=Zero(), beta=2.0)
    x = b.x.clone()
    for _ in range(4):
        live = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(naive(net, live, b.y, 2.0).sum(), live)
        x = torch.minimum(torch.maximum(x + 0.03 * grad.sign(), b.x - 0.1), b.x + 0.1).clamp(0, 1)
    with labels(None):
        found = how.prepare(net, b).adv
    assert found is not None and torch.allclose(found, x, atol=1e-12)


def test_the_label_leak_is_measured() -> None:
    b = batch(40)
    leaking, honest = network(leak=100.0), network()
    how = CIFSAT(THREAT, steps=2)
    ready = how.prepare(leaking, b)
    right = (leaking(ready.adv).argmax(1) == b.y).double().mean()
    assert 0 < right < 1
    assert float(ready.noted["label_leak"].double().mean()) == pytest.approx(1 - float(right))
    assert not how.prepare(honest, b).noted["label_leak"].any()
    assert ready.spent[0] == AT(THREAT, steps=2).prepare(leaking, b).spent[0] + 2 * 40


def test_the_leak_is_in_the_records(settings: Callable[..., Any]) -> None:
    b = batch(60)
    records = list(fit(network(leak=100.0), (b.x, b.y), CIFSAT(THREAT, steps=2), settings(),
                       threat=THREAT))  # fmt: skip
    assert all(0.2 < r.figures["label_leak"] <= 1 for r in records)


def test_networks_without_probes_are_refused(
    network: Callable[..., Any], data: Callable[..., Any], settings: Callable[..., Any]
) -> None:
    with pytest.raises(ModelError, match="without probes"):
        next(iter(fit(network(), data(), CIFSAT(THREAT), settings(), threat=THREAT)))


def test_settings_are_checked() -> None:
    for wrong in ({"beta": -1.0}, {"beta": float("inf")}, {"masks": "both"}):
        with pytest.raises(TorchproofError):
            CIFSAT(THREAT, **wrong)  # type: ignore[arg-type]


def test_joint_pgd_of_a_plain_network_is_pgd(
    network: Callable[..., Any], data: Callable[..., Any]
) -> None:
    net, (x, y) = network().eval(), data(20)
    one = joint_pgd(THREAT, beta=10.0, steps=5, length=0.25)(net, x, y)
    other = pgd(THREAT, 5, 0.25)(net, x, y)
    assert torch.equal(one.value, other.value) and torch.equal(one.lost, other.lost)


def test_verdict_is_by_the_last_head() -> None:
    """A win of the attack on the probes is one that the last head loses."""
    net, b = network(), batch(40)
    found = joint_pgd(THREAT, beta=10.0)(net, b.x, b.y, run=Run(seed=1))
    with torch.no_grad():
        assert torch.equal(net(b.x + found.value).argmax(1) != b.y, found.lost)
    assert int(found.lost.sum()) > 0


def test_wrappers_of_the_oracle_hear_the_probes_too() -> None:
    net, b = network(), batch()
    plain = joint_pgd(THREAT, steps=3, start=Zero())
    mean = averaged(plain, samples=2)(net, b.x, b.y)
    assert torch.allclose(mean.value, plain(net, b.x, b.y).value)


def test_the_objective_says_what_it_needs() -> None:
    b = batch()
    with pytest.raises(ModelError, match="overheard"):
        Attack(THREAT, JointCrossEntropy(), PGD(2))(network(), b.x, b.y)
    with pytest.raises(InputError, match="beta"):
        JointCrossEntropy(-1.0)


def test_heads() -> None:
    net, b = network(), batch()
    z, probes = heads(net, b.x)
    assert torch.equal(z, net(b.x)) and probes.shape == (7, 2, 3)
    assert torch.equal(probes[:, 1], 2 * net.two(net.body(b.x)))
    with pytest.raises(ModelError, match="type dict"):
        heads(lambda x: {"logits": net(x)}, b.x)
