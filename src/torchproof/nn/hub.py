"""A model of the Hugging Face hub, `hub:OWNER/NAME` or `hub:OWNER/NAME@REVISION`.

Two files are fetched: model.safetensors and its card, model.json or config.json, as
`torchproof.nn.cards.save` writes them. Neither can run code, and nothing else is fetched.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchproof.core.errors import FileError, InputError, MissingExtra
from torchproof.nn import cards

_log = logging.getLogger(__name__)

WEIGHTS, CARDS = "model.safetensors", ("model.json", "config.json")
_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def from_hub(name: str, device: torch.device | str = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """The network and its card; what is fetched is said in the log.

    Raises InputError for a name that is none, MissingExtra without huggingface_hub (extra `hf`),
    FileError where the hub or the network fails, and for files that `cards.load` refuses.
    """
    if not _NAME.fullmatch(name):
        remedy = "write hub:OWNER/NAME, or hub:OWNER/NAME@REVISION to pin one"
        raise InputError(f"hub:{name}", "the name of a model of the hub", remedy)
    repository, _, revision = name.partition("@")
    with tempfile.TemporaryDirectory() as folder:
        weights = _fetched(repository, revision, WEIGHTS)
        shutil.copyfile(weights, Path(folder) / WEIGHTS)
        card = _card(repository, revision)
        if card is not None:
            shutil.copyfile(card, Path(folder) / CARDS[0])
        return cards.load(folder, device)


def _card(repository: str, revision: str) -> Path | None:
    """The first file that is a card of ours; None where there is none: the weights may hold it."""
    for file in CARDS:
        try:
            path = _fetched(repository, revision, file)
        except FileError as error:
            if _absent(error.__cause__):
                continue
            raise
        if _ours(path):
            return path
    return None


def _absent(error: BaseException | None) -> bool:
    """Did the hub say that there is no such file? Its class is known by name: the package may not
    be a real one.
    """
    return "EntryNotFoundError" in {kind.__name__ for kind in type(error).__mro__}


def _ours(path: Path) -> bool:
    """Is it a card, and not the configuration of another library?"""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("schema") == cards.SCHEMA


def _fetched(repository: str, revision: str, file: str) -> Path:
    """Where a file of the hub is now, on this machine."""
    try:
        library: Any = importlib.import_module("huggingface_hub")
    except Exception as error:  # a package that is broken raises anything
        given = f"hub:{repository} without huggingface_hub ({type(error).__name__}: {error})"
        raise MissingExtra(given, "it", "run `pip install 'torchproof[hf]'`") from error
    at = f" at {revision}" if revision else ""
    _log.warning("fetching %s of huggingface.co/%s%s", file, repository, at)
    try:
        return Path(library.hf_hub_download(repository, file, revision=revision or None))
    except Exception as error:  # network and hub errors of several packages
        given = f"{file} of hub:{repository}{at} ({type(error).__name__}: {error})"
        remedy = "look at the name on huggingface.co, and at the network"
        raise FileError(given, "a model saved by torchproof.nn.cards.save", remedy) from error
