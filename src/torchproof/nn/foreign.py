"""Weights from elsewhere: read without running code, and fitted to the names of a network here."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from torchproof.core.errors import FileError
from torchproof.nn.networks import Network
from torchproof.nn.normalise import Normalise

_log = logging.getLogger(__name__)

PREFIXES = ("module.", "_orig_mod.", "attacker.model.", "model.")
"""What wrappers put before a parameter's name: DataParallel, torch.compile, robustness, and others.
"""

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "last")
"""Under which entries of a checkpoint the state dict is looked for, in this order."""

ALIASES = {
    "normalize.mean": "normalise.mean",  # RobustBench
    "normalize.std": "normalise.std",
    "mu": "normalise.mean",
    "sigma": "normalise.std",
    "normalizer.new_mean": "normalise.mean",  # robustness
    "normalizer.new_std": "normalise.std",
    "attacker.normalize.new_mean": "normalise.mean",
    "attacker.normalize.new_std": "normalise.std",
}
"""Other names of the normalising layer."""

UNUSED = ("sub_block1.",)
"""Parameters some published networks carry and never use: TRADES' second first stage."""

_PICKLE = (
    "open it where you trust it, and write its tensors with "
    "safetensors.torch.save_file(state_dict, path)"
)


def read_foreign(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict in a `.safetensors` file, or in a `.pt` file that needs no pickle.

    A `.pt` is read with `weights_only=True`, never otherwise: tensors and plain containers alone,
    on the CPU. Entries `state_dict`, `model_state_dict`, `model`, `net` and `last` are unwrapped.

    Raises FileError for a missing, truncated or foreign file, one that would have to run code, and
    one in which there is no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path}", "a file of weights", "check the path")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            remedy = "restore the file; it is truncated or something else"
            raise FileError(f"{path} ({error})", "a safetensors file", remedy) from error
    return _unwrap(_read_pt(path), path)


def _read_pt(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # torch raises a dozen kinds for files that are not what they should be
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        expected = "tensors that can be read without running code"
        raise FileError(f"{path} ({reason})", expected, _PICKLE) from error


def _unwrap(found: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint: the first table of tensors under the names of WRAPPERS."""
    if isinstance(found, Mapping) and found and all(isinstance(v, Tensor) for v in found.values()):
        return {str(k): v for k, v in found.items()}
    if isinstance(found, Mapping):
        for name in WRAPPERS:
            if isinstance(found.get(name), Mapping):
                return _unwrap(found[name], path)
    what = f"entries {sorted(map(str, found))[:8]}" if isinstance(found, Mapping) else type(found)
    expected = f"a state dict, bare or under one of {', '.join(WRAPPERS)}"
    raise FileError(f"{path} with {what}", expected, "save model.state_dict()")


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Copy `state` into `model`, whatever wrapper its names come from; answers what was changed.

    Prefixes of PREFIXES are stripped, names of a bare network find the `net` of a `Network`, names
    of ALIASES its normalising layer, which stays as it was built where the state has none;
    parameters of UNUSED are dropped. Each of these is said in the answer and in the log. The values
    are copied into the model's dtype and device.

    Raises FileError, and leaves the model as it was, for names or shapes that do not fit.
    """
    target = model.state_dict()
    fitted: dict[str, Tensor] = {}
    said: dict[str, int] = {}
    for name, value in state.items():
        new, notes = _fit(name, target)
        for note in notes:
            said[note] = said.get(note, 0) + 1
        if new is None:
            continue
        if new in fitted and not torch.equal(fitted[new], value):
            remedy = "keep one of them"
            raise FileError(f"two different tensors for {new}", "one state dict", remedy)
        fitted[new] = value
    kept = [n for n in target if n not in fitted and n.startswith("normalise.")]
    fitted |= {name: target[name] for name in kept}
    if kept:
        said["kept the normalising layer as it was built"] = len(kept)
    before = _normalisation(model)
    _copy(model, target, fitted)
    if isinstance(model, Network) and (now := _normalisation(model)) != before:
        model.options |= now  # what its card will say
    messages = [f"{note} ({count} tensors)" for note, count in said.items()]
    for message in messages:
        _log.warning("loading weights: %s", message)
    return messages


def _fit(name: str, target: Mapping[str, Tensor]) -> tuple[str | None, list[str]]:
    """The name in `target` that `name` means, None if it is not needed, and what was done."""
    notes: list[str] = []
    while name not in target:
        if name in ALIASES and ALIASES[name] in target:
            return ALIASES[name], [*notes, f"took {name} for {ALIASES[name]}"]
        if f"net.{name}" in target:
            return f"net.{name}", [*notes, "put before the names: 'net.'"]
        if name.startswith(UNUSED):
            return None, [*notes, f"dropped the unused {name.split('.')[0]}"]
        prefix = next((p for p in PREFIXES if name.startswith(p)), None)
        if prefix is None:
            break
        name = name[len(prefix) :]
        notes.append(f"stripped from the names: {prefix!r}")
    return name, notes


def _copy(model: nn.Module, target: Mapping[str, Tensor], fitted: dict[str, Tensor]) -> None:
    missing, extra = sorted(target.keys() - fitted.keys()), sorted(fitted.keys() - target.keys())
    # files from before torch 0.4.1 have no counters; they matter only to momentum=None
    counters = [n for n in missing if n.endswith("num_batches_tracked")]
    missing = [n for n in missing if n not in counters]
    if missing or extra:
        given = f"weights that lack {_few(missing)} and have besides {_few(extra)}"
        remedy = "build the network the weights were made for, with its options"
        raise FileError(given, f"the {len(target)} tensors of {_label(model)}", remedy)
    fitted = {name: target[name] for name in counters} | fitted
    for name, value in fitted.items():
        if name.startswith("normalise.") and value.numel() == target[name].numel():
            fitted[name] = value.reshape(target[name].shape)  # (C,) and (C, 1, 1) occur
        if fitted[name].shape != target[name].shape:
            remedy = "build the network with the channels, size, classes and widths of the weights"
            given = f"{name} of shape {tuple(value.shape)}"
            raise FileError(given, f"{tuple(target[name].shape)}", remedy)
    model.load_state_dict(fitted)


def _normalisation(model: nn.Module) -> dict[str, list[float]]:
    layer = getattr(model, "normalise", None)
    if not isinstance(layer, Normalise):
        return {}
    return {"mean": layer.mean.flatten().tolist(), "std": layer.std.flatten().tolist()}


def _few(names: list[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _label(model: nn.Module) -> str:
    return str(getattr(model, "name", type(model).__name__))
