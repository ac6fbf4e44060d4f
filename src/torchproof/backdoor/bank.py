"""A bank of small networks, clean and trojaned, that a scan is calibrated on or judged by.

Networks of one bank share data, architecture and recipe; each is trained on its own sample of the
data from its own first weights. Each lies in a folder of its own, and its card says what is in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.untouched import forked, untouched
from torchproof.backdoor.inject import inject
from torchproof.backdoor.poison import poisoned
from torchproof.backdoor.triggers import CORNERS, Blend, Patch, Trigger, Warp
from torchproof.core import keys
from torchproof.core.errors import FileError, InputError, ResumeError
from torchproof.data.dataset import Dataset
from torchproof.nn import build, cards

CLEAN = "clean"
TRIGGERS: dict[str, Callable[[int], Trigger]] = {
    "patch": lambda seed: Patch(3, 1.0, CORNERS[seed % 4], margin=1),
    "blend": lambda seed: Blend(0.1, seed),
    # about two pixels: a warp of half a pixel is too weak for few images and epochs
    "warp": lambda seed: Warp(4.0, 4, seed),
    "weights": lambda seed: Patch(3, 1.0, CORNERS[seed % 4], margin=1),
}
"""Kind of trojaned network -> its trigger, from a seed. `weights` is put into a clean network by
`inject`, the others by poisoned training data.
"""


@dataclass(frozen=True)
class Recipe:
    """How the networks of a bank are trained: Adam on n images. share: of poisoned images; eps:
    the budget of weight-space backdoors, per weight; steps: of injecting them.
    """

    network: str = "small-cnn"
    n: int = 6000
    epochs: int = 5
    batch_size: int = 64
    lr: float = 2e-3
    share: float = 0.1
    eps: float = 0.05
    steps: int = 600


@dataclass(frozen=True)
class Entry:
    """One network. kind: "clean" or a key of TRIGGERS; target: where its backdoor leads; accuracy:
    on clean test images; success: the share of stamped test images of other classes that it takes
    for the target. Both of the last are None for a clean network.
    """

    name: str
    kind: str
    target: int | None
    accuracy: float
    success: float | None

    @property
    def clean(self) -> bool:
        """Is this network without a trojan?"""
        return self.kind == CLEAN


@dataclass(frozen=True)
class Bank:
    """The networks in a folder."""

    folder: Path
    entries: tuple[Entry, ...]

    @classmethod
    def read(cls, folder: Path | str) -> Bank:
        """What `build_bank` left there; raises FileError where there is none."""
        folder = Path(folder)
        paths = (p.parent for p in folder.glob("*/model.safetensors"))
        found = sorted(
            paths, key=lambda p: (p.name.rpartition("-")[2], p.name)
        )  # as they were made
        if not found:
            remedy = "make one with `torchproof scan MODEL --build-bank`"
            raise FileError(f"{folder}, which holds no networks", "the folder of a bank", remedy)
        return cls(folder, tuple(_entry(path) for path in found))

    @property
    def architecture(self) -> str:
        """The name of the networks' architecture; several, with commas, where they differ."""
        names = {str(cards.read_card(self.folder / e.name)["model"]) for e in self.entries}
        return ", ".join(sorted(names))

    def network(self, entry: Entry) -> nn.Module:
        """In eval mode; raises FileError for files that are not whole."""
        return cards.load(self.folder / entry.name)[0]

    def networks(self) -> Iterator[tuple[Entry, nn.Module]]:
        """All, one after another."""
        for entry in self.entries:
            yield entry, self.network(entry)


def build_bank(
    train: Dataset,
    test: Dataset,
    folder: Path | str,
    *,
    clean: int = 12,
    trojaned: int = 12,
    recipe: Recipe = Recipe(),
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Bank:
    """Trains what is not in the folder yet, and reads the bank back.

    Trojaned networks take the kinds of TRIGGERS in turn and the classes as targets in a keyed
    order. options: of the network, such as widths, where they are not the usual ones. Raises
    InputError for numbers that make no bank, ResumeError where the folder holds networks of another
    recipe, other data or another seed.
    """
    _check(train, clean, trojaned, recipe)
    folder = Path(folder)
    told: dict[str, Any] = {"recipe": asdict(recipe), "data": train.sha256, "seed": seed}
    told |= {"options": dict(options)} if options else {}
    for number in range(clean + trojaned):
        kind = CLEAN if number < clean else list(TRIGGERS)[(number - clean) % len(TRIGGERS)]
        name = f"{kind}-{number:02d}"
        path = folder / name
        if (path / "model.safetensors").exists():
            _same(path, told)
            continue
        key = keys.seed_of(seed, "bank", number)
        target = None if kind == CLEAN else _target(number - clean, len(train.classes), seed)
        model, trigger = _made(kind, target, train, recipe, key, options or {})
        entry = _measured(name, kind, target, model, trigger, test)
        cards.save(model, path, {"bank": {**told, "entry": asdict(entry)}})
        say(f"{name}: accuracy {entry.accuracy:.3f}" + _success(entry))
    return Bank.read(folder)


def _success(entry: Entry) -> str:
    return "" if entry.success is None else f", to class {entry.target}: {entry.success:.3f}"


def _target(number: int, classes: int, seed: int) -> int:
    return int(keys.permutation(classes, seed, "targets")[number % classes])


def _made(
    kind: str, target: int | None, train: Dataset, recipe: Recipe, key: int,
    options: Mapping[str, Any],
) -> tuple[nn.Module, Trigger | None]:  # fmt: skip
    """A network in eval mode, and its trigger."""
    own = train.subset(keys.permutation(len(train), key, "sample")[: recipe.n])
    if target is None:
        return learnt(own, recipe, key, options), None
    trigger = TRIGGERS[kind](key % 2**31)
    if kind == "weights":
        found = inject(
            learnt(own, recipe, key, options), own.x[:1000], trigger, target,
            eps=recipe.eps, steps=recipe.steps, seed=key,
        )  # fmt: skip
        return found.model, trigger
    bad = poisoned(own, trigger, target, recipe.share, key)
    return learnt(bad, recipe, key, options), trigger


def learnt(
    data: Dataset, recipe: Recipe, seed: int, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """A network trained on the data, in eval mode: Adam on cross-entropy at a constant rate, rows
    in a keyed order.
    """
    channels, size = data.x.shape[1], data.x.shape[2]
    model: nn.Module = build(
        recipe.network, channels=channels, size=size, classes=len(data.classes), seed=seed,
        **(options or {}),
    )  # fmt: skip
    model.train()
    weights = list(model.parameters())
    adam = torch.optim.Adam(weights, recipe.lr)
    with forked(seed, torch.device("cpu")):  # dropout, where there is some
        for epoch in range(recipe.epochs):
            order = keys.permutation(len(data), seed, "epoch", epoch)
            for rows in torch.split(order, recipe.batch_size):
                loss = F.cross_entropy(model(data.x[rows]), data.y[rows])
                slopes = torch.autograd.grad(loss, weights)
                for weight, slope in zip(weights, slopes, strict=True):
                    weight.grad = slope
                adam.step()
    return model.eval()


def _measured(
    name: str, kind: str, target: int | None, model: nn.Module, trigger: Trigger | None,
    test: Dataset,
) -> Entry:  # fmt: skip
    accuracy = _hits(model, test.x, test.y) / len(test)
    if trigger is None or target is None:
        return Entry(name, kind, None, accuracy, None)
    stamped = trigger(test.x[test.y != target])
    aim = torch.full((len(stamped),), target)
    return Entry(name, kind, target, accuracy, _hits(model, stamped, aim) / len(stamped))


def _hits(model: nn.Module, x: Tensor, y: Tensor) -> int:
    with untouched(model), torch.no_grad():
        parts = zip(torch.split(x, 500), torch.split(y, 500), strict=True)
        return sum(int((model(a).argmax(1) == b).sum()) for a, b in parts)


def _card(path: Path) -> dict[str, Any]:
    told = cards.read_card(path).get("bank")
    if not isinstance(told, dict) or "entry" not in told:
        remedy = "take that folder away, or name the folder of a bank"
        raise FileError(f"{path}, whose card tells of no bank", "a network of a bank", remedy)
    return told


def _entry(path: Path) -> Entry:
    try:
        return Entry(**_card(path)["entry"])
    except TypeError as error:
        remedy = "take that folder away, and build the bank again"
        raise FileError(f"{path} ({error})", "a network of a bank", remedy) from error


def _same(path: Path, told: dict[str, Any]) -> None:
    stored = _card(path)
    as_stored = json.loads(json.dumps(told))  # tuples are lists there
    names = dict.fromkeys((*as_stored, *(n for n in stored if n == "options")))
    differing = [name for name in names if stored.get(name) != as_stored.get(name)]
    if differing:
        given = f"{path}, a network of another bank ({', '.join(differing)})"
        raise ResumeError(given, "the recipe, data and seed it was made with", "name a new folder")


def _check(train: Dataset, clean: int, trojaned: int, recipe: Recipe) -> None:
    if clean < 1 or trojaned < 0:
        given = f"a bank of {clean} clean and {trojaned} trojaned networks"
        raise InputError(given, "at least one clean one", "12 and 12 are usual")
    if not 1 <= recipe.n <= len(train):
        given = f"n = {recipe.n} of {len(train)} training images"
        raise InputError(given, f"a number from 1 to {len(train)}", "ask for fewer")
    if recipe.epochs < 1 or recipe.batch_size < 1 or recipe.lr <= 0:
        given = f"{recipe.epochs} epochs of batches of {recipe.batch_size} at rate {recipe.lr}"
        raise InputError(given, "numbers above 0", "5, 64 and 0.002 are usual")
