"""Transfer: do adversarial images made on one model fool another? The model-by-model matrix."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchproof.attack.combine import Attack
from torchproof.attack.run import Run
from torchproof.core.errors import InputError
from torchproof.core.files import write, writing
from torchproof.core.metrics import clopper_pearson
from torchproof.core.room import Room, in_batches
from torchproof.core.sets import Ball
from torchproof.core.sites import Model
from torchproof.evaluate.member import described
from torchproof.evaluate.subject import Subject, examples_of
from torchproof.evaluate.suites import bounded

SCHEMA = "torchproof.transfer/1"
FILE, TABLE = "transfer.json", "transfer.csv"
LAST, WORST = "the last iterate", "the point of highest score on the source"


@dataclass(frozen=True)
class Cell:
    """Images that both models classify correctly (`n`), and those of them that fooled the victim.

    On the diagonal source and victim are one: the white-box attack.
    """

    source: str
    victim: str
    n: int
    fooled: int

    @property
    def rate(self) -> float | None:
        """The share of n that was fooled; None where n is 0."""
        return self.fooled / self.n if self.n else None

    @property
    def ci95(self) -> tuple[float, float]:
        """The interval of Clopper and Pearson, [0, 1] where n is 0."""
        return clopper_pearson(self.fooled, self.n) if self.n else (0.0, 1.0)


@dataclass(frozen=True)
class Transfer:
    """The matrix, and what it was measured with.

    models: names, in order; clean: how many of n images each classifies correctly; cells: one row
    per source, one column per victim; missed: for each victim, how many images fooled it that were
    made on another model, but not when made on itself; about: attack, threat, data, n, seed, what
    was kept of each search; forward, backward: samples spent on each source.
    """

    models: tuple[str, ...]
    clean: tuple[int, ...]
    cells: tuple[tuple[Cell, ...], ...]
    missed: tuple[int, ...]
    forward: tuple[int, ...]
    backward: tuple[int, ...]
    about: dict[str, Any]

    def cell(self, source: str, victim: str) -> Cell:
        """Raises InputError for names that are not in the matrix."""
        if not {source, victim} <= set(self.models):
            given, expected = f"{source!r} to {victim!r}", f"two of {', '.join(self.models)}"
            raise InputError(given, expected, "use the names of the matrix")
        return self.cells[self.models.index(source)][self.models.index(victim)]

    @property
    def mean(self) -> float | None:
        """The mean success between different models, cells without images left out."""
        rates = [c.rate for row in self.cells for c in row if c.source != c.victim]
        known = [rate for rate in rates if rate is not None]
        return sum(known) / len(known) if known else None

    def to_json(self) -> dict[str, Any]:
        """The content of transfer.json."""
        cells = [
            asdict(c) | {"rate": c.rate, "ci95": list(c.ci95)} for row in self.cells for c in row
        ]
        columns = zip(
            self.models, self.clean, self.forward, self.backward, self.missed, strict=True
        )
        names = ("name", "clean", "forward", "backward", "missed")
        models = [dict(zip(names, column, strict=True)) for column in columns]
        return {
            "schema": SCHEMA,
            **self.about,
            "models": models,
            "cells": cells,
            "mean": self.mean,
        }

    def save(self, folder: Path | str) -> None:
        """Writes transfer.json and transfer.csv (one row per cell); raises FileError."""
        folder = Path(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        content = self.to_json()
        write(folder / FILE, json.dumps(content, indent=2).encode() + b"\n")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["source", "victim", "n", "fooled", "rate", "low", "high"])
        for cell in content["cells"]:
            kept = [cell[name] for name in ("source", "victim", "n", "fooled", "rate")]
            writer.writerow([*kept, *cell["ci95"]])
        write(folder / TABLE, text.getvalue().encode())


def transfer(
    models: Mapping[str, Model],
    data: Any,
    attack: Attack,
    *,
    seed: int = 0,
    n: int | None = None,
    ids: Tensor | None = None,
    slots: int = 128,
    data_name: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Transfer:
    """Attacks the first n images on each model in turn, and asks all models about what comes out.

    data: (x, y) or an object with .x and .y; ids: what keys each example's randomness, by default
    its position. An image counts where source and victim classify it correctly before; success is
    any misclassification. No example leaves early, since an image that has only just fooled its
    source seldom fools another: of a gradient search the last iterate is kept, as published, of any
    other (and with restarts or several targets) the point of highest score. No cell depends on
    slots, nor on which other models there are. Raises InputError and ModelError.
    """
    if len(models) < 2:
        given = f"{len(models)} model{'s' if len(models) != 1 else ''}"
        raise InputError(given, "at least two", "name a source and a victim")
    if not isinstance(attack, Attack):
        given = f"a transfer attack by a {type(attack).__name__}"
        raise InputError(given, "one Attack", "a chain stops where its source is fooled")
    bounded(attack.threat)
    room = Room(slots)
    with torch.inference_mode(False):
        examples = examples_of(data, n, ids, data_name, None)
        subjects = {name: Subject.of(m, examples, seed, False) for name, m in models.items()}
        made, right = [], {}
        for name, subject in subjects.items():
            _tell(progress, f"{name}: clean images")
            right[name] = _correct(subject, subject.examples.x, room)
        for name, subject in subjects.items():
            _tell(progress, f"{name}: attack")
            made.append(_made(subject, attack, right[name], room))
        fooled = [
            {victim: ~_correct(other, x, room) for victim, other in subjects.items()}
            for x, _ in made
        ]
    about = {
        "attack": described(attack),
        "kept": _kept(attack),
        "threat": str(attack.threat),
        "data": examples.name,
        "data_sha256": examples.sha256,
        "n": len(examples.y),
        "seed": seed,
    }
    return _matrix(tuple(models), right, fooled, [spent for _, spent in made], about)


def _tell(progress: Callable[[str], None] | None, text: str) -> None:
    if progress is not None:
        progress(text)


def _kept(attack: Attack) -> str:
    single = attack.search.gradient and attack.restarts == 1 and not attack.targets
    return LAST if single else WORST


def _correct(subject: Subject, x: Tensor, room: Room) -> Tensor:
    """(N,) bool: which of these images does the model classify correctly?"""
    right = torch.zeros(len(x), dtype=torch.bool)

    def work(rows: list[int]) -> None:
        index = torch.tensor(rows, device=x.device)
        _, y = subject.rows(rows)
        part = x[index].to(subject.device, subject.dtype)
        with subject.asked("transfer") as ask, torch.inference_mode():
            right[rows] = (ask(part).argmax(1) == y).cpu()

    in_batches(range(len(x)), room, lambda: False, work)
    return right


def _made(
    subject: Subject, attack: Attack, right: Tensor, room: Room
) -> tuple[Tensor, tuple[int, int]]:
    """The images after an attack on those that are classified correctly, and what it has spent."""
    rows, x = right.nonzero()[:, 0], subject.examples.x.clone()
    spent: list[tuple[int, int]] = [(0, 0)]

    def work() -> None:
        run = Run(
            seed=subject.seed,
            ids=subject.examples.ids[rows],
            slots=room.slots,
            patience=math.inf,
            last=_kept(attack) == LAST,
        )
        clean, y = subject.examples.x[rows], subject.examples.y[rows]
        with torch.autocast(subject.device.type, enabled=False):
            found = attack(subject.model, clean, y, run=run)
        ball = attack.threat.set(subject.model, clean)
        assert isinstance(ball, Ball) and isinstance(found.value, Tensor)
        # a search that wanders may end outside; what is already inside is not moved
        inside = ball.project(found.value.to(clean))
        limits = bounded(attack.threat)
        x[rows] = (clean + inside).clamp(limits.low, limits.high)
        forward, backward = found.spent.sum(0).tolist()
        spent[0] = (forward, backward)

    while len(rows) and not room.survives(work):
        pass  # again, with fewer slots
    return x, spent[0]


def _matrix(
    names: tuple[str, ...],
    right: Mapping[str, Tensor],
    fooled: list[dict[str, Tensor]],
    spent: list[tuple[int, int]],
    about: dict[str, Any],
) -> Transfer:
    """Counts; `fooled`: for each source, by victim, which of its images are misclassified."""
    cells = []
    for source, by in zip(names, fooled, strict=True):
        both = {victim: right[source] & right[victim] for victim in names}
        row = [Cell(source, v, int(both[v].sum()), int((both[v] & by[v]).sum())) for v in names]
        cells.append(tuple(row))
    own = {name: fooled[i][name] for i, name in enumerate(names)}
    missed = []
    for victim in names:
        others = [fooled[i][victim] & right[s] for i, s in enumerate(names) if s != victim]
        there = torch.stack(others).any(0) & right[victim] & ~own[victim]
        missed.append(int(there.sum()))
    forward, backward = (tuple(s[way] for s in spent) for way in (0, 1))
    clean = tuple(int(right[name].sum()) for name in names)
    return Transfer(names, clean, tuple(cells), tuple(missed), forward, backward, about)
