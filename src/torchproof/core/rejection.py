"""Models that may decline to answer: an input is lost when it is misclassified and not rejected.

Such a model returns a table of two tensors, `logits` (B, K) and `reject` (B,), a score that is
higher for more suspicious inputs; what is above the threshold is rejected. `WithDetector` and
`RejectClass` make such a model out of a classifier with a detector beside it, and out of one with a
class "none of them".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError, ModelError
from torchproof.core.objectives import Goal, Judged, Margin, Objective


@dataclass(frozen=True)
class Rejecting(Objective):
    """`inner`, and no more suspicion than the threshold allows: all parts of a defence are attacked
    at once (Tramer et al. 2020).

    Two numbers have to become positive: how far inner is won (its loss where that is zero on the
    class boundary, else its score) and the room that is left below the threshold, `weight` times
    (threshold - reject), which says how many logits one unit of the detector's score is worth.
    score: the smaller of the two; won: inner is won, and the input is not rejected. loss: their
    soft minimum, -t log(exp(-a / t) + exp(-b / t)). The temperature t is in logits: far below the
    margins at hand, a sign step would see but one of the two at a time, and get stuck between them.

    `calibrated` chooses all three numbers from clean inputs. Raises InputError at construction for
    numbers that cannot be meant, ModelError for a model that does not answer as this module says.
    """

    inner: Objective = Margin()
    threshold: float = 0.0
    weight: float = 1.0
    temperature: float = 0.3

    def __post_init__(self) -> None:
        positive = all(0 < number < math.inf for number in (self.weight, self.temperature))
        if not math.isfinite(self.threshold) or not positive:
            numbers = f"{self.threshold!r}, {self.weight!r}, {self.temperature!r}"
            given = f"threshold, weight, temperature = {numbers}"
            expected = "finite numbers, weight > 0 and temperature > 0"
            raise InputError(given, expected, "let `calibrated` choose them on clean inputs")
        for trait in ("targeted", "soft"):
            object.__setattr__(self, trait, getattr(self.inner, trait))

    def loss(self, out: Any, goal: Goal) -> Tensor:
        logits, score = _parts(out)
        smooth = "boundary" in self.inner.offers
        wrong = (self.inner.loss if smooth else self.inner.score)(logits, goal)
        both = torch.stack([wrong, self._room(score).to(wrong)])
        return -self.temperature * torch.logsumexp(-both / self.temperature, 0)

    def won(self, out: Any, goal: Goal) -> Tensor:
        logits, score = _parts(out)
        return self.inner.won(logits, goal) & (score <= self.threshold)

    def score(self, out: Any, goal: Goal) -> Tensor:
        logits, score = _parts(out)
        return torch.minimum(self.inner.score(logits, goal), self._room(score).to(logits))

    def as_classes(self, out: Any) -> Tensor:
        """(B, K + 1): the logits, and behind them one that is the largest exactly where the input
        is rejected, above the others by `weight` times (reject - threshold).
        """
        logits, score = _parts(out)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        top = logits.amax(1)
        last = top - self._room(score).to(top)
        # rounding must not decide: one step above the rest where it is rejected, else not above
        above = torch.nextafter(top.detach(), torch.full_like(top, torch.inf))
        rejected = score > self.threshold
        last = torch.where(rejected, torch.maximum(last, above), torch.minimum(last, top))
        return torch.cat([logits, last[:, None]], 1)

    def _room(self, score: Tensor) -> Tensor:
        return self.weight * (self.threshold - score)


@dataclass(frozen=True)
class Heedless(Judged):
    """Towards the class `goal.target` by cross-entropy alone, judged as `rule` judges.

    A detector of low confidence forbids the way across a class boundary, where `Rejecting` turns
    back; this one goes through, to where the model is sure of the other class and accepts.
    """

    rule: Rejecting = Rejecting()
    targeted: ClassVar[bool] = True

    def loss(self, out: Any, goal: Goal) -> Tensor:
        return -F.cross_entropy(_parts(out)[0], goal.target, reduction="none")


@torch.no_grad()
def calibrated(
    model: Callable[[Tensor], Any], x: Tensor, rejected: float = 0.05, inner: Objective = Margin()
) -> Rejecting:
    """`Rejecting` with its numbers from clean inputs x (B, C, H, W), other than those attacked.

    threshold: rejects the share `rejected` of them; weight: makes the middle half of the scores as
    wide as the median margin between the two largest logits; temperature: a fifth of that margin.
    The model is asked once, in the mode it is in. Raises InputError where scores or margins are all
    the same.
    """
    if not 0 < rejected < 1:
        raise InputError(f"rejected = {rejected!r}", "a share between 0 and 1", "write 0.05")
    logits, score = _parts(model(x))
    top = logits.topk(2, dim=1).values
    margin = float((top[:, 0] - top[:, 1]).median())
    low, high, threshold = (float(score.float().quantile(q)) for q in (0.25, 0.75, 1 - rejected))
    if not margin > 0 or not high > low:
        given = f"{len(x)} inputs with median margin {margin:.3g}, scores {low:.3g} to {high:.3g}"
        raise InputError(given, "margins and scores that differ", "pass more clean inputs")
    return Rejecting(inner, threshold, margin / (high - low), margin / 5)


@dataclass(frozen=True)
class Rejected(Objective):
    """The other way round: a correct input made to look suspicious. Won when it is rejected."""

    threshold: float = 0.0

    def loss(self, out: Any, goal: Goal) -> Tensor:
        return _parts(out)[1] - self.threshold

    def won(self, out: Any, goal: Goal) -> Tensor:
        return _parts(out)[1] > self.threshold


def _parts(out: Any) -> tuple[Tensor, Tensor]:
    """Logits (B, K) and scores (B,)."""
    given = sorted(map(str, out)) if isinstance(out, Mapping) else type(out).__name__
    expected = "a table of `logits` (B, K) and `reject` (B,)"
    remedy = "wrap it in torchproof.core.rejection.WithDetector or RejectClass"
    if not isinstance(out, Mapping) or not {"logits", "reject"} <= set(out):
        raise ModelError(f"a model that returns {given}", expected, remedy)
    logits, score = out["logits"], out["reject"]
    if logits.ndim != 2 or score.shape != logits.shape[:1]:
        shapes = f"logits {tuple(logits.shape)} and reject {tuple(score.shape)}"
        raise ModelError(f"a model that returns {shapes}", expected, "return one score per input")
    return logits, score


class WithDetector(nn.Module):
    """A classifier and a detector that looks at the same input: images to logits and scores.

    detector: images (B, C, H, W) to scores (B,), higher = more suspicious, differentiable where
    the attack is to see through it.
    """

    def __init__(self, model: nn.Module, detector: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.detector = model, detector
        self.training = model.training  # not .train(), which would reset frozen parts

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.model(x), "reject": self.detector(x)}


class RejectClass(nn.Module):
    """A classifier whose last logit means "none of them": K + 1 logits to K and a score, which is
    above 0 where that last one is the largest.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # not .train(), which would reset frozen parts

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z: Tensor = self.model(x)
        return {"logits": z[:, :-1], "reject": z[:, -1] - z[:, :-1].amax(1)}
