"""What changes while a network is trained, and how it is taken into a checkpoint and brought back
from one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from torchproof.core.errors import FileError, InputError, ModelError
from torchproof.core.room import Room
from torchproof.train import checkpoint, optimisers
from torchproof.train.average import Average, twin
from torchproof.train.ema import Moving
from torchproof.train.method import Method, layers
from torchproof.train.record import Check, Record, Sums
from torchproof.train.settings import Settings

# A scheduler is rebuilt from the settings; these say where it is.
_PLACE = ("last_epoch", "_step_count", "_last_lr")


@dataclass(frozen=True)
class Learner:
    """A network and what moves it; `average` is the network of averaged weights, where method or
    settings ask for one by a `rule`; `room` knows how many examples fit into memory at once.
    """

    model: nn.Module
    optimiser: Optimizer
    scheduler: LRScheduler
    average: nn.Module | None
    rule: Average | None
    room: Room

    @property
    def result(self) -> nn.Module:
        """The network that is measured and saved."""
        return self.model if self.average is None else self.average

    @property
    def lr(self) -> float:
        return float(self.optimiser.param_groups[0]["lr"])


@dataclass
class State:
    """Where a run is: finished epochs, steps in the present epoch and in all, its sums, the
    records, the best weights, this epoch's checks, how often the best weights were taken up again;
    ended: no more epochs are wanted.
    """

    epoch: int = 0
    step: int = 0
    total: int = 0
    sums: Sums = field(default_factory=Sums)
    records: list[Record] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    rolled_back: int = 0
    ended: bool = False


def learner(model: nn.Module, method: Method, settings: Settings, steps: int) -> Learner:
    """A learner at the start of a run of `steps` steps; raises InputError for a model without
    trainable parameters, and for averages that are asked for twice.
    """
    rule = method.average
    if settings.ema is not None:
        if rule is not None:
            remedy = "leave one of them out"
            raise InputError("an averaging method and ema", "one average of the weights", remedy)
        rule = Moving(settings.ema)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        remedy = "call model.requires_grad_(True), or leave the parts to train unfrozen"
        raise InputError("a model without trainable parameters", "at least one", remedy)
    optimiser = optimisers.optimiser(parameters, settings)
    scheduler = optimisers.schedule(optimiser, settings, steps)
    average = None if rule is None else twin(model)
    return Learner(model, optimiser, scheduler, average, rule, Room(settings.batch_size))


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """A model's state; raises ModelError for state that is not made of tensors."""
    state = model.state_dict()
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise ModelError(f"extra state {odd[:3]}", "tensors only", "keep it in buffers")
    return state


def copied(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's state on the CPU."""
    return {name: t.detach().cpu().clone() for name, t in tensors_of(model).items()}


def snapshot(
    learner: Learner, method: Method, state: State
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything the rest of the run depends on, as tensors and as what JSON can hold."""
    slots, optimiser = checkpoint.optimiser_parts(learner.optimiser)
    kept, noted = _memory(method)
    tensors = {
        **checkpoint.named("model", tensors_of(learner.model)),
        **checkpoint.named("average", tensors_of(learner.average) if learner.average else {}),
        **checkpoint.named("optimiser", slots),
        **checkpoint.named("memory", kept),
        **checkpoint.named("best", state.best),
    }
    place = learner.scheduler.state_dict()
    facts = {
        "epoch": state.epoch,
        "step": state.step,
        "total": state.total,
        "sums": vars(state.sums),
        "records": [record.model_dump() for record in state.records],
        "checks": [check.model_dump() for check in state.checks],
        "rolled_back": state.rolled_back,
        "ended": state.ended,
        "optimiser": optimiser,
        "schedule": {name: place[name] for name in _PLACE},
        "memory": noted,
    }
    return tensors, facts


def restore(
    learner: Learner, method: Method, tensors: dict[str, Tensor], facts: dict[str, Any]
) -> State:
    """The inverse of `snapshot`; raises FileError for a checkpoint of another network."""
    try:
        learner.model.load_state_dict(checkpoint.under("model", tensors))
        if learner.average is not None:
            learner.average.load_state_dict(checkpoint.under("average", tensors))
        slots = checkpoint.under("optimiser", tensors)
        checkpoint.restore_optimiser(learner.optimiser, slots, facts["optimiser"])
        learner.scheduler.load_state_dict(facts["schedule"])
        _remember(method, checkpoint.under("memory", tensors), facts["memory"])
        records = [Record(**record) for record in facts["records"]]
        return State(
            facts["epoch"],
            facts["step"],
            facts["total"],
            Sums(**facts["sums"]),
            records,
            checkpoint.under("best", tensors),
            [Check(**check) for check in facts["checks"]],
            facts["rolled_back"],
            facts["ended"],
        )
    except (RuntimeError, ValueError, KeyError) as error:
        remedy = "resume with the network and method it was written by, or start in another folder"
        raise FileError(
            f"a checkpoint that does not fit ({error})", "this run's", remedy
        ) from error


def _memory(method: Method) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The declared memory of a method and of those it wraps."""
    named = {
        f"{path}{name}": getattr(owner, name)
        for path, owner in layers(method)
        for name in owner.memory
    }
    kept = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    return kept, {name: value for name, value in named.items() if name not in kept}


def _remember(method: Method, kept: dict[str, Tensor], noted: dict[str, Any]) -> None:
    """Gives methods their memory back; they are frozen, and memory is the one thing of theirs that
    may change.
    """
    for path, owner in layers(method):
        for name in owner.memory:
            key = f"{path}{name}"
            value = noted[key] if key in noted else _placed(kept[key], getattr(owner, name, None))
            object.__setattr__(owner, name, value)


def _placed(value: Tensor, like: object) -> Tensor:
    return value.to(like.device) if isinstance(like, torch.Tensor) else value
