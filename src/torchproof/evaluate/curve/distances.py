"""The distance of the nearest adversarial image of each example, found once and asked again."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from torchproof.attack.cases import Found
from torchproof.attack.minimum import MinimumNorm, Unlimited
from torchproof.attack.run import Run
from torchproof.core import keys
from torchproof.core.files import write
from torchproof.evaluate.course import Course
from torchproof.evaluate.ledger import Header, Ledger, Record
from torchproof.evaluate.member import CLEAN
from torchproof.evaluate.subject import Subject

NEAREST, ROWS = "nearest", "distances.csv"
# The nearest image lies on the decision boundary, where another batch may round the other way: one
# that does not hold when it is asked about again is tried a little farther out.
_FARTHER = (1.0, 1.0001, 1.001, 1.01)


@dataclass(frozen=True)
class DistanceRow:
    """One row of distances.csv, lengths in input units (a count for L0).

    distance: of the nearest adversarial image that the minimum-norm attack found, 0 where the clean
    image is misclassified, inf where none was found or the attack has not been at it (`finished`);
    nearest: the smaller of that and the eps of a fixed-budget attack that broke it; found_by: which
    of them; forward, backward: sample evaluations of the minimum-norm attack.
    """

    id: int
    label: int
    distance: float
    nearest: float
    found_by: str
    forward: int
    backward: int
    finished: bool


def rows_of(header: Header, ledger: Ledger, name: str) -> tuple[DistanceRow, ...]:
    """One row per example as the ledger has it; `name`: of the minimum-norm attack."""
    pairs = zip(header.ids, header.labels, strict=True)
    return tuple(_row(i, label, ledger.of(i), name) for i, label in pairs)


def _row(example: int, label: int, records: dict[str, Record], name: str) -> DistanceRow:
    if CLEAN in records and records[CLEAN]["prediction"] != label:
        return DistanceRow(example, label, 0.0, 0.0, CLEAN, 0, 0, True)
    if NEAREST not in records:
        return DistanceRow(example, label, math.inf, math.inf, "", 0, 0, False)
    found = records[NEAREST]
    far, by = (math.inf, "") if found["distance"] is None else (float(found["distance"]), name)
    return DistanceRow(example, label, far, far, by, found["forward"], found["backward"], True)


def write_rows(folder: Path, rows: Sequence[DistanceRow]) -> None:
    """Writes distances.csv, one row per example; raises FileError."""
    text = io.StringIO()
    names = [field.name for field in fields(DistanceRow)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write(folder / ROWS, text.getvalue().encode())


@dataclass
class Measure:
    """Runs a minimum-norm attack on the correctly classified examples that have no record yet."""

    subject: Subject
    course: Course
    attack: MinimumNorm
    threat: Unlimited
    total: int = 0
    done: int = 0
    found: int = 0

    def run(self) -> None:
        """Until nothing is left or the time is up."""
        self.course.work_off(self._pending, self._attack)

    def _pending(self) -> list[int]:
        ledger, labels = self.course.ledger, self.subject.examples.y.tolist()
        every = [ledger.of(i) for i in self.subject.examples.ids.tolist()]
        right = [
            row
            for row, records in enumerate(every)
            if records.get(CLEAN, {}).get("prediction") == labels[row]
        ]
        left = [row for row in right if NEAREST not in every[row]]
        self.total, self.done = len(right), len(right) - len(left)
        known = [every[row][NEAREST] for row in right if NEAREST in every[row]]
        self.found = sum(record["distance"] is not None for record in known)
        return left

    def _attack(self, rows: list[int]) -> None:
        index = torch.tensor(rows)
        examples = self.subject.examples
        x, y = examples.x[index], examples.y[index]
        run = Run(
            seed=keys.seed_of(self.subject.seed, NEAREST),
            ids=examples.ids[index],
            slots=self.course.room.slots,
            on_done=lambda found, done: self._record(rows, x, y, found, done),
            stop=self.course.clock.over,
        )
        self.attack(self.subject.model, x, y, run=run)

    def _record(self, rows: list[int], x: Tensor, y: Tensor, found: Found, done: list[int]) -> None:
        lost = [problem for problem in done if bool(found.lost[problem])]
        far: dict[int, float] = {}
        for start in range(0, len(lost), self.course.room.slots):
            part = lost[start : start + self.course.room.slots]
            far |= zip(part, self._held(x, y, found, part), strict=True)
        seconds = self.course.clock.lap() / len(done)
        records: list[Record] = []
        for problem in done:
            forward, backward = found.spent[problem].tolist()
            distance, blind = far.get(problem, math.inf), int(found.undefined[problem])
            records.append({
                "id": int(self.subject.examples.ids[rows[problem]]),
                "attack": NEAREST,
                "distance": _rounded(distance) if math.isfinite(distance) else None,
                "unconfirmed": problem in far and not math.isfinite(distance),
                "forward": forward,
                "backward": backward,
                "seconds": seconds,
                **({"undefined": blind} if blind else {}),
            })  # fmt: skip
        self.course.ledger.add(records)
        self.done += len(done)
        self.found += sum(record["distance"] is not None for record in records)
        self.course.tell(NEAREST, self.done, self.total, self.found)

    def _held(self, x: Tensor, y: Tensor, found: Found, lost: list[int]) -> list[float]:
        """The distance of each problem's image as it is stored, inf where none holds."""
        assert isinstance(found.value, Tensor), "perturbations of single inputs are one tensor"
        at = torch.tensor(lost, device=x.device)
        before, delta, label = x[at], found.value[at].to(x), y[at.to(y.device)]
        out = torch.full((len(lost),), math.inf, dtype=torch.float64)
        left = torch.arange(len(lost))
        for factor in _FARTHER:
            moved = (before[left] + factor * delta[left]).clamp(self.threat.low, self.threat.high)
            with self.subject.asked("recheck") as ask, torch.inference_mode():
                answer = ask(moved.to(self.subject.device)).argmax(1).to(label.device)
            holds = (answer != label[left]).cpu()
            far = self.threat.norm.length(moved.double() - before[left].double()).cpu()
            out[left[holds]] = far[holds]
            left = left[~holds]
            if not len(left):
                break
        return [float(d) for d in out]


def _rounded(distance: float) -> float:
    """To the nine digits that float32 holds: the rest is noise that another batch would change."""
    return float(f"{distance:.9g}")
