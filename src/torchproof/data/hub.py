"""Image sets of the Hugging Face hub, `hf:NAME` or `hf:NAME:CONFIG`, downloaded when so named."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from torchproof.core.errors import FileError, InputError, MissingExtra
from torchproof.data.found import Arrays, Found
from torchproof.data.pictures import stack

if TYPE_CHECKING:
    from PIL.Image import Image

_OLDEST = 3  # the first version that runs no script of a data set unless told to
_HELD_OUT = ("test", "validation", "valid", "val")


def find(name: str) -> Found:
    """The set NAME: its column of pictures and its column of class labels.

    The test part is `test`, or else `validation`; a set of a single part is split. Raises
    MissingExtra without the package datasets, FileError where the hub has no such set, InputError
    where the set has not exactly one column of pictures and one of class labels.
    """
    package = library()
    path, _, config = name.partition(":")
    try:
        whole: Mapping[str, Any] = package.load_dataset(path, config or None)
    except Exception as error:  # network, hub and parsing errors of several packages
        given = f"hf:{name}, which could not be loaded ({type(error).__name__}: {error})"
        remedy = "look at the name on huggingface.co/datasets and at the network"
        raise FileError(given, "a public image data set", remedy) from error
    features = next(iter(whole.values())).features
    picture = column_of(name, features, package.Image, "pictures")
    label = column_of(name, features, package.ClassLabel, "class labels")
    readers = {part: partial(_read, rows, picture, label) for part, rows in _parts(whole).items()}
    return Found(f"hf:{name}", readers, tuple(features[label].names))


def library() -> Any:
    """The package datasets; raises MissingExtra, also for one that may run code of a data set."""
    try:
        library = importlib.import_module("datasets")
    except ImportError as error:
        remedy = "run `pip install 'torchproof[hf]'`"
        raise MissingExtra(f"hf: without the package datasets ({error})", "it", remedy) from error
    if int(str(library.__version__).partition(".")[0]) < _OLDEST:
        given = f"datasets {library.__version__}, which may run code of a data set"
        remedy = "run `pip install --upgrade 'torchproof[hf]'`"
        raise MissingExtra(given, f"datasets {_OLDEST} or newer", remedy)
    return library


def column_of(name: str, features: Mapping[str, Any], kind: type, what: str) -> str:
    """The one column of a kind; raises InputError for none or several."""
    columns = [column for column, feature in features.items() if isinstance(feature, kind)]
    if len(columns) != 1:
        given = f"hf:{name} with {len(columns)} columns of {what} among {', '.join(features)}"
        raise InputError(given, f"one column of {what}", "choose another set or configuration")
    return columns[0]


def _parts(whole: Mapping[str, Any]) -> dict[str, Any]:
    held_out = next((part for part in _HELD_OUT if part in whole), None)
    if "train" in whole and held_out:
        return {"train": whole["train"], "test": whole[held_out]}
    if len(whole) == 1:
        return {"all": next(iter(whole.values()))}
    given = f"the parts {', '.join(whole)}"
    raise InputError(given, "train and test, or a single part", "choose another set")


def _read(rows: Any, picture: str, label: str) -> Arrays:
    return stack(_pictures(rows, picture)), np.array(rows[label], np.int64)


def _pictures(rows: Any, picture: str) -> Iterator[tuple[str, Image]]:
    for number, row in enumerate(rows):
        yield f"picture {number}", row[picture]
