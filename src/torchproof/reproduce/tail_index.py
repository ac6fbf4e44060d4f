"""Simsekli et al. 2019: the tail index of gradient noise over widths, losses and data, with what
else reads like it; synthetic draws; exits from wells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise, product
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.files import write
from torchproof.data import load
from torchproof.data.dataset import Dataset
from torchproof.diagnose.exit_time import Well, exit_time, predicted_exit_time
from torchproof.diagnose.gradient_noise import LOSSES
from torchproof.diagnose.stable import (
    characteristic,
    gaussian_reading,
    hill,
    mcculloch,
    mohammadi,
    stable,
)
from torchproof.diagnose.tail_index import tail_index, tail_index_over_training
from torchproof.nn.normalise import Normalise
from torchproof.reproduce.experiment import Outcome, Request, at_hand, conclude
from torchproof.reproduce.figures import Figures
from torchproof.reproduce.tail_index_figures import judge, png, rows, tails_png
from torchproof.reproduce.tail_index_measures import ALPHAS, Cell, Exit, Synthetic, Track

PAPER = "Simsekli, Sagun and Gurbuzbalaban 2019, arXiv 1901.06053"
CLAIM = (
    "the noise of mini-batch gradients is heavy-tailed, with a tail index clearly below 2 for "
    "every width, loss and data set, and lower the wider the network; such noise leaves a well by "
    "its width and not by its height"
)
Part = TypeVar("Part", bound=Figures)
DRIVERS = {1.5: 0.1, 2.0: 0.5}  # alpha -> scale of the noise in the wells


@dataclass(frozen=True)
class Setup:
    """The sizes of a run. steps: of SGD; repetitions: synthetic sets for the coverage of intervals;
    walkers: per well and seed.
    """

    images: int = 5000
    tests: int = 2000
    batch: int = 50
    widths: tuple[int, ...] = (8, 32, 64, 128)
    depth: int = 3
    steps: int = 1000
    lr: float = 0.1
    measured: tuple[int, ...] = (0, 20, 100, 300, 1000)
    tracked: int = 64
    draws: int = 100_000
    repetitions: int = 100
    walkers: int = 300
    data: tuple[str, ...] = ("mnist", "fashion-mnist")


SMALL = Setup()
LARGE = replace(
    SMALL, images=60000, tests=10000, batch=100, widths=(64, 128, 256, 512), steps=65000,
    measured=(0, 100, 1000, 10000, 30000, 65000), tracked=128, walkers=2000,
)  # fmt: skip


def tail_index_experiment(request: Request) -> Outcome:
    """Tail indices of gradient noise after training, with all controls; the estimators on synthetic
    draws; exit times of a simulated stochastic equation (Simsekli et al. 2019).
    """
    setup = setup_of(request)
    request.claim({"setup": f"{setup}"})
    synthetic = _kept(request, Synthetic, "synthetic", partial(_synthetic, setup))
    exits = [
        _kept(request, Exit, f"exit-seed{seed}", partial(_exits, setup, seed))
        for seed in request.all_seeds
    ]
    cells = [
        _kept(
            request, Cell, f"{name}-{loss}-{width}-seed{seed}",
            partial(_cell, request, setup, name, loss, width, seed),
        )
        for seed, name, loss, width in product(
            request.all_seeds, setup.data, ("nll", "hinge"), setup.widths
        )
    ]  # fmt: skip
    tracks = [
        _kept(request, Track, f"track-seed{seed}", partial(_track, request, setup, seed))
        for seed in request.all_seeds
    ]
    write(request.out / "tails.png", tails_png(cells))
    return conclude(
        request, name="tail-index", paper=PAPER, claim=CLAIM, settings=_described(setup),
        rows=rows(cells, tracks, synthetic, exits), judged=judge(cells, synthetic, exits),
        picture=png(cells, tracks, synthetic, exits),
    )  # fmt: skip


def setup_of(request: Request) -> Setup:
    """The sizes of a scale; the bundled digits in place of data that is not there."""
    setup = SMALL if request.scale == "small" else LARGE
    found = tuple(at_hand(setup.data, request))
    if found == ("digits",):
        return replace(setup, data=found, images=1250, tests=400, batch=25)
    return replace(setup, data=found)


def _described(setup: Setup) -> dict[str, str]:
    return {
        "networks": f"{setup.depth} fully connected layers without biases, ReLU, inputs of mean 0 "
        f"and deviation 1, widths {', '.join(map(str, setup.widths))}",
        "training": f"SGD, learning rate {setup.lr}, batches of {setup.batch} drawn from "
        f"{setup.images} images, {setup.steps} steps, no momentum or weight decay; nll: "
        "cross-entropy, hinge: the mean over classes of max(0, 1 - b o)",
        "noise": f"one pass in batches of {setup.batch} in eval mode, mean subtracted",
        "track": f"{setup.data[0]}, nll, width {setup.tracked}",
        "synthetic": f"20 sets of {setup.draws} draws, {setup.repetitions} for coverage",
        "wells": f"half widths 1 and 2, heights 0.5 and 1, {setup.walkers} walkers per seed; noise "
        + ", ".join(f"{scale} at alpha {alpha}" for alpha, scale in DRIVERS.items()),
        "intervals": "of Student over seeds",
    }


def _kept(request: Request, kind: type[Part], name: str, make: Callable[[], Part]) -> Part:
    """One part: read back where it was measured before."""
    path = request.out / "parts" / f"{name}.json"
    if path.exists():
        return kind.read(path)
    path.parent.mkdir(exist_ok=True)
    found = make()
    found.write(path)
    request.say(f"{name}: {found}")
    return found


@lru_cache(maxsize=4)
def _few(data_dir: Path | None, name: str, split: str, n: int) -> Dataset:
    data = load(name, data_dir=data_dir, split=split)
    return data.take(min(n, len(data)))


def network(data: Dataset, width: int, depth: int, seed: int) -> nn.Module:
    """Fully connected layers without biases on normalised images, drawn at `seed`."""
    sizes = [data.x[0].numel(), *[width] * (depth - 1), len(data.classes)]
    layers: list[nn.Module] = [
        Normalise(float(data.x.mean()), float(data.x.std())),
        nn.Flatten(),
    ]
    with forked(keys.seed_of(seed, "tail index network"), torch.device("cpu")):
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def descend(
    model: nn.Module, data: Dataset, setup: Setup, loss: str, seed: int
) -> Iterator[tuple[int, nn.Module]]:
    """Plain SGD on fresh batches; the network as it is after each of the `measured` steps."""
    optimiser = torch.optim.SGD(model.parameters(), setup.lr)
    epoch = len(data) // setup.batch
    if 0 in setup.measured:
        yield 0, model
    for step in range(setup.steps):
        number, place = divmod(step, epoch)
        if not place:
            order = keys.permutation(len(data), seed, "tail index epoch", number)
        chosen = order[place * setup.batch : (place + 1) * setup.batch]
        optimiser.zero_grad()
        LOSSES[loss](model(data.x[chosen]), data.y[chosen]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step + 1 in setup.measured:
            yield step + 1, model


@torch.no_grad()
def _accuracy(model: nn.Module, data: Dataset) -> float:
    return float((model(data.x).argmax(1) == data.y).double().mean())


def _cell(
    request: Request, setup: Setup, name: str, loss: str, width: int, seed: int
) -> Cell:  # fmt: skip
    train, test = (
        _few(request.data_dir, name, split, n)
        for split, n in (("train", setup.images), ("test", setup.tests))
    )
    model = network(train, width, setup.depth, seed)
    ends = replace(setup, measured=(setup.steps,))
    for _ in descend(model, train, ends, loss, seed):
        pass
    try:
        found = tail_index(
            model, train.x, train.y, setup.batch, loss=loss, seed=seed, layers=False
        ).overall
        refused = ""
    except InputError as error:  # a network may have learned all there is
        found, refused = None, str(error)
    return Cell(
        data=name, loss=loss, width=width, seed=seed, n=len(test), accuracy=_accuracy(model, test),
        fitted=_accuracy(model, train), tails=found, refused=refused,
    )  # fmt: skip


def _track(request: Request, setup: Setup, seed: int) -> Track:
    data = _few(request.data_dir, setup.data[0], "train", setup.images)
    model = network(data, setup.tracked, setup.depth, seed)
    passed = descend(model, data, setup, "nll", seed)
    found = tail_index_over_training(passed, data.x, data.y, setup.batch, seed=seed)
    return Track(data=setup.data[0], seed=seed, found=found)


def _synthetic(setup: Setup) -> Synthetic:
    """The estimators on draws of known index, and three confounds."""
    kinds = {"published": mohammadi, "characteristic": characteristic, "quantile": mcculloch,
             "hill": hill}  # fmt: skip
    means: dict[str, dict[str, tuple[float, ...]]] = {kind: {} for kind in kinds}
    covered: dict[str, int] = {}
    for alpha in ALPHAS:
        key = keys.mix("synthetic", torch.arange(setup.repetitions))
        sets = [stable(alpha, k[None], setup.draws)[0] for k in key]
        each = [mohammadi(x) for x in sets]
        covered[f"{alpha}"] = sum(e.low <= alpha <= e.high for e in each)
        for kind, estimator in kinds.items():
            means[kind][f"{alpha}"] = tuple(estimator(x).alpha for x in sets[:20])
    return Synthetic(
        draws=setup.draws, repetitions=setup.repetitions, covered=covered, means=means,
        scales=_unequal(10 * setup.draws), zeros=_zeros(10 * setup.draws),
        together=_together(10 * setup.draws),
    )  # fmt: skip


def _normal(count: int, *words: str | int) -> Tensor:
    return keys.normal(keys.mix(*words), 0, (count,), dtype=torch.float64)[0]


def _unequal(count: int) -> dict[str, tuple[float, float]]:
    """Log-deviation of the scales -> the reading of Gaussian numbers, and what theory says."""
    found = {}
    for spread in (0.5, 1.0, 1.5):
        scales = (spread * _normal(count, "scales")).exp()
        read = mohammadi(scales * _normal(count, "scaled"), group=1000).alpha
        found[f"{spread}"] = (read, gaussian_reading(scales, 1000))
    return found


def _zeros(count: int) -> dict[str, tuple[float, float]]:
    """Share of zeros -> the reading of Gaussian numbers with them, and without."""
    found = {}
    x = _normal(count, "zeros")
    for share in (0.1, 0.3, 0.5):
        kept = torch.where(keys.uniform(keys.mix("which"), 0, (count,))[0] < share, 0.0, x)
        found[f"{share}"] = (mohammadi(kept).alpha, mohammadi(kept[kept != 0]).alpha)
    return found


def _together(count: int) -> float:
    """The reading of batches in which all of 10,000 coordinates are the same Gaussian number."""
    batches = max(2, count // 10_000)
    return mohammadi(_normal(batches, "together").repeat_interleave(10_000)).alpha


def _exits(setup: Setup, seed: int) -> Exit:
    """Mean exit times of the four wells under both drivers."""
    means, predicted = {}, {}
    for (alpha, scale), width, height in product(DRIVERS.items(), (1.0, 2.0), (0.5, 1.0)):
        well = Well(width, height)
        step = 0.02 if alpha < 2 else 0.002 * width**2
        name = f"alpha {alpha}, half width {width:g}, height {height:g}"
        means[name] = exit_time(
            well, alpha, scale, walkers=setup.walkers, step=step, longest=10_000.0, seed=seed
        ).mean
        predicted[name] = predicted_exit_time(well, alpha, scale)
    return Exit(seed=seed, walkers=setup.walkers, means=means, predicted=predicted)
