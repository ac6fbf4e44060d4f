"""One step of training: make the batch, prepare it, descend."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import place
from torchproof.core import keys
from torchproof.core.errors import ModelError
from torchproof.core.threats import AnyThreat
from torchproof.train import distributed
from torchproof.train.average import follow
from torchproof.train.learner import Learner, State
from torchproof.train.method import Batch, Method, drawn, joined, read
from torchproof.train.record import Sums
from torchproof.train.rows import Rows
from torchproof.train.settings import Settings
from torchproof.train.shift import shifted
from torchproof.train.streamed import Portion, Streamed

Augment = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Lesson:
    """What stays as it is during a run. real: how many of the training rows are no extra data, 0
    for a stream; augment: called with images (B, C, H, W) and keys (B,); steps: of the whole run;
    by: "robust" or "clean", what the best checkpoint is chosen by.
    """

    method: Method
    settings: Settings
    train: Rows | Streamed
    real: int
    held: Rows
    threat: AnyThreat | None
    augment: Augment | None
    steps: int
    by: str


def batch_of(lesson: Lesson, model: nn.Module, state: State, chosen: Tensor | Portion) -> Batch:
    """This process's share of the global batch: `chosen` are its positions among the training rows,
    or what a stream brought.
    """
    places = torch.arange(len(chosen))[distributed.rank() :: distributed.world()]
    rows = chosen if isinstance(chosen, Portion) else lesson.train.part(chosen[places])
    x, y = rows.tensors(*place(model, rows.x.device))
    seed = lesson.settings.seed
    if lesson.augment is not None:
        x = lesson.augment(x, keys.mix(seed, rows.index, "augment", state.epoch).to(x.device))
    step = keys.seed_of(seed, "step", state.total)
    return Batch(x, y, rows.index, state.total / lesson.steps, step, place=places)


def cast(settings: Settings, device: torch.device) -> AbstractContextManager[object]:
    """Autocast as the settings ask for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.autocast != "off")


def take(learner: Learner, lesson: Lesson, state: State, chosen: Tensor | Portion) -> Sums:
    """One optimiser step on the global batch; what it adds to the epoch's sums, `seconds` apart.

    Raises ModelError as soon as a loss is not finite: the weights are then those before the step.
    """
    model, settings = learner.model, lesson.settings
    batch = _prepared(learner, lesson, batch_of(lesson, model, state, chosen))
    with shifted(model, batch.shift):
        loss = _gradients(learner, lesson, batch, len(chosen))
        if not math.isfinite(loss):
            remedy = "lower the learning rate, clip gradients or train in float32, and resume"
            given = f"a training loss of {loss} in step {state.total + 1}, epoch {state.epoch + 1}"
            raise ModelError(given, "a finite loss", remedy)
        if settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        lesson.method.learn(batch)
        learner.optimiser.step()
    learner.scheduler.step()
    distributed.average_statistics(model)
    if learner.average is not None and learner.rule is not None:
        follow(learner.average, model, learner.rule.share(state.total, lesson.steps))
    forward, backward = distributed.total(*batch.spent)
    return Sums(loss, len(chosen), forward, backward, figures=_figures(batch))


def _figures(batch: Batch) -> dict[str, float]:
    """What the method noted, summed over the rows of the global batch."""
    names = sorted(batch.noted)
    sums = [batch.noted[name].double().sum().reshape(1) for name in names]
    distributed.sum_(sums)
    return {name: float(value) for name, value in zip(names, sums, strict=True)}


def _prepared(learner: Learner, lesson: Lesson, batch: Batch) -> Batch:
    """The batch as the method prepares it, in parts of a size that memory allows."""
    parts: list[Batch] = []

    def attempt() -> None:
        parts.clear()
        with cast(lesson.settings, batch.x.device):
            for part in batch.split(learner.room.slots):
                parts.append(lesson.method.prepare(learner.model, part))

    while not learner.room.survives(attempt):
        pass
    return joined(parts)


def _gradients(learner: Learner, lesson: Lesson, batch: Batch, count: int) -> float:
    """Leaves the gradients of the mean loss over the `count` examples of the global batch; returns
    the summed loss.

    Where memory runs out, gradients of smaller parts are added up: the same but for the statistics
    of batch normalisation, which are then those of a part.
    """
    model, sums, tries = learner.model, [0.0], itertools.count()
    statistics = [b.clone() for b in model.buffers()]

    def attempt() -> None:
        learner.optimiser.zero_grad(set_to_none=True)
        sums[0] = 0.0
        if next(tries):
            _bring_back(model, statistics)
        if batch.adv is not None:
            batch.adv.grad = None
        for part in batch.split(learner.room.slots):
            sums[0] += _backward(lesson, model, part, count)

    while not learner.room.survives(attempt):
        pass
    if distributed.world() == 1:
        return sums[0]
    summed = torch.tensor([sums[0]], dtype=torch.float64, device=batch.x.device)
    distributed.sum_([p.grad for p in model.parameters() if p.grad is not None])
    distributed.sum_([summed])
    return float(summed)


def _bring_back(model: nn.Module, statistics: list[Tensor]) -> None:
    """Buffers that an attempt which failed has moved."""
    for buffer, value in zip(model.buffers(), statistics, strict=True):
        if not torch.equal(buffer, value):
            buffer.copy_(value)


def _backward(lesson: Lesson, model: nn.Module, batch: Batch, count: int) -> float:
    """Adds the gradients of the losses of a part, divided by `count`; returns their sum."""
    with drawn(batch):
        with cast(lesson.settings, batch.x.device):
            losses = read(lesson.method, model, batch)
        total = losses.sum()
        torch.autograd.backward(total / count)
    return float(total.detach().double())
