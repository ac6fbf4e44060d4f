"""Objectives: what an adversary wants more of. All losses are ascended, per example, never
averaged.

z are logits (B, K), y labels: (B,) int64, or (B, K) probabilities where an objective says so.
`won` is the verdict, `score` the one yardstick by which points are ranked when losses of several
kinds took part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from torchproof.core.errors import InputError
from torchproof.core.schedules import segment


class Goal(NamedTuple):
    """What the adversary knows of each example: all rows (B,), because jobs are at different steps.

    y: labels (B,) int64 or (B, K) probabilities; target: (B,) int64, -1 for none; progress in [0,
    1]: (B,); key: (B,) int64, the random key of each problem, (1,) at a shared site; clean: (B, K)
    the model's answers at the unperturbed inputs, where the threat keeps them.
    """

    y: Tensor
    target: Tensor
    progress: Tensor
    key: Tensor | None = None
    clean: Tensor | None = None


class Objective(ABC):
    """A loss to ascend and a verdict. A regression or segmentation task writes its own two
    methods.
    """

    targeted: ClassVar[bool] = False  # does the loss read `goal.target`?
    soft: ClassVar[bool] = False  # does the loss read y as (B, K) probabilities?
    offers: ClassVar[frozenset[str]] = (
        frozenset()
    )  # "boundary": the loss is zero on a class boundary

    @abstractmethod
    def loss(self, out: Any, goal: Goal) -> Tensor:
        """(B,) losses, differentiable."""

    @abstractmethod
    def won(self, out: Any, goal: Goal) -> Tensor:
        """(B,) bool: has the adversary what it wants?"""

    def score(self, out: Any, goal: Goal) -> Tensor:
        """(B,) yardstick, higher = worse for the model; comparable along the whole search."""
        return self.loss(out, goal)


def hard(y: Tensor) -> Tensor:
    """Labels (B,) from labels or probabilities."""
    return y.argmax(1) if y.dim() == 2 else y


def margin(z: Tensor, y: Tensor) -> Tensor:
    """max_{j != y} z_j - z_y, (B,): negative exactly where the label is the single best class."""
    own = z.gather(1, y[:, None])
    others = z.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - own[:, 0]


class Classification(Objective):
    """Untargeted misclassification: won when the predicted class is not the label."""

    def won(self, out: Tensor, goal: Goal) -> Tensor:
        return out.argmax(1) != hard(goal.y)

    def score(self, out: Tensor, goal: Goal) -> Tensor:
        return margin(out, hard(goal.y))


class Judged(Objective):
    """A way around a defence: whatever the loss looks at, won and score are those of `rule`."""

    rule: Objective

    def won(self, out: Any, goal: Goal) -> Tensor:
        return self.rule.won(out, goal)

    def score(self, out: Any, goal: Goal) -> Tensor:
        return self.rule.score(out, goal)


@dataclass(frozen=True)
class CrossEntropy(Classification):
    """-log p_y, or the cross-entropy to probabilities y."""

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        return F.cross_entropy(out, goal.y, reduction="none")


@dataclass(frozen=True)
class Margin(Classification):
    """max_{j != y} z_j - z_y (Carlini and Wagner 2017, f_6 without its floor)."""

    offers: ClassVar[frozenset[str]] = frozenset({"boundary"})

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        return margin(out, hard(goal.y))


@dataclass(frozen=True)
class TargetedMargin(Classification):
    """z_t - z_y (MultiTargeted, Gowal et al. 2019); any misclassification wins."""

    targeted: ClassVar[bool] = True
    offers: ClassVar[frozenset[str]] = frozenset({"boundary"})

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        pair = out.gather(1, torch.stack([goal.target, hard(goal.y)], 1))
        return pair[:, 0] - pair[:, 1]


def _spread(z: Tensor, targeted: bool) -> Tensor | None:
    """The denominator of DLR, or None where K leaves no third logit to make it from."""
    top = z.topk(min(4 if targeted else 3, z.shape[1]), dim=1).values
    if top.shape[1] < 3:
        return None
    third = (top[:, 2] + top[:, 3]) / 2 if top.shape[1] == 4 else top[:, 2]
    return top[:, 0] - third + 1e-12


@dataclass(frozen=True)
class DLR(Classification):
    """Difference of logits ratio, (max_{j != y} z_j - z_y) / (z_(1) - z_(3)) (Croce and Hein
    2020a, eq. 6).

    With two classes there is no z_(3), and no function of two logits but a constant is invariant
    to shift and
    scale: it is then the margin (our choice).
    """

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        top, spread = margin(out, hard(goal.y)), _spread(out, targeted=False)
        return top if spread is None else top / spread


@dataclass(frozen=True)
class TargetedDLR(Classification):
    """(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2) (Croce and Hein 2020a, eq. 7); any
    misclassification wins.

    With three classes the denominator is DLR's, with two the loss is z_t - z_y (our choice).
    """

    targeted: ClassVar[bool] = True

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        top, spread = TargetedMargin().loss(out, goal), _spread(out, targeted=True)
        return top if spread is None else top / spread


@dataclass(frozen=True)
class KL(Classification):
    """KL(y || p) with y (B, K) probabilities, for TRADES those of the clean input (Zhang et al.
    2019).

    Its gradient is zero where p = y: a search on it needs a random start.
    """

    soft: ClassVar[bool] = True

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        if goal.y.dim() != 2:
            raise InputError(
                f"labels of shape {tuple(goal.y.shape)}",
                "probabilities (B, K)",
                "pass softmax(model(x)) as y",
            )
        return F.kl_div(F.log_softmax(out, 1), goal.y, reduction="none").sum(1)


def _inherit(objective: Objective, parts: tuple[Objective, ...]) -> None:
    """What the parts read of the goal, the whole reads too."""
    for trait in ("targeted", "soft"):
        object.__setattr__(objective, trait, any(getattr(part, trait) for part in parts))


@dataclass(frozen=True)
class Hypocritical(Objective):
    """The inner objective turned around: won when a wrong model answers correctly (Tao et al.
    2021).
    """

    inner: Objective = CrossEntropy()

    def __post_init__(self) -> None:
        _inherit(self, (self.inner,))

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        return -self.inner.loss(out, goal)

    def won(self, out: Tensor, goal: Goal) -> Tensor:
        return out.argmax(1) == hard(goal.y)

    def score(self, out: Tensor, goal: Goal) -> Tensor:
        return -margin(out, hard(goal.y))


@dataclass(frozen=True)
class Targeted(Objective):
    """Wants exactly the class `goal.target`: its cross-entropy falls, and only that class wins."""

    targeted: ClassVar[bool] = True

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        return -F.cross_entropy(out, goal.target, reduction="none")

    def won(self, out: Tensor, goal: Goal) -> Tensor:
        return out.argmax(1) == goal.target

    def score(self, out: Tensor, goal: Goal) -> Tensor:
        return -margin(out, goal.target)


@dataclass(frozen=True)
class Alternating(Classification):
    """A sequence of objectives, each for a share of the search (Antoniou et al. 2022).

    `stages` are ascended in turn; stage i ends at progress until[i], by default after equal
    shares. The losses of two stages cannot be compared with each other: points are ranked by the
    score only.
    """

    stages: tuple[Objective, ...]
    until: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.stages)
        ends = self.until or tuple((i + 1) / n for i in range(n))
        if n == 0 or len(ends) != n or list(ends) != sorted(ends) or ends[-1] < 1:
            raise InputError(
                f"{n} stages that end at {ends}",
                "at least one stage, and as many rising ends, the last being 1",
                "write Alternating((CrossEntropy(), Margin()), (0.5, 1.0))",
            )
        object.__setattr__(self, "until", tuple(ends))
        _inherit(self, self.stages)

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        stage = segment(goal.progress, self.until)
        losses = torch.stack([objective.loss(out, goal) for objective in self.stages])
        return losses.gather(0, stage[None])[0]
