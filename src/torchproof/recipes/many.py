"""Trains and judges a table of plans, seed by seed; what is finished is read back when resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof import data as sets
from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.starts import Zero
from torchproof.core import keys
from torchproof.core.errors import FileError, InputError, ResumeError
from torchproof.core.files import write
from torchproof.core.metrics import fallen
from torchproof.core.objectives import CrossEntropy
from torchproof.core.threats import Threat, parse
from torchproof.evaluate import evaluate
from torchproof.evaluate.together import held, unattended
from torchproof.evaluate.versions import versions
from torchproof.nn import load_model
from torchproof.recipes.comparison import Cell, Comparison, line_of
from torchproof.recipes.plan import Plan, Prepared, prepare, run
from torchproof.recipes.table import Judgement, Table
from torchproof.train import Record
from torchproof.train.rows import beside, split

CELL = "cell.json"


@dataclass(frozen=True)
class Many:
    """How a table is run. stop: asked after every step and before every network; first: the seeds
    that this process, one of several that share `out`, begins with; one of them calls `begin`
    before all, and `run` without `first`, which waits for the others, at last.
    """

    table: Table
    out: Path
    resume: bool = False
    data_dir: Path | None = None
    device: torch.device = torch.device("cpu")
    say: Callable[[str], None] = print
    stop: Callable[[], bool] = lambda: False
    first: tuple[int, ...] = ()

    def run(self) -> Comparison | None:
        """Trains and judges whatever is missing; the comparison is stored in `out`.

        None where `stop` ended it before the last network, and for one process of several: it
        leaves out the networks that others are at, and somebody compares once all have ended.
        Raises what training and evaluation raise, and ResumeError for a folder that holds another
        table.
        """
        self.begin()
        if self.first:
            self._share()
            return None
        found: dict[str, dict[int, Cell]] = {name: {} for name in self.table.rows}
        # seeds outside: a run that is cut off leaves whole comparisons of fewer seeds
        for seed in self.table.seeds:
            for name, plan in self.table.rows.items():
                with held(self._lock(name, seed), wait=True):
                    cell = self._cell(name, plan, seed)
                if cell is None:
                    return None
                found[name][seed] = cell
        made = self._compared(found)
        made.write(self.out)
        return made

    def _share(self) -> None:
        """Every network that no other process is at: those of the seeds in `first`, then the rest,
        so that nobody idles while there is work.
        """
        seeds = sorted(self.table.seeds, key=lambda seed: seed not in self.first)
        cells = [(name, seed) for seed in seeds for name in self.table.rows]
        for name, seed in unattended(cells, lambda cell: self._lock(*cell)):
            if self._cell(name, self.table.rows[name], seed) is None:
                return

    def _lock(self, name: str, seed: int) -> Path:
        return self.out / name / f"seed{seed}" / "held"

    def begin(self) -> None:
        """Looks up every name and argument, then makes the folder this table's; raises as `run`."""
        for plan in self.table.rows.values():
            self._prepared(plan, self.table.seeds[0])
        self._claim()

    def _claim(self) -> None:
        path, wanted = self.out / "table.json", self.table.model_dump(mode="json")
        wanted["rows"] = {name: self._portable(plan) for name, plan in self.table.rows.items()}
        if path.exists():
            if not self.resume:
                raise FileError(f"{self.out}, which holds a table", "a new folder", "add --resume")
            try:
                stored = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                remedy = "choose another folder"
                raise FileError(f"{path} ({error})", "a stored table", remedy) from error
            if stored != wanted:
                remedy = "choose another folder, or run the table that was started there"
                raise ResumeError("another table than the stored one", "the same table", remedy)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{self.out} ({error})", "a folder", "choose another one") from error
        write(path, (json.dumps(wanted, indent=1) + "\n").encode())

    def _portable(self, plan: Plan) -> dict[str, Any]:
        """The plan for a record: extra data that lie beside `out` or in it are named from there, so
        that the whole can be moved and resumed.
        """
        told = plan.model_dump(mode="json")
        kind, colon, name = (plan.extra or "").partition(":")
        beside, here = self.out.resolve().parent, Path(name)
        if colon and here.is_absolute() and here.resolve().is_relative_to(beside):
            told["extra"] = f"{kind}:{Path('..') / here.resolve().relative_to(beside)}"
        return told

    def _prepared(self, plan: Plan, seed: int) -> Prepared:
        settings = plan.settings.model_copy(update={"seed": seed})
        return prepare(plan.model_copy(update={"settings": settings}), self.data_dir, self.device)

    def _cell(self, name: str, plan: Plan, seed: int) -> Cell | None:
        folder = self.out / name / f"seed{seed}"
        stored = _stored(folder / CELL)
        if stored is not None:
            return stored
        ready = self._prepared(plan, seed)
        resume = (folder / "config.json").exists()
        told = {k: v for k, v in self._portable(ready.plan).items() if k != "settings"}
        for record in run(ready, folder, resume=resume, stop=self.stop, info={"plan": told}):
            self.say(f"{name}, seed {seed}: {_progress(record)}")
        if self.stop():
            return None
        records = [
            Record(**json.loads(line))
            for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        cell = self._judged(name, ready, folder, records)
        write(folder / CELL, (cell.model_dump_json(indent=1) + "\n").encode())
        self.say(f"{name}, seed {seed}: clean {cell.clean:.3f}, robust {cell.robust:.3f}")
        return cell

    def _judged(self, name: str, ready: Prepared, folder: Path, records: list[Record]) -> Cell:
        how, seed = self.table.evaluate, ready.plan.settings.seed
        kept = folder if how.weights == "best" else folder / "last.safetensors"
        model = load_model(str(kept)).model.to(self.device)
        threat = _threat(how, ready)
        test = sets.load(ready.plan.data, data_dir=self.data_dir, split=how.split)
        test = test.take(min(how.n, len(test)))
        out = folder / "evaluation"
        report = evaluate(
            model, test, threat, how.suite, seed=seed, out=out, resume=out.exists(),
            save_adversarial=False, name=f"{name}, seed {seed}", data_name=test.name,
        )  # fmt: skip
        loss, pgd, fgsm = attacked(model, test.x, test.y, threat, seed)
        seen = _training_rows(ready, len(test))
        train_loss, train_pgd, _ = attacked(model, *seen, threat, seed)
        own = len(ready.train) - records[0].held_out
        rows = (own + beside(own, ready.plan.settings.extra_share)) * len(records)
        return Cell(
            n=len(test), clean=report.clean_accuracy, robust=report.robust_accuracy, pgd=pgd,
            fgsm=fgsm, loss=loss, train_loss=train_loss, train_pgd=train_pgd,
            standing=[e.id for e in report.examples if e.status == "robust"],
            backward=sum(r.backward for r in records) / rows,
            seconds=sum(r.seconds for r in records), epochs=len(records),
            catastrophic=sum(r.overfitted for r in records),
            collapsed=sum(fallen([r.collapsed for r in records])) if records[0].held_out else None,
            overfitting=records[-1].overfitting, figures=records[-1].figures,
            flags=[f"{flag.name} ({flag.severity})" for flag in report.flags],
        )  # fmt: skip

    def _said(self, name: str) -> str:
        """The method of a row, and its network where the rows differ in that."""
        plan, rows = self.table.rows[name], self.table.rows.values()
        one = len({row.model for row in rows}) == 1
        return plan.method if one else f"{plan.method} on {plan.model}"

    def _compared(self, found: dict[str, dict[int, Cell]]) -> Comparison:
        table, against = self.table, found[self.table.against]

        def all_(name: str) -> str:
            return ", ".join(dict.fromkeys(str(getattr(p, name)) for p in table.rows.values()))

        return Comparison(
            data=all_("data"), model=all_("model"), threat=table.evaluate.threat or all_("threat"),
            suite=table.evaluate.suite, weights=table.evaluate.weights, seeds=table.seeds,
            reference=table.against,
            lines=[line_of(k, self._said(k), cells, against) for k, cells in found.items()],
            versions=versions(),
        )  # fmt: skip


def _threat(how: Judgement, ready: Prepared) -> Threat:
    if how.threat is not None:
        return parse(how.threat)
    if ready.threat is None:
        remedy = "add threat: linf:8/255 to base or evaluate"
        raise InputError("a row without a threat", "a threat to judge it by", remedy)
    return ready.threat


def _training_rows(ready: Prepared, n: int) -> tuple[Tensor, Tensor]:
    """The first n images that the network was trained on."""
    settings = ready.plan.settings
    rows, _ = split(ready.train.x, ready.train.y, settings.seed, settings.held_out)
    index = rows.index[:n]
    return ready.train.x[index], ready.train.y[index]


def attacked(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, seed: int
) -> tuple[float, float, float]:
    """Mean cross-entropy at the last iterates of PGD-20 (steps of eps / 4), and the accuracies
    under it and under one step of eps.
    """
    device = next(model.parameters()).device
    x, y = x.to(device), y.to(device)
    run_ = Run(keys.seed_of(seed, "judge"), patience=float("inf"), last=True)
    found: dict[str, tuple[float, float]] = {}
    searches = {"pgd": PGD(20, 0.25), "fgsm": PGD(1, 1.0, Zero())}
    for name, search in searches.items():
        value: Any = Attack(threat, CrossEntropy(), search)(model, x, y, run=run_).value
        with torch.no_grad():
            logits = torch.cat([model(part) for part in torch.split(x + value.to(x), 256)])
        right = float((logits.argmax(1) == y).float().mean())
        found[name] = float(F.cross_entropy(logits, y)), right
    return found["pgd"][0], found["pgd"][1], found["fgsm"][1]


def _stored(path: Path) -> Cell | None:
    if not path.exists():
        return None
    try:
        return Cell.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise FileError(
            f"{path} ({error})", "a finished run", "delete this file, and resume"
        ) from (error)


def _progress(record: Record) -> str:
    parts = {"loss": record.loss, "clean": record.clean, "robust": record.robust}
    return f"epoch {record.epoch}, " + ", ".join(
        f"{k} {v:.3f}" for k, v in parts.items() if v is not None
    )
