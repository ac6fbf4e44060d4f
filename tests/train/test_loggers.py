"""Records sent to other programs, with stand-ins for their packages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor, nn

from torchproof.core.errors import InputError, MissingExtra, UnknownName
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.train import AT, AWP, Settings, fit
from torchproof.train.loggers import LOGGERS, logged, logger, mlflow, numbers, tensorboard, wandb
from torchproof.train.record import Record

THREAT = Threat(Linf(), 0.1)
Fit = Callable[..., list[Record]]


@pytest.fixture
def fitted(
    data: Callable[..., tuple[Tensor, Tensor]], network: Callable[..., nn.Module],
    settings: Callable[..., Settings],
) -> Fit:  # fmt: skip
    """`fitted(log)`: the records of a short run."""
    how = settings()
    return lambda log: list(fit(network(), data(), AWP(AT(THREAT, steps=1)), how, log=log))


class Calls:
    """A package that writes down what is called."""

    def __init__(self) -> None:
        self.made: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **named: self.made.append((name, *args, named))


def test_every_record_is_handed_over_and_the_log_closed(fitted: Fit) -> None:
    seen: list[Any] = []
    log = SimpleNamespace(record=seen.append, close=lambda: seen.append("closed"))
    records = fitted(log)
    assert seen == [*records, "closed"] and len(records) == 2
    assert fitted(SimpleNamespace(record=seen.append))  # one that has no close


def test_a_log_is_closed_when_the_run_fails() -> None:
    seen: list[Any] = []

    def failing() -> Iterator[Record]:
        yield "one"  # type: ignore[misc]
        raise RuntimeError("diverged")

    log: Any = SimpleNamespace(record=seen.append, close=lambda: seen.append("closed"))
    with pytest.raises(RuntimeError, match="diverged"):
        list(logged(failing(), log))
    assert seen == ["one", "closed"]


def test_numbers_of_a_record(fitted: Fit) -> None:
    record = fitted(None)[0]
    found = numbers(record)
    assert found["loss"] == record.loss and found["robust"] == record.robust
    assert found["collapsed"] == float(record.collapsed) and found["epoch"] == 1
    assert record.figures and all(found[f"figures/{k}"] == v for k, v in record.figures.items())
    assert not {"attack", "checks", "confused"} & found.keys()
    bare = record.model_copy(update={"robust": None})
    assert "robust" not in numbers(bare)


def test_tensorboard(fitted: Fit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    writer = Calls()
    made: list[str] = []
    module = SimpleNamespace(SummaryWriter=lambda folder: made.append(folder) or writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    log = tensorboard(tmp_path)
    assert made == []  # nothing is opened before the first record
    records = fitted(log)
    assert made == [str(tmp_path)] and writer.made[-1] == ("close", {})
    scalars = [call[1:4] for call in writer.made if call[0] == "add_scalar"]
    assert scalars == [(k, v, r.epoch) for r in records for k, v in numbers(r).items()]
    assert sum(call[0] == "flush" for call in writer.made) == 2


def test_mlflow(fitted: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Calls()
    monkeypatch.setitem(sys.modules, "mlflow", package)
    records = fitted(mlflow("mine", "first", "file:runs"))
    begun = [("set_tracking_uri", "file:runs", {}), ("set_experiment", "mine", {})]
    begun += [("start_run", {"run_name": "first"})]
    sent = [("log_metrics", numbers(r), {"step": r.epoch}) for r in records]
    assert package.made == [*begun, *sent, ("end_run", {})]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio(fitted: Fit, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    package = Calls()
    monkeypatch.setitem(sys.modules, name, package)
    made: Any = LOGGERS[name]
    records = fitted(made("mine", "first", group="g"))
    begun = ("init", {"project": "mine", "name": "first", "group": "g"})
    sent = [("log", numbers(r), {"step": r.epoch}) for r in records]
    assert package.made == [begun, *sent, ("finish", {})]


def test_a_run_without_records_is_never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    package = Calls()
    monkeypatch.setitem(sys.modules, "wandb", package)
    assert list(logged(iter(()), wandb())) == [] and package.made == []


def test_loggers_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[tuple[str, str]] = []
    for name in LOGGERS:
        monkeypatch.setitem(LOGGERS, name, lambda place, n=name: made.append((n, place)))
    for text in ("tensorboard", "tensorboard:board", "wandb", "wandb:mine", "mlflow", "trackio"):
        logger(text, tmp_path)
    assert made == [
        ("tensorboard", str(tmp_path / "tensorboard")), ("tensorboard", "board"),
        ("wandb", "torchproof"), ("wandb", "mine"),
        ("mlflow", "torchproof"), ("trackio", "torchproof"),
    ]  # fmt: skip
    with pytest.raises(UnknownName, match="wandb"):
        logger("wanbd", tmp_path)
    with pytest.raises(InputError, match="leave the colon out"):
        logger("wandb:", tmp_path)


@pytest.mark.parametrize("name", LOGGERS)
def test_a_missing_package_is_told_before_the_training(
    monkeypatch: pytest.MonkeyPatch, name: str, tmp_path: Path
) -> None:
    module = "torch.utils.tensorboard" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"torchproof\[{name}\]"):
        logger(name, tmp_path)
