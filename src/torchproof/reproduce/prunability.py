"""Kuhn et al. 2021: do networks that can be pruned further generalise better? A ladder of networks
trained to one loss, and a sweep of widths through the interpolation threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from torchproof import data as sets
from torchproof.attack.untouched import untouched
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.data.dataset import Dataset
from torchproof.diagnose.generalisation import complexity
from torchproof.diagnose.prunability import By, Prunability, prunability
from torchproof.nn import build
from torchproof.reproduce.ahead import shared
from torchproof.reproduce.experiment import Outcome, Request, available, conclude
from torchproof.reproduce.prunability_figures import MAGNITUDE, Cell, Wide, judge, picture, rows
from torchproof.train import Settings, Standard, fit

PAPER = "Kuhn, Lyle, Gomez, Rothfuss and Gal 2021, arXiv 2103.06002"
CLAIM = (
    "the smallest fraction of weights that magnitude pruning can keep without hurting the training "
    "loss ranks networks by how they generalise"
)
BETA, SLACK = 0.1, 0.1
CHECK = 4  # steps between looks at the training loss
# The measures of the table that prune, with the absolute slack.
PRUNED: dict[str, By] = {
    MAGNITUDE: "magnitude",
    "layer-normalised magnitude": "normalised",
    "random pruning": "random",
    "perturbation of that length": "perturbation",
}


@dataclass(frozen=True)
class Part:
    """n training and `tests` test images; noise: shares of random labels; widths: channels of the
    ladder's networks, the first being those that are judged; target: training cross-entropy (nats)
    that ends training, at most after `most` epochs; units, epochs, mixed: hidden units, length and
    share of random labels of the sweep.
    """

    data: str
    n: int = 1000
    tests: int = 2000
    noise: tuple[float, ...] = (0.0, 0.15, 0.3, 0.5)
    widths: tuple[tuple[int, int], ...] = ((8, 16), (4, 8))
    lr: float = 3e-3
    target: float = 0.03
    most: int = 400
    units: tuple[int, ...] = (2, 4, 6, 8, 10, 12, 16, 32, 64, 128, 256, 512, 1024)
    epochs: int = 100
    mixed: float = 0.15
    grid: int = 25
    draws: int = 3
    levels: int = 5  # draws of noise for sharpness


def part_of(request: Request) -> Part:
    """MNIST, or the bundled digits where it is not there."""
    return Part("mnist") if available("mnist", request) else Part("digits", n=600, tests=400)


def prunability_experiment(request: Request) -> Outcome:
    """Prunability beside norms, margin and sharpness as predictors of the generalisation gap (Kuhn
    et al. 2021).
    """
    if request.scale == "paper":
        given = "prunability at scale paper, whose banks of networks are not published"
        raise InputError(given, "the scale small", "run it with --scale small")
    part = part_of(request)
    request.claim({"part": f"{part}"})
    banks = [Bank(request, part, seed) for seed in range(request.seeds)]
    measure: dict[str, Callable[[Bank], Cell | Wide]] = {
        **{f"{w}, {noise}": partial(Bank.rung, widths=w, share=noise)
           for w in part.widths for noise in part.noise},
        **{f"{units} units": partial(Bank.swept, units=units) for units in part.units},
    }  # fmt: skip
    found = shared(request, measure, lambda name, seed: measure[name](banks[seed]))
    each = [found[name][seed] for seed in range(request.seeds) for name in measure]
    cells = [cell for cell in each if isinstance(cell, Cell)]
    sweep = [cell for cell in each if isinstance(cell, Wide)]
    first = [cell for cell in cells if cell.width == str(part.widths[0])]
    return conclude(
        request,
        name="prunability",
        paper=PAPER,
        claim=CLAIM,
        settings={
            "data": f"{part.data}, {part.n} training and {part.tests} test images",
            "ladder": f"small-cnn, widths {part.widths}, 64 hidden, Adam {part.lr:g}, random "
            f"labels on {part.noise} of the rows, each to a training cross-entropy of "
            f"{part.target:g}; no batch normalisation, decay or augmentation",
            "gap": "training accuracy, on the labels trained with, minus test accuracy",
            "tolerance": f"{100 * BETA:g} % and {SLACK:g} nats, {part.grid} fractions, "
            f"{part.draws} draws where random",
            "sweep": f"mlp of {part.units} hidden units, {part.epochs} epochs, {part.mixed:.0%} "
            "random labels",
        },
        rows=rows(cells, first, sweep, part.n),
        judged=judge(first, sweep),
        picture=picture(cells, sweep),
    )


@dataclass
class Until:
    """Asked after each step: has the training loss come down? `state`: the weights when it had."""

    model: nn.Module
    x: Tensor
    y: Tensor
    target: float
    steps: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self) -> bool:
        self.steps += 1
        if self.steps % CHECK == 0 and loss_of(self.model, self.x, self.y) < self.target:
            self.state = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        return bool(self.state)


@torch.no_grad()
def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Mean cross-entropy, in eval mode."""
    with untouched(model):
        return float(nn.functional.cross_entropy(model(x), y))


@torch.no_grad()
def accuracy_of(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with untouched(model):
        return float((model(x).argmax(1) == y).double().mean())


def mixed_labels(y: Tensor, share: float, classes: int, seed: int) -> Tensor:
    """y (N,) with labels drawn evenly from all classes on this share of the rows."""
    count = round(share * len(y))
    rows, key = keys.permutation(len(y), seed, "rows")[:count], keys.mix(seed, "labels")
    mixed = y.clone()
    mixed[rows] = keys.integers(key, 0, classes, (len(y),))[0][:count]
    return mixed


@dataclass(frozen=True)
class Bank:
    """The networks of one seed, each measured once."""

    request: Request
    part: Part
    seed: int

    @cached_property
    def train(self) -> Dataset:
        """Training images of this seed's own, as far as there are so many."""
        whole = sets.load(self.part.data, data_dir=self.request.data_dir, split="train")
        size = min(self.part.n, len(whole))
        first = (self.seed * size) % (len(whole) - size + 1)
        return whole.subset(torch.arange(first, first + size))

    @cached_property
    def test(self) -> Dataset:
        whole = sets.load(self.part.data, data_dir=self.request.data_dir, split="test")
        return whole.take(min(self.part.tests, len(whole)))

    def network(self, name: str, **options: Any) -> nn.Module:
        channels, size = self.train.x.shape[1:3]
        classes = len(self.train.classes)
        return build(name, channels=channels, size=size, classes=classes, seed=self.seed, **options)

    def labels(self, share: float) -> Tensor:
        seed = keys.seed_of(self.seed, "random labels")
        return mixed_labels(self.train.y, share, len(self.train.classes), seed)

    def rung(self, widths: tuple[int, int], share: float) -> Cell:
        """One network of the ladder, trained to the target and measured."""
        path = self.request.out / f"seed{self.seed}" / f"ladder-{widths[0]}-{share:g}.json"
        if path.exists():
            return Cell.read(path)
        x, y = self.train.x, self.labels(share)
        model = self.network("small-cnn", widths=widths, hidden=64)
        initial = {k: v.clone() for k, v in model.state_dict().items()}
        until = Until(model, x, y, self.part.target)
        settings = self._settings(self.part.most, self.part.lr, "constant")
        records = list(fit(model, (x, y), Standard(), settings, stop=until))
        if until.state:
            model.load_state_dict(until.state)
        model.eval()
        measures = {name: self._pruned(model, x, y, by).fraction for name, by in PRUNED.items()}
        relative = self._pruned(model, x, y, "magnitude").at(BETA, 0.0)
        measures["magnitude, relative tolerance alone"] = relative.fraction
        known = complexity(model, x, y, initial=initial, draws=self.part.levels, seed=self.seed)
        measures |= known.measures | {
            "training steps needed": float(until.steps),
            "sum of training losses": sum(record.loss for record in records),
        }
        test = accuracy_of(model, self.test.x, self.test.y)
        cell = Cell(
            seed=self.seed, width=str(widths), noise=share, n=len(self.test), loss=known.loss,
            reached=bool(until.state), train=known.accuracy, test=test, measures=measures,
        )  # fmt: skip
        cell.write(path)
        self.request.say(f"seed {self.seed}, {widths}, {share:.0%} random labels: {cell.text}")
        return cell

    def swept(self, units: int) -> Wide:
        """One network of the sweep, trained for as long as all and measured."""
        path = self.request.out / f"seed{self.seed}" / f"sweep-{units}.json"
        if path.exists():
            return Wide.read(path)
        x, y = self.train.x, self.labels(self.part.mixed)
        model = self.network("mlp", hidden=(units,))
        settings = self._settings(self.part.epochs, 3e-3, "cyclic")
        for _ in fit(model, (x, y), Standard(), settings):  # nothing held out: the last epoch stays
            pass
        cell = Wide(
            seed=self.seed, units=units, n=len(self.test), loss=loss_of(model, x, y),
            train=accuracy_of(model, x, y), test=accuracy_of(model, self.test.x, self.test.y),
            test_loss=loss_of(model, self.test.x, self.test.y),
            parameters=sum(p.numel() for p in model.parameters()),
            fraction=self._pruned(model, x, y, "magnitude").fraction,
            norm=sum(float(p.detach().square().sum()) for p in model.parameters() if p.dim() > 1),
        )  # fmt: skip
        cell.write(path)
        self.request.say(f"seed {self.seed}, {units} units: {cell.text}")
        return cell

    def _pruned(self, model: nn.Module, x: Tensor, y: Tensor, by: By) -> Prunability:
        return prunability(
            model, x, y, by=by, beta=BETA, slack=SLACK, grid=self.part.grid,
            draws=self.part.draws, seed=self.seed,
        )  # fmt: skip

    def _settings(self, epochs: int, lr: float, schedule: str) -> Settings:
        return Settings.of(
            epochs=epochs, lr=lr, batch_size=64, optimiser="adam", schedule=schedule,
            weight_decay=0.0, held_out=0, seed=self.seed,
        )  # fmt: skip
