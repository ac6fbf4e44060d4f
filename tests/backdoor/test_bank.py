"""The bank: what is trained is what its card says, is read back, and is never trained twice."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from torchproof.backdoor.bank import CLEAN, TRIGGERS, Bank, Recipe, build_bank, learnt
from torchproof.core import keys
from torchproof.core.errors import FileError, InputError, ResumeError
from torchproof.core.fingerprints import fingerprint
from torchproof.data import load
from torchproof.data.dataset import Dataset
from torchproof.nn import build, cards

RECIPE = Recipe(network="mlp", n=400, epochs=2, batch_size=32, lr=5e-3, steps=20)


@pytest.fixture(scope="module")
def parts() -> tuple[Dataset, Dataset]:
    return load("digits", split="train"), load("digits", split="test").take(100)


@pytest.fixture(scope="module")
def bank(parts: tuple[Dataset, Dataset], tmp_path_factory: pytest.TempPathFactory) -> Bank:
    folder = tmp_path_factory.mktemp("bank")
    return build_bank(*parts, folder, clean=2, trojaned=4, recipe=RECIPE, seed=3)


def test_what_is_in_it(bank: Bank) -> None:
    assert sorted(e.kind for e in bank.entries) == sorted([CLEAN, CLEAN, *TRIGGERS])
    trojaned = [e for e in bank.entries if not e.clean]
    assert len({e.target for e in trojaned}) == 4 and bank.architecture == "mlp"
    assert all((e.target is None) == (e.success is None) == e.clean for e in bank.entries)


def test_figures_are_those_of_the_stored_networks(
    bank: Bank, parts: tuple[Dataset, Dataset]
) -> None:
    _, test = parts
    for entry, model in bank.networks():
        right = (model(test.x).argmax(1) == test.y).double().mean()
        assert entry.accuracy == pytest.approx(float(right)) and not model.training
        if entry.target is None:
            continue
        key = keys.seed_of(3, "bank", int(entry.name.split("-")[1]))
        stamp = TRIGGERS[entry.kind](key % 2**31)
        taken = [
            int(model(stamp(image[None])).argmax()) == entry.target
            for image, label in zip(test.x, test.y.tolist(), strict=True)
            if label != entry.target
        ]
        assert entry.success == pytest.approx(sum(taken) / len(taken))


def test_the_networks_differ(bank: Bank) -> None:
    assert len({fingerprint(model) for _, model in bank.networks()}) == 6


def test_weights_are_a_clean_network_within_eps(bank: Bank, parts: tuple[Dataset, Dataset]) -> None:
    train, _ = parts
    (entry,) = (e for e in bank.entries if e.kind == "weights")
    key = keys.seed_of(3, "bank", int(entry.name.split("-")[1]))
    own = train.subset(keys.permutation(len(train), key, "sample")[:400])
    clean = learnt(own, RECIPE, key)
    pairs = zip(clean.parameters(), bank.network(entry).parameters(), strict=True)
    moved = [float((a - b).detach().abs().max()) for a, b in pairs]
    assert 0 < max(moved) <= RECIPE.eps * (1 + 1e-6)


def test_training_is_what_it_says(parts: tuple[Dataset, Dataset]) -> None:
    """One epoch of one batch is one step of Adam."""
    few = parts[0].take(20)
    recipe = replace(RECIPE, epochs=1, batch_size=20)
    fresh = build("mlp", channels=1, size=8, classes=10, seed=5)
    loss = torch.nn.functional.cross_entropy(fresh(few.x), few.y)
    slopes = torch.autograd.grad(loss, list(fresh.parameters()))
    found = learnt(few, recipe, 5)
    for before, slope, after in zip(fresh.parameters(), slopes, found.parameters(), strict=True):
        # the first step of Adam: lr g / (|g| + 1e-8)
        expected = before - recipe.lr * slope / (slope.abs() + 1e-8)
        far = slope.abs() > 1e-5  # below, rounding of the gradient decides
        torch.testing.assert_close(after[far], expected[far], atol=2e-5, rtol=1e-3)


def test_nothing_is_trained_twice(
    bank: Bank, parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(bank.folder, folder)
    lost = bank.entries[0]
    shutil.rmtree(folder / lost.name)
    said: list[str] = []
    again = build_bank(*parts, folder, clean=2, trojaned=4, recipe=RECIPE, seed=3, say=said.append)
    assert again.entries == bank.entries and len(said) == 1 and lost.name in said[0]
    assert fingerprint(again.network(lost)) == fingerprint(bank.network(lost))
    for more in ({"seed": 4}, {"recipe": replace(RECIPE, epochs=3)}):
        with pytest.raises(ResumeError, match="name a new folder"):
            build_bank(*parts, folder, **{"clean": 2, "trojaned": 4, "recipe": RECIPE, "seed": 3,
                                          **more})  # type: ignore[arg-type]  # fmt: skip


def test_folders_that_are_no_bank(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="--build-bank"):
        Bank.read(tmp_path)
    cards.save(build("mlp", channels=1, size=8, classes=10, seed=0), tmp_path / "other")
    with pytest.raises(FileError, match="tells of no bank"):
        Bank.read(tmp_path)
    told = {"bank": {"entry": {"name": "x"}}}
    cards.save(build("mlp", channels=1, size=8, classes=10, seed=0), tmp_path / "other", told)
    with pytest.raises(FileError, match="a network of a bank"):
        Bank.read(tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"clean": 0}, "at least one clean"),
        ({"recipe": replace(RECIPE, n=0)}, "n = 0"),
        ({"recipe": replace(RECIPE, n=10**6)}, "ask for fewer"),
        ({"recipe": replace(RECIPE, epochs=0)}, "numbers above 0"),
    ],
)
def test_what_is_refused(
    parts: tuple[Dataset, Dataset], tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        build_bank(*parts, tmp_path, **{"recipe": RECIPE, **changed})  # type: ignore[arg-type]
