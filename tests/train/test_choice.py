"""The weight average, the held-out measurement, and the choice of the checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.core import keys
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat, Universal
from torchproof.train import (
    AT,
    Standard,
    fit,
)
from torchproof.train.average import follow, twin
from torchproof.train.ema import Moving, decay_at
from torchproof.train.held_out import measure
from torchproof.train.rows import Rows, split

Make = Callable[..., Any]
THREAT = Threat(Linf(), 0.1)


def test_average_follows_its_closed_form(network: Make) -> None:
    """m_T = sum_t (1 - d_t) w_t prod_{s > t} d_s, with the dynamic decay; buffers are the
    network's.
    """
    net = network()
    mean = twin(net)
    first, values, decays = net[1].weight.detach().clone(), [], []
    for t in range(20):
        with torch.no_grad():
            net[1].weight.add_(0.1 * t)
            net[2].running_mean.add_(1)
        follow(mean, net, Moving(0.6).share(t, 100))
        values.append(net[1].weight.detach().clone())
        decays.append(min(0.6, (1 + t) / (10 + t)))
    expected, left = torch.zeros_like(first), 1.0
    for value, decay in zip(reversed(values), reversed(decays), strict=True):
        expected += left * (1 - decay) * value
        left *= decay
    assert torch.allclose(mean[1].weight, expected + left * first, rtol=0, atol=1e-12)
    assert torch.equal(mean[2].running_mean, net[2].running_mean)
    assert not mean.training and not any(p.requires_grad for p in mean.parameters())
    assert decay_at(0, 0.9) == 0.1


def test_the_average_is_what_is_measured_and_saved(
    tmp_path: Path, data: Make, network: Make, settings: Make
) -> None:
    """And it does not feed back: the losses are those of a run without an average."""
    x, y = data()
    saved: dict[str, dict[str, Tensor]] = {}

    def save(model: nn.Module, path: Path, card: dict[str, Any]) -> None:
        saved[path.name] = copy.deepcopy(model.state_dict())
        assert card["training"]["epoch"] in (1, 2, 3, 4) and not model.training

    s = settings(ema=0.99, epochs=4)
    net = network()
    records = list(fit(net, (x, y), Standard(), s, threat=THREAT, out=tmp_path, save=save))
    raw = network()
    _, held = split(x, y, s.seed, s.held_out)
    raw_records = list(fit(raw, (x, y), Standard(), settings(epochs=4), threat=THREAT))
    assert [r.loss for r in records] == [r.loss for r in raw_records]
    assert set(saved) == {"last.safetensors", "model.safetensors"}
    for name, value in net.state_dict().items():
        assert torch.equal(value, saved["model.safetensors"][name])
    again = measure(net, held, THREAT, s.held_out_steps, s.seed)
    best = records[records[-1].best_epoch - 1]
    assert (again.clean, again.robust) == (best.clean, best.robust)


def test_measure_equals_a_naive_attack_and_count(data: Make, network: Make, settings: Make) -> None:
    x, y = data(80)
    net = network()
    list(fit(net, (x, y), Standard(), settings(epochs=4)))
    rows = Rows(x, y, torch.arange(80))
    found = measure(net, rows, THREAT, 5, 3)
    clean = net(x).argmax(1) == y
    key = keys.mix(keys.seed_of(3, "held-out attack"), torch.arange(80), -1, 0)
    d = (keys.uniform(key, 0, (1, 3, 3), 0, torch.float64) * 2 - 1) * 0.1
    adv = (x + d).clamp(0, 1)
    lost = net(adv).argmax(1) != y
    for _ in range(5):
        adv = adv.detach().requires_grad_(True)
        grad = torch.autograd.grad(nn.functional.cross_entropy(net(adv), y, reduction="sum"), adv)[
            0
        ]
        adv = torch.min(torch.max(adv + 0.05 * grad.sign(), x - 0.1), x + 0.1).clamp(0, 1)
        lost |= net(adv).argmax(1) != y
    assert found.clean == float(clean.sum()) / 80
    assert found.robust == float((clean & ~lost).sum()) / 80
    assert 0 < found.robust < found.clean
    assert found.attack == "PGD-5, linf:0.1"


def test_the_best_checkpoint_is_kept_and_overfitting_is_best_minus_present(
    monkeypatch: pytest.MonkeyPatch, data: Make, network: Make, settings: Make
) -> None:
    from torchproof.train import loop
    from torchproof.train.held_out import Measured

    robust = iter([0.2, 0.5, 0.5, 0.3])
    clean = iter([0.9, 0.6, 0.7, 0.8])
    states: list[Tensor] = []

    def scripted(model: nn.Module, *_: Any) -> Measured:
        states.append(model[1].weight.detach().clone())
        return Measured(10, next(clean), next(robust), "scripted")

    monkeypatch.setattr(loop, "measure", scripted)
    net = network()
    records = list(fit(net, data(), AT(THREAT, steps=1), settings(epochs=4)))
    assert [r.best_epoch for r in records] == [
        1,
        2,
        3,
        3,
    ]  # a tie goes to the better clean accuracy
    assert [r.overfitting for r in records] == pytest.approx([0, 0, 0, 0.2])
    assert [r.best_robust for r in records] == [0.2, 0.5, 0.5, 0.5]
    assert torch.equal(net[1].weight, states[2])


def test_without_a_threat_of_its_own_a_method_is_chosen_by_clean_accuracy(
    monkeypatch: pytest.MonkeyPatch, data: Make, network: Make, settings: Make
) -> None:
    from torchproof.train import loop
    from torchproof.train.held_out import Measured

    def run(**more: Any) -> list[int]:
        values = iter([Measured(10, 0.6, 0.5), Measured(10, 0.9, 0.1)])
        monkeypatch.setattr(loop, "measure", lambda *_: next(values))
        found = fit(network(), data(), Standard(), settings(**more), threat=THREAT)
        return [r.best_epoch for r in found]

    assert run() == [1, 2]
    assert run(choose="robust") == [1, 1]


def test_a_constant_classifier_is_noted(data: Make, network: Make, settings: Make) -> None:
    x, y = data()
    net = network()
    with torch.no_grad():
        net[5].weight.zero_()
        net[5].bias.copy_(torch.tensor([5.0, 0.0, 0.0]))
    record = next(iter(fit(net, (x, y), Standard(), settings(lr=1e-9))))
    assert record.collapsed
    assert not next(iter(fit(network(), (x, y), Standard(), settings()))).collapsed


class OneOff(nn.Module):
    """Answers the class after the one that the first pixel says: always wrong, never constant."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        told = (2 * x.flatten(1)[:, 0]).round().long()
        return self.scale * nn.functional.one_hot((told + 1) % 3, 3).to(x.dtype)


def test_a_classifier_that_is_no_better_than_a_constant_one_is_noted(
    data: Make, settings: Make
) -> None:
    x, y = data()
    x = x.clone()
    x[:, 0, 0, 0] = y / 2
    record = next(iter(fit(OneOff(), (x, y), Standard(), settings(lr=1e-9))))
    assert record.clean == 0.0 and record.collapsed


def test_shared_threats_are_not_measured_per_image(
    data: Make, network: Make, settings: Make
) -> None:
    shared = Threat(Linf(), 0.1, site=Universal())
    records = list(fit(network(), data(), AT(shared, steps=2), settings()))
    assert records[-1].robust is None and records[-1].clean is not None
    assert records[-1].backward == 2 * 48
