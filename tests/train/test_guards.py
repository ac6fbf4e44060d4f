"""The run directory, stopping, guards, settings and tables."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, ModelError, UnknownName
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.train import (
    AT,
    AWP,
    METHODS,
    OPTIMISERS,
    SCHEDULES,
    TRADES,
    Batch,
    Settings,
    Standard,
    catalogue,
    fit,
    optimisers,
)

Make = Callable[..., Any]
THREAT = Threat(Linf(), 0.1)


def test_run_directory_holds_config_and_one_line_per_epoch(
    tmp_path: Path, data: Make, network: Make, settings: Make
) -> None:
    records = list(
        fit(network(), data(), AT(THREAT, steps=2), settings(), out=tmp_path, info={"a": 1})
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [r.model_dump(mode="json") for r in records] and [
        r["epoch"] for r in lines
    ] == [1, 2]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["settings"]["batch_size"] == 16 and config["info"] == {"a": 1}
    assert "AT(" in config["method"] and " at 0x" not in json.dumps(config)
    assert records[0].backward == 48 * 2 and records[0].forward == 48 * 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint.safetensors", "config.json", "metrics.jsonl",
    ]  # fmt: skip


def test_stop_ends_after_a_step_and_the_rest_can_be_done_later(
    tmp_path: Path, data: Make, network: Make, settings: Make
) -> None:
    x, y = data()
    asked = iter(range(100))
    stopped = list(
        fit(network(), (x, y), Standard(), settings(), out=tmp_path, stop=lambda: next(asked) == 3)
    )
    assert [r.epoch for r in stopped] == [1]
    net, whole = network(), network()
    rest = list(fit(net, (x, y), Standard(), settings(), out=tmp_path, resume=True))
    full = list(fit(whole, (x, y), Standard(), settings()))
    assert [r.epoch for r in rest] == [2] and rest[0].loss == full[1].loss
    assert torch.equal(net[1].weight, whole[1].weight)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(
    value: float, data: Make, network: Make, settings: Make
) -> None:
    class Breaking(Standard):
        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            found = super().losses(model, batch)
            return found * value if batch.progress >= 0.5 else found

    net = network()
    seen = []
    with pytest.raises(ModelError, match=r"step 4, epoch 2"):
        for _ in fit(net, data(), Breaking(), settings(choose="clean")):
            seen.append(copy.deepcopy(net[1].weight.detach()))
    assert torch.equal(net[1].weight, seen[0])


def test_weights_that_blew_up_are_not_checkpointed(
    tmp_path: Path, data: Make, network: Make, settings: Make
) -> None:
    class Poison(Standard):
        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            z = super().losses(model, batch)
            if batch.progress < 0.5:
                return z
            w = next(model.parameters())  # a finite loss with a NaN in its gradient
            return z + (w.detach() - w).square().sum().sqrt()

    net = network()
    with pytest.raises(ModelError, match="NaN"):
        list(fit(net, data(), Poison(), settings(checkpoint_steps=1), out=tmp_path))
    from torchproof.train.checkpoint import read

    tensors, facts = read(tmp_path / "checkpoint.safetensors")
    assert facts["epoch"] == 1
    assert all(bool(t.isfinite().all()) for t in tensors.values())


def test_gradients_are_clipped(data: Make, network: Make, settings: Make) -> None:
    x, y = data()
    net, before = network(), network()
    s = settings(
        epochs=1, batch_size=60, held_out=0, clip=1e-3, momentum=0.0, weight_decay=0.0, lr=1.0
    )
    list(fit(net, (x, y), Standard(), s))
    moved = [
        (a - b).detach().flatten()
        for a, b in zip(net.parameters(), before.parameters(), strict=True)
    ]
    assert float(torch.cat(moved).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_bf16_autocast_trains_with_losses_in_float32(
    data: Make, network: Make, settings: Make
) -> None:
    x, y = data(dtype=torch.float32)
    net = network().float()
    kinds: list[torch.dtype] = []

    class Watching(AT):
        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            kinds.append(model(batch.adv).dtype)
            found = super().losses(model, batch)
            kinds.append(found.dtype)
            return found

    records = list(
        fit(
            net, (x, y), Watching(THREAT, steps=2), settings(autocast="bfloat16", epochs=6, ema=0.9)
        )
    )
    assert set(kinds[::2]) == {torch.bfloat16} and set(kinds[1::2]) == {torch.float32}
    assert records[-1].loss < records[0].loss
    assert all(p.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_start_and_end_where_they_should(
    name: str, network: Make, settings: Make
) -> None:
    s = settings(schedule=name)
    optimiser = optimisers.optimiser(network().parameters(), s)
    schedule = optimisers.schedule(optimiser, s, 100)
    rates = []
    for _ in range(100):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    expected = {
        "constant": (0.1, 0.1, 0.1),
        "piecewise": (0.1, 0.01, 0.001),
        "late": (0.1, 0.1, 0.001),
        "tail": (0.1, 0.1, 0.001),
        "final": (0.1, 0.1, 0.01),
        "thirds": (0.1, 0.01, 0.001),
        "elevenths": (0.1, 0.01, 0.001),
        "proved": (0.1, 0.1, 0.001),
        "fifths": (0.1, 0.02, 0.0008),
        "cosine": (0.1, 0.05, 0.0),
        "linear": (0.1, 0.05, 0.001),
        "cyclic": (0.004, 0.083, 0.0015),
    }[name]
    assert (rates[0], rates[50], rates[99]) == pytest.approx(expected, abs=2e-3)
    assert max(rates) == pytest.approx(0.1, abs=2e-3)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_train(name: str, data: Make, network: Make, settings: Make) -> None:
    rate = 0.1 if name in ("sgd", "nesterov") else 0.02
    records = list(fit(network(), data(), Standard(), settings(optimiser=name, lr=rate, epochs=5)))
    assert records[-1].loss < records[0].loss
    assert records[-1].clean > 0.6


def test_settings_and_models_that_cannot_be_meant_are_refused(
    tmp_path: Path, data: Make, network: Make, settings: Make
) -> None:
    x, y = data()
    with pytest.raises(UnknownName, match="epochs"):
        Settings.of(epoch=3)
    for bad in ({"lr": -1}, {"epochs": 0}, {"ema": 1.5}, {"lr": "fast"}, {"autocast": "int8"}):
        with pytest.raises(InputError, match=next(iter(bad))):
            Settings.of(bad)
    with pytest.raises(UnknownName, match="sgd"):
        fit(network(), (x, y), Standard(), settings(optimiser="sdg"))
    with pytest.raises(UnknownName, match="cosine"):
        fit(network(), (x, y), Standard(), settings(schedule="cosin"))
    with pytest.raises(InputError, match="trainable"):
        fit(network().requires_grad_(False), (x, y), Standard(), settings())
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        fit(network(), (x * 255, y), Standard(), settings())
    broken = network()
    with torch.no_grad():
        broken[1].weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="NaN"):
        fit(broken, (x, y), Standard(), settings(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_expressions_name_methods() -> None:
    made = catalogue.method("AWP(TRADES(beta=6, start=Uniform()), gamma=0.005)", THREAT)
    assert isinstance(made, AWP) and made.gamma == 0.005
    assert isinstance(made.method, TRADES) and made.method.threat is THREAT
    assert catalogue.method("at", THREAT) == AT(THREAT)
    assert catalogue.method("Standard") == Standard()
    assert replace(made, gamma=0.01).gamma == 0.01
    with pytest.raises(UnknownName, match="TRADES"):
        catalogue.method("TRADE", THREAT)
    with pytest.raises(InputError, match="training method"):
        catalogue.method("Uniform")
    assert all(m.__doc__ for m in METHODS.values())
