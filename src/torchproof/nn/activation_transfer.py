"""Trained activations moved from one network to another: of another depth, or for other data.

A network has one activation with weights for each width of its maps (see `nn.activations`), so that
those of a ResNet-18 fit a ResNet-34. A file of them is a safetensors file that cannot run code.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from torchproof.core.errors import FileError, InputError
from torchproof.core.files import write
from torchproof.nn import cards
from torchproof.nn.activations import ACTIVATIONS

SCHEMA = "torchproof.activations/1"


def activations_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the weights of a network's activations, on the CPU, under "stage1.", "stage2.", ...
    in the order in which the network names them; empty for activations without weights.
    """
    return {
        f"{stage}.{name}": t.detach().cpu().clone()
        for stage, activation in _stages(model).items()
        for name, t in activation.state_dict().items()
    }


def with_activations(
    model: nn.Module, state: Mapping[str, Tensor], freeze: bool = True
) -> nn.Module:
    """A copy of `model` with the activations of another network, as `activations_of` gives them.

    Frozen weights take no gradient, and training leaves them bit for bit as they are: neither
    optimisers and their weight decay nor averages nor weight perturbation move them. A network that
    is stored and loaded is not frozen. Raises InputError where names or shapes differ.
    """
    made = copy.deepcopy(model)
    stages = _stages(made)
    own = {f"{s}.{name}": t for s, act in stages.items() for name, t in act.state_dict().items()}
    _check(state, own)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])
    if freeze:
        for activation in stages.values():
            activation.requires_grad_(False)
    return made


def save_activations(state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Writes what `activations_of` gave, whole or not at all; raises FileError."""
    kept = {name: t.detach().cpu().contiguous().clone() for name, t in state.items()}
    write(Path(path), save(kept, metadata={"schema": SCHEMA}))


def load_activations(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The activations in a file of `save_activations`, or of a stored network (a run directory, or
    a .safetensors beside its card). Raises FileError, and InputError for a network without any.
    """
    path = Path(path)
    if path.is_file() and (state := _stored(path)) is not None:
        return state
    state = activations_of(cards.load(path)[0])
    if not state:
        remedy = "give one whose activations have weights, such as activation='sparta'"
        raise InputError(f"{path}, a network without any", "trained activations", remedy)
    return state


def _stored(path: Path) -> dict[str, Tensor] | None:
    """The activations of a file that holds nothing else, None for another one."""
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("schema") != SCHEMA:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FileError(f"{path} ({error})", "a safetensors file", "restore the file") from error


def _stages(model: nn.Module) -> dict[str, nn.Module]:
    """The activations with weights, each once however many layers share it."""
    kinds = tuple(
        kind
        for row in ACTIVATIONS.values()
        if isinstance(kind := row.func if isinstance(row, partial) else row, type)
    )
    found = [m for m in model.modules() if isinstance(m, kinds) and m.state_dict()]
    return {f"stage{number}": module for number, module in enumerate(found, 1)}


def _check(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    given = {name: tuple(t.shape) for name, t in state.items()}
    expected = {name: tuple(t.shape) for name, t in own.items()}
    if given == expected:
        return
    odd = sorted(n for n in given.keys() | expected.keys() if given.get(n) != expected.get(n))
    shown = ", ".join(f"{n} {given.get(n, 'missing')}" for n in odd[:3])
    wanted = ", ".join(f"{n} {expected.get(n, 'none')}" for n in odd[:3])
    remedy = "build both networks with the same activation, width and number of stages"
    raise InputError(f"activations {shown}", wanted, remedy)
