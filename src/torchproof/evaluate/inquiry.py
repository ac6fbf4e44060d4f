"""Who is asked, for the probes: some examples of a subject, about one threat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from torchproof.attack.run import Run
from torchproof.core import keys
from torchproof.core.objectives import Classification, Goal, Objective
from torchproof.core.threats import AnyThreat
from torchproof.evaluate.course import Course
from torchproof.evaluate.entries import Entry
from torchproof.evaluate.ledger import Record
from torchproof.evaluate.member import PROBES
from torchproof.evaluate.subject import Subject

# A record of answers and the forward and backward samples they took; None where the time was up.
Answer = tuple[Record, int, int] | None


@dataclass(frozen=True)
class Inquiry:
    """Who is asked: rows of a subject, about one threat, of which `entries` are the attacks."""

    subject: Subject
    course: Course
    entries: Sequence[Entry]
    rows: list[int]

    @property
    def threat(self) -> AnyThreat:
        return self.entries[0].member.attack.threat

    @property
    def ids(self) -> Tensor:
        """(R,) the ids of the examples."""
        return self.subject.examples.ids[self.rows]

    def run(self, purpose: str) -> Run:
        """How an attack is run on them."""
        seed = keys.seed_of(self.subject.seed, PROBES, purpose)
        over = self.course.clock.over
        return Run(seed=seed, ids=self.ids, slots=self.course.room.slots, stop=over)

    @property
    def draws(self) -> int:
        """How many answers the model averages into one."""
        return int(getattr(self.subject.model, "draws", 1))

    @property
    def target(self) -> Tensor | None:
        """(R,) the classes that the examples are to be moved to, in a targeted evaluation."""
        target = self.subject.examples.target
        return None if target is None else target[self.rows]

    def won(self, z: Tensor, y: Tensor) -> Tensor | None:
        """(R,) the verdict of the attacks' objective; None where it depends on a chosen target."""
        if self.target is not None or self.subject.rejecting is not None:
            return self.subject.won(self.rows, z.argmax(1))
        objective: Objective = self.entries[0].member.attack.objective
        if isinstance(objective, Classification):
            return z.argmax(1) != y
        none = y.new_full(y.shape, -1)
        goal = Goal(y, none, none.to(z.dtype))
        return None if objective.targeted else objective.won(z, goal)
