"""A model from what a user writes on the command line: a run, a file, or a Python callable."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from torchproof.core.errors import FileError, InputError, ModelError, TorchproofError
from torchproof.core.fingerprints import fingerprint
from torchproof.nn import cards
from torchproof.nn.exported import read_exported
from torchproof.nn.hub import from_hub
from torchproof.nn.onnx_graph import read_onnx
from torchproof.nn.robustbench import in_zoo, load_zoo
from torchproof.nn.timm_models import from_timm

SPECS = (
    "a run directory, a .safetensors beside its .json card, file.py:callable, "
    "package.module:callable, a .pt2 export, an .onnx file, cifar10/Linf/NAME.pt of RobustBench, "
    "hub:OWNER/NAME of the Hugging Face hub, or timm:NAME"
)
"""What `load_model` takes."""

_READERS = {".pt2": read_exported, ".onnx": read_onnx}
_PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".tar")


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode, its name, its weights' fingerprint, and its card, empty without one."""

    model: nn.Module
    name: str
    sha256: str
    card: Mapping[str, Any]


def load_model(spec: str, device: torch.device | str = "cpu") -> Loaded:
    """The model that `spec` names (see SPECS), in eval mode on `device`.

    Files never run code: weights are safetensors, `.pt2` and `.onnx` are walked as data. A `.py`
    file or a module does run, since that is what naming it asks for; so does timm, whose networks
    are its code. Only `hub:` and `timm:` fetch anything, and say so. torch's random state on the
    CPU is kept.

    Raises FileError for a file that is missing, damaged or would need pickle, InputError for a spec
    of no known kind, ModelError for a callable that fails or gives no module, MissingExtra for
    an .onnx file without the package onnx, hub: without huggingface_hub, timm: without timm.
    """
    scheme, _, rest = spec.partition(":")
    if scheme == "hub":
        network, card = from_hub(rest, device)
        return Loaded(network, f"{card['model']} ({spec})", str(card["sha256"]), card)
    if scheme == "timm":
        model: nn.Module = from_timm(rest, device)
        return Loaded(model, spec, fingerprint(model), {})
    path = Path(spec)
    if in_zoo(path):
        network = load_zoo(path, device)
        return Loaded(network, f"{path.stem} ({network.name})", fingerprint(network), {})
    if path.suffix in _PICKLES:
        raise _refused(path)
    if path.is_dir() or path.suffix == ".safetensors":
        network, card = cards.load(path, device)
        return Loaded(network, str(card["model"]), str(card["sha256"]), card)
    if path.suffix in _READERS:
        if not path.is_file():
            raise FileError(spec, "a file", "check the path")
        model = _READERS[path.suffix](path)
        name = path.name
    elif ":" in spec:
        model, name = _called(spec), spec
    else:
        remedy = "write file.py:callable" if path.suffix == ".py" else "check the path"
        raise InputError(f"the model {spec!r}", SPECS, remedy)
    return Loaded(model.to(device).eval(), name, fingerprint(model), {})


def _refused(path: Path) -> FileError:
    """Why a `.pt` is no model: it needs pickle, or holds weights without a network."""
    try:
        state = cards.read_foreign(path)
    except FileError as error:
        return error
    remedy = "build the network, import the weights with torchproof.nn.cards.load_state(model, "
    remedy += f"read_foreign({str(path)!r})), and save it with cards.save(model, 'run')"
    return FileError(f"{path}, {len(state)} tensors that name no network", SPECS, remedy)


def _called(spec: str) -> nn.Module:
    """What the callable that `spec` names answers, or the module it names."""
    place, _, name = spec.rpartition(":")
    with torch.random.fork_rng(devices=[]):
        if place.endswith(".py"):
            with _beside(Path(place)) as module:
                return _asked(module, name, spec)
        return _asked(_imported(place, spec), name, spec)


def _asked(module: ModuleType, name: str, spec: str) -> nn.Module:
    if not hasattr(module, name):
        names = [n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_")]
        remedy = f"it has {', '.join(names[:8]) or 'no callable at all'}"
        raise InputError(f"the model {spec!r}", f"{name} in {module.__name__}", remedy)
    found = getattr(module, name)
    try:
        model = found if isinstance(found, nn.Module) else found()
    except TorchproofError:
        raise
    except Exception as error:  # whatever the user's own code raises
        remedy = "make it a callable without arguments that returns the model"
        given = f"{spec}, which raised {type(error).__name__}: {error}"
        raise ModelError(given, "a torch.nn.Module", remedy) from error
    if not isinstance(model, nn.Module):
        remedy = "return the model from it; a plain function can be wrapped in a module"
        raise ModelError(f"{spec}, which gives {type(model).__name__}", "a torch.nn.Module", remedy)
    return model


@contextmanager
def _beside(path: Path) -> Iterator[ModuleType]:
    """The module of the file `path`, which may import its neighbours, as a script may."""
    if not path.is_file():
        raise FileError(str(path), "a Python file", "check the path")
    name = f"torchproof_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FileError(str(path), "a Python file", "check the path")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            given = f"{path}, which raised {type(error).__name__}: {error}"
            raise ModelError(given, "a file that can be imported", "run it with python") from error
        yield module
    finally:
        sys.path.remove(str(path.parent.resolve()))


def _imported(place: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except Exception as error:
        remedy = "install it, or set PYTHONPATH to where it is"
        given = f"the model {spec!r} ({type(error).__name__}: {error})"
        raise InputError(given, "a module that can be imported", remedy) from error
