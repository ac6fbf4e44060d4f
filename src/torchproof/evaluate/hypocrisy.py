"""`hypocrisy`: how much better may a model look than it is (Tao et al. 2021)?

Every example that the model gets wrong is attacked until it answers correctly; those it gets right
stay as they are, so none is broken. Beside that an ordinary adversary tries to change the answers.
Records are kept in a ledger, as those of `evaluate` are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import Attack
from torchproof.attack.hypocritical import (
    hypocritical,
    hypocritical_cw,
    hypocritical_fgsm,
    require_friendly,
)
from torchproof.attack.starts import Gaussian
from torchproof.core.errors import InputError
from torchproof.core.files import replacing
from torchproof.core.objectives import Hypocritical, Targeted
from torchproof.core.room import Room
from torchproof.core.sites import Model
from torchproof.core.threats import Threat
from torchproof.evaluate import identity
from torchproof.evaluate.clean import clean_pass, confirm_model
from torchproof.evaluate.course import Clock, Course, Progress
from torchproof.evaluate.images import Images
from torchproof.evaluate.ledger import IMAGES, Header, Ledger
from torchproof.evaluate.member import CLEAN, Member, described
from torchproof.evaluate.subject import Subject, examples_of
from torchproof.evaluate.suites import bounded
from torchproof.evaluate.sway import FOE, TOWARDS, Sway

if TYPE_CHECKING:
    from torchproof.evaluate.friends import FriendRow, HypocrisyRecord

PICTURES = "hypocritical.npz"


def friends(threat: Threat) -> list[Member]:
    """The attacks of the paper's table: one step, PGD-20, and 100 steps on the margin."""
    source = "Tao et al. 2021"
    return [
        Member("FGSM", hypocritical_fgsm(threat), source=source),
        Member("PGD-20", hypocritical(threat), source=source),
        Member("C&W-100", hypocritical_cw(threat), source=source),
    ]


def turned(attack: Attack) -> Attack:
    """The attack with its objective turned around, as it is where it is `Hypocritical` already."""
    if isinstance(attack.objective, Hypocritical):
        return attack
    return replace(attack, objective=Hypocritical(attack.objective))


@dataclass(frozen=True)
class Hypocrisy:
    """What was found. x, moved: (n, C, H, W) clean images, and in `moved` those of befriended
    examples replaced by an image that the model answers correctly; None where none were kept.
    """

    record: HypocrisyRecord
    rows: tuple[FriendRow, ...]
    x: Tensor
    moved: Tensor | None

    def save(self, folder: Path) -> None:
        """hypocrisy.json, friends.csv and, with images, hypocritical.npz (x, x_hyp, y, id)."""
        from torchproof.evaluate.friends import write_rows

        if self.moved is not None:
            arrays = {
                "x": self.x.cpu().numpy(),
                "x_hyp": self.moved.cpu().numpy(),
                "y": np.array([row.label for row in self.rows], dtype=np.int64),
                "id": np.array([row.id for row in self.rows], dtype=np.int64),
            }
            with replacing(folder / PICTURES) as file:
                np.savez(file, allow_pickle=False, **arrays)
        write_rows(folder, self.rows)
        self.record.save(folder)


def hypocrisy(
    model: Model, data: Any, threat: Threat, attacks: Sequence[Member] | None = None, *,
    adversary: Attack | None = None, every_class: bool = False,
    seed: int = 0, n: int | None = None, slots: int = 128,
    out: Path | str | None = None, resume: bool = False, images: bool = True,
    max_seconds: float | None = None, progress: Callable[[Progress], None] | None = None,
    name: str | None = None, data_name: str | None = None, model_sha256: str | None = None,
    data_sha256: str | None = None, command: str | None = None,
) -> Hypocrisy:  # fmt: skip
    """Natural, adversarial, hypocritical and stability risk of a model on the first n examples.

    attacks: by default `friends(threat)`; each is run on every error, so their columns can be
    compared, and its objective is turned around where it is not `Hypocritical`. adversary: what
    tries to change answers, by default PGD-20 on cross-entropy. every_class: also moves the errors
    to every class in turn (PGD-20 down its cross-entropy), for comparison. images: keep the moved
    ones. The rest as in `evaluate`. No decision depends on slots or resumption. Raises InputError,
    ModelError, FileError and ResumeError.
    """
    plan = _Plan.of(threat, attacks, adversary)
    with torch.inference_mode(False):
        examples = examples_of(data, n, None, data_name, data_sha256)
        subject = Subject.of(model, examples, seed, False)
        plan = replace(plan, classes=_classes(subject) if every_class else 0)
        header = plan.header(subject, model_sha256, name, command)
        full = torch.autocast(subject.device.type, enabled=False)
        clock, room = Clock(max_seconds), Room(slots)
        with full, _opened(header, subject, out, resume, images) as (ledger, stored):
            course = Course(ledger, stored, room, clock, progress)
            confirm_model(subject, course)
            clean_pass(subject, course)
            for sway in plan.stages(subject, course, stored if images else None):
                sway.run()
            found = _found(subject, course, images)
            if ledger.folder is not None:
                found.save(ledger.folder)
            return found


@dataclass(frozen=True)
class _Plan:
    threat: Threat
    members: tuple[Member, ...]
    adversary: Attack
    classes: int = 0

    @property
    def aimed(self) -> Attack:
        """What moves errors to a class of our choice, as strong as the paper's attack."""
        return pgd(self.threat, 20, 0.25, Targeted(), Gaussian(0.01))

    @classmethod
    def of(
        cls, threat: Threat, attacks: Sequence[Member] | None, adversary: Attack | None
    ) -> _Plan:
        """Raises InputError for attacks that do not fit the threat, or share a name."""
        if not isinstance(threat, Threat) or bounded(threat) is not threat:
            given_, remedy = f"the threat {threat!r}", "pass Threat(Linf(), 8/255), for example"
            raise InputError(given_, "a ball around each input", remedy)
        given = friends(threat) if attacks is None else list(attacks)
        members = tuple(Member(m.name, turned(m.attack), source=m.source) for m in given)
        names = [member.name for member in members]
        twice = len({*names, CLEAN, FOE}) < len(names) + 2
        if not names or twice or any(";" in n or n.startswith(TOWARDS) for n in names):
            remedy = f"name each attack once, and none {CLEAN!r}, {FOE!r} or with a semicolon"
            raise InputError(f"attacks named {names}", "at least one, by different names", remedy)
        foe = pgd(threat, 20) if adversary is None else adversary
        for attack in [*(m.attack for m in members), foe]:
            if attack.threat != threat:
                given_, remedy = f"an attack on {attack.threat}", "build it with the same threat"
                raise InputError(given_, f"an attack on {threat}", remedy)
        for member in members:
            require_friendly(member.attack)
        return cls(threat, members, foe)

    def header(
        self, subject: Subject, sha256: str | None, name: str | None, command: str | None
    ) -> Header:
        """What identifies this run, and what its record says."""
        settings = {
            "kind": "hypocrisy",
            "threat": str(self.threat),
            "box": [self.threat.low, self.threat.high],
            "attacks": [{"name": m.name, "settings": m.settings} for m in self.members],
            "adversary": described(self.adversary),
            "towards": {"classes": self.classes, "settings": described(self.aimed)}
            if self.classes
            else None,
        }
        who, data = identity.called(subject.model, name), subject.examples.name
        call = f"torchproof.evaluate.hypocrisy({who}, {data}, {self.threat})"
        return identity.header(subject, sha256, name, settings, {"command": command or call})

    def stages(self, subject: Subject, course: Course, images: Images | None) -> Iterator[Sway]:
        """The attacks on the errors, then the adversary on all; nothing before the clean pass has
        reached an example.
        """
        ids, y = subject.examples.ids.tolist(), subject.examples.y
        known = [course.ledger.of(i).get(CLEAN, {}).get("prediction", -1) for i in ids]
        answer = torch.tensor(known, device=y.device)
        errors = [row for row, a in enumerate(known) if a >= 0 and a != int(y[row])]
        for member in self.members:
            yield Sway(subject, course, member.name, member.attack, errors, y, torch.eq, images)
        everyone = [row for row, a in enumerate(known) if a >= 0]
        yield Sway(subject, course, FOE, self.adversary, everyone, answer, torch.ne)
        for number in range(self.classes):
            rows = [row for row in errors if known[row] != number]
            name, there = f"{TOWARDS}{number}", partial(_at, number)
            yield Sway(subject, course, name, self.aimed, rows, answer, there, target=number)


def _at(number: int, answer: Tensor, before: Tensor) -> Tensor:
    return answer == number


def _classes(subject: Subject) -> int:
    """How many classes the model knows."""
    with subject.asked("first") as ask, torch.no_grad():
        return ask(subject.examples.x[:1].to(subject.device)).shape[1]


@contextmanager
def _opened(
    header: Header, subject: Subject, out: Path | str | None, resume: bool, images: bool
) -> Iterator[tuple[Ledger, Images]]:
    """The ledger and its images, closed afterwards."""
    folder = None if out is None else Path(out)
    ledger = Ledger.open(header, folder, resume)
    try:
        path = folder / IMAGES if folder is not None and images else None
        shape = tuple(subject.examples.x.shape[1:])
        count = len(subject) if images else 0
        stored = Images.open(path, count, shape, subject.dtype, False)
        ledger.images = stored
        if images:
            _forget_unfounded(ledger, stored)
        yield ledger, stored
        ledger.sync()
    finally:
        ledger.close()


def _forget_unfounded(ledger: Ledger, images: Images) -> None:
    """Drops the records of friends whose image is not there, so that it is found again."""
    for row, i in enumerate(ledger.header.ids):
        records = ledger.of(i).items()
        lost = {name for name, r in records if r.get("lost") and not name.startswith(TOWARDS)}
        won = lost - {FOE}
        sums = {ledger.of(i)[name]["image"] for name in won}
        if won and images.checksum(row) not in sums:
            for name in won:
                ledger.drop(i, name)


def _found(subject: Subject, course: Course, images: bool) -> Hypocrisy:
    from torchproof.evaluate.friends import summarise  # late: with pydantic

    record, rows = summarise(course.ledger.header, course.ledger.records)
    x = subject.examples.x
    if not images:
        return Hypocrisy(record, rows, x, None)
    moved, friendly = x.clone(), [i for i, row in enumerate(rows) if row.befriended_by]
    if friendly:
        moved[friendly] = course.images.read(friendly).to(moved)
    return Hypocrisy(record, rows, x, moved)
