"""What is noted about an epoch."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """One line of metrics.jsonl. Accuracies are fractions of the `held_out` rows that were not
    trained on.

    They are those of the averaged weights when there is an average. robust: against the attack
    that `attack` names; overfitting: best minus present accuracy, robust where that is measured
    (robust overfitting, Rice et al. 2020); collapsed: every held-out image gets the same class;
    forward, backward: samples that the attacks of this epoch's training spent; seconds: this
    epoch's, held-out measurement included.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch: int
    step: int
    loss: float
    lr: float
    held_out: int
    clean: float | None
    robust: float | None
    attack: str | None
    best_epoch: int
    best_clean: float | None
    best_robust: float | None
    overfitting: float | None
    collapsed: bool
    forward: int
    backward: int
    seconds: float


@dataclass(frozen=True)
class Sums:
    """Running sums of an epoch, over all processes."""

    loss: float = 0.0
    rows: int = 0
    forward: int = 0
    backward: int = 0
    seconds: float = 0.0

    def plus(self, other: Sums) -> Sums:
        return Sums(
            self.loss + other.loss,
            self.rows + other.rows,
            self.forward + other.forward,
            self.backward + other.backward,
            self.seconds + other.seconds,
        )
