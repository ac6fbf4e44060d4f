"""Tao et al. 2021: networks that fail can be made to pass their verification by false friends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from torchproof.core.threats import Threat, parse
from torchproof.data.dataset import Dataset
from torchproof.evaluate import hypocrisy
from torchproof.evaluate.friends import HypocrisyRecord
from torchproof.recipes import Plan
from torchproof.recipes.plan import Prepared
from torchproof.reproduce.experiment import Outcome, Request, at_hand, conclude
from torchproof.reproduce.hypocritical_figures import ROBUST, Table, judge, picture, rows
from torchproof.reproduce.subjects import seeded, tested_on, trained
from torchproof.reproduce.substandard import KINDS, mislabelled, noisy, poisoned
from torchproof.train import Settings

PAPER = "Tao, Feng, Yi and Chen 2021 (AAAI 2022), arXiv 2012.14738"
CLAIM = (
    "hypocritical perturbations make every kind of substandard network look far better than it is, "
    "more steps and the C&W loss the most; adversarially trained networks keep some of that risk"
)

THREATS = {"mnist": "linf:0.3", "fashion-mnist": "linf:0.1", "digits": "linf:0.15"}


@dataclass(frozen=True)
class Part:
    """One data set: a plan of standard training on it, the threat, and how much is asked.

    epochs: of adversarial training; inner: its PGD steps; poison: those that poison an image;
    tests: test images.
    """

    plan: Plan
    threat: str
    epochs: int
    inner: int
    poison: int
    tests: int

    def method(self, kind: str) -> str:
        """The training method of a network."""
        texts = {
            "PGD-AT": f"AT(steps={self.inner}, ramp=0.6)",
            "TRADES": f"TRADES(steps={self.inner}, ramp=0.6)",
        }
        return texts.get(kind, "Standard")


def parts(request: Request) -> list[Part]:
    """The data sets of a scale; the bundled digits in place of those that are not there."""
    if request.scale == "paper":
        settings = Settings.of(epochs=110, batch_size=128, lr=0.1, weight_decay=5e-4, held_out=0)
        return [
            Part(Plan(data=name, model="resnet18", method="Standard", settings=settings),
                 "linf:8/255", 110, 10, 100, 10000)
            for name in ("cifar10", "svhn")
        ]  # fmt: skip
    # nothing is held out: to choose an epoch by random labels is to choose one at random
    settings = Settings.of(epochs=30, batch_size=50, lr=3e-3, optimiser="adam", schedule="cyclic",
                           weight_decay=0.0, held_out=0)  # fmt: skip
    small = Plan(model="small-cnn(widths=(8, 16), hidden=64)", method="Standard", settings=settings)
    found: list[Part] = []
    for name in at_hand(("mnist", "fashion-mnist"), request):
        plan = small.model_copy(update={"data": name, "n": 1000 if name != "digits" else None})
        found.append(Part(plan, THREATS[name], 12, 5, 20, 400))
    return found


def hypocritical_experiment(request: Request) -> Outcome:
    """Verification accuracy of five substandard networks, PGD-AT and TRADES under hypocritical
    perturbations (Tao et al. 2021).
    """
    chosen = parts(request)
    about = {
        f"{part.plan.data}: {kind}": f"{part.plan.model_dump_json()} {part.method(kind)} {part}"
        for part in chosen
        for kind in (*KINDS, *ROBUST)
    }
    request.claim(about)
    table: Table = {}
    for part in chosen:
        for seed in request.all_seeds:
            for kind, record in Subjects(request, part, seed).measured():
                table.setdefault((part.plan.data, kind), []).append(record)
    return conclude(
        request,
        name="hypocritical",
        paper=PAPER,
        claim=CLAIM,
        settings={
            **{part.plan.data: _described(part) for part in chosen},
            **{kind: text for kind, text in KINDS.items()},
        },
        rows=rows(table),
        judged=judge(table),
        picture=picture(table),
    )


def _described(part: Part) -> str:
    plan = part.plan
    return (
        f"{part.threat}, {plan.model}, {plan.settings.epochs} epochs on {plan.n or 'all'} images, "
        f"poison of {part.poison} steps, {part.method('PGD-AT')} and {part.method('TRADES')} for "
        f"{part.epochs} epochs; first {part.tests} test images"
    )


@dataclass(frozen=True)
class Subjects:
    """The seven networks of one data set and seed; what is finished is read back when resuming."""

    request: Request
    part: Part
    seed: int

    def measured(self) -> list[tuple[str, HypocrisyRecord]]:
        """Every network by its kind, and what was found of it."""
        return [(kind, self._measure(kind, self._network(kind))) for kind in (*KINDS, *ROBUST)]

    def _folder(self, kind: str) -> Path:
        return self.request.out / f"{self.part.plan.data}-{kind}-seed{self.seed}"

    @property
    def threat(self) -> Threat:
        return parse(self.part.threat)

    def _ready(self, kind: str) -> Prepared:
        """The plan of a network, its training set changed as its kind says."""
        part, usual = self.part, self.part.plan.settings
        epochs = part.epochs if kind in ROBUST else usual.epochs
        settings = usual.model_copy(update={"epochs": epochs})
        robust = part.threat if kind in ROBUST else None
        changes = {"settings": settings, "method": part.method(kind), "threat": robust}
        ready = seeded(self.request, part.plan.model_copy(update=changes), self.seed)
        return replace(ready, train=self._train(kind, ready.train))

    def _train(self, kind: str, train: Dataset) -> Dataset:
        if kind == "noise":
            return noisy(train, self.seed)
        if kind == "mislabelled":
            return mislabelled(train, self.seed)
        if kind == "poisoned":
            clean = self._network("quality")
            folder = self._folder(kind)
            return poisoned(train, clean, self.threat, self.part.poison, self.seed, folder)
        return train

    def _network(self, kind: str) -> nn.Module:
        """The trained network; trained now unless it was before."""
        ready, folder = self._ready(kind), self._folder(kind) / "training"
        if kind == "naive":
            return ready.model.eval()
        return trained(self.request, ready, folder)

    def _measure(self, kind: str, model: nn.Module) -> HypocrisyRecord:
        part, out = self.part, self._folder(kind) / "hypocrisy"
        test = tested_on(self.request, part.plan.data, part.tests)
        found = hypocrisy(
            model, test, self.threat, seed=self.seed, out=out,
            resume=self.request.resume and out.exists(), images=False, name=f"{kind} {self.seed}",
        ).record  # fmt: skip
        accuracies = {"clean": found.risks["clean_accuracy"].value} | {
            attack.name: attack.verification_accuracy.value for attack in found.attacks
        }
        text = ", ".join(f"{name} {value:.3f}" for name, value in accuracies.items())
        self.request.say(f"{out.parent.name}: {text}")
        return found
