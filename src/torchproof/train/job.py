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
from torchproof.train.learner import Learner, State, copied, learner, restore, tensors_of
from torchproof.train.method import Method, layers
from torchproof.train.rows import Rows, split, steps_of, with_extra
from torchproof.train.settings import FREE, Settings
from torchproof.train.step import Augment, Lesson
from torchproof.train.streamed import Stream, Streamed, held_rows
from torchproof.train.wrapper import require_whole

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
    extra: tuple[Tensor, Tensor] | None = None,
) -> Lesson:
    """The data split, the threat and the number of steps; raises InputError for batches too small
    to share, and for extra data that do not fit or are not asked for.
    """
    if (extra is None) != (settings.extra_share == 0):
        given = f"extra_share = {settings.extra_share} {'with' if extra else 'without'} extra data"
        remedy = "give both, or neither: extra_share=0.7 is usual with generated images"
        raise InputError(given, "a share of each batch, and the data that fill it", remedy)
    train, held = split(x, y, settings.seed, settings.held_out)
    real = len(train)
    train = train if extra is None else with_extra(train, *extra)
    steps = steps_of(real, settings.batch_size, settings.extra_share)
    if real // steps < distributed.world():
        raise InputError(
            f"batches of {real // steps} for {distributed.world()} processes",
            "at least one example for each process",
            "raise batch_size, or start fewer processes",
        )
    return _lesson(method, settings, train, real, held, threat, augment, steps)


def stream_lesson(
    stream: Stream,
    method: Method,
    settings: Settings,
    threat: AnyThreat | None,
    augment: Augment | None,
    extra: object | None = None,
) -> Lesson:
    """As `lesson_of`, of a stream; raises InputError for extra data, for which there is no room in
    its batches, and for a share of them.
    """
    if extra is not None or settings.extra_share:
        remedy = "mix the sources in the stream"
        raise InputError("extra data beside a stream", "a stream alone", remedy)
    held, steps = held_rows(stream, settings), stream.steps(settings.batch_size)
    return _lesson(method, settings, Streamed(stream), 0, held, threat, augment, steps)


def _lesson(
    method: Method,
    settings: Settings,
    train: Rows | Streamed,
    real: int,
    held: Rows,
    threat: AnyThreat | None,
    augment: Augment | None,
    steps: int,
) -> Lesson:
    """What data in memory and streams have in common; steps: batches of an epoch."""
    require_trainable(method, augmented=augment is not None)
    own: AnyThreat | None = getattr(method, "threat", None)
    threat = threat or own
    if threat is not None and threat.site.shared:
        threat = None  # robust accuracy per image is about perturbations of that image
    by = settings.choose
    if by == "auto":
        by = "clean" if own is None else "robust"
    total = steps * method.replays * settings.epochs
    return Lesson(method, settings, train, real, held, threat, augment, total, by)


def require_trainable(method: Method, augmented: bool) -> None:
    """Raises InputError for a method that trains to nothing alone, or cannot go with augmented
    images.
    """
    require_whole(method)
    for _, part in layers(method):
        part.accept(augmented)


def identity_of(model: nn.Module, lesson: Lesson, info: Mapping[str, Any]) -> dict[str, Any]:
    """What makes this run this run: stored, and compared when it is resumed."""
    rows = lesson.held if isinstance(lesson.train, Streamed) else lesson.train
    named = {"stream": lesson.train.stream.name} if isinstance(lesson.train, Streamed) else {}
    return {
        "schema": "torchproof.training/1",
        "settings": lesson.settings.model_dump(exclude=set(FREE)),
        "method": described(lesson.method),
        "threat": None if lesson.threat is None else described(lesson.threat),
        "augment": None if lesson.augment is None else described(lesson.augment),
        "network": digest(tensors_of(model), content=False),
        "data": digest({"x": rows.x, "y": rows.y}),
        **named,
        "processes": distributed.world(),
        "info": dict(info),
    }


def started(model: nn.Module, lesson: Lesson, folder: Folder | None, stop: Stop | None) -> Job:
    """A job at its beginning, or where its checkpoint left it."""
    ready = learner(model, lesson.method, lesson.settings, lesson.steps)
    state = State(best=copied(model))
    if folder is not None and folder.checkpoint.exists():
        state = restore(ready, lesson.method, *checkpoint.read(folder.checkpoint))
    distributed.wait()
    if folder is not None and distributed.rank() == 0:
        folder.rewrite(state.records)
    return Job(ready, lesson, state, folder, stop)
