"""Wang et al. 2021: retraining on targeted universal perturbations made from a few images."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from torchproof.attack.universal import taken
from torchproof.core.threats import Threat, parse
from torchproof.recipes import Plan
from torchproof.reproduce import subjects
from torchproof.reproduce.ahead import shared
from torchproof.reproduce.experiment import Outcome, Request, at_hand, conclude
from torchproof.reproduce.rat_figures import (
    KINDS,
    LABEL,
    MANY_ROUNDS,
    ONE_ROUND,
    Cell,
    Patterns,
    judge,
    measured,
    picture,
    rows,
)
from torchproof.train import Settings, fit, method
from torchproof.train.region import (
    SETTINGS,
    Make,
    likeness,
    random_patterns,
    region_perturbations,
    region_training,
)
from torchproof.train.region_round import stored_patterns

PAPER = "Wang, Chen, Tang, Yue, Zhu, Zeng and Wang 2021, arXiv 2008.07838"
CLAIM = (
    "one perturbation per class, made from a few images, turns inputs of all other classes into "
    "it, and retraining on inputs with these perturbations also helps against FGSM"
)
ROUNDS = 4
FRESH = (0, 3, 7)  # classes that a last, fresh universal attack aims at
# threats for patterns and attacks, images to retrain on, steps of a pattern, epochs of the base
SMALL = {
    "mnist": ("linf:0.3", "linf:0.1", 500, 150, 4),
    "cifar10": ("linf:24/255", "linf:2/255", 500, 80, 8),
    "digits": ("linf:0.3", "linf:0.1", 400, 100, 4),
}
TUNED = {
    "FGSM-AT": "AT(steps=1, length=1.0, start=Zero())",
    "PGD-AT": "AT(steps=7, length=0.25)",
}


@dataclass(frozen=True)
class Part:
    """One data set: the plan of the base network, the threat that patterns are made under, the
    weaker one that networks are attacked under.

    few: images to retrain on; tests: test images; steps: of making a pattern.
    """

    plan: Plan
    strong: str
    weak: str
    few: int
    tests: int
    steps: int


def parts(request: Request) -> list[Part]:
    """The data sets of a scale; the bundled digits in place of those that are not there."""
    settings = Settings.of(epochs=4, batch_size=64, lr=2e-3, optimiser="adam", schedule="cyclic",
                           weight_decay=0.0, held_out=0)  # fmt: skip
    small = Plan(model="small-cnn", method="Standard", settings=settings)
    large = request.scale == "paper"
    found: list[Part] = []
    for name in at_hand(("mnist", "cifar10"), request):
        strong, weak, few, steps, epochs = SMALL[name]
        changed = settings.model_copy(update={"epochs": epochs})
        n = None if large or name == "digits" else 8000
        plan = small.model_copy(update={"data": name, "n": n, "settings": changed})
        tests = 10000 if large else 300
        found.append(Part(plan, strong, weak, few, tests, 200 if large else steps))
    return found


def rat_experiment(request: Request) -> Outcome:
    """Region adversarial training in one round and in four, beside random patterns, FGSM-AT and
    PGD-AT on the same few images (Wang et al. 2021, reconstructed).
    """
    chosen = parts(request)
    request.claim({part.plan.data: f"{part}" for part in chosen})
    named = {part.plan.data: part for part in chosen}

    def one(name: str, seed: int) -> tuple[list[Cell], Patterns]:
        mine = Subjects(request, named[name], seed)
        return mine.cells(), mine.patterns()

    found = [pair for pairs in shared(request, named, one).values() for pair in pairs]
    cells = [cell for cells, _ in found for cell in cells]
    patterns = [made for _, made in found]
    shown = stored_patterns(Subjects(request, chosen[0], 0).folder("RAT"), 1)
    return conclude(
        request,
        name="rat",
        paper=PAPER,
        claim=CLAIM,
        settings={"reading": LABEL, **{part.plan.data: _described(part) for part in chosen}},
        rows=rows(cells, patterns),
        judged=judge(cells),
        picture=picture(cells, shown),
    )


def _described(part: Part) -> str:
    plan, epochs = part.plan, SETTINGS.epochs
    return (
        f"{plan.model}, {plan.settings.epochs} epochs on {plan.n or 'all'} images; patterns of "
        f"{part.strong} in {part.steps} steps from {part.few} of them; {epochs} epochs per round, "
        f"{epochs * ROUNDS} for FGSM-AT and PGD-AT; attacks of {part.weak} on {part.tests} "
        f"test images; fresh patterns aim at classes {FRESH}"
    )


@dataclass(frozen=True)
class Subjects(subjects.Subjects[Part]):
    """The networks of one data set and seed; what is finished is read back when resuming."""

    @property
    def strong(self) -> Threat:
        return parse(self.part.strong)

    @property
    def weak(self) -> Threat:
        return parse(self.part.weak)

    def cells(self) -> list[Cell]:
        """Every network by its kind, measured."""
        known = {kind: self._stored(kind) for kind in KINDS}
        done = {kind: cell for kind, cell in known.items() if cell is not None}
        if len(done) < len(KINDS):
            for kind, model in self._networks(set(KINDS) - set(done)):
                done[kind] = self._measure(kind, model)
        return [done[kind] for kind in KINDS]

    def _stored(self, kind: str) -> Cell | None:
        path = self._file(kind)
        return Cell.read(path) if path.exists() else None

    def _file(self, kind: str) -> Path:
        return self.folder("cells") / (kind.replace(" ", "-").replace(",", "") + ".json")

    def _networks(self, wanted: set[str]) -> Iterator[tuple[str, nn.Module]]:
        """The wanted networks, one after another; a network may change once the next is asked
        for.
        """
        base = self.base()
        named = {1: ONE_ROUND, ROUNDS: MANY_ROUNDS}
        make = partial(region_perturbations, steps=self.part.steps)
        for number, model in self._rounds("RAT", base, make):
            if named.get(number) in wanted:
                yield named[number], model
        if "base" in wanted:
            yield "base", base
        if "random patterns" in wanted:
            for number, model in self._rounds("random", base, random_patterns):
                if number == ROUNDS:
                    yield "random patterns", model
        for kind in sorted(wanted & set(TUNED)):
            yield kind, self._tuned(kind, base)

    def _rounds(self, name: str, base: nn.Module, make: Make) -> Iterator[tuple[int, nn.Module]]:
        few, model = self.few(), copy.deepcopy(base)
        settings = SETTINGS.model_copy(update={"seed": self.seed})
        for record in region_training(
            model, (few.x, few.y), self.strong, ROUNDS, settings, make=make,
            out=self.folder(name), resume=True,
        ):  # fmt: skip
            success = sum(record.success) / len(record.success)
            self.say(f"{name}, round {record.round}: patterns took {success:.3f} before, "
                      f"accuracy on all of them {record.old:.3f} after")  # fmt: skip
            yield record.round, model

    def _tuned(self, kind: str, base: nn.Module) -> nn.Module:
        few, model = self.few(), copy.deepcopy(base)
        epochs = SETTINGS.epochs * ROUNDS
        settings = SETTINGS.model_copy(update={"seed": self.seed, "epochs": epochs})
        chosen = method(TUNED[kind], self.weak)
        for _ in fit(model, few, chosen, settings, out=self.folder(kind), resume=True):
            pass
        return model

    def _measure(self, kind: str, model: nn.Module) -> Cell:
        few, test = self.few(), self.test()
        first = stored_patterns(self.folder("RAT"), 1)
        made = region_perturbations(
            model, few.x, few.y, self.strong, FRESH, self.seed + 1, steps=self.part.steps
        )
        fresh = taken(model, test.x, test.y, made, self.strong)
        right, on_first = measured(model, test, self.weak, first, self.strong, self.seed)
        cell = Cell(
            data=self.part.plan.data, kind=kind, seed=self.seed, n=len(test), right=right,
            first=on_first, fresh=tuple(fresh.tolist()),
        )  # fmt: skip
        cell.write(self._file(kind))
        self.say(f"{kind}: {cell.text}")
        return cell

    def patterns(self) -> Patterns:
        """What the patterns for the base network do, and what they look like."""
        path = self.folder("cells") / "patterns.json"
        if path.exists():
            return Patterns.read(path)
        base, few, test = self.base(), self.few(), self.test()
        found = stored_patterns(self.folder("RAT"), 1)
        weak = region_perturbations(
            base, few.x, few.y, self.weak, FRESH, self.seed, steps=self.part.steps
        )
        result = Patterns(
            data=self.part.plan.data,
            n=len(test),
            strong=tuple(taken(base, test.x, test.y, found, self.strong).tolist()),
            weak=tuple(taken(base, test.x, test.y, weak, self.weak).tolist()),
            alike=tuple(likeness(found, few.x, few.y).tolist()),
        )
        result.write(path)
        return result
