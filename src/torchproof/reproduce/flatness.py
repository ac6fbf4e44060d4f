"""Stutz, Hein and Schiele 2021: networks that generalise robustly lie in flat minima of the robust
loss, and adversarial training that overfits leaves them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchproof import data as sets
from torchproof.core import keys
from torchproof.core.errors import FileError, InputError
from torchproof.core.threats import Threat, parse
from torchproof.diagnose.flatness import Procedure, flatness
from torchproof.diagnose.landscape import Landscape, weight_landscape
from torchproof.nn import cards, load_model
from torchproof.recipes import Plan, Table, run
from torchproof.recipes.plan import Prepared
from torchproof.reproduce.awp import BASE
from torchproof.reproduce.experiment import Outcome, Request, available, conclude
from torchproof.reproduce.flatness_figures import picture
from torchproof.reproduce.flatness_judge import (
    AT,
    AWP,
    CLAIM,
    EARLY,
    PAPER,
    Cell,
    Curves,
    judge,
    rows,
)
from torchproof.reproduce.study import DIGITS
from torchproof.reproduce.subjects import seeded, tested_on
from torchproof.train.method import Batch
from torchproof.train.rows import split
from torchproof.train.wrapper import Wrapper, require_once

NOISE = 0.2
LONG = "long"  # the run that overfits; its folder


@dataclass(frozen=True)
class LabelNoise(Wrapper):
    """Any method on labels of which, at every step, a random share is drawn anew from the classes
    0 to K - 1. Raises InputError for a share outside [0, 1].
    """

    share: float = NOISE
    classes: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        require_once(self)
        if not 0 <= self.share <= 1:
            raise InputError(f"share = {self.share!r}", "a number in [0, 1]", "write 0.2")

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        key = keys.mix(batch.seed, "label noise", batch.ids).to(batch.y.device)
        other = keys.integers(key, 0, self.classes, ())
        drawn = keys.uniform(key, 1, ()) < self.share
        noisy = torch.where(drawn, other, batch.y)
        return self.method.prepare(model, dataclasses.replace(batch, y=noisy))


@dataclass(frozen=True)
class Setting:
    """A scale. base: of all plans; pgd: arguments of the methods; augment, decay: of their rows;
    long: settings of the run that is to overfit; every: epochs between its checkpoints; n: images
    that flatness is measured on; tests: images of the robust loss; how: the procedure; curve:
    radii, directions and steps of the landscapes.
    """

    base: dict[str, Any]
    pgd: str
    augment: str
    decay: float
    long: dict[str, Any]
    every: int
    n: int
    tests: int
    how: Procedure
    curve: dict[str, Any]

    def plans(self, seeds: Iterable[int]) -> dict[str, Plan]:
        """The variants of adversarial training by name, and the run that overfits."""
        at, data = f"AT({self.pgd})", self.base.get("data", "cifar10")
        made: dict[str, dict[str, Any]] = {
            AT: {"method": at},
            "TRADES": {"method": f"TRADES({self.pgd}, beta=6)"},
            "MART": {"method": f"MART({self.pgd}, lam=5)"},
            AWP: {"method": f"AWP({at}, gamma=0.01)"},
            "label noise": {"method": at},
            "label smoothing": {"method": f"LabelSmoothing({at}, amount=0.1)"},
            "augmentation": {"method": at, "augment": self.augment},
            "weight decay": {"method": at, "settings": {"weight_decay": self.decay}},
            "extra data": {"method": at, "extra": data, "settings": {"extra_share": 0.5}},
            LONG: {"method": at, "settings": self.long},
        }
        return Table.of({"base": self.base, "rows": made, "seeds": tuple(seeds)}).rows


def setting(request: Request) -> Setting:
    """The setting of a scale; the bundled digits in place of MNIST where that is not there."""
    pgd, radii = "steps=4, length=1/3, ramp=0.1", tuple(i / 5 for i in range(-5, 6))
    if request.scale == "paper":
        return Setting(
            base={"recipe": "cifar10-at", "model": "resnet18",
                  "settings": {"epochs": 150, "lr": 0.05, "weight_decay": 5e-4}},
            pgd="steps=7, length=0.223", augment="Compose(Crop(4), Flip(), Cutout(16))",
            decay=5e-3, long={}, every=10, n=1000, tests=1000, how=Procedure(worst_xi=0.003),
            curve={"radii": radii, "directions": 10, "steps": 10},
        )  # fmt: skip
    known = available("mnist", request)
    base = BASE if known else DIGITS
    settings: dict[str, Any] = dict(base["settings"])  # type: ignore[call-overload]
    more = {"epochs": 40, "schedule": "piecewise", "held_out": 100, "held_out_steps": 5}
    changed = {**base, "n": 600, "settings": {**settings, **more}}
    how = Procedure(worst_xi=0.003, draws=6, starts=2, steps=10, length=0.25, slots=256, batch=256)
    return Setting(
        base=changed, pgd=pgd, augment="Crop(2)" if known else "Crop(1)", decay=5e-4,
        long={"epochs": 100, "schedule": "constant"}, every=10, n=200, tests=300, how=how,
        curve={"radii": radii, "directions": 2, "steps": 5},
    )  # fmt: skip


def flatness_experiment(request: Request) -> Outcome:
    """Flatness along a training that overfits, and over variants of adversarial training (Stutz,
    Hein and Schiele 2021).
    """
    chosen = setting(request)
    plans = chosen.plans(range(request.seeds))
    about = {name: plan.model_dump_json() for name, plan in plans.items()}
    request.claim({**about, "measured": repr(chosen.how)})
    cells: list[Cell] = []
    curves: dict[str, list[Curves]] = {AT: [], AWP: []}
    for seed in request.all_seeds:
        subject = Subject(request, chosen, plans, seed)
        cells += [*subject.variants(), *subject.epochs()]
        for name, found in curves.items():
            found.append(subject.curve(name))
    first = plans[AT]
    return conclude(
        request, name="flatness", paper=PAPER, claim=CLAIM,
        settings={"data": first.data, "network": first.model, "threat": str(first.threat),
                  "training": f"{first.n or 'all'} images, {first.settings.epochs} epochs; "
                  f"{plans[LONG].settings.epochs} for the run that overfits",
                  "measured": _described(chosen)},
        rows=rows(cells, (chosen.how.average_xi, chosen.how.worst_xi)), judged=judge(cells),
        picture=picture(cells, {k: _pooled(v) for k, v in curves.items()}),
    )  # fmt: skip


def _described(chosen: Setting) -> str:
    how = chosen.how
    return (
        f"flatness on {chosen.n} test images, {how.draws} draws at xi = {how.average_xi:g}, "
        f"{how.starts} joint ascents at xi = {how.worst_xi:g}, PGD-{how.steps} with "
        f"{how.restarts} restart(s) at w and at w + v; robust loss on {chosen.tests} images"
    )


def _pooled(found: list[Curves]) -> Landscape:
    """The directions of all seeds together."""
    return Landscape(found[0].radii, tuple(line for one in found for line in one.losses))


@dataclass(frozen=True)
class Subject:
    """The networks of one seed; what is finished is read back when resuming."""

    request: Request
    chosen: Setting
    plans: dict[str, Plan]
    seed: int

    @property
    def folder(self) -> Path:
        return self.request.out / f"seed{self.seed}"

    def variants(self) -> list[Cell]:
        """Every variant after its last epoch, and AT at the epoch that held-out images chose."""
        found: list[Cell] = []
        for name in self.plans:
            if name == LONG:
                continue
            found.append(self._measured(name, name, "last"))
            if name == AT:
                found.append(self._measured(EARLY, AT, "model"))
        return found

    def epochs(self) -> list[Cell]:
        """Checkpoints of the run that overfits."""
        plan = self.plans[LONG]
        every = range(self.chosen.every, plan.settings.epochs + 1, self.chosen.every)
        return [self._measured(LONG, LONG, f"epoch-{epoch:03}", epoch) for epoch in every]

    def curve(self, name: str) -> Curves:
        """The robust loss along random directions."""
        path = self.folder / "cells" / f"curve-{name}.json"
        if not path.exists():
            x, y = (part[: self.chosen.n] for part in self.test)
            found = weight_landscape(
                self._network(name, "last"), x, y, self._threat(), seed=self.seed,
                **self.chosen.curve,
            )  # fmt: skip
            Curves(radii=found.radii, losses=found.losses).write(path)
        return Curves.read(path)

    def _measured(self, name: str, trained: str, weights: str, epoch: int = 0) -> Cell:
        path = self.folder / "cells" / f"{name.replace(' ', '-')}-{weights}.json"
        if not path.exists():
            cell = self._measure(name, self._network(trained, weights), epoch)
            cell.write(path)
            self.request.say(f"seed {self.seed}, {cell.text}")
        return Cell.read(path)

    def _measure(self, name: str, model: nn.Module, epoch: int) -> Cell:
        threat, (x, y) = self._threat(), self.test
        how = dataclasses.replace(self.chosen.how, seed=self.seed)
        quick = dataclasses.replace(how, draws=0, starts=0)
        few = (x[: self.chosen.n], y[: self.chosen.n])
        found = flatness(model, *few, threat, how)
        clean = flatness(model, *few, None, dataclasses.replace(how, starts=0))
        whole = flatness(model, x, y, threat, quick)
        seen = flatness(model, *self.seen, threat, quick)
        assert found.average is not None and found.worst is not None and clean.average is not None
        return Cell(
            name=name, seed=self.seed, epoch=epoch, n=len(few[1]), tests=len(y),
            loss=whole.reference, wrong=round(whole.error * len(y)), train_loss=seen.reference,
            average=found.average, worst=found.worst, spread=found.spread or 0.0,
            clean_average=clean.average,
        )  # fmt: skip

    def _threat(self) -> Threat:
        return parse(str(self.plans[AT].threat))

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        """Images that flatness is measured on the first of, and the robust loss on all of."""
        found = tested_on(self.request, self.plans[AT].data, max(self.chosen.n, self.chosen.tests))
        return found.x, found.y

    @cached_property
    def seen(self) -> tuple[Tensor, Tensor]:
        """Images that all the networks of this seed were trained on."""
        plan = self.plans[AT]
        train = sets.load(plan.data, data_dir=self.request.data_dir, split="train")
        train = train if plan.n is None else train.take(plan.n)
        kept, _ = split(train.x, train.y, self.seed, plan.settings.held_out)
        index = kept.index[: self.chosen.tests]
        return train.x[index], train.y[index]

    def _network(self, name: str, weights: str) -> nn.Module:
        """A stored network of a run, trained now unless it was before."""
        folder = self.folder / "runs" / name.replace(" ", "-")
        path = folder / f"{weights}.safetensors"
        if not path.exists():
            self._train(name, folder)
        if not path.exists():
            given = f"{path}, which the run was cut off before writing"
            raise FileError(given, "a stored network", f"remove {folder}, and resume")
        return load_model(str(path)).model

    def _train(self, name: str, folder: Path) -> None:
        ready: Prepared = seeded(self.request, self.plans[name], self.seed)
        if name == "label noise":
            noisy = LabelNoise(ready.method, classes=len(ready.train.classes))
            ready = dataclasses.replace(ready, method=noisy)
        for record in run(ready, folder, resume=folder.exists()):
            if name == LONG and record.epoch % self.chosen.every == 0:
                cards.save(ready.model, folder / f"epoch-{record.epoch:03}.safetensors")
        self.request.say(f"seed {self.seed}, {name}: trained")
