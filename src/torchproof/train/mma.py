"""Max-margin adversarial training (Ding, Sharma, Lui and Huang 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD, check_steps
from torchproof.attack.run import Run
from torchproof.attack.starts import Start, Uniform
from torchproof.attack.untouched import untouched
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.norms import Norm
from torchproof.core.objectives import Classification, Goal, hard
from torchproof.core.sets import Ball
from torchproof.core.sites import Input, Model, Site
from torchproof.core.threats import BOUNDED, Threat
from torchproof.core.values import expand
from torchproof.train import distributed
from torchproof.train.method import Batch, Method, answers, cross_entropy
from torchproof.train.rows import Rows

_BEYOND = 1.05  # the search for the boundary goes a little beyond the largest margin wanted


@dataclass(frozen=True)
class SoftMargin(Classification):
    """log sum_{j != y} exp z_j - z_y: the margin with a smooth maximum (Ding et al. 2020, eq. 8),
    an upper bound of it.
    """

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        own = hard(goal.y)[:, None]
        return out.scatter(1, own, -torch.inf).logsumexp(1) - out.gather(1, own)[:, 0]


@dataclass(frozen=True)
class Sized:
    """A threat with a radius (B,) for each image of one batch, which is searched as a whole."""

    threat: Threat
    radius: Tensor
    offers: ClassVar[frozenset[str]] = BOUNDED

    @property
    def site(self) -> Site:
        return self.threat.site

    @property
    def norm(self) -> Norm:
        return self.threat.norm

    def set(self, model: Model, x: Tensor) -> Ball:
        assert len(x) == len(self.radius), "all images of the batch at once"
        ball = self.threat.set(model, x)
        assert isinstance(ball, Ball)
        return Ball.of(ball.norm, self.radius.to(x), ball.low, ball.high)


@dataclass(frozen=True)
class MMA(Method):
    """MMA: clean CE(f(x), y) + (1 - clean) [wrong: CE(f(x), y); right, margin < most: CE(f(x*), y)]
    with x* on the decision boundary (Ding et al. 2020, alg. 1 and 2).

    Each image has a radius of its own, its last margin: PGD on the soft margin within it, then
    bisection along what it found, gives x* and the new margin. Margins are kept by row of the data
    set, and in checkpoints. most: margin beyond which an image is left alone, and least: smallest
    radius that is searched, both in units of eps (1.5 and 0.16 are 12/255 and about 0.005 for
    8/255); steps, start: of PGD, with steps of 2.5 radii / steps; bisections: at the end of it;
    clean: weight of the clean loss. The figures `margin` and `wrong` are the mean margin, 0 for
    wrong images, and their share. Deviations: the authors call an image wrong by batch statistics,
    here all is in eval mode; x* is brought into the range of images. Raises InputError.
    """

    threat: Threat
    steps: int = 10
    most: float = 1.5
    least: float = 0.16
    bisections: int = 10
    clean: float = 1 / 3
    start: Start = field(default_factory=Uniform)
    margins: Tensor = field(
        default_factory=lambda: torch.zeros(0), init=False, repr=False, compare=False
    )
    memory: ClassVar[tuple[str, ...]] = ("margins",)

    def __post_init__(self) -> None:
        if not isinstance(self.threat, Threat) or type(self.threat.site) is not Input:
            given = f"MMA with {self.threat!r}"
            raise InputError(given, "a Threat to images", "pass parse('linf:8/255'), for example")
        if not 0 < self.least <= self.most < math.inf or not 0 <= self.clean <= 1:
            given = f"least = {self.least!r}, most = {self.most!r}, clean = {self.clean!r}"
            remedy = "most=1.5, least=0.16 and clean=1/3 are the authors' for CIFAR-10"
            raise InputError(given, "0 < least <= most, and a share of the loss in [0, 1]", remedy)
        check_steps(self.bisections, "bisections")
        _ = self.search

    @property
    def search(self) -> PGD:
        return PGD(self.steps, None, self.start)

    @property
    def passes(self) -> int:
        return 2

    def begin(self, model: nn.Module, data: Rows, progress: float) -> None:
        if progress == 0:  # a new run, perhaps of a method that was used before
            object.__setattr__(self, "margins", torch.zeros(len(data.x)))

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        with untouched(model, keys.seed_of(batch.seed, "MMA"), batch.x.device), torch.no_grad():
            right = (_soft_margin(model, batch.x, batch.y) < 0).nonzero()[:, 0]
        adv, margin = batch.x.clone(), batch.x.new_zeros(len(batch.x))
        spent = [batch.spent[0] + len(batch.x), batch.spent[1]]
        if len(right):
            adv[right], margin[right] = self._boundary(model, batch, right)
            spent[0] += len(right) * (self.steps + self.bisections + 1)
            spent[1] += len(right) * self.steps
        wrong = torch.ones_like(margin)
        wrong[right] = 0
        drawn = {**batch.drawn, "margin": margin, "wrong": wrong}
        ready = replace(batch, adv=adv, drawn=drawn, spent=(spent[0], spent[1]))
        return ready.with_note(margin=margin, wrong=wrong)

    def _boundary(self, model: nn.Module, batch: Batch, right: Tensor) -> tuple[Tensor, Tensor]:
        """x* and the margins of the rows `right`, which are classified correctly."""
        x, y, ids = batch.x[right], batch.y[right], batch.ids[right.cpu()]
        radius = self._known(ids).to(x).clamp(self.least * self.threat.eps, self._top)
        attack = Attack(Sized(self.threat, radius), SoftMargin(), self.search)
        run = Run(batch.seed, ids, len(x), math.inf, last=True)
        found = attack(model, x, y, run=run).value
        assert isinstance(found, Tensor)
        unit = found.to(x) / expand(radius, x)

        def at(length: Tensor) -> Tensor:
            moved = x + expand(length, x) * unit
            return moved.clamp(self.threat.low, self.threat.high)

        with untouched(model, keys.seed_of(batch.seed, "MMA"), x.device), torch.no_grad():
            low, high = torch.zeros_like(radius), torch.full_like(radius, self._top)
            for _ in range(self.bisections):
                crossed = _soft_margin(model, at(radius), y) >= 0
                low, high = torch.where(crossed, low, radius), torch.where(crossed, radius, high)
                radius = (low + high) / 2
        return at(radius), radius

    @property
    def _top(self) -> float:
        return _BEYOND * self.most * self.threat.eps

    def _known(self, ids: Tensor) -> Tensor:
        """The kept margins of these rows, 0 for those that have none."""
        return self._table(ids)[ids.to(self.margins.device)]

    def _table(self, ids: Tensor) -> Tensor:
        more = max(int(ids.max()) + 1 - len(self.margins), 0)
        return torch.cat([self.margins, self.margins.new_zeros(more)])

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.adv is not None, "losses are read from a prepared batch"
        clean = cross_entropy(answers(model, batch.x), batch)
        moved = cross_entropy(answers(model, batch.adv), batch)
        margin, wrong = batch.drawn["margin"], batch.drawn["wrong"]
        within = (wrong > 0) | (margin < self.most * self.threat.eps)
        return self.clean * clean + (1 - self.clean) * torch.where(within, moved, 0.0)

    def learn(self, batch: Batch) -> None:
        table = self._table(batch.ids).to(batch.x)
        new = distributed.merged(table, batch.ids, batch.drawn["margin"])
        object.__setattr__(self, "margins", new)


@torch.no_grad()
def _soft_margin(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return SoftMargin().loss(answers(model, x), Goal(y, y, x.new_zeros(len(x))))
