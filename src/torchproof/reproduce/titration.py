"""`reproduce titration`: does a noise response tell trojaned networks from clean ones, and name the
class that they lead to (Erichson et al. 2021)? Beside Neural Cleanse.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from torchproof import data as sets
from torchproof.backdoor.bank import CLEAN, Bank, Recipe, build_bank
from torchproof.backdoor.neural_cleanse import Search, neural_cleanse
from torchproof.backdoor.titrate import SIGMAS, noise_images, titrate
from torchproof.core.errors import FileError
from torchproof.data.dataset import Dataset
from torchproof.reproduce.experiment import Outcome, Request, at_hand, conclude
from torchproof.reproduce.packed import packed
from torchproof.reproduce.titration_figures import (
    Cleansing,
    Known,
    Reading,
    Readings,
    judge,
    known_row,
    rows,
    verdicts,
)
from torchproof.reproduce.titration_picture import picture

PAPER = "Erichson, Taylor, Wu and Mahoney 2021, arXiv 2008.00123"
CLAIM = (
    "how a network answers noise tells backdoored networks from clean ones and reveals the class "
    "that the backdoor leads to, in seconds where methods that rebuild the trigger take hours"
)


@dataclass(frozen=True)
class Part:
    """A bank per seed of `clean` and `trojaned` networks, titrated from `images` test images; the
    first networks of the kinds `cleansed` also get Neural Cleanse, with `images_nc` images.
    """

    data: str
    recipe: Recipe
    clean: int
    trojaned: int
    images: int
    cleansed: tuple[str, ...]
    search: Search
    images_nc: int


# networks of the data folder: data set, where their backdoor leads, images (they are larger)
PACKED: dict[str, tuple[str, int | None, int]] = {
    "badnet_mnist": ("mnist", 1, 400),
    "nad_wrn16_1_backdoor": ("cifar10", 5, 200),
    "abl_wrn16_1_backdoor": ("cifar10", 0, 200),
    "nad_wrn16_1_teacher": ("cifar10", None, 200),
}


def part_of(request: Request) -> Part:
    """MNIST, or the bundled digits where it is not there."""
    (name,) = at_hand(("mnist",), request)
    if request.scale == "paper":
        recipe = Recipe(n=1500 if name == "digits" else 60000, epochs=20)
        kinds = (CLEAN, "patch", "blend", "warp", "weights")
        return Part(name, recipe, 40, 40, 400, kinds, Search(), 1000)
    few = (
        Recipe(n=1200, epochs=12, batch_size=32)
        if name == "digits"
        else Recipe(n=4000, epochs=4, steps=300)
    )
    images = 250 if name == "digits" else 400
    return Part(name, few, 12, 12, images, (CLEAN, "patch"), Search(rounds=60), images)


def titration_experiment(request: Request) -> Outcome:
    """The scan on banks of clean and trojaned small networks, each bank judged by a rule of the
    others; Neural Cleanse on some of them; packed networks (Erichson et al. 2021).
    """
    part = part_of(request)
    request.claim({"part": f"{part}", "sigmas": f"{SIGMAS}"})
    train, test = (
        sets.load(part.data, data_dir=request.data_dir, split=split) for split in ("train", "test")
    )
    seeds = [Networks(request, part, seed) for seed in request.all_seeds]
    banks = [mine.bank(train, test) for mine in seeds]
    found = [mine.readings(bank, test) for mine, bank in zip(seeds, banks, strict=True)]
    slow = [mine.cleansed(bank, test) for mine, bank in zip(seeds, banks, strict=True)]
    cleansed = [one for some in slow for one in some]
    known = [one for name in PACKED if (one := _known(request, name)) is not None]
    groups = [reading.networks for reading in found]
    by_images, by_noise = (verdicts(groups, base, part.data) for base in ("images", "noise"))
    table = rows(groups, by_images, by_noise, cleansed)
    return conclude(
        request, name="titration", paper=PAPER, claim=CLAIM, settings=_settings(part),
        rows=(*table, *(known_row(one, groups, part.data) for one in known)),
        judged=judge(table), picture=picture(groups, by_images),
    )  # fmt: skip


def _settings(part: Part) -> dict[str, str]:
    recipe, search = part.recipe, part.search
    return {
        "bank per seed": f"{part.clean} clean and {part.trojaned} trojaned {recipe.network} on "
        f"{part.data}, {recipe.n} images, {recipe.epochs} epochs; patch, blend and warp in "
        f"{100 * recipe.share:g} % of the training images, weights by injection within "
        f"{recipe.eps:g}",
        "titration": f"{part.images} test images, noise unclipped, confidence above 0.95, judged "
        "at sigma 0.5 to 1",
        "rule": "of the networks of the other seeds (of the other half of the bank, where there is "
        "one seed)",
        "Neural Cleanse": f"{', '.join(part.cleansed)}: one network of each per seed, at most "
        f"{search.rounds} rounds of {search.batches} x {search.batch_size} images, all classes "
        "side by side",
    }


@dataclass(frozen=True)
class Networks:
    """The networks of one seed, and what was measured of them; what is there is read back."""

    request: Request
    part: Part
    seed: int

    @property
    def folder(self) -> Path:
        return self.request.out / f"seed{self.seed}"

    def say(self, text: str) -> None:
        self.request.say(f"seed {self.seed}: {text}")

    def bank(self, train: Dataset, test: Dataset) -> Bank:
        return build_bank(
            train, test.take(min(1000, len(test))), self.folder / "bank", clean=self.part.clean,
            trojaned=self.part.trojaned, recipe=self.part.recipe, seed=self.seed, say=self.say,
        )  # fmt: skip

    def readings(self, bank: Bank, test: Dataset) -> Readings:
        path = self.folder / "readings.json"
        if path.exists():
            return Readings.read(path)
        x = last(test, self.part.images).x
        channels, height, width = x.shape[1:]
        noise = noise_images(len(x), (channels, height, width))
        made: list[Reading] = []
        for entry, model in bank.networks():
            before = time.process_time()
            curve = titrate(model, x)
            seconds = time.process_time() - before
            made.append(
                Reading(entry=entry, images=curve, noise=titrate(model, noise), seconds=seconds)
            )
        found = Readings(networks=tuple(made))
        found.write(path)
        return found

    def cleansed(self, bank: Bank, test: Dataset) -> list[Cleansing]:
        """Neural Cleanse on the first network of each kind asked for."""
        found: list[Cleansing] = []
        for kind in self.part.cleansed:
            entry = next(e for e in bank.entries if e.kind == kind)
            path = self.folder / f"cleanse-{entry.name}.json"
            if not path.exists():
                x = last(test, self.part.images_nc).x
                verdict = neural_cleanse(bank.network(entry), x, self.part.search, seed=self.seed)
                Cleansing(seed=self.seed, entry=entry, verdict=verdict).write(path)
                self.say(f"Neural Cleanse of {entry.name}: {verdict.seconds:.1f} s")
            found.append(Cleansing.read(path))
        return found


def last(test: Dataset, n: int) -> Dataset:
    """The last n images: those that accuracy is measured on come first."""
    return test.subset(range(len(test) - n, len(test)))


def _known(request: Request, name: str) -> Known | None:
    """A packed network, titrated; None, and the reason said, where the data folder has none."""
    data, target, n = PACKED[name]
    path = request.out / f"packed-{name}.json"
    if path.exists():
        return Known.read(path)
    try:
        model = packed(name, request.data_dir)
        test = last(sets.load(data, data_dir=request.data_dir, split="test"), n)
    except FileError as error:
        request.say(f"no {name}: {error.given}")
        return None
    found = Known(name=name, data=data, target=target, curve=titrate(model, test.x))
    found.write(path)
    return found
