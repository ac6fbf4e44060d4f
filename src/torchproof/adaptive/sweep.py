"""A small search, one axis after the other: which loss, which gradient, which targets, how long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.choices import Bench, Choice, Estimator, Loss, attempt_of
from torchproof.adaptive.estimators import AUTOGRAD
from torchproof.adaptive.hunt import Hunt
from torchproof.adaptive.judge import DRAWS
from torchproof.adaptive.trial import Trial
from torchproof.attack.catalogue import averaged, square
from torchproof.core.errors import InputError, ModelError
from torchproof.core.objectives import Margin
from torchproof.core.unaware import Unaware

FINAL_DRAWS = 20  # answers averaged in a step once the choice is made
_ALTERNATIVES = 3
_SHARE = 0.6  # of the budget, for the search; the rest is for all that stands
_EACH = 0.2  # of the budget, for one choice on the pilot examples
PILOT, _LEAST = 16, 4  # examples
_CHOICES, _USUAL = 14, 80  # that the search should afford, and what one costs per draw
_QUERIES = 500


@dataclass
class Seen:
    """A choice that was tried on the pilot examples."""

    choice: Choice
    why: str
    won: int
    score: float

    @property
    def rank(self) -> tuple[int, float]:
        return self.won, self.score


@dataclass
class Sweep:
    """Tries choices on the rows `pilot` (R,) of a hunt; every example it breaks counts."""

    bench: Bench
    hunt: Hunt
    pilot: Tensor
    seen: list[Seen] = field(default_factory=list)

    def best(self) -> Seen | None:
        return max(self.seen, key=lambda s: s.rank, default=None)

    def tried(self, choice: Choice, why: str, axis: str) -> Seen | None:
        """The outcome of one choice, from memory where it was tried; None without the budget, or
        where the model has no finite answer.
        """
        for old in self.seen:
            if old.choice.name == choice.name:
                return old
        price = choice.price(self.bench.draws) * len(self.pilot)
        budget = self.hunt.budget
        if self.hunt.spent + price > _SHARE * budget or price > _EACH * budget:
            return None
        try:
            trial = self.hunt.run(attempt_of(self.bench, choice, why), self.pilot, axis)
        except ModelError:
            return None  # such as a loss that is infinite there
        seen = Seen(choice, why, trial.won, _mean(trial))
        self.seen.append(seen)
        return seen

    def losses(self, losses: Sequence[Loss], estimator: Estimator, cheap: bool = False) -> None:
        """Every loss with one estimator; those that need a target get three, or wait if `cheap`."""
        for loss in losses:
            if cheap and loss.free is None:
                continue
            if any(
                s.choice.loss.name == loss.name and s.choice.estimator is estimator
                for s in self.seen
            ):
                continue  # fmt: skip
            choice = Choice(loss, estimator, targets=3 if loss.free is None else 0)
            self.tried(choice, loss.why, "loss")

    def estimators(self, estimators: Sequence[Estimator]) -> None:
        """Every estimator with the best loss so far."""
        best = self.best()
        if best is None:
            return
        for estimator in estimators:
            self.tried(replace(best.choice, estimator=estimator), estimator.why, "estimator")

    def targets(self, most: int) -> None:
        """The best choice aimed at three classes, and at all."""
        best = self.best()
        if best is None or best.choice.loss.aimed is None:
            return
        for count in sorted({min(3, most), most} - {best.choice.targets}):
            if count > 0:
                why = f"each of the {count} likeliest wrong classes"
                self.tried(replace(best.choice, targets=count), why, "targets")

    def lengths(self) -> None:
        """The best choice with more steps, steps that set their own size, and restarts."""
        best = self.best()
        if best is None:
            return
        longer = replace(best.choice, steps=100)
        self.tried(longer, "more and shorter steps", "length")
        if best.choice.loss.plain:
            self.tried(replace(longer, adaptive=True), "steps that set their own size", "length")
        self.tried(replace(best.choice, restarts=3), "three starts", "length")

    def finish(self) -> Choice | None:
        """The best choice on all that is standing, then its rivals, then squares without gradients;
        the best choice.
        """
        order = sorted(self.seen, key=lambda s: s.rank, reverse=True)
        precise = self.bench
        if precise.draws > 1:
            precise = replace(precise, draws=FINAL_DRAWS)
        kinds: set[tuple[str, str]] = set()
        for seen in order:
            kind = seen.choice.loss.name, seen.choice.estimator.name
            if kind in kinds or len(kinds) > _ALTERNATIVES:
                continue
            rows = self.hunt.standing.nonzero()[:, 0]
            for bench, choice in self._versions(precise, seen.choice):
                if len(rows) and self.hunt.affords(choice.price(bench.draws), len(rows)):
                    kinds.add(kind)
                    self.hunt.run(attempt_of(bench, choice, seen.why), rows, "all")
                    break
        self._blind(self.bench)
        return order[0].choice if order else None

    def _versions(self, precise: Bench, choice: Choice) -> Iterator[tuple[Bench, Choice]]:
        """The choice, dearest first: with more draws, as it was tried, shorter and shorter."""
        yield precise, choice
        yield self.bench, choice
        plain = replace(choice, restarts=1, targets=min(choice.targets, 3))
        for steps in (40, 20, 10):
            yield self.bench, replace(plain, steps=min(choice.steps, steps))

    def _blind(self, bench: Bench) -> None:
        rows = self.hunt.standing.nonzero()[:, 0]
        if not len(rows) or not self.hunt.affords((_QUERIES + DRAWS) * bench.draws, len(rows)):
            return
        try:
            attack = square(bench.threat, _QUERIES)
        except InputError:
            return  # squares are for norms that have them
        attack = replace(attack, objective=bench.rule or Unaware(Margin()))
        attack = averaged(attack, bench.draws) if bench.draws > 1 else attack
        self.hunt.run(Attempt(f"Square-{_QUERIES}", attack, why="no gradients"), rows, "all")


def pilots(budget: float, draws: int) -> int:
    """On how many examples the search is run, so that the budget is enough for several choices."""
    most = _SHARE * budget / (_CHOICES * _USUAL * draws)
    return max(_LEAST, min(PILOT, int(most)))


def first(sweep: Sweep, losses: Sequence[Loss]) -> dict[str, Seen]:
    """What each loss did by plain autograd, by its name."""
    names = {loss.name for loss in losses}
    return {
        s.choice.loss.name: s
        for s in sweep.seen
        if s.choice.estimator is AUTOGRAD and s.choice.loss.name in names
    }


def _mean(trial: Trial) -> float:
    return float(trial.verdict.score.mean()) if len(trial.verdict.score) else 0.0
