"""A run at its beginning: what stays as it is, what makes it this run, and where its checkpoint
left it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.core.threats import AnyThreat
from torchproof.train import checkpoint, distributed
from torchproof.train.folder import Folder, described, digest
from torchproof.train.learner import Learner, State, learner, restore, tensors_of
from torchproof.train.method import Method
from torchproof.train.rows import split, steps_of
from torchproof.train.settings import FREE, Settings
from torchproof.train.step import Augment, Lesson

Stop = Callable[[], bool]


@dataclass(frozen=True)
class Job:
    """A run under way; `state` is what moves."""

    learner: Learner
    lesson: Lesson
    state: State
    folder: Folder | None
    stop: Stop | None


def lesson_of(
    x: Tensor,
    y: Tensor,
    method: Method,
    settings: Settings,
    threat: AnyThreat | None,
    augment: Augment | None,
) -> Lesson:
    """The data split, the threat and the number of steps; raises InputError for batches too small
    to share.
    """
    train, held = split(x, y, settings.seed, settings.held_out)
    steps = steps_of(len(train), settings.batch_size)
    if len(train) // steps < distributed.world():
        raise InputError(
            f"batches of {len(train) // steps} for {distributed.world()} processes",
            "at least one example for each process",
            "raise batch_size, or start fewer processes",
        )
    own: AnyThreat | None = getattr(method, "threat", None)
    threat = threat or own
    if threat is not None and threat.site.shared:
        threat = None  # robust accuracy per image is about perturbations of that image
    by = settings.choose
    if by == "auto":
        by = "clean" if own is None else "robust"
    return Lesson(method, settings, train, held, threat, augment, steps * settings.epochs, by)


def identity_of(model: nn.Module, lesson: Lesson, info: Mapping[str, Any]) -> dict[str, Any]:
    """What makes this run this run: stored, and compared when it is resumed."""
    data = {"x": lesson.train.x, "y": lesson.train.y}
    return {
        "schema": "torchproof.training/1",
        "settings": lesson.settings.model_dump(exclude=set(FREE)),
        "method": described(lesson.method),
        "threat": None if lesson.threat is None else described(lesson.threat),
        "augment": None if lesson.augment is None else described(lesson.augment),
        "network": digest(tensors_of(model), content=False),
        "data": digest(data),
        "processes": distributed.world(),
        "info": dict(info),
    }


def started(model: nn.Module, lesson: Lesson, folder: Folder | None, stop: Stop | None) -> Job:
    """A job at its beginning, or where its checkpoint left it."""
    ready, state = learner(model, lesson.settings, lesson.steps), State()
    if folder is not None and folder.checkpoint.exists():
        state = restore(ready, lesson.method, *checkpoint.read(folder.checkpoint))
    distributed.wait()
    if folder is not None and distributed.rank() == 0:
        folder.rewrite(state.records)
    return Job(ready, lesson, state, folder, stop)
