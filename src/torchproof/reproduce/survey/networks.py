"""The networks of the small scale: perceptrons that are trained here in seconds, and networks of
others, each trained plainly, against attacks, and for certificates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from torchproof import data as sets
from torchproof.core.errors import FileError, unknown
from torchproof.core.threats import parse
from torchproof.evaluate.survey import Subject
from torchproof.nn import build, cards, load_model
from torchproof.recipes import Plan, prepare, run
from torchproof.reproduce.packed import packed
from torchproof.train import AT, Settings
from torchproof.train.loop import fit

DIGITS, LAST = "mlp(hidden=(20, 20))", "last.safetensors"
_SETTINGS = Settings.of(epochs=30, batch_size=64, lr=5e-3, optimiser="adam", schedule="cyclic",
                        weight_decay=0.0)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """training: in words; threats: asked about; method: how a network on the bundled digits is
    trained, "" for a packed one of $TORCHPROOF_DATA with this name; pooled: on 4 x 4 images, the
    means of 2 x 2 pixels, and smaller, for what is slowest.
    """

    training: str
    threats: tuple[str, ...]
    method: str = ""
    data: str = "mnist"
    pooled: bool = False


SMALL: dict[str, Entry] = {
    "digits-4x4": Entry("PGD, linf:0.02", ("linf:0.02",), "AT(steps=7)", "digits", pooled=True),
    "digits-clean": Entry("plain", ("linf:0.05",), "Standard()", "digits"),
    "digits-adv": Entry("PGD, linf:0.1", ("linf:0.1",), "AT(steps=7)", "digits"),
    "digits-ibp": Entry("IBP, linf:0.1", ("linf:0.1",), "IBP(ramp=Ramp(0.1, 0.6))", "digits"),
    "mnist_mlp_6x100": Entry("plain", ("linf:0.01", "linf:0.026")),
    "mnist_cnn_a_adv": Entry("PGD, linf:0.3", ("linf:0.1",)),
    "mnist_kw_small": Entry("WK, linf:0.1", ("linf:0.1",)),
}
"""One for semidefinite programmes, and of each kind of training one that all other methods can
finish at, and one that is real.
"""


def small(
    out: Path, n: int, names: Sequence[str] = (), data_dir: Path | None = None,
    say: Callable[[str], None] = print,
) -> list[Subject]:  # fmt: skip
    """The subjects of these names, all by default, with their first n test images.

    Those on digits are trained into `out`, unless they are there. Packed ones that are not at hand
    are left out, which is said, unless they were named. Raises UnknownName, FileError.
    """
    for name in names:
        if name not in SMALL:
            raise unknown("network of the survey", name, SMALL)
    found = []
    for name in names or SMALL:
        try:
            found.append(_subject(name, out / "networks" / name, n, data_dir))
        except FileError as error:
            if names:
                raise
            say(f"without {name}: {error.given}")
    return found


def _subject(name: str, folder: Path, n: int, data_dir: Path | None) -> Subject:
    entry = SMALL[name]
    test = sets.load(entry.data, data_dir=data_dir, split="test").take(n)
    if entry.pooled:
        test = replace(test, x=avg_pool2d(test.x, 2))
    if entry.method:
        (_train_pooled if entry.pooled else _train)(entry, folder)
        load: Callable[[], nn.Module] = partial(_stored, folder / LAST)
    else:
        load = partial(packed, name, data_dir)
        load()
    threats = tuple(parse(text) for text in entry.threats)
    where = "digits in 4 x 4" if entry.pooled else entry.data
    about = f"{where} (test), the first {len(test)} images"
    return Subject(name, entry.training, load, about, test.x, test.y, threats)


def _stored(path: Path) -> nn.Module:
    return load_model(str(path)).model


def _train(entry: Entry, folder: Path) -> None:
    plan = Plan(data=entry.data, model=DIGITS, method=entry.method, threat=entry.threats[0],
                settings=_SETTINGS)  # fmt: skip
    ready = prepare(plan, None, torch.device("cpu"))
    for _ in run(ready, folder, resume=folder.exists()):
        pass


def _train_pooled(entry: Entry, folder: Path) -> None:
    if (folder / LAST).exists():
        return
    train, threat = sets.load(entry.data, split="train"), parse(entry.threats[0])
    model = build("mlp", channels=1, size=4, classes=10, hidden=(10, 10), seed=0)
    pair = avg_pool2d(train.x, 2), train.y
    for _ in fit(model, pair, AT(threat, steps=7), _SETTINGS):
        pass
    cards.save(model, folder / LAST)
