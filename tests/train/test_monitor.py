"""The watch against catastrophic overfitting: what it sees, what it calls catastrophic, and what it
does about it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core import keys
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import Threat, Universal
from torchproof.train import AT, Standard, checkpoint, fit, monitor
from torchproof.train import loop as training_loop
from torchproof.train.held_out import Measured
from torchproof.train.rows import Rows

Make = Callable[..., Any]
EPS = 0.1
THREAT = Threat(Linf(), EPS)


def measured(fgsm: float | None, robust: float | None) -> Measured:
    return Measured(100, 0.9, robust, "PGD", False, fgsm)


@pytest.mark.parametrize(
    ("fgsm", "robust", "before", "expected"),
    [
        (0.75, 0.5, None, False),  # 25 points are not more than 25
        (0.76, 0.5, None, True),
        (0.5, 0.5, 0.7, False),  # and neither is a fall of 20 more than 20
        (0.5, 0.5, 0.71, True),
        (0.9, 0.6, 0.6, True),
        (0.5, 0.5, 0.1, False),  # it rose
        (0.3, 0.5, None, False),  # the weaker attack may do better
        (None, 0.1, 0.9, False),
        (0.9, None, 0.9, False),
    ],
)
def test_what_is_called_catastrophic(
    fgsm: float | None, robust: float | None, before: float | None, expected: bool
) -> None:
    assert monitor.catastrophic(measured(fgsm, robust), before) is expected


def rows(n: int = 30) -> Rows:
    g = torch.Generator().manual_seed(2)
    x = torch.rand(n, 1, 3, 3, generator=g, dtype=torch.float64)
    return Rows(x, torch.randint(2, (n,), generator=g), torch.arange(n).flip(0))


def curved() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.BatchNorm1d(8), nn.Tanh())
        return nn.Sequential(*net, nn.Dropout(0.5), nn.Linear(8, 2)).double().train()


def test_linearity_is_one_for_a_linear_loss() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 2)).double()
    found = monitor.linearity(net, rows(), THREAT, seed=4)
    assert found == pytest.approx(1, abs=1e-12)


def test_linearity_equals_an_independent_computation() -> None:
    net, data, seed = curved(), rows(), 4
    key = keys.mix(keys.seed_of(seed, "linearity"), data.index)
    noise = keys.uniform(key, 0, (1, 3, 3), 0, torch.float64) * 2 - 1
    cosines = []
    net.eval()
    for i, row in enumerate(data.index.tolist()):
        x, y = data.x[row : row + 1], data.y[row : row + 1]
        grads = []
        for point in (x, (x + EPS * noise[i]).clamp(0, 1)):
            leaf = point.clone().requires_grad_()
            (g,) = torch.autograd.grad(F.cross_entropy(net(leaf), y), leaf)
            grads.append(g.flatten())
        cosines.append(float(grads[0] @ grads[1] / (grads[0].norm() * grads[1].norm())))
    net.train()
    expected = sum(cosines) / len(cosines)
    assert 0.5 < expected < 1 - 1e-4
    assert monitor.linearity(net, data, THREAT, seed) == pytest.approx(expected, abs=1e-12)
    assert net.training
    other = monitor.linearity(net, data, THREAT, seed + 1)
    assert other is not None and other != pytest.approx(expected, abs=1e-9)
    assert monitor.linearity(net, data, Threat(L2(), 1e-6), seed) == pytest.approx(1, abs=1e-6)


def test_rows_without_a_gradient_are_left_out() -> None:
    class Sleepy(nn.Module):
        """Answers dark images with a constant, and the others linearly."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(9, 2, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            awake = (x.flatten(1).mean(1) > 0.3).to(x.dtype)
            return (x.flatten(1) @ self.weight) * awake[:, None]

    data = rows()
    data.x[::2] *= 0.1
    data.x[1::2] = 0.5 + 0.5 * data.x[1::2]
    assert monitor.linearity(Sleepy(), data, THREAT, 0) == pytest.approx(1, abs=1e-12)
    data.x[1::2] = 0.01
    assert monitor.linearity(Sleepy(), data, THREAT, 0) is None


def test_linearity_is_about_images_only() -> None:
    assert monitor.linearity(curved(), rows(), Threat(Linf(), EPS, Universal()), 0) is None


def test_the_first_layer_is_the_first_with_a_weight_matrix() -> None:
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        net[0].weight.fill_(50.0)
        net[1].weight.fill_(2.0)
        net[3].weight.fill_(7.0)
    assert monitor.first_layer(net) == pytest.approx((24 * 4) ** 0.5)
    assert monitor.first_layer(net[3]) == pytest.approx((24 * 49) ** 0.5)
    assert monitor.first_layer(nn.BatchNorm2d(2)) is None


@pytest.fixture
def disaster(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`disaster(n)`: from the measurement after epoch n on, single steps are withstood and PGD is
    not; before, each epoch is better than the one before.
    """

    def begin(number: int, good: int = 100) -> None:
        calls = iter(range(1, 1000))

        def crafted(*args: Any) -> Measured:
            call = next(calls)
            bad = number <= call < number + good
            return Measured(
                10, 0.8, 0.05 if bad else 0.5 + 0.01 * call, "PGD", False, 0.9 if bad else 0.6
            )

        monkeypatch.setattr(training_loop, "measure", crafted)

    return begin


def weights(net: nn.Module) -> Tensor:
    return torch.cat([t.flatten().double() for t in net.state_dict().values()])


def test_note_goes_on_and_says_so(
    disaster: Make, data: Make, network: Make, settings: Make, caplog: pytest.LogCaptureFixture
) -> None:
    disaster(2)
    with caplog.at_level(logging.WARNING):
        records = list(fit(network(), data(), AT(THREAT, 1), settings(epochs=4)))
    assert [r.catastrophic for r in records] == [False, True, True, True]
    assert [r.rolled_back for r in records] == [0] * 4 and records[-1].best_epoch == 1
    assert [m for m in caplog.messages if "epoch 2: catastrophic overfitting (note)" in m]


def test_stop_ends_the_run_and_it_stays_ended(
    tmp_path: Path, disaster: Make, data: Make, network: Make, settings: Make
) -> None:
    chosen = settings(epochs=5, catastrophic="stop")
    disaster(3)
    net = network()
    records = list(fit(net, data(), AT(THREAT, 1), chosen, out=tmp_path))
    assert [r.epoch for r in records] == [1, 2, 3] and records[-1].catastrophic
    tensors, facts = checkpoint.read(tmp_path / "checkpoint.safetensors")
    assert facts["ended"] is True and facts["epoch"] == 3
    best = {n.removeprefix("best/"): t for n, t in tensors.items() if n.startswith("best/")}
    assert all(torch.equal(best[n], t) for n, t in net.state_dict().items())  # those of epoch 2
    again = network()
    assert list(fit(again, data(), AT(THREAT, 1), chosen, out=tmp_path, resume=True)) == []
    assert torch.equal(weights(again), weights(net))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_look_between_epochs_can_stop_too(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: Make,
    network: Make,
    settings: Make,
) -> None:
    chosen = settings(epochs=4, catastrophic="stop", monitor_steps=1)
    looks = iter(range(1, 100))

    def crafted(*args: Any) -> Measured:
        return measured(0.9, 0.1) if next(looks) == 3 else measured(0.6, 0.5)

    monkeypatch.setattr(monitor, "measure", crafted)
    net = network()
    records = list(fit(net, data(), AT(THREAT, 1), chosen, out=tmp_path))
    # three steps an epoch, a look after the first two of each: the third is after step 4
    assert [r.step for r in records] == [3, 4] and [r.epoch for r in records] == [1, 2]
    assert [[c.catastrophic for c in r.checks] for r in records] == [[False] * 2, [True]]
    assert [c.step for r in records for c in r.checks] == [1, 2, 4]
    again = network()
    assert list(fit(again, data(), AT(THREAT, 1), chosen, out=tmp_path, resume=True)) == []
    assert torch.equal(weights(again), weights(net))


@pytest.mark.parametrize("ema", [None, 0.8])
def test_roll_back_takes_up_the_best_weights(
    tmp_path: Path, disaster: Make, data: Make, network: Make, settings: Make, ema: float | None
) -> None:
    chosen = settings(epochs=4, catastrophic="roll-back", ema=ema)
    disaster(2, 1)
    run = fit(network(), data(), AT(THREAT, 1), chosen, out=tmp_path)
    records = [next(run)]
    first, _ = checkpoint.read(tmp_path / "checkpoint.safetensors")
    records.append(next(run))
    tensors, facts = checkpoint.read(tmp_path / "checkpoint.safetensors")
    kept = "model" if ema is None else "average"
    for name in (n.removeprefix("best/") for n in tensors if n.startswith("best/")):
        assert torch.equal(tensors[f"best/{name}"], first[f"{kept}/{name}"]), name  # of epoch 1
        assert torch.equal(tensors[f"model/{name}"], tensors[f"best/{name}"]), name
    assert not [n for n in tensors if n.startswith("optimiser/")] and facts["rolled_back"] == 1
    records += list(run)
    assert [r.catastrophic for r in records] == [False, True, False, False]
    assert [r.rolled_back for r in records] == [0, 1, 1, 1] and records[-1].best_epoch == 4


@pytest.mark.parametrize("ema", [None, 0.8])
def test_before_there_are_best_weights_roll_back_goes_to_the_start(
    tmp_path: Path, disaster: Make, data: Make, network: Make, settings: Make, ema: float | None
) -> None:
    chosen = settings(epochs=3, catastrophic="roll-back", ema=ema)
    disaster(1, 1)
    run = fit(network(), data(), AT(THREAT, 1), chosen, out=tmp_path)
    records = [next(run)]
    tensors, _ = checkpoint.read(tmp_path / "checkpoint.safetensors")
    for kind in ["model", "best"] + ([] if ema is None else ["average"]):
        for name, value in network().state_dict().items():
            assert torch.equal(tensors[f"{kind}/{name}"], value), (kind, name)
    assert (records[0].best_epoch, records[0].best_clean, records[0].best_robust) == (0, None, None)
    records += list(run)
    assert [r.rolled_back for r in records] == [1, 1, 1] and [r.epoch for r in records] == [1, 2, 3]
    assert [r.best_epoch for r in records] == [0, 2, 3]


def test_where_every_epoch_is_rolled_back_the_weights_before_training_are_left(
    tmp_path: Path,
    disaster: Make,
    data: Make,
    network: Make,
    settings: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    disaster(1)
    cards: dict[str, Any] = {}

    def save(model: nn.Module, path: Path, card: dict[str, Any]) -> None:
        cards[path.name] = card["training"]

    net, chosen = network(), settings(epochs=2, catastrophic="roll-back")
    records = list(fit(net, data(), AT(THREAT, 1), chosen, out=tmp_path, save=save))
    assert [(r.best_epoch, r.rolled_back) for r in records] == [(0, 1), (0, 2)]
    assert torch.equal(weights(net), weights(network()))
    assert [m for m in caplog.messages if "every epoch was rolled back" in m]
    assert [(c["epoch"], c["robust"]) for c in cards.values()] == [(2, 0.05), (0, None)]


def test_an_epoch_that_is_rolled_back_is_never_the_best(
    monkeypatch: pytest.MonkeyPatch, data: Make, network: Make, settings: Make
) -> None:
    """Even where PGD finds less than in any other epoch: single steps say that it is not sound."""
    found = iter([measured(0.5, 0.4), measured(0.9, 0.6), measured(0.6, 0.5)])
    monkeypatch.setattr(training_loop, "measure", lambda *args: next(found))
    chosen = settings(epochs=3, catastrophic="roll-back")
    records = list(fit(network(), data(), AT(THREAT, 1), chosen))
    assert [r.catastrophic for r in records] == [False, True, False]
    assert [r.best_epoch for r in records] == [1, 1, 3]


def test_looks_change_nothing_about_the_run(data: Make, network: Make, settings: Make) -> None:
    found = []
    for every in (0, 1):
        net = network()
        records = list(fit(net, data(), AT(THREAT, 2), settings(monitor_steps=every)))
        found.append((weights(net), [r.loss for r in records], [r.robust for r in records]))
        assert len(records[0].checks) == (2 if every else 0)
    assert torch.equal(found[0][0], found[1][0]) and found[0][1:] == found[1][1:]


def test_without_held_out_rows_or_a_threat_there_is_no_look(
    data: Make, network: Make, settings: Make
) -> None:
    for how, chosen in (
        (AT(THREAT, 1), settings(monitor_steps=1, held_out=0)),
        (Standard(), settings(monitor_steps=1)),
    ):
        records = list(fit(network(), data(), how, chosen))
        assert all(not r.checks and not r.catastrophic and r.fgsm is None for r in records)
