"""The record of a training run, metrics.jsonl, read back: one JSON object per epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchproof.core.errors import FileError
from torchproof.core.metrics import fallen
from torchproof.report.numbers import Share

# Other names under which a foreign loop may have noted the same number.
ALSO = {
    "train_loss": "loss",
    "holdout_clean": "clean",
    "holdout_robust": "robust",
    "holdout_n": "held_out",
}
SAID = {
    "epoch",
    "held_out",
    "best_epoch",
    "best_clean",
    "best_robust",
    "rolled_back",
}
DRAWN = {"loss", "clean", "robust", "fgsm", "train_clean", "train_robust", "overfitting"}
FIGURE = "figures."  # before the names of what a method notes of itself
LOOK = "looks."  # before the names of what a look between the ends of epochs saw


@dataclass(frozen=True)
class Training:
    """`epochs`: one mapping per epoch, in order, with the names of `torchproof.train`.

    `sha256` is the fingerprint of the network that the run kept, None where no card is beside it.
    """

    epochs: tuple[Mapping[str, Any], ...]
    sha256: str | None = None

    @classmethod
    def read(cls, path: Path) -> Training:
        """Reads metrics.jsonl, or a run directory that holds one. A cut-off last line is left out.

        Raises FileError where the file is missing, damaged before its last line, or holds no epoch.
        """
        file = path / "metrics.jsonl" if path.is_dir() else path
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise FileError(
                f"{file}: {error}", "the metrics of a run", "name its directory"
            ) from error
        epochs = [
            _epoch(file, number, lines) for number in range(len(lines)) if lines[number].strip()
        ]
        kept = tuple(epoch for epoch in epochs if epoch is not None)
        if not kept:
            raise FileError(f"{file} without an epoch", "one JSON object per line", "train first")
        return cls(kept, _fingerprint(file.parent / "model.json"))

    def number(self, row: int, name: str) -> float | None:
        """What epoch `row` noted under `name`, if it is a number."""
        return _number(self.epochs[row], name)

    def epoch(self, row: int) -> int:
        """The number of the epoch in row `row`, counted from 1 where it was not noted."""
        return int(self.epochs[row].get("epoch", row + 1))

    def series(self, name: str) -> list[tuple[int, float]]:
        """(row, value) wherever the epoch noted a number under `name`."""
        values = [(row, self.number(row, name)) for row in range(len(self.epochs))]
        return [(row, value) for row, value in values if value is not None]

    def points(self, name: str) -> list[tuple[float, float]]:
        """(epoch, value) of each number under `name`; those of looks lie between the epochs. "gap":
        accuracy under one step minus that under the iterated attack.
        """
        if name == "gap":
            gaps = [(self.epoch(row), _gap(noted)) for row, noted in enumerate(self.epochs)]
            return [(at, gap) for at, gap in gaps if gap is not None]
        if not name.startswith(LOOK):
            return [(self.epoch(row), value) for row, value in self.series(name)]
        seen = [(at, _number(look, name.removeprefix(LOOK))) for at, look in self.looks]
        return [(at, value) for at, value in seen if value is not None]

    @property
    def looks(self) -> list[tuple[float, Mapping[str, Any]]]:
        """(epoch, what was seen) of the looks whose step is known, 2.5 in the middle of epoch 3;
        gap: accuracy under one step minus that under the iterated attack.
        """
        found: list[tuple[float, Mapping[str, Any]]] = []
        before = 0.0
        for row, epoch in enumerate(self.epochs):
            end = self.number(row, "step") or before
            for look in _tables(epoch.get("checks")):
                step = _number(look, "step") or 0.0
                if before < step <= end:
                    at = self.epoch(row) - 1 + (step - before) / (end - before)
                    found.append((at, {**look, "gap": _gap(look)}))
            before = end
        return found

    @property
    def flagged(self) -> list[tuple[float, float]]:
        """(epoch, gap) of the looks that found catastrophic overfitting."""
        flags = [(at, look["gap"]) for at, look in self.looks if look.get("catastrophic") is True]
        return [(at, gap) for at, gap in flags if gap is not None]

    def total(self, name: str) -> float | None:
        """The sum over the epochs, None where any epoch did not note it."""
        found = self.series(name)
        return sum(value for _, value in found) if len(found) == len(self.epochs) else None

    @property
    def merit(self) -> str:
        """What the kept epoch has most of: held-out robust accuracy, or clean without it."""
        return "robust" if self.series("robust") else "clean"

    @property
    def best(self) -> int | None:
        """The row of the epoch that was kept: the noted one, or the first with most merit; None
        where there is none.
        """
        noted = self.number(-1, "best_epoch")
        if noted == 0:  # every epoch was rolled back
            return None
        rows = [row for row in range(len(self.epochs)) if self.epoch(row) == noted]
        if rows:
            return rows[0]
        found = self.series(self.merit)
        return max(found, key=lambda item: (item[1], -item[0]))[0] if found else None

    @property
    def held_out(self) -> int | None:
        """How many examples were held out, where the run says so."""
        n = self.number(-1, "held_out")
        return int(n) if n else None

    @property
    def attack(self) -> str:
        """The attack on the held-out examples, where the run says which."""
        return str(self.epochs[-1].get("attack") or "")

    @property
    def collapsed(self) -> list[int]:
        """The epochs after which a constant answer would have been right as often, held out; not
        those before anything was learnt.
        """
        flags = fallen([epoch.get("collapsed") is True for epoch in self.epochs])
        return [self.epoch(row) for row, flag in enumerate(flags) if flag]

    @property
    def catastrophic(self) -> list[int]:
        """The epochs in which the single step came apart from the iterated attack."""
        return [
            self.epoch(row)
            for row, epoch in enumerate(self.epochs)
            if epoch.get("catastrophic") is True
            or any(check.get("catastrophic") for check in _tables(epoch.get("checks")))
        ]

    @property
    def confused(self) -> list[tuple[int, int, int]]:
        """(label, answer, count) of held-out images that the attack moved in the kept epoch."""
        pairs = self.epochs[-1 if self.best is None else self.best].get("confused")
        rows = pairs if isinstance(pairs, list) else []
        return [(int(a), int(b), int(n)) for a, b, n in rows]

    @property
    def figures(self) -> list[str]:
        """What the method noted of itself, by name."""
        seen = dict.fromkeys(name for epoch in self.epochs for name in epoch)
        return [n.removeprefix(FIGURE) for n in seen if n.startswith(FIGURE) and self.series(n)]

    @property
    def undrawn(self) -> list[str]:
        """Recorded numbers that no plot shows and no sentence says."""
        seen = dict.fromkeys(name for epoch in self.epochs for name in epoch)
        known = SAID | DRAWN
        noted = sum(len(_tables(epoch.get("checks"))) for epoch in self.epochs)
        return [
            name
            for name in seen
            if name not in known and not name.startswith(FIGURE) and self.series(name)
        ] + ["checks"] * (noted > len(self.looks))

    def share(self, row: int, name: str) -> Share | None:
        """The held-out accuracy `name` of an epoch; None where it or its n is unknown."""
        value, n = self.number(row, name), self.held_out
        if n is None or value is None or not 0 <= value <= 1:
            return None
        return Share.measured(value, n)


def _epoch(file: Path, number: int, lines: list[str]) -> Mapping[str, Any] | None:
    try:
        record: Any = json.loads(lines[number])
    except ValueError:
        if number == len(lines) - 1:
            return None  # the run was killed while it wrote this line
        record = None
    if isinstance(record, dict):
        figures = record.pop("figures", None)
        noted = figures if isinstance(figures, dict) else {}
        plain = {ALSO.get(str(name), str(name)): value for name, value in record.items()}
        return {**plain, **{f"{FIGURE}{name}": value for name, value in noted.items()}}
    given = f"{file}, line {number + 1}: {lines[number][:60]!r}"
    raise FileError(given, "one JSON object per line", "resume the run, which rewrites its metrics")


def _number(noted: Mapping[str, Any], name: str) -> float | None:
    value = noted.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _gap(look: Mapping[str, Any]) -> float | None:
    single, iterated = _number(look, "fgsm"), _number(look, "robust")
    return None if single is None or iterated is None else single - iterated


def _tables(value: object) -> list[Mapping[str, Any]]:
    """The mappings in a list; a foreign loop may have noted anything under this name."""
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _fingerprint(card: Path) -> str | None:
    """What the card says; a run that has not finished has none, which is no error here."""
    try:
        record = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = record.get("sha256") if isinstance(record, dict) else None
    return found if isinstance(found, str) else None
