"""Detectors side by side, on images that none of them has seen (Aldahdooh et al. 2022, without what
leaks there).

Detectors are fitted on training images, thresholds come from some test images, figures from others;
supervised ones are fitted once for each attack of `train_on` and judged against all attacks. Every
detector is attacked by an adversary who knows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.core.checks import check_weights
from torchproof.core.errors import TorchproofError
from torchproof.core.fingerprints import data_sha256, model_sha256
from torchproof.core.journal import read_records
from torchproof.core.notes import RECORDS, Notes
from torchproof.data.dataset import Dataset
from torchproof.detect.adaptive import Evasion
from torchproof.detect.bench import cells
from torchproof.detect.bench.adversarial_sets import AdversarialSets
from torchproof.detect.bench.record import (
    SCHEMA,
    Adaptive,
    Bench,
    Costs,
    Judged,
    Limit,
    Made,
    Rate,
    Told,
    tensors,
    titled,
)
from torchproof.detect.bench.setup import Setup
from torchproof.detect.bench.splits import split
from torchproof.detect.calibrate import Threshold, calibrate

NOTES = SCHEMA.replace("/", "-notes/")


def bench(
    model: nn.Module,
    train: Dataset,
    test: Dataset,
    setup: Setup,
    elsewhere: Mapping[str, Tensor] | None = None,
    *,
    about: Mapping[str, Any] | None = None,
    out: Path | None = None,
    resume: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Bench:
    """Fits, calibrates, judges and attacks the detectors; the model stays as it is.

    elsewhere: images (N, C, H, W) of other kinds by name; about: what else the record is to say;
    out: a folder for detect-bench.json, the adversarial images, and the scores of every image
    (records.jsonl), in which a killed run goes on with `resume`. A detector that does not apply is
    refused with its reason. Raises InputError and ModelError for a classifier or images that cannot
    be meant, FileError, ResumeError.
    """
    check_weights(model)
    started, own = time.monotonic(), model_sha256(model)
    others = dict(elsewhere or {})
    splits = split(model, train, test, setup.sizes, setup.seed, setup.batch_size)
    settings = {
        "model": own, "train": train.sha256, "test": test.sha256, **setup.settings(),
        "elsewhere": {name: _digest(x) for name, x in others.items()},
    }  # fmt: skip
    notes = Notes.open(NOTES, lambda record: str(record["cell"]), settings, out, resume)
    folder = None if out is None else out / "sets"
    made = AdversarialSets(model, str(own), setup.seed, setup.batch_size, folder, say)
    work = _Work(cells.Comparison(model, setup, splits, others, made), notes, say)
    try:
        for detector, trained_on in setup.fits():
            work.judge(detector, trained_on)
    finally:
        notes.close()
    found = Bench(
        about=dict(about or {}), settings=settings, accuracy=splits.accuracy,
        looked=splits.looked, fit=len(splits.fit), calibrate=len(splits.calibrate),
        test=len(splits.test), main=setup.main, attacks=work.attacks(),
        judged=tuple(work.judged.values()), refused=work.refused,
        seconds=time.monotonic() - started, unattacked=work.unattacked,
    )  # fmt: skip
    if out is not None:
        found.write(out)
    return found


def stored_scores(out: Path) -> dict[str, dict[str, Tensor]]:
    """Scores (N,) by detector and by "calibrate", "test", the names of attacks (of their successful
    images), "elsewhere NAME", and "adaptive", of those that its own attacks got misclassified;
    raises FileError.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for record in read_records(out / RECORDS)[0]:
        kind, _, name = str(record["cell"]).partition(" ")
        if kind == "scores" and "scores" in record:
            scores = tensors(record["scores"])
            for attack, fooled in record["fooled"].items():
                scores[attack] = scores[attack][torch.tensor(fooled).bool()]
            found.setdefault(name, {}).update(scores)
        elif kind == "adaptive" and "wrong" in record:
            score = torch.tensor(record["score"], dtype=torch.float64)
            found.setdefault(name, {})["adaptive"] = score[torch.tensor(record["wrong"]).bool()]
    return found


def _digest(x: Tensor) -> str:
    return data_sha256(x, torch.zeros(len(x), dtype=torch.int64))


@dataclass
class _Work:
    """One comparison on its way."""

    bench: cells.Comparison
    notes: Notes[str]
    say: Callable[[str], None]
    judged: dict[str, Judged] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    unattacked: dict[str, str] = field(default_factory=dict)

    def attacks(self) -> tuple[Made, ...]:
        """How far each attack came on the test images."""
        found = []
        for name, row in self.bench.setup.rows.items():
            made = self.bench.tests(name)
            fooled, failed = int(made.fooled.sum()), int(made.failed.sum())
            found.append(
                Made(name=name, about=row.about, n=len(made.x), fooled=fooled, failed=failed)
            )
        return tuple(found)

    def judge(self, detector: str, trained_on: str | None) -> None:
        """Makes the cells that are not recorded yet, and reads them."""
        name, records = titled(detector, trained_on), []
        for cell, measure in cells.Cells(self.bench, detector, trained_on).table().items():
            if cell not in self.notes.records:
                self.notes.add({"cell": cell, **_measured(measure)})
            records.append(self.notes.records[cell])
            if "refused" in records[-1]:
                self._refuse(name, str(records[-1]["refused"]), len(records) > 1)
                break
        if "refused" not in records[0]:
            self.judged[name] = found = self._judged(detector, trained_on, records)
            self.say(_line(found, self.bench.setup.main))

    def _refuse(self, name: str, why: str, judged: bool) -> None:
        """The detector, or only its adaptive attack where it was judged before."""
        (self.unattacked if judged else self.refused)[name] = why
        self.say(f"{name}: {'adaptive attack refused' if judged else 'refused'}, {why}")

    def _judged(
        self, detector: str, trained_on: str | None, records: list[dict[str, Any]]
    ) -> Judged:
        setup, first, scores = self.bench.setup, records[0], tensors(records[0]["scores"])
        threshold = calibrate(scores[cells.CALIBRATE], setup.fpr)
        clean = scores[cells.TEST]
        rows = [row for name in setup.rows for row in self._rows(name, scores, threshold)]
        for name in self.bench.elsewhere:
            others = scores[f"{cells.ELSEWHERE} {name}"]
            rows.append(Told.of(name, "elsewhere", clean, others, threshold))
        before = next((r for r in rows if (r.what, r.kind) == (setup.main, "successful")), None)
        adaptive = None
        if len(records) > 1 and "refused" not in records[1]:
            adaptive = self._adaptive(records[1], before, clean)
        return Judged(
            detector=detector, recipe=first["recipe"], trained_on=trained_on,
            fitted_on=first["fitted_on"], gradient=first["gradient"],
            threshold=Limit.of(threshold), alarms=Rate.of(threshold.flags(clean)),
            rows=tuple(rows), adaptive=adaptive, costs=Costs(**first["costs"]),
        )  # fmt: skip

    def _rows(self, name: str, scores: Mapping[str, Tensor], threshold: Threshold) -> list[Told]:
        """Successful and failed images of an attack apart, where there are some."""
        made, clean = self.bench.tests(name), scores[cells.TEST]
        parts: list[tuple[Any, Tensor]] = [("successful", made.fooled), ("failed", made.failed)]
        return [
            Told.of(name, kind, clean, scores[name][mask], threshold)
            for kind, mask in parts
            if bool(mask.any())
        ]

    def _adaptive(self, record: dict[str, Any], before: Told | None, clean: Tensor) -> Adaptive:
        wrong, evaded = (torch.tensor(record[key], dtype=torch.bool) for key in ("wrong", "evaded"))
        score = torch.tensor(record["score"], dtype=torch.float64)
        lacks, setup = record.get("lacks", ""), self.bench.setup
        found = Evasion(wrong, evaded, score, record["attacks"], lacks)
        return Adaptive.of(str(setup.threat), setup.main, before, clean, found, record["seconds"])


def _measured(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The record, or why the detector does not apply."""
    try:
        return measure()
    except TorchproofError as error:
        return {"refused": f"{error.given}; expected: {error.expected}; {error.remedy}"}


def _line(found: Judged, main: str) -> str:
    told = found.told(main)
    area = f"no image of {main}" if told is None else f"AUROC {told.auroc:.3f} on {main}"
    more = f"; adaptive: {found.adaptive.reading}" if found.adaptive else ""
    return f"{found.name}: {area}, false alarms {100 * found.alarms.share:.1f} %{more}"
