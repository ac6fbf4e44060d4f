"""The verdict on images: that of the whole defence, and of several draws where it is random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from torchproof.attack.untouched import home, untouched
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.objectives import Goal, Margin, Objective
from torchproof.core.rejection import Rejecting
from torchproof.core.sites import Model
from torchproof.core.unaware import Unaware, logits_of

DRAWS = 11
_BATCH = 128


class Verdict(NamedTuple):
    """lost (N,) bool: misclassified, and accepted where the model may reject, in more than half of
    the draws; score (N,) float64: how far, the mean over the draws, above 0 where it is lost in a
    single one.
    """

    lost: Tensor
    score: Tensor


@dataclass(frozen=True)
class Judge:
    """Asks `model` about images, `draws` times, with randomness of its own: no attack has seen it.

    rule: how a model that may reject is judged. Raises InputError for an even number of draws,
    which could end in a tie.
    """

    model: Model
    rule: Rejecting | None = None
    draws: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1 or self.draws % 2 == 0:
            raise InputError(f"draws = {self.draws}", "an odd number >= 1", f"{DRAWS} is usual")

    @property
    def objective(self) -> Objective:
        """What the verdict is about; its score ranks points."""
        return Unaware(Margin(), self.rule)

    def __call__(self, x: Tensor, y: Tensor) -> Verdict:
        """About images x (N, C, H, W) and labels y (N,); on the CPU."""
        place = home(self.model, x.device)
        lost, score = [], []
        seed = keys.seed_of(self.seed, "judge")
        with untouched(self.model, seed, place), torch.no_grad():
            for part, labels in zip(torch.split(x, _BATCH), torch.split(y, _BATCH), strict=True):
                won, worst = self._ask(part.to(place), labels.to(place))
                lost.append(won.cpu())
                score.append(worst.double().cpu())
        if not lost:
            return Verdict(torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.float64))
        return Verdict(torch.cat(lost), torch.cat(score))

    def clean(self, x: Tensor, y: Tensor) -> Tensor:
        """(N,) bool: answered correctly, and accepted, in more than half of the draws."""
        place, right = home(self.model, x.device), []
        with untouched(self.model, keys.seed_of(self.seed, "clean"), place), torch.no_grad():
            for part, labels in zip(torch.split(x, _BATCH), torch.split(y, _BATCH), strict=True):
                hits = torch.zeros(len(part), device=place)
                for _ in range(self.draws):
                    out = self.model(part.to(place))
                    hit = logits_of(out).argmax(1) == labels.to(place)
                    rule = self.rule
                    hits += hit if rule is None else hit & (out["reject"] <= rule.threshold)
                right.append((hits > self.draws / 2).cpu())
        return torch.cat(right) if right else torch.zeros(0, dtype=torch.bool)

    def _ask(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        none = torch.full_like(y, -1)
        goal = Goal(y, none, torch.zeros(len(y), device=y.device))
        wins, total = torch.zeros(len(x), device=x.device), torch.zeros(len(x), device=x.device)
        for _ in range(self.draws):
            out = self.model(x)
            wins += self.objective.won(out, goal)
            total += self.objective.score(out, goal)
        return wins > self.draws / 2, total / self.draws
