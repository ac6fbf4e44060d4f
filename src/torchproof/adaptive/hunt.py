"""A hunt for the worst case: what each trial changes about every example, within a budget."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.judge import Judge
from torchproof.adaptive.trial import Trial, carry_out


@dataclass(frozen=True)
class Step:
    """One trial. axis: what was varied ("naive", "loss", "estimator", "targets", "length", "all");
    asked: examples it was run on; won: of these; fresh: of these, broken by nothing before; robust:
    share of all examples that is left; score: the mean of the verdict's score, which says how near
    the others are; spent: forward plus backward samples.
    """

    axis: str
    name: str
    why: str
    asked: int
    won: int
    fresh: int
    robust: float
    score: float
    spent: int


@dataclass
class Hunt:
    """Examples x (N, C, H, W), y (N,), ids (N,) of which `standing` (N,) are not broken; worst: the
    images that broke them, else clean ones; by: the names of the steps that did; score: the worst
    that was found. budget: forward plus backward samples for all trials together.
    """

    judge: Judge
    x: Tensor
    y: Tensor
    ids: Tensor
    standing: Tensor
    budget: float
    seed: int = 0
    slots: int = 128
    spent: int = 0
    steps: list[Step] = field(default_factory=list)
    worst: Tensor = field(init=False)
    by: list[str] = field(init=False)
    score: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.worst, self.by = self.x.clone(), [""] * len(self.x)
        self.score = torch.full((len(self.x),), -torch.inf, dtype=torch.float64)

    @property
    def robust(self) -> float:
        """Share of the examples that still stand."""
        return float(self.standing.float().mean())

    def affords(self, price: int, rows: int) -> bool:
        """Is there budget for `rows` examples at `price` samples each?"""
        return self.spent + price * rows <= self.budget

    def run(self, attempt: Attempt, rows: Tensor, axis: str) -> Trial:
        """Carries the attempt out on the given rows (R,), and counts what it breaks."""
        trial = carry_out(
            attempt, self.judge, self.x[rows], self.y[rows], self.ids[rows], self.seed, self.slots
        )
        self.spent += trial.spent
        lost, score = trial.verdict
        fresh = lost & self.standing[rows]
        for position in fresh.nonzero()[:, 0].tolist():
            self.by[int(rows[position])] = attempt.name
        self.worst[rows[fresh]] = trial.x[fresh]
        self.standing[rows[fresh]] = False
        self.score[rows] = torch.maximum(self.score[rows], score)
        self.steps.append(
            Step(
                axis, attempt.name, attempt.why, len(rows), trial.won, int(fresh.sum()),
                self.robust, float(score.mean()) if len(score) else 0.0, trial.spent,
            )
        )  # fmt: skip
        return trial
