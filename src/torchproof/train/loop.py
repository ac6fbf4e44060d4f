"""`fit`: the training loop, a generator of one record per epoch.

It takes

- data: (x, y), or an object with .x and .y: images (N, C, H, W) in [0, 1] and labels (N,). A part
  is held out, keyed by the seed, to choose the checkpoint. Or a stream (see `streamed.Stream`),
  which brings its held-out rows with it.
- threat: what robust accuracy is measured against on the held-out part, by default the method's
  own.
- augment: called with images (B, C, H, W) and keys (B,), one per example and epoch.
- out: a run directory; resume: go on where the run in it was killed, with the same result as if it
  had not been. In a folder without a run, resume starts one.
- save(model, path, card): writes the best network to model.safetensors there, and the last to
  last.safetensors.
- extra: (x, y) of a second source, such as generated images, which fills the share
  `settings.extra_share` of every batch; nothing of it is held out.
- info: what else identifies the run; compared, as all settings are, when it is resumed.
- stop: asked after every step; True ends the run after a checkpoint.
- log: gets the record of every epoch, such as `loggers.tensorboard(folder)`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from torchproof.attack.untouched import forked, home, precision
from torchproof.core import keys
from torchproof.core.checks import check, check_weights
from torchproof.core.errors import InputError
from torchproof.core.threats import AnyThreat
from torchproof.train import distributed, monitor
from torchproof.train.average import renew
from torchproof.train.epoch import kept, record_of
from torchproof.train.folder import Folder, Save, described
from torchproof.train.held_out import measure
from torchproof.train.job import Job, Stop, identity_of, lesson_of, started, stream_lesson
from torchproof.train.learner import State, copied, snapshot, tensors_of
from torchproof.train.loggers import Log, logged
from torchproof.train.method import Method
from torchproof.train.optimisers import require_names
from torchproof.train.record import Record, Sums
from torchproof.train.rows import order
from torchproof.train.settings import Settings
from torchproof.train.step import Augment, take
from torchproof.train.streamed import Portion, Streamed, is_stream

_log = logging.getLogger(__name__)


def fit(
    model: nn.Module,
    data: Any,
    method: Method,
    settings: Settings | None = None,
    *,
    threat: AnyThreat | None = None,
    augment: Augment | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    save: Save | None = None,
    info: Mapping[str, Any] | None = None,
    stop: Stop | None = None,
    extra: Any = None,
    log: Log | None = None,
) -> Iterator[Record]:
    """Trains `model` in place; yields a `Record` after every epoch.

    When the generator ends, the model holds the best weights, averaged ones if there is an
    average, in eval mode. The arguments are described at the head of this module. Raises
    InputError, ModelError, ResumeError and FileError before anything is trained; ModelError for a
    loss that is not finite.
    """
    settings = settings or Settings.of()
    pair = None if is_stream(data) else _pair(data)
    more = None if extra is None else _pair(extra)
    check_weights(model)
    require_names(settings)
    if pair is None:
        lesson = stream_lesson(data, method, settings, threat, augment, more)
    else:
        lesson = lesson_of(*pair, method, settings, threat, augment, more)
    folder = None
    if out is not None:
        identity = identity_of(model, lesson, info or {})
        folder = Folder(Path(out), identity, save)
        folder.claim(resume)
    distributed.share_state(model)
    job = started(model, lesson, folder, stop)
    return logged(_epochs(job), log)


def _pair(data: Any) -> tuple[Tensor, Tensor]:
    """Raises InputError for images and labels that cannot be meant, and for what is neither."""
    if not (isinstance(data, (tuple, list)) or (hasattr(data, "x") and hasattr(data, "y"))):
        remedy = "pass (x, y); for a DataLoader, torchproof.data.stream.Batches(make, count)"
        given = f"training data of type {type(data).__name__}"
        raise InputError(given, "(x, y), .x and .y, or a stream", remedy)
    x, y = data if isinstance(data, (tuple, list)) else (data.x, data.y)
    check(x, y)
    return x, y


def _epochs(job: Job) -> Iterator[Record]:
    while job.state.epoch < job.lesson.settings.epochs and not job.state.ended:
        if not _train(job):
            break
        yield _close(job)
    _finish(job)


def _train(job: Job) -> bool:
    """The rest of the present epoch; False when it was stopped."""
    settings, state, model = job.lesson.settings, job.state, job.learner.model
    model.train()
    if state.step == 0:
        seed = keys.seed_of(settings.seed, "begin", state.epoch)
        rows: Any = job.lesson.train  # a stream answers with an error what only rows can tell
        with forked(seed, home(model)):
            job.lesson.method.begin(model, rows, state.total / job.lesson.steps)
    count = job.lesson.steps // settings.epochs
    kept = before = time.perf_counter()
    for chosen in _batches(job):
        added = take(job.learner, job.lesson, state, chosen)
        now = time.perf_counter()
        state.sums = state.sums.plus(added).plus(Sums(seconds=now - before))
        state.step, state.total, before = state.step + 1, state.total + 1, now
        if state.step < count and _look_due(job):
            _look(job)
            if state.ended:
                return True
        if _stopped(job):
            _keep(job)
            return False
        if state.step < count and _due(settings, state, now - kept):
            _keep(job)
            kept = time.perf_counter()
    return True


def _batches(job: Job) -> Iterator[Tensor | Portion]:
    """What is left of the batches of the present epoch, each as often as the method wants it."""
    lesson, settings, epoch = job.lesson, job.lesson.settings, job.state.epoch
    first, replayed = divmod(job.state.step, lesson.method.replays)
    made: Iterable[Tensor | Portion]
    if isinstance(lesson.train, Streamed):
        made = lesson.train.epoch(settings, epoch, first)
    else:
        extra, share = len(lesson.train) - lesson.real, settings.extra_share
        made = order(lesson.real, settings.batch_size, settings.seed, epoch, extra, share)[first:]
    often = (chosen for chosen in made for _ in range(lesson.method.replays))
    return islice(often, replayed, None)


def _look_due(job: Job) -> bool:
    every = job.lesson.settings.monitor_steps
    return every > 0 and job.state.total % every == 0


def _look(job: Job) -> None:
    """Looks for catastrophic overfitting between epochs, and responds."""
    seen = monitor.look(job)
    if seen is not None:
        job.state.checks.append(seen)
        if seen.catastrophic:
            monitor.respond(job, f"step {seen.step}")


def _stopped(job: Job) -> bool:
    """Does any process want to stop?"""
    return job.stop is not None and distributed.total(int(job.stop()))[0] > 0


def _due(settings: Settings, state: State, seconds: float) -> bool:
    every = settings.checkpoint_steps
    return (every > 0 and state.total % every == 0) or seconds >= settings.checkpoint_seconds


def _keep(job: Job) -> None:
    """Writes a checkpoint, of sound weights only."""
    check_weights(job.learner.model)
    if job.folder is not None and distributed.rank() == 0:
        job.folder.keep(*snapshot(job.learner, job.lesson.method, job.state))


def _close(job: Job) -> Record:
    """The end of an epoch: measure, note, keep. The checkpoint holds the record, so the two never
    disagree.
    """
    started, state, lesson = time.perf_counter(), job.state, job.lesson
    settings = lesson.settings
    check_weights(job.learner.model)
    _renew(job)
    found = measure(
        job.learner.result, lesson.held, lesson.threat, settings.held_out_steps, settings.seed
    )
    state.sums = state.sums.plus(Sums(seconds=time.perf_counter() - started))
    record = record_of(job, found)
    if record.best_epoch == record.epoch:
        state.best = copied(job.learner.result)
    if record.catastrophic:
        monitor.respond(job, f"epoch {record.epoch}")
        record = record.model_copy(update={"rolled_back": state.rolled_back})
    state.records.append(record)
    state.epoch, state.step, state.sums, state.checks = state.epoch + 1, 0, Sums(), []
    _keep(job)
    if job.folder is not None and distributed.rank() == 0:
        job.folder.append(record)
    if record.collapsed:
        _log.warning("epoch %d: a constant answer would be right as often", record.epoch)
    return record


def _renew(job: Job) -> None:
    """Fresh batch statistics for averaged weights, where their rule asks for it."""
    learner, rows = job.learner, job.lesson.train
    if learner.average is not None and learner.rule is not None and learner.rule.renews:
        at = home(learner.model), precision(learner.model)
        pieces = rows.pieces(job.lesson.settings)
        renew(learner.average, (piece.tensors(*at)[0] for piece in pieces), at[0])


def _finish(job: Job) -> None:
    """Saves the last and the best network; the model then holds the best weights. A stopped run
    saves what it has.
    """
    state, model = job.state, job.learner.model
    model.eval()
    if not state.records:
        return
    if state.records[-1].best_epoch == 0:
        _log.warning("every epoch was rolled back: what is left are the weights before training")
    writing = job.folder is not None and distributed.rank() == 0
    model.load_state_dict(tensors_of(job.learner.result))
    if job.folder is not None and writing:
        job.folder.store(model, "last", _card(job, state.records[-1]))
    model.load_state_dict(state.best)
    if job.folder is not None and writing:
        job.folder.store(model, "model", _card(job, kept(state)))
    distributed.wait()


def _card(job: Job, record: Record) -> dict[str, Any]:
    """What is said about a network beside its weights."""
    lesson = job.lesson
    return {
        "training": {
            "method": described(lesson.method),
            "settings": lesson.settings.model_dump(),
            "threat": None if lesson.threat is None else str(lesson.threat),
            "epoch": record.epoch,
            "held_out": record.held_out,
            "clean": record.clean,
            "robust": record.robust,
            "attack": record.attack,
        }
    }
