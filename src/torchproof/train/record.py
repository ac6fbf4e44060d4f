"""What is noted about an epoch."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict


class Check(BaseModel):
    """A look at a run after `step` steps: shares of `n` held-out rows that stand a single step of
    length eps (fgsm) and the iterated attack (robust), the mean cosine between the input gradients
    at x and at a random point of the threat around it (linearity, 1 for a linear loss), and the
    Frobenius norm of the first layer's weight.

    catastrophic: has the single step come apart from the iterated attack (catastrophic overfitting,
    Wong, Rice and Kolter 2020)?
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    n: int
    fgsm: float
    robust: float
    linearity: float | None
    first_layer: float | None
    catastrophic: bool


class Record(BaseModel):
    """One line of metrics.jsonl. Accuracies are fractions of the `held_out` rows that were not
    trained on.

    They are those of the averaged weights when there is an average. robust: against the attack
    that `attack` names; overfitting: best minus present accuracy, robust where that is measured
    (robust overfitting, Rice et al. 2020); collapsed: clean accuracy is no higher than that of the
    best constant answer; forward, backward: samples that the attacks of this epoch's training
    spent; seconds: this epoch's, held-out measurement included; fgsm: held-out accuracy against a
    single step of length eps; catastrophic: it is more than a quarter above `robust`, or `robust`
    fell by a fifth from the epoch before; best_epoch: 0, and no best accuracies, while every epoch
    was rolled back; checks: the looks between epochs; rolled_back: times that the best weights were
    taken up again; confused: (label, answer, count) of held-out images that the attack moved, the
    most frequent first; figures: means over the epoch of what the method notes.
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
    fgsm: float | None = None
    catastrophic: bool = False
    checks: list[Check] = []
    rolled_back: int = 0
    confused: list[tuple[int, int, int]] = []
    figures: dict[str, float] = {}

    @property
    def overfitted(self) -> bool:
        """Was overfitting catastrophic at any look in or after this epoch?"""
        return self.catastrophic or any(check.catastrophic for check in self.checks)


@dataclass(frozen=True)
class Sums:
    """Running sums of an epoch, over all processes."""

    loss: float = 0.0
    rows: int = 0
    forward: int = 0
    backward: int = 0
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)

    def plus(self, other: Sums) -> Sums:
        names = dict.fromkeys([*self.figures, *other.figures])
        figures = {n: self.figures.get(n, 0.0) + other.figures.get(n, 0.0) for n in names}
        return Sums(
            self.loss + other.loss,
            self.rows + other.rows,
            self.forward + other.forward,
            self.backward + other.backward,
            self.seconds + other.seconds,
            figures,
        )
