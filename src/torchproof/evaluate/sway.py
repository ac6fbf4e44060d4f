"""One attack on some examples, whatever it is meant to make the model answer, with its records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchproof.attack.cases import Found
from torchproof.attack.combine import Attack
from torchproof.attack.run import Run
from torchproof.core import keys
from torchproof.evaluate.course import Course
from torchproof.evaluate.images import Images
from torchproof.evaluate.ledger import Record
from torchproof.evaluate.recheck import allowed
from torchproof.evaluate.subject import Subject

FOE = "stability"  # the ledger's name for the adversary that changes answers
TOWARDS = "towards "  # and, followed by the class, for the attack that aims at it


@dataclass
class Sway:
    """`attack` with the labels y (n,) on `rows`; it has succeeded where `wanted(answer, y)`.

    What it finds counts only when the stored image lies in the threat and the model, asked again in
    full precision, still answers as wanted; else the example is recorded as unconfirmed. Images go
    into `images`, if any; the first attack that succeeds on an example keeps its own. `target`: the
    class that a targeted attack aims at.
    """

    subject: Subject
    course: Course
    label: str
    attack: Attack
    rows: list[int]
    y: Tensor
    wanted: Callable[[Tensor, Tensor], Tensor]
    images: Images | None = None
    target: int | None = None
    done: int = 0
    won: int = 0

    def run(self) -> None:
        """Until nothing is left or the time is up."""
        self.course.work_off(self._pending, self._attack)

    def _pending(self) -> list[int]:
        ids, ledger = self.subject.examples.ids.tolist(), self.course.ledger
        left = [row for row in self.rows if self.label not in ledger.of(ids[row])]
        self.done = len(self.rows) - len(left)
        self.won = sum(bool(ledger.of(ids[r]).get(self.label, {}).get("lost")) for r in self.rows)
        return left

    def _attack(self, rows: list[int]) -> None:
        index = torch.tensor(rows)
        x, y = self.subject.examples.x[index], self.y[index]
        run = Run(
            seed=keys.seed_of(self.subject.seed, self.label),
            ids=self.subject.examples.ids[index],
            slots=self.course.room.slots,
            on_done=lambda found, done: self._record(rows, x, y, found, done),
            stop=self.course.clock.over,
        )
        aim = None if self.target is None else torch.full((len(rows),), self.target)
        self.attack(self.subject.model, x, y, target=aim, run=run)

    def _record(self, rows: list[int], x: Tensor, y: Tensor, found: Found, done: list[int]) -> None:
        lost = [problem for problem in done if bool(found.lost[problem])]
        held = dict(zip(lost, self._held(x, y, found, lost), strict=True))
        seconds = self.course.clock.lap() / len(done)
        ids = self.subject.examples.ids
        records: list[Record] = []
        for problem in done:
            forward, backward = found.spent[problem].tolist()
            image, blind = held.get(problem), int(found.undefined[problem])
            records.append(
                {
                    "id": int(ids[rows[problem]]),
                    "attack": self.label,
                    "lost": image is not None,
                    "unconfirmed": problem in held and image is None,
                    "image": None if image is None else self._kept(rows[problem], image),
                    "forward": forward,
                    "backward": backward,
                    "seconds": seconds,
                    **({"undefined": blind} if blind else {}),
                }
            )
        self.course.ledger.add(records)
        self.done, self.won = self.done + len(done), self.won + sum(r["lost"] for r in records)
        self.course.tell(self.label, self.done, len(self.rows), self.won)

    def _held(self, x: Tensor, y: Tensor, found: Found, lost: list[int]) -> list[Tensor | None]:
        """The moved image of each problem in `lost`, None where it does not hold."""
        if not lost:
            return []
        at = torch.tensor(lost, device=x.device)
        value = found.value
        assert isinstance(value, Tensor), "perturbations of single inputs are one tensor"
        before, moved = x[at], x[at] + value[at].to(x)
        device = self.subject.device
        with self.subject.asked("recheck") as ask, torch.no_grad():
            answer = ask(moved.to(device)).argmax(1)
        inside = allowed(self.attack.threat, self.subject.model, before, moved)
        holds = inside & self.wanted(answer, y[at.to(y.device)].to(device)).to(inside.device)
        return [image if ok else None for image, ok in zip(moved, holds.tolist(), strict=True)]

    def _kept(self, row: int, image: Tensor) -> int | None:
        """The checksum of the image, stored for its row; None where none or another is kept."""
        if self.images is None:
            return None
        known = self.course.ledger.of(int(self.subject.examples.ids[row])).values()
        if any(record.get("image") is not None for record in known):
            return None
        return self.images.write([row], image[None])[0]
