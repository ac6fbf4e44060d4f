"""Lassance et al. 2019: local Lipschitz robustness, measured by noise and by a search, of networks
trained with noise and without.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import untouched
from torchproof.core import keys
from torchproof.data.dataset import Dataset
from torchproof.diagnose.lipschitz import Bound, LipschitzCurve, local_lipschitz
from torchproof.diagnose.lipschitz_bound import SOFTMAX
from torchproof.recipes import Plan
from torchproof.reproduce.experiment import Outcome, Request, available, conclude
from torchproof.reproduce.lipschitz_figures import (
    KINDS,
    NOISY,
    PLAIN,
    Cell,
    Curve,
    Line,
    judge,
    picture,
    rows,
)
from torchproof.reproduce.subjects import seeded, tested_on, trained
from torchproof.train import Settings

PAPER = "Lassance, Gripon, Tang and Ortega 2019, arXiv 1909.05095"
CLAIM = (
    "networks whose answers move less per unit of a small change of their images, in the sense of "
    "alpha(r), withstand noise better; random noise falls far short of alpha(r), a search does not"
)
METHODS = {PLAIN: "Standard", NOISY: "NoiseAugmentation(sigma=0.3)"}
SIGMAS = (0.5, 0.8)


@dataclass(frozen=True)
class Part:
    """Data, network and sizes. points: training images that alpha(r) is measured at, of which
    `close` get local bounds at the radii `near`; tests: test images for accuracy; draws, steps,
    starts: of the search; sampled, spread: points and draws of noise of the linear map.
    """

    data: str
    model: str
    n: int | None
    settings: Settings
    points: int = 200
    tests: int = 2000
    radii: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 3.0)
    draws: int = 30
    steps: int = 30
    starts: int = 1
    close: int = 1
    near: tuple[float, ...] = (0.02, 0.05)
    sampled: int = 50
    spread: int = 30


def part_of(request: Request) -> Part:
    """A small network on MNIST (or digits); at scale paper a PreActResNet18 on CIFAR-10 with the
    authors' 1000 images, 30 radii up to 1.75 and 100 draws.
    """
    if request.scale == "paper":
        settings = Settings.of(epochs=100, lr=0.1, batch_size=100, optimiser="sgd",
                               schedule="piecewise", weight_decay=5e-4, held_out=0)  # fmt: skip
        radii = tuple(1.75 * i / 30 for i in range(1, 31))
        return Part("cifar10", "preact-resnet18", None, settings, 1000, 10000, radii, 100, close=0)
    settings = Settings.of(epochs=4, lr=2e-3, batch_size=64, optimiser="adam", schedule="cyclic",
                           weight_decay=0.0, held_out=0)  # fmt: skip
    if available("mnist", request):
        return Part("mnist", "small-cnn", 8000, settings)
    return Part("digits", "small-cnn", None, settings, 100, 300, (0.25, 0.5, 1.0, 2.0))


def lipschitz_experiment(request: Request) -> Outcome:
    """Local Lipschitz robustness of networks trained with Gaussian noise and without, sampled,
    attacked and bounded (Lassance et al. 2019).
    """
    part = part_of(request)
    request.claim({"part": f"{part}"})
    lines, cells = [], []
    for seed in request.all_seeds:
        subjects = Subjects(request, part, seed)
        lines.append(subjects.line())
        cells += [subjects.cell(kind) for kind in KINDS]
    return conclude(
        request,
        name="lipschitz",
        paper=PAPER,
        claim=CLAIM,
        settings={
            "data": f"{part.data}, {part.n or 'all'} training images, alpha at the first "
            f"{part.points} of them, accuracy on {part.tests} test images",
            "networks": f"{part.model}, {part.settings.epochs} epochs, plain and with Gaussian "
            "noise of 0.3",
            "search": f"{part.draws} draws of noise, {part.steps} steps of ascent from "
            f"{part.starts} random directions, from the best noise and from the radius before; "
            "pixels stay in [0, 1]",
        },
        rows=rows(lines, cells),
        judged=judge(lines, cells),
        picture=picture(cells),
    )


@dataclass(frozen=True)
class Subjects:
    """The networks of one seed; what is measured is read back when resuming."""

    request: Request
    part: Part
    seed: int

    def folder(self, name: str) -> Path:
        return self.request.out / f"seed{self.seed}" / name.replace(" ", "-")

    def line(self) -> Line:
        """A linear map 784 -> 10 with normal entries, whose constant is known."""
        path = self.folder("linear.json")
        if path.exists():
            return Line.read(path)
        key = keys.mix(self.seed, "linear map")
        linear = nn.Linear(784, 10)
        with torch.no_grad():
            linear.weight.copy_(keys.normal(key, 0, (10, 784))[0])
            exact = float(torch.linalg.matrix_norm(linear.weight.double(), 2))
        x = keys.uniform(key, 1, (self.part.sampled, 784))[0]
        curve = local_lipschitz(
            linear, x, (1.0,), output="logits", box=None, draws=self.part.spread, seed=self.seed
        )
        found = Line(seed=self.seed, exact=exact, sampled=curve.sampled[0],
                     attacked=curve.attacked[0], bound=curve.bound[0])  # fmt: skip
        found.write(path)
        return found

    def cell(self, kind: str) -> Cell:
        path = self.folder(f"{kind}.json")
        if path.exists():
            return Cell.read(path)
        plan = Plan(data=self.part.data, model=self.part.model, method=METHODS[kind],
                    n=self.part.n, settings=self.part.settings)  # fmt: skip
        ready = seeded(self.request, plan, self.seed)
        model = trained(self.request, ready, self.folder(kind))
        points = ready.train.x[: self.part.points]
        test = tested_on(self.request, self.part.data, self.part.tests)
        softmax = self._curve(model, points, "softmax", "global")
        logits = self._curve(model, points, "logits", "none")
        bound = tuple(value / SOFTMAX for value in softmax.bound)  # one walk serves both
        cell = Cell(
            kind=kind, seed=self.seed, n=len(test), points=len(points),
            clean=right(model, test, 0.0, self.seed),
            noisy=tuple(right(model, test, sigma, self.seed) for sigma in SIGMAS),
            softmax=softmax, logits=logits.model_copy(update={"bound": bound}),
            near=self._near(model, points),
        )  # fmt: skip
        cell.write(path)
        self.request.say(f"seed {self.seed}, {kind}: {cell.text}")
        return cell

    def _curve(self, model: nn.Module, x: Tensor, output: str, bound: Bound) -> Curve:
        part = self.part
        return _kept(
            local_lipschitz(
                model, x, part.radii, output=output, draws=part.draws, steps=part.steps,
                starts=part.starts, bound=bound, seed=self.seed,
            )
        )  # fmt: skip

    def _near(self, model: nn.Module, x: Tensor) -> Curve | None:
        """With local bounds, at few points and small radii."""
        part = self.part
        if not part.close:
            return None
        return _kept(
            local_lipschitz(
                model, x[: part.close], part.near, output="logits", draws=part.draws,
                steps=part.steps, starts=part.starts, bound="local", seed=self.seed,
            )
        )  # fmt: skip


def _kept(curve: LipschitzCurve) -> Curve:
    return Curve(radii=curve.radii, sampled=curve.sampled, attacked=curve.attacked,
                 bound=curve.bound)  # fmt: skip


@torch.no_grad()
def right(model: nn.Module, test: Dataset, sigma: float, seed: int) -> int:
    """How many test images are right under normal noise, not cut to [0, 1]."""
    key = keys.mix(seed, "test noise", torch.arange(len(test)))
    x = test.x + sigma * keys.normal(key, 0, tuple(test.x.shape[1:]))
    hits = 0
    with untouched(model):
        for start in range(0, len(test), 500):
            rows_ = slice(start, start + 500)
            hits += int((model(x[rows_]).argmax(1) == test.y[rows_]).sum())
    return hits
