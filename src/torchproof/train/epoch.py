"""The end of an epoch in figures: its record, and the epoch whose weights are kept."""

from __future__ import annotations

from torchproof.train import monitor
from torchproof.train.held_out import Measured
from torchproof.train.job import Job
from torchproof.train.learner import State
from torchproof.train.record import Record


def record_of(job: Job, found: Measured) -> Record:
    """The record of the epoch that has just been measured."""
    state = job.state
    bad = monitor.catastrophic(found, _robust_before(state))
    best_epoch, best = _best(job, found, bad)
    return Record(
        epoch=state.epoch + 1,
        step=state.total,
        loss=state.sums.loss / state.sums.rows,
        lr=job.learner.lr,
        held_out=found.n,
        clean=found.clean,
        robust=found.robust,
        attack=found.attack,
        best_epoch=best_epoch,
        best_clean=best.clean,
        best_robust=best.robust,
        overfitting=_overfitting(state, found),
        collapsed=found.collapsed,
        forward=state.sums.forward,
        backward=state.sums.backward,
        seconds=state.sums.seconds,
        fgsm=found.fgsm,
        catastrophic=bad,
        checks=state.checks,
        rolled_back=state.rolled_back,
        confused=list(found.confused),
        figures={name: total / state.sums.rows for name, total in state.sums.figures.items()},
    )


def _best(job: Job, found: Measured, bad: bool) -> tuple[int, Measured]:
    """The epoch whose weights are kept, and what was measured of them; 0 for those before
    training. What is rolled back (`bad`) is never kept, or there would be nothing to go back to.
    """
    records, by = job.state.records, job.lesson.by
    epoch, before = 0, Measured(found.n, None, None)
    if records:
        last = records[-1]
        epoch, before = last.best_epoch, Measured(found.n, last.best_clean, last.best_robust)
    if bad and job.lesson.settings.catastrophic == "roll-back":
        return epoch, before
    if epoch and found.n and before.merit(by) >= found.merit(by):
        return epoch, before
    return job.state.epoch + 1, found


def _robust_before(state: State) -> float | None:
    return state.records[-1].robust if state.records else None


def _overfitting(state: State, found: Measured) -> float | None:
    """By how much the best held-out accuracy so far, robust where known, exceeds this one."""
    if found.robust is not None:
        return max([0.0, *(r.robust - found.robust for r in state.records if r.robust is not None)])
    if found.clean is not None:
        return max([0.0, *(r.clean - found.clean for r in state.records if r.clean is not None)])
    return None


def kept(state: State) -> Record:
    """The record of the best weights."""
    number = state.records[-1].best_epoch
    if number:
        return state.records[number - 1]
    unmeasured = {"epoch": 0, "clean": None, "robust": None, "attack": None}
    return state.records[0].model_copy(update=unmeasured)
