"""Where the figures of a run may be sent as well: TensorBoard, MLflow, trackio, Weights & Biases.

`fit(..., log=tensorboard("runs/board"))` sends the record of every epoch. A package is imported
when its logger is made, so that a missing one is told before the training; a run is opened with the
first record, by process 0 alone. Metrics have the names of `Record`, those of methods the prefix
`figures/`; the step is the epoch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from torchproof.core.errors import InputError, MissingExtra, unknown
from torchproof.train import distributed
from torchproof.train.record import Record

PROJECT = "torchproof"


class Log(Protocol):
    """Takes the record of every epoch. A method close(), where there is one, is called when the run
    ends, however it does.
    """

    def record(self, record: Record) -> None: ...


def logged(records: Iterator[Record], log: Log | None) -> Iterator[Record]:
    """The records, each handed to `log` on its way, by process 0 alone."""
    if log is None or distributed.rank() > 0:
        yield from records
        return
    try:
        for record in records:
            log.record(record)
            yield record
    finally:
        getattr(log, "close", lambda: None)()


def numbers(record: Record) -> dict[str, float]:
    """What of a record is a number, by name; what was not measured is left out."""
    content = record.model_dump(exclude={"figures"})
    plain = {k: float(v) for k, v in content.items() if isinstance(v, (bool, int, float))}
    return plain | {f"figures/{name}": value for name, value in record.figures.items()}


class _Board:
    def __init__(self, folder: str | Path) -> None:
        self._make = _package("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._folder, self._writer = str(folder), None

    def record(self, record: Record) -> None:
        writer: Any = self._writer or self._make(self._folder)
        self._writer = writer
        for name, value in numbers(record).items():
            writer.add_scalar(name, value, record.epoch)
        writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _Flow:
    def __init__(self, experiment: str, name: str | None, uri: str | None) -> None:
        self._library = _package("mlflow", "mlflow")
        self._experiment, self._name, self._uri = experiment, name, uri
        self._open = False

    def record(self, record: Record) -> None:
        if not self._open:
            if self._uri is not None:
                self._library.set_tracking_uri(self._uri)
            self._library.set_experiment(self._experiment)
            self._library.start_run(run_name=self._name)
            self._open = True
        self._library.log_metrics(numbers(record), step=record.epoch)

    def close(self) -> None:
        if self._open:
            self._library.end_run()


class _Run:
    """wandb, and trackio, which has the same functions."""

    def __init__(self, package: str, options: Mapping[str, Any]) -> None:
        self._library, self._options, self._open = _package(package, package), options, False

    def record(self, record: Record) -> None:
        if not self._open:
            self._library.init(**self._options)
            self._open = True
        self._library.log(numbers(record), step=record.epoch)

    def close(self) -> None:
        if self._open:
            self._library.finish()


def tensorboard(folder: str | Path) -> Log:
    """Event files in a folder, for `tensorboard --logdir`; raises MissingExtra."""
    return _Board(folder)


def mlflow(experiment: str = PROJECT, name: str | None = None, uri: str | None = None) -> Log:
    """A run of an MLflow experiment. uri: of the tracking server or folder, by default MLflow's
    own setting. Raises MissingExtra.
    """
    return _Flow(experiment, name, uri)


def trackio(project: str = PROJECT, name: str | None = None, **options: Any) -> Log:
    """A run of a trackio project, on this machine unless `options` of trackio.init say otherwise;
    raises MissingExtra.
    """
    return _Run("trackio", {"project": project, "name": name, **options})


def wandb(project: str = PROJECT, name: str | None = None, **options: Any) -> Log:
    """A run of a Weights & Biases project; `options` go to wandb.init, such as mode="offline".
    Raises MissingExtra.
    """
    return _Run("wandb", {"project": project, "name": name, **options})


LOGGERS: dict[str, Callable[[str], Log]] = {
    "tensorboard": tensorboard,
    "mlflow": mlflow,
    "trackio": trackio,
    "wandb": wandb,
}


def logger(text: str, out: Path) -> Log:
    """What `--log` names: NAME or NAME:PLACE of LOGGERS, the place a folder for tensorboard (by
    default tensorboard/ in the run directory), else a project or experiment. Raises UnknownName,
    InputError, MissingExtra.
    """
    name, colon, place = text.partition(":")
    if name not in LOGGERS:
        raise unknown("logger", name, LOGGERS)
    if colon and not place:
        raise InputError(f"--log {text}", "NAME or NAME:PLACE", "leave the colon out")
    return LOGGERS[name](place or (str(out / name) if name == "tensorboard" else PROJECT))


def _package(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:  # a package that is broken raises anything
        given = f"a log for {extra}, whose package does not load ({type(error).__name__}: {error})"
        remedy = f"run `pip install 'torchproof[{extra}]'`"
        raise MissingExtra(given, extra, remedy) from error
