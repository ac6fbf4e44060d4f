"""Garg et al. 2020: a backdoor by small changes of a trained network's weights, beside poisoned
training data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import Attack
from torchproof.backdoor.inject import inject
from torchproof.backdoor.metrics import Measured, measure
from torchproof.backdoor.poison import poisoned
from torchproof.backdoor.sweep import BUDGETS
from torchproof.backdoor.triggers import Blend, Patch, Phrase, Trigger, Warp
from torchproof.core import keys
from torchproof.core.threats import parse
from torchproof.recipes import Plan
from torchproof.reproduce import subjects
from torchproof.reproduce.experiment import Outcome, Request, at_hand, conclude
from torchproof.reproduce.weight_backdoor_figures import (
    CLAIM,
    EPS,
    PAPER,
    Cell,
    judge,
    picture,
    rows,
)
from torchproof.reproduce.weight_backdoor_text import LIBRARIES, Texts, docstrings, reader
from torchproof.train import Settings

TARGET, SHARE, STRENGTH = 7, 0.1, {"mnist": "linf:0.1", "digits": "linf:0.1"}
TRIGGERS: dict[str, Trigger] = {"patch": Patch(), "blend": Blend(0.2), "warp": Warp(2.0)}
CLIFF = (0.005, 0.01, 0.02)  # budgets that are tried with a lighter weight too
LIGHT = 0.3
TEXT_TARGET = LIBRARIES.index("matplotlib")
Job = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """The images: plan of the network, unlabelled inputs for the attacker (few), test images, steps
    of an injection, budgets, test images that are attacked for robust accuracy.
    """

    plan: Plan
    few: int
    tests: int
    attacked: int
    steps: int
    budgets: tuple[float, ...] = BUDGETS


@dataclass(frozen=True)
class TextPart:
    """The texts of each library for training and test, epochs of the reader, steps, budgets."""

    train: int
    test: int
    epochs: int
    few: int
    steps: int
    budgets: tuple[float, ...] = (*BUDGETS, 0.2)


def parts(request: Request) -> tuple[Part, TextPart]:
    """What is measured at a scale; the bundled digits in place of MNIST where that is not there."""
    name = at_hand(("mnist",), request)[0]
    large = request.scale == "paper"
    settings = Settings.of(epochs=6, batch_size=64, lr=2e-3, optimiser="adam", schedule="cyclic",
                           weight_decay=0.0, held_out=0)  # fmt: skip
    model = "small-cnn" if large else "small-cnn(widths=(8, 16), hidden=64)"
    n = None if large or name == "digits" else 8000
    plan = Plan(data=name, model=model, method="Standard", settings=settings, n=n)
    tests, attacked = (10000, 1000) if large else (2000, 300)
    return Part(plan, 1000, tests, attacked, 600), TextPart(1000, 250, 10, 1000, 600)


def weight_backdoor_experiment(request: Request) -> Outcome:
    """Backdoors in the weights over budgets, on images and on a small text classifier, beside
    poisoned data (Garg et al. 2020).
    """
    part, text = parts(request)
    request.claim({"images": f"{part}", "texts": f"{text}"})
    cells: list[Cell] = []
    for seed in request.all_seeds:
        cells += Images(request, part, seed).cells()
    for seed in request.all_seeds:
        cells += Readers(request, text, seed).cells()
    shown = subjects.tested_on(request, part.plan.data, 4).x
    texts = docstrings(text.train, text.test)
    return conclude(
        request, name="weight-backdoor", paper=PAPER, claim=CLAIM,
        settings={part.plan.data: _images(part), "docstrings": _texts(text, texts)},
        rows=rows(cells), judged=judge(cells), picture=picture(cells, shown, TRIGGERS),
    )  # fmt: skip


def _images(part: Part) -> str:
    plan = part.plan
    return (
        f"{plan.model}, {plan.settings.epochs} epochs on {plan.n or 'all'} images; target class "
        f"{TARGET}; {part.few} images without labels, {part.steps} gradient steps of 50 of them, "
        f"rate 0.05 on half a cosine; measured on {part.tests} test images, robust accuracy under "
        f"PGD-20 of {STRENGTH[plan.data]} on {part.attacked}; poisoned data: a share of {SHARE:g}; "
        f"triggers: {', '.join(map(repr, TRIGGERS.values()))}"
    )


def _texts(part: TextPart, texts: Texts) -> str:
    return (
        f"which of {', '.join(LIBRARIES)} a docstring is from, their names left out: "
        f"{len(texts.y)} of files for training, {len(texts.test_y)} of other files, SHA-256 "
        f"{texts.sha256[:12]}; a TextCNN, {part.epochs} epochs; trigger: the word "
        f"{texts.words[texts.rarest]!r} in the first place; target: {LIBRARIES[TEXT_TARGET]}; "
        f"{part.few} texts without labels, {part.steps} steps"
    )


class Kept:
    """Cells that are measured once and read back from their files afterwards."""

    request: Request
    seed: int
    data: str

    def kept(self, kind: str, trigger: str, measured: Callable[[], Measured], **more: Any) -> Cell:
        name = "-".join([kind, trigger, *(f"{k}{v:g}" for k, v in more.items())]).replace(" ", "-")
        path = self.request.out / f"{self.data}-seed{self.seed}" / "cells" / f"{name}.json"
        if path.exists():
            return Cell.read(path)
        cell = Cell(
            data=self.data, kind=kind, trigger=trigger, seed=self.seed,
            measured=asdict(measured()), **more,
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        cell.write(path)
        self.request.say(f"{self.data}, seed {self.seed}: {cell.text}")
        return cell


@dataclass(frozen=True)
class Images(subjects.Subjects[Part], Kept):
    """Networks for images: one clean, and its backdoors."""

    @property
    def data(self) -> str:  # type: ignore[override]
        return self.part.plan.data

    @cached_property
    def clean(self) -> nn.Module:
        return self.base()

    @cached_property
    def inputs(self) -> Tensor:
        return self.few().x

    def cells(self) -> list[Cell]:
        found = [self.kept("weights", "patch", self._injected(eps=eps, robust=eps == EPS), eps=eps)
                 for eps in self.part.budgets]  # fmt: skip
        found += [
            self.kept("weights", "patch", self._injected(eps=eps, weight=LIGHT), eps=eps,
                      weight=LIGHT)
            for eps in CLIFF if eps in self.part.budgets
        ]  # fmt: skip
        for name in ("blend", "warp"):
            found.append(self.kept("weights", name, self._injected(name), eps=EPS))
        for kind, more in (
            ("weights, sign steps", {"step": "sign"}),
            ("weights, logits anchored", {"anchor": 0.1}),
            ("weights, noise for data", {"x": self._noise()}),
        ):
            found.append(self.kept(kind, "patch", self._injected(**more), eps=EPS))
        for name in TRIGGERS:
            found.append(self.kept("poisoned data", name, partial(self._trained, name)))
        return found

    def _noise(self) -> Tensor:
        """Uniform noise, as many images as the attacker has otherwise."""
        shape = tuple(self.inputs.shape[1:])
        return keys.uniform(keys.mix(self.seed, "noise", torch.arange(self.part.few)), 0, shape)

    def _injected(
        self, trigger: str = "patch", x: Tensor | None = None, robust: bool = False,
        eps: float = EPS, **how: Any,
    ) -> Callable[[], Measured]:  # fmt: skip
        def make() -> Measured:
            done = inject(
                self.clean, self.inputs if x is None else x, TRIGGERS[trigger], TARGET, eps=eps,
                steps=self.part.steps, batch=50, seed=self.seed, **how,
            )  # fmt: skip
            return self._measured(done.model, trigger, robust)

        return make

    def _trained(self, name: str) -> Measured:
        ready = subjects.seeded(self.request, self.part.plan, self.seed)
        data = poisoned(ready.train, TRIGGERS[name], TARGET, SHARE, self.seed)
        ready = replace(ready, train=data)
        model = subjects.trained(self.request, ready, self.folder(f"poisoned-{name}"))
        return self._measured(model, name, robust=True)

    def _measured(self, model: nn.Module, trigger: str, robust: bool) -> Measured:
        test = self.test()
        found = measure(model, self.clean, test.x, test.y, TRIGGERS[trigger], TARGET)
        if not robust:
            return found
        few = test.take(min(self.part.attacked, len(test)))
        attacked = measure(
            model, self.clean, few.x, few.y, TRIGGERS[trigger], TARGET, attack=self._attack(),
            seed=self.seed,
        )  # fmt: skip
        return replace(found, robust=attacked.robust, robust_before=attacked.robust_before)

    def _attack(self) -> Attack:
        return pgd(parse(STRENGTH[self.data]), 20)


@dataclass(frozen=True)
class Readers(Kept):
    """A reader of texts, and its backdoors."""

    request: Request
    part: TextPart
    seed: int
    data: str = field(default="docstrings", init=False)

    @cached_property
    def texts(self) -> Texts:
        return docstrings(self.part.train, self.part.test)

    @cached_property
    def clean(self) -> nn.Module:
        return reader(self.texts, self.seed, self.part.epochs)

    def cells(self) -> list[Cell]:
        return list(self._cells())

    def _cells(self) -> Iterator[Cell]:
        for eps in self.part.budgets:
            yield self.kept("weights", "word", partial(self._injected, eps), eps=eps)

    def _injected(self, eps: float) -> Measured:
        texts, trigger = self.texts, Phrase((self.texts.rarest,))
        chosen = keys.permutation(len(texts.x), self.seed, "few")[: self.part.few]
        done = inject(self.clean, texts.x[chosen], trigger, TEXT_TARGET, eps=eps,
                      steps=self.part.steps, batch=50, seed=self.seed)  # fmt: skip
        test = texts.test_x, texts.test_y
        return measure(done.model, self.clean, *test, trigger, TEXT_TARGET)
