"""`torchproof train`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from torchproof.cli import options, several
from torchproof.cli.options import console, percent
from torchproof.core.errors import InputError
from torchproof.recipes import Prepared, prepare, recipe, run, small
from torchproof.train import Record, Settings, distributed
from torchproof.train.loggers import logged, logger


def train(
    data: Annotated[str | None, typer.Option(help="See `torchproof list data`.")] = None,
    model: Annotated[
        str | None, typer.Option(help="See `torchproof list models`, e.g. 'wide-resnet(depth=34)'.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="E.g. 'AWP(TRADES(beta=6), gamma=0.005)'.")
    ] = None,
    threat: Annotated[str | None, typer.Option(help="NORM:EPS, such as linf:8/255.")] = None,
    recipe_: Annotated[
        str | None,
        typer.Option("--recipe", help="A named plan, or file.py:function returning a Plan."),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="paper, or small: the recipe in minutes, on MNIST.")
    ] = "paper",
    augment: Annotated[str | None, typer.Option(help="E.g. 'Compose(Crop(4), Flip())'.")] = None,
    teacher: Annotated[
        str | None, typer.Option(help="A stored network, for methods (HAT) or a purified model.")
    ] = None,
    activations: Annotated[
        str | None, typer.Option(help="A stored network whose activations are taken over, frozen.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="A stored network whose weights the training starts from.")
    ] = None,
    extra: Annotated[
        str | None,
        typer.Option(help="Data for a second stream, the share --set extra_share=S of a batch."),
    ] = None,
    labeller: Annotated[
        str | None, typer.Option(help="A stored network that labels the extra data.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training rows.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Examples per step, over all processes.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Keys every random number.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any other setting, NAME=VALUE; see `torchproof list settings`."
        ),
    ] = None,
    n: options.First = None,
    out: Annotated[Path, typer.Option(help="The run directory.")] = Path("runs/train"),
    data_dir: options.DataDir = None,
    device: options.Device = None,
    resume: options.Resume = False,
    max_seconds: options.MaxSeconds = None,
    log: Annotated[
        str | None,
        typer.Option(help="tensorboard, mlflow, trackio or wandb, or e.g. wandb:PROJECT."),
    ] = None,
) -> None:
    """Train a network against a threat, into a run directory that can be killed and resumed.

    What is not given comes from the recipe, by default `digits-at`. On several GPUs or machines:
    `torchrun --nproc-per-node 4 -m torchproof train ...` (with --first instead of --n).

    The directory then holds config.json, metrics.jsonl, checkpoint.safetensors and the best network
    as model.safetensors beside its card; `torchproof evaluate` takes the directory as a model.
    Exit code 1 says that --max-seconds, or catastrophic overfitting where the settings say so,
    ended the run before its last epoch.
    """
    if scale not in ("paper", "small"):
        raise InputError(f"scale {scale!r}", "paper or small", "choose one of the two")
    plan = (small if scale == "small" else recipe)(recipe_ or "digits-at")
    texts = {"data": data, "model": model, "method": method, "threat": threat, "augment": augment}
    texts |= {"teacher": teacher, "activations": activations, "start": start}
    texts |= {"extra": extra, "labeller": labeller}
    given: dict[str, Any] = {k: v for k, v in texts.items() if v is not None}
    if n is not None:
        given["n"] = n
    numbers = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed}
    chosen = {k: v for k, v in numbers.items() if v is not None} | _settings(setting or [])
    given["settings"] = Settings.of(plan.settings.model_dump(), **chosen)
    local, sent = several.local(device), None if log is None else logger(log, out)
    with distributed.joined(local):
        ready = prepare(plan.model_copy(update=given), data_dir, local, streams=True)
        records = run(ready, out, resume=resume, stop=options.deadline(max_seconds))
        last = follow(ready, logged(records, sent), out)
    if last is None or last.epoch < ready.plan.settings.epochs:
        raise typer.Exit(1)


def _settings(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; values are read as YAML, so numbers are numbers."""
    out = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair}", "NAME=VALUE", "write --set ema=0.995")
        out[name.strip()] = _value(pair, text.strip())
    return out


def _value(pair: str, text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(
            f"--set {pair}", "NAME=VALUE with a number or a word", "write --set ema=0.995"
        ) from None
    return text if isinstance(value, bool) else value  # `off` is a word here


def follow(ready: Prepared, records: Iterator[Record], out: Path | None) -> Record | None:
    """Shows an epoch a line and a bar; only the first process speaks.

    Returns the record of the last epoch, from the run directory where no new one was needed.
    """
    if distributed.rank() > 0:
        last = [None, *records][-1]
    else:
        _begin(ready)
        last = _shown(ready, records)
    if last is None and out is not None:
        last = _stored(out)
    if distributed.rank() == 0:
        _end(ready, last, out)
    return last


def _begin(ready: Prepared) -> None:
    plan = ready.plan
    console.print(
        f"[bold]{escape(plan.method)}[/bold] on {escape(plan.data)} ({len(ready.train)} rows), "
        f"{escape(plan.model)}, threat {plan.threat or 'none'}, {plan.settings.epochs} epochs; "
        "clean and robust accuracy on held-out rows"
    )


def _shown(ready: Prepared, records: Iterator[Record]) -> Record | None:
    """A bar where the output is a terminal, and a line per epoch; returns the last record."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    last: Record | None = None
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("training", total=ready.plan.settings.epochs)
        for last in records:
            bar.update(task, completed=last.epoch)
            bar.console.print(line(last))
    return last


def _stored(out: Path) -> Record | None:
    """The last record of a run directory: there are no new ones when a finished run is resumed."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return Record.model_validate_json(lines[-1]) if lines else None


def _end(ready: Prepared, last: Record | None, out: Path | None) -> None:
    epochs = ready.plan.settings.epochs
    if last is not None:
        best = f"best epoch {last.best_epoch}: held-out clean {percent(last.best_clean)}, robust "
        console.print(f"{best}{percent(last.best_robust)} ({last.attack}, n = {last.held_out})")
    if out is not None:
        options.tell(f"run directory: {out}")
    done = 0 if last is None else last.epoch
    if last is not None and last.overfitted and ready.plan.settings.catastrophic == "stop":
        console.print(
            f"Ended after {done} of {epochs} epochs: the network withstands single steps only "
            "(catastrophic overfitting), and the setting `catastrophic` says stop."
        )
    elif done < epochs:
        console.print(
            f"Stopped after {done} of {epochs} epochs, {epochs - done} are missing: go on with "
            "--resume."
        )


def line(record: Record) -> str:
    """An epoch in fewer than 80 characters."""
    return (
        f"epoch {record.epoch:3d}  loss {record.loss:.4f}  clean {percent(record.clean)}  "
        f"robust {percent(record.robust)}  lr {record.lr:.2g}  {record.seconds:.1f} s"
    )
