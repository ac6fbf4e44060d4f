"""A model on disk: weights as safetensors, and beside them a JSON card that says how to build the
model.

Neither file can run code. The card is also kept in the header of the safetensors file: a process
killed between the two writes leaves a new weights file beside an old card, and the weights still
load.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from torchproof.core.errors import FileError, InputError, TorchproofError
from torchproof.core.files import write
from torchproof.core.fingerprints import fingerprint
from torchproof.nn.foreign import load_state, read_foreign
from torchproof.nn.networks import MODELS, Network, build

__all__ = ["SCHEMA", "load", "load_state", "read_card", "read_foreign", "save", "state_of", "write"]

SCHEMA = "torchproof.model/1"
_WEIGHTS = "model.safetensors"


def save(
    model: nn.Module, path: str | os.PathLike[str], card: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write `model` to `path` and answer the card written beside it.

    `path` ends in `.safetensors`, or is a folder, which then holds `model.safetensors` and
    `model.json`. A card has `schema`, `model` and `options` (how to build it: filled in for a
    network made by `build`), `sha256` (the `fingerprint` of the weights) and whatever else `card`
    says, for example `training`. Each file is replaced in one step: a full disk or a killed process
    leaves the old one.

    Wrappers for data parallelism and compilation are left out, so the names are the network's own.

    Raises InputError for a path of another kind or a card JSON cannot hold (NaN included),
    FileError where a file cannot be written.
    """
    weights, model = _weights_file(path), _unwrapped(model)
    known = {"model": model.name, "options": model.options} if isinstance(model, Network) else {}
    full = {**known, **(card or {}), "schema": SCHEMA, "sha256": fingerprint(model)}
    try:
        text = json.dumps(full, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        remedy = "put finite numbers, words, lists and tables into the card"
        raise InputError(f"a card with {error}", "what JSON can hold", remedy) from error
    write(weights, to_bytes(state_of(model), metadata={"card": text}))
    write(weights.with_suffix(".json"), text.encode())
    return full


def load(
    path: str | os.PathLike[str], device: torch.device | str = "cpu"
) -> tuple[Network, dict[str, Any]]:
    """The model that `save` wrote to `path`, in eval mode on `device`, and its card.

    The weights are bit for bit those saved; torch's random state is neither read nor changed.

    Raises FileError for files that are missing, truncated or foreign, for a card whose network is
    not in MODELS, and for weights that are not those of the card.
    """
    weights = _weights_file(path)
    state, card = read_foreign(weights), read_card(weights)
    model = _rebuild(card, weights)
    try:
        model.load_state_dict(state, assign=True)  # assigned, so that the dtypes are those saved
    except RuntimeError as error:
        remedy = "restore the card, or save the model again"
        raise FileError(f"{weights} ({error})", f"weights of {card['model']}", remedy) from error
    if (found := fingerprint(model)) != card["sha256"]:
        remedy = "restore the file, or save the model again"
        given = f"{weights} with fingerprint {found[:12]}"
        raise FileError(given, f"the {str(card['sha256'])[:12]} of its card", remedy)
    return model.to(device).eval(), card


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The card of the weights file (or folder) `path`: the JSON beside it, unless it is stale.

    A JSON file whose fingerprint differs from that in the header of the weights was left by a save
    that did not end, so the header is taken. Raises FileError where there is no card.
    """
    weights = _weights_file(path)
    inside, beside = _card_inside(weights), _card_beside(weights)
    if beside is not None and (inside is None or inside["sha256"] == beside["sha256"]):
        return beside
    if inside is not None:
        return inside
    remedy = "build the network and import the weights: torchproof.nn.cards.load_state(build(...), "
    remedy += "read_foreign(path)), then save it"
    raise FileError(f"{weights} without a card", f"{weights.with_suffix('.json').name}", remedy)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model as a file holds them: on the CPU, contiguous, sharing no memory.

    Cloned even there, because safetensors refuses tensors that share memory (tied weights).
    """
    return {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}


def _unwrapped(model: nn.Module) -> nn.Module:
    """The module inside wrappers for data parallelism and `torch.compile`."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := model._modules.get("_orig_mod"), nn.Module):
            model = inner
        else:
            return model


def _weights_file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix == ".safetensors":
        return path
    if path.suffix and not path.is_dir():
        remedy = "name the file model.safetensors, or give a folder"
        raise InputError(f"the path {path}", "a .safetensors file or a folder", remedy)
    return path / _WEIGHTS


def _rebuild(card: Mapping[str, Any], weights: Path) -> Network:
    name = card.get("model")
    if name not in MODELS:
        remedy = (
            "build that model yourself and give it the weights: torchproof.nn.cards.load_state("
        )
        remedy += f"model, read_foreign({str(weights)!r})), as a file.py:function for example"
        raise FileError(f"a card for the model {name!r}", f"one of {', '.join(MODELS)}", remedy)
    try:
        return build(name, **{**card["options"], "seed": 0})  # the seed keeps torch's random state
    except (TorchproofError, TypeError, KeyError) as error:
        remedy = "restore the card, or save the model again"
        raise FileError(f"the card of {weights} ({error})", f"options of {name}", remedy) from error


def _card_inside(weights: Path) -> dict[str, Any] | None:
    try:
        with safe_open(weights, framework="pt") as file:
            text = (file.metadata() or {}).get("card")
    except (SafetensorError, OSError) as error:
        raise FileError(f"{weights} ({error})", "a safetensors file", "restore the file") from error
    return None if text is None else _parsed(text, weights)


def _card_beside(weights: Path) -> dict[str, Any] | None:
    path = weights.with_suffix(".json")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} ({error})", "a model card", "restore the file") from error
    return _parsed(text, path)


def _parsed(text: str, source: Path) -> dict[str, Any]:
    """A card from its text; raises FileError unless it is one of this schema."""
    try:
        card = json.loads(text)
    except json.JSONDecodeError as error:
        raise FileError(f"{source} ({error})", "a model card", "restore the file") from error
    if not isinstance(card, dict) or card.get("schema") != SCHEMA or "sha256" not in card:
        found = card.get("schema") if isinstance(card, dict) else type(card).__name__
        remedy = "give the files torchproof.nn.cards.save wrote"
        raise FileError(f"{source} of schema {found!r}", f"a card of schema {SCHEMA}", remedy)
    return card
