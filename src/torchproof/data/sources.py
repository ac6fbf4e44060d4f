"""Every data set by name: the table, and where `load` looks for one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torchproof.core.errors import FileError, InputError, unknown
from torchproof.data import cifar, classes, digits, folders, hub, idx, npz
from torchproof.data.dataset import Dataset
from torchproof.data.found import SPLITS, Found, choose

VARIABLE = "TORCHPROOF_DATA"


@dataclass(frozen=True)
class Known:
    """A public data set: what it is, its classes, and the folder of its official files, if read."""

    about: str
    classes: tuple[str, ...]
    folder: str = ""
    files: str = ""


_IDX_FILES = "train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of t10k, .gz or not"
KNOWN = {
    "mnist": Known(
        "70,000 handwritten digits, grey, 28 x 28 (LeCun 1998)", classes.DIGITS, "mnist", _IDX_FILES
    ),
    "fashion-mnist": Known(
        "70,000 pieces of clothing, grey, 28 x 28 (Xiao 2017)",
        classes.CLOTHES,
        "fashion-mnist",
        _IDX_FILES,
    ),
    "cifar10": Known(
        "60,000 photographs of 10 classes, colour, 32 x 32 (Krizhevsky 2009)",
        classes.CIFAR10,
        "cifar-10-batches-py",
        "data_batch_1 to data_batch_5 and test_batch",
    ),
    "cifar100": Known(
        "60,000 photographs of 100 classes, colour, 32 x 32 (Krizhevsky 2009)",
        classes.CIFAR100,
        "cifar-100-python",
        "train and test",
    ),
    "svhn": Known("house numbers, colour, 32 x 32 (Netzer 2011)", classes.DIGITS),
}
DATASETS = {
    "digits": "1,797 handwritten digits, grey, 8 x 8, from scikit-learn, no download (Alpaydin)",
    **{name: known.about for name, known in KNOWN.items()},
    "npz:PATH": "an .npz file with arrays x_train, y_train, x_test, y_test, or x, y",
    "folder:PATH": "a folder of pictures, one sub-folder per class",
    "hf:NAME": "an image set of the Hugging Face hub, downloaded (extra `hf`)",
    "shards:PATTERN": "webdataset shards, such as shards:train-{000..146}.tar, read while they are "
    "used (train and evaluate)",
    "stream:NAME": "a set of the Hugging Face hub, read while it is used (train and evaluate)",
    "stream(SOURCE, buffer=10000, held=SOURCE)": "with more to say: SOURCE is shards(PATTERN, "
    "count=, crop=Centre(224, 256), channels=3, classes=1000) or hub(NAME, split=, count=, crop=, "
    "channels=)",
}
_STREAMS = re.compile(r"\s*(shards|stream)\s*[:(]")
_READERS: tuple[Callable[[Path], Found | None], ...] = (npz.find, idx.find, cifar.find)


def load(name: str, *, data_dir: Path | None = None, split: str = "test") -> Dataset:
    """The split (train, test or all) of a data set of `DATASETS`, images in [0, 1].

    Named sets are looked for in `data_dir`, or else in $TORCHPROOF_DATA: NAME.npz, IDX files or
    CIFAR batches in a folder NAME; hyphens, underscores and capitals do not matter. So are relative
    paths that do not exist as given. A set without a split of its own is split by `split_rows`, 80
    to 20. Raises UnknownName, FileError (missing or unreadable, saying what to put where),
    InputError (images or labels that cannot be meant; a stream), MissingExtra (hf: without its
    package).
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if names_stream(name):
        remedy = "evaluate and train read streams; for other commands store some of it as .npz"
        raise InputError(f"{name}, a stream", "a data set that fits into memory", remedy)
    scheme, colon, rest = name.partition(":")
    folder = data_folder(data_dir)
    if colon and rest and scheme in ("npz", "folder", "hf"):
        found = hub.find(rest) if scheme == "hf" else _at_path(scheme, rest, folder)
        return choose(found, split, name)
    names = {_plain(known): known for known in ("digits", *KNOWN)}
    if _plain(name) not in names:
        raise unknown("data set", name, DATASETS)
    name = names[_plain(name)]
    found = digits.find() if name == "digits" else _search(name, folder)
    return choose(found, split, name)


def names_stream(name: str) -> bool:
    """Is it the name of a stream, which `streamed_set.opened` opens?"""
    return _STREAMS.match(name) is not None


def data_folder(given: Path | None) -> Path | None:
    """The folder given, or that of the environment, or None."""
    text = os.environ.get(VARIABLE) if given is None else given
    return Path(text).expanduser() if text else None


def _at_path(scheme: str, text: str, folder: Path | None) -> Found:
    """The file or folder at a path, which may be relative to the data folder."""
    path = Path(text).expanduser()
    tried = [path] + ([folder / path] if folder and not path.is_absolute() else [])
    there = next((p for p in tried if p.exists()), None)
    if there is None:
        kind = "an .npz file" if scheme == "npz" else "a folder of pictures"
        given = f"{scheme}:{text}, not found as {' nor as '.join(map(str, tried))}"
        raise FileError(given, kind, "look at the path")
    found = npz.find(there) if scheme == "npz" else folders.find(there)
    if found is None:
        raise FileError(f"{there}", "a file whose name ends in .npz", "rename or convert it")
    return found


def _search(name: str, folder: Path | None) -> Found:
    """The first thing under the data folder that is called like the set and can be read."""
    if folder is None:
        remedy = f"set {VARIABLE} or give --data-dir (data_dir=); then put there {_wanted(name)}"
        raise FileError(f"{name} without a data folder", "a folder to look in", remedy)
    if not folder.is_dir():
        remedy = f"make it or name another (--data-dir, {VARIABLE}); put there {_wanted(name)}"
        raise FileError(f"the data folder {folder}, which is not there", "a folder", remedy)
    places = list(_places(folder, {_plain(name), _plain(KNOWN[name].folder)}))
    for place in places:
        for reader in _READERS:
            found = reader(place)
            if found is not None:
                return replace(found, classes=KNOWN[name].classes)
    also = f" and in {', '.join(map(str, places))}" if places else ""
    given = f"{name}, looked for in {folder}{also}"
    raise FileError(given, _wanted(name), f"put one there, or name another folder ({VARIABLE})")


def _places(folder: Path, names: set[str]) -> Iterator[Path]:
    """Files NAME.npz first, then folders NAME, each with NAME/raw and such names inside it."""
    for path in _called(folder, names):
        yield path
        if path.is_dir():
            yield from _called(path, names | {"raw"})


def _called(folder: Path, names: set[str]) -> list[Path]:
    """The .npz files, then the folders, of these names."""
    files = [p for p in folder.glob("*.npz") if _plain(p.stem) in names]
    return sorted(files) + sorted(
        p for p in folder.iterdir() if p.is_dir() and _plain(p.name) in names
    )


def _wanted(name: str) -> str:
    """What to put into the data folder."""
    known = KNOWN[name]
    stored = f"a file {name}.npz with arrays x_train, y_train, x_test, y_test, or x, y"
    return stored + (f"; or a folder {known.folder} with {known.files}" if known.folder else "")


def _plain(name: str) -> str:
    return re.sub("[-_ ]", "", name.lower())
