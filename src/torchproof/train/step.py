"""One step of training: make the batch, prepare it, descend."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import home, precision
from torchproof.core import keys
from torchproof.core.errors import ModelError
from torchproof.core.threats import AnyThreat
from torchproof.train import distributed
from torchproof.train.ema import follow
from torchproof.train.learner import Learner, State
from torchproof.train.method import Batch, Method, drawn, read
from torchproof.train.record import Sums
from torchproof.train.rows import Rows
from torchproof.train.settings import Settings
from torchproof.train.shift import shifted

Augment = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Lesson:
    """What stays as it is during a run. augment: called with images (B, C, H, W) and keys (B,);
    steps: of the whole run; by: "robust" or "clean", what the best checkpoint is chosen by."""

    method: Method
    settings: Settings
    train: Rows
    held: Rows
    threat: AnyThreat | None
    augment: Augment | None
    steps: int
    by: str


def batch_of(lesson: Lesson, model: nn.Module, state: State, chosen: Tensor) -> Batch:
    """This process's share of the global batch whose positions among the training rows are
    `chosen`.
    """
    rows = lesson.train.part(chosen[distributed.rank() :: distributed.world()])
    x, y = rows.tensors(home(model), precision(model))
    seed = lesson.settings.seed
    if lesson.augment is not None:
        x = lesson.augment(x, keys.mix(seed, rows.index, "augment", state.epoch).to(x.device))
    step = keys.seed_of(seed, "step", state.total)
    return Batch(x, y, rows.index, state.total / lesson.steps, step)


def cast(settings: Settings, device: torch.device) -> AbstractContextManager[object]:
    """Autocast as the settings ask for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.autocast != "off")


def take(learner: Learner, lesson: Lesson, state: State, chosen: Tensor) -> Sums:
    """One optimiser step on the global batch; what it adds to the epoch's sums, `seconds` apart.

    Raises ModelError as soon as a loss is not finite: the weights are then those before the step.
    """
    model, settings = learner.model, lesson.settings
    batch = batch_of(lesson, model, state, chosen)
    with cast(settings, batch.x.device):
        batch = lesson.method.prepare(model, batch)
    learner.optimiser.zero_grad(set_to_none=True)
    with shifted(model, batch.shift):
        loss = _backward(lesson, model, batch, len(chosen), state)
        if settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        learner.optimiser.step()
    learner.scheduler.step()
    distributed.average_statistics(model)
    if learner.average is not None and settings.ema is not None:
        follow(learner.average, model, state.total, settings.ema)
    forward, backward = distributed.total(*batch.spent)
    return Sums(loss, len(chosen), forward, backward)


def _backward(lesson: Lesson, model: nn.Module, batch: Batch, count: int, state: State) -> float:
    """Gradients of the mean loss over the `count` examples of the global batch; returns the summed
    loss.
    """
    with drawn(batch):
        with cast(lesson.settings, batch.x.device):
            losses = read(lesson.method, model, batch)
        total = losses.sum()
        torch.autograd.backward(total / count)
    summed = total.detach().double()[None]
    distributed.sum_([p.grad for p in model.parameters() if p.grad is not None])
    distributed.sum_([summed])
    loss = float(summed)
    if not torch.isfinite(summed):
        remedy = "lower the learning rate, clip gradients or train in float32, and resume"
        given = f"a training loss of {loss} in step {state.total + 1}, epoch {state.epoch + 1}"
        raise ModelError(given, "a finite loss", remedy)
    return loss
