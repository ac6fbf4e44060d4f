"""One generation of a training run in one file: tensors as safetensors, everything else as JSON in
its header.

A single file replaced in a single step is either the old generation or the new one, whenever a
process is killed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from torchproof.core.errors import FileError
from torchproof.core.files import placing

SCHEMA = "torchproof.checkpoint/1"


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Replaces `path` in one step; it is on the disk when this returns.

    Raises FileError, with the old file in its place, where that cannot be done (a full disk).
    """
    own = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    with placing(path) as part:
        try:
            save_file(own, part, {"schema": SCHEMA, "facts": json.dumps(facts)})
        except SafetensorError as error:  # what it makes of an OSError
            raise OSError(str(error)) from error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote; raises FileError for a file that is missing, truncated or foreign."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if header.get("schema") != SCHEMA:
                raise ValueError(f"schema {header.get('schema')!r}")
            facts: dict[str, Any] = json.loads(header["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        remedy = "restore the file, or start again in another folder"
        raise FileError(f"{path} ({error})", f"a checkpoint ({SCHEMA})", remedy) from error


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `prefix/`."""
    return {f"{prefix}/{name}": t for name, t in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `named` put under the prefix."""
    start = f"{prefix}/"
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}


def optimiser_parts(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors, named `parameter.slot`, and what JSON can hold."""
    state = optimiser.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, slots in state["state"].items():
        for slot, value in slots.items():
            kind = tensors if isinstance(value, Tensor) else numbers
            kind[f"{index}.{slot}"] = value
    return tensors, {"numbers": numbers, "groups": state["param_groups"]}


def restore_optimiser(
    optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """The inverse of `optimiser_parts`."""
    slots: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *facts["numbers"].items()]:
        index, slot = key.split(".", 1)
        slots.setdefault(int(index), {})[slot] = value
    optimiser.load_state_dict({"state": slots, "param_groups": facts["groups"]})
