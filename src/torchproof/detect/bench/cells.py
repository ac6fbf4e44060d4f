"""The cells of a comparison: the scores of a fitted detector, and what an adversary who knows it
achieves. Each is a record that a resumed run does not make again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from torchproof.attack.untouched import home
from torchproof.core.errors import InputError
from torchproof.core.keys import seed_of
from torchproof.detect.adaptive import evade, rule_of
from torchproof.detect.bench.adversarial_sets import AdversarialSets, Attacked
from torchproof.detect.bench.costs import Cost, costing
from torchproof.detect.bench.record import Costs, numbers, titled
from torchproof.detect.bench.setup import Setup
from torchproof.detect.bench.splits import Splits
from torchproof.detect.calibrate import calibrate
from torchproof.detect.detector import Clean, Fitted
from torchproof.detect.parts.logits import wrong

FEWEST = 20  # adversarial images that a supervised detector is fitted on
CALIBRATE, TEST, ELSEWHERE = "calibrate", "test", "elsewhere"


@dataclass(frozen=True)
class Comparison:
    """What all detectors of a comparison share."""

    model: nn.Module
    setup: Setup
    splits: Splits
    elsewhere: dict[str, Tensor]
    sets: AdversarialSets

    def tests(self, attack: str) -> Attacked:
        """What an attack made of the test images."""
        return self.sets.get(self.setup.rows[attack], TEST, self.splits.test)

    def clean(self, supervised: bool, trained_on: str | None) -> Clean:
        """What a detector is fitted on: all images, or those with which the attack fools the
        classifier and which it gets right otherwise. Raises InputError for too few of these.
        """
        fit = self.splits.fit
        if not supervised or trained_on is None:
            return Clean(fit.x, fit.y)
        made = self.sets.get(self.setup.rows[trained_on], "fit", fit)
        right = ~wrong(self.model, fit.x, fit.y, self.setup.batch_size)
        rows = (made.fooled & right).nonzero()[:, 0]
        if len(rows) < FEWEST:
            given = f"{trained_on}, which fools the classifier on {len(rows)} of {len(fit)} images"
            raise InputError(given, f"at least {FEWEST} to learn from", "train on a stronger one")
        return Clean(fit.x[rows], fit.y[rows], made.x[rows])


@dataclass
class Cells:
    """Those of one detector, which is fitted when the first of them asks for it."""

    bench: Comparison
    detector: str
    trained_on: str | None
    cost: Cost = field(default_factory=Cost)
    fitted: tuple[Fitted, Clean] | None = None

    def table(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """What makes each record, by the name of the cell; the scores come first."""
        name = titled(self.detector, self.trained_on)
        found = {f"scores {name}": self.scores}
        adaptive = self.bench.setup.adaptive(self.trained_on)
        return {**found, f"adaptive {name}": self.adaptive} if adaptive else found

    def fit(self) -> tuple[Fitted, Clean]:
        """The detector, and what it was fitted on."""
        if self.fitted is None:
            setup, model = self.bench.setup, self.bench.model
            recipe = setup.recipes[self.detector]
            clean = self.bench.clean(recipe.supervised, self.trained_on)
            with costing(home(model)) as self.cost:
                made = recipe.fit(model, clean, seed_of(setup.seed, self.detector))
            self.fitted = made, clean
        return self.fitted

    def scores(self) -> dict[str, Any]:
        """Of calibration and test images, of all attacks, of all kinds from elsewhere."""
        bench, (fitted, clean) = self.bench, self.fit()
        size, splits = bench.setup.batch_size, bench.splits
        found = {CALIBRATE: fitted.score(splits.calibrate.x, size)}
        calibrate(found[CALIBRATE], bench.setup.fpr)  # refused before the work is done
        with costing(home(bench.model)) as cost:
            found[TEST] = fitted.score(splits.test.x, size)
        for name in bench.setup.rows:
            found[name] = fitted.score(bench.tests(name).x, size)
        for name, x in bench.elsewhere.items():
            found[f"{ELSEWHERE} {name}"] = fitted.score(x, size)
        costs = Costs(
            fit=self.cost.seconds, score=1000 * cost.seconds / len(splits.test),
            fit_megabytes=self.cost.megabytes, score_megabytes=cost.megabytes,
        )  # fmt: skip
        return {
            "scores": {name: numbers(values) for name, values in found.items()},
            "fooled": {name: bench.tests(name).fooled.tolist() for name in bench.setup.rows},
            "recipe": repr(bench.setup.recipes[self.detector]), "gradient": fitted.gradient,
            "fitted_on": len(clean.x), "costs": costs.model_dump(),
        }  # fmt: skip

    def adaptive(self) -> dict[str, Any]:
        """The detector's own attacks on the first test images."""
        bench, (fitted, clean) = self.bench, self.fit()
        setup, splits = bench.setup, bench.splits
        size = setup.batch_size
        threshold = calibrate(fitted.score(splits.calibrate.x, size), setup.fpr)
        few = splits.test.take(setup.sizes.adaptive)
        with costing(home(bench.model)) as cost:
            rule = rule_of(fitted, threshold, splits.calibrate.x, size)
            found = evade(fitted, few.x, few.y, setup.threat, rule, clean, setup.seed, size)
        return {
            "wrong": found.wrong.tolist(), "evaded": found.evaded.tolist(),
            "score": numbers(found.score), "attacks": found.attacks,
            "lacks": found.lacks, "seconds": cost.seconds,
        }  # fmt: skip
