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
_CHEAP = 3  # at most the price of such an estimator
PILOT, _LEAST = 16, 4  # examples
_CHOICES, _USUAL = 14, 80  # that the search should afford, and what one costs per draw
_QUERIES, _FEWEST = 2000, 100  # without gradients, at most and at least


@dataclass
class Seen:
    """A choice that was tried on the pilot examples."""

    choice: Choice
    why: str
    won: int
    score: float

    @property
    def rank(self) -> tuple[int, float]:
        """Wins first, then the score: higher is stronger."""
        return self.won, self.score


@dataclass
class Sweep:
    """Tries choices on the rows `pilot` (R,) of a hunt; every example it breaks counts. used: the
    losses of the attack in question, which others are held against.
    """

    bench: Bench
    hunt: Hunt
    pilot: Tensor
    used: frozenset[str] = frozenset()
    seen: list[Seen] = field(default_factory=list)

    @property
    def solved(self) -> bool:
        """Did one choice break every pilot example? Then no other does better there."""
        return any(seen.won == len(self.pilot) for seen in self.seen)

    def best(self) -> Seen | None:
        """The strongest choice that was tried; None before the first."""
        return max(self.seen, key=lambda s: s.rank, default=None)

    def tried(self, choice: Choice, why: str, axis: str) -> Seen | None:
        """The outcome of one choice, from memory where it was tried; None without the budget, where
        the model has no finite answer, and where another choice broke every pilot example, unless
        the loss is one that was `used`.
        """
        for old in self.seen:
            if old.choice.name == choice.name:
                return old
        compared = choice.loss.name in self.used and choice.estimator is AUTOGRAD
        if self.solved and not compared:
            return None
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

    def estimators(self, estimators: Sequence[Estimator], usual: Sequence[Loss]) -> None:
        """Every estimator with the best loss so far, the cheap ones first; these with another loss
        too, the first `usual` one, since a loss that is best where the gradient misleads may be
        flat where it does not.
        """
        for cheap in (True, False):
            best = self.best()
            if best is None:
                return
            ways = [e for e in estimators if (e.price <= _CHEAP) == cheap]
            losses = [best.choice.loss]
            losses += [u for u in usual if u.name != losses[0].name][:1] if cheap else []
            for loss in losses:
                for way in ways:
                    why = way.why if loss is losses[0] else f"{loss.why}; {way.why}"
                    self.tried(replace(best.choice, loss=loss, estimator=way), why, "estimator")

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

    def finish(self, most: int) -> Choice | None:
        """The best choice on all that is standing, harder where the search was cut short, then its
        rivals, then squares without gradients; the best choice.
        """
        order = sorted(self.seen, key=lambda s: s.rank, reverse=True)
        kinds: set[tuple[str, str]] = set()
        for seen in order:
            kind = seen.choice.loss.name, seen.choice.estimator.name
            if kind in kinds or len(kinds) > _ALTERNATIVES:
                continue
            if self._on_all(seen.choice, seen.why):
                kinds.add(kind)
            if self.solved and seen is order[0]:
                aims = most if seen.choice.loss.aimed is not None else 0
                harder = replace(seen.choice, targets=aims, steps=100)
                self._on_all(harder, f"{seen.why}; every target, more steps")
        self._blind(self.bench)
        return order[0].choice if order else None

    def _on_all(self, choice: Choice, why: str) -> bool:
        """Runs a choice on all that stands, as dear as the budget allows; False where nothing
        stands, or no version is affordable.
        """
        rows = self.hunt.standing.nonzero()[:, 0]
        precise = self.bench
        if precise.draws > 1:
            precise = replace(precise, draws=FINAL_DRAWS)
        for bench, version in self._versions(precise, choice) if len(rows) else ():
            if self.hunt.affords(version.price(bench.draws), len(rows)):
                self.hunt.run(attempt_of(bench, version, why), rows, "all")
                return True
        return False

    def _versions(self, precise: Bench, choice: Choice) -> Iterator[tuple[Bench, Choice]]:
        """The choice, dearest first: with more draws, as it was tried, shorter and shorter."""
        yield precise, choice
        yield self.bench, choice
        plain = replace(choice, restarts=1, targets=min(choice.targets, 3))
        for steps in (40, 20, 10):
            yield self.bench, replace(plain, steps=min(choice.steps, steps))

    def _blind(self, bench: Bench) -> None:
        """As many queries without gradients as are left of the budget."""
        rows = self.hunt.standing.nonzero()[:, 0]
        each = (self.hunt.budget - self.hunt.spent) / (max(len(rows), 1) * bench.draws) - DRAWS
        queries = int(min(_QUERIES, each))
        if not len(rows) or queries < _FEWEST:
            return
        try:
            attack = square(bench.threat, queries)
        except InputError:
            return  # squares are for norms that have them
        attack = replace(attack, objective=bench.rule or Unaware(Margin()))
        attack = averaged(attack, bench.draws) if bench.draws > 1 else attack
        self.hunt.run(Attempt(f"Square-{queries}", attack, why="no gradients"), rows, "all")


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
