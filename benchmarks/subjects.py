"""What is attacked: a packed network of `$TORCHPROOF_DATA`, a radius, the first test images."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from torchproof.core.threats import eps_text, number
from torchproof.data import Dataset, load

# The packed networks name their sets in one word.
_SETS = {"fmnist": "fashion-mnist"}


@dataclass(frozen=True)
class Subject:
    """A network in eval mode, a radius (input units, Linf), and images x (N, C, H, W), y (N,)."""

    name: str
    eps: float
    model: nn.Module
    x: Tensor
    y: Tensor

    @property
    def label(self) -> str:
        """The network and the radius, as given on the command line."""
        return f"{self.name}:{eps_text(self.eps)}"

    @torch.no_grad()
    def correct(self) -> Tensor:
        """(N,) bool: is the clean image classified correctly?"""
        out: Tensor = self.model(self.x)
        return out.argmax(1) == self.y


@cache
def _packed() -> ModuleType:
    """The reader `networks.py` that lies in `$TORCHPROOF_DATA`."""
    folder = os.environ.get("TORCHPROOF_DATA")
    path = Path(folder or ".") / "networks.py"
    if not folder or not path.is_file():
        raise SystemExit(f"{path}: no such file; set TORCHPROOF_DATA to the unpacked shared data")
    spec = importlib.util.spec_from_file_location("packed_networks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _images(name: str, n: int) -> Dataset:
    return load(name, split="test").take(n)


def subject(text: str, n: int) -> Subject:
    """`NAME:EPS`, such as cnn_a_adv:2/255, with the first n test images of the network's set.

    Raises SystemExit without `$TORCHPROOF_DATA`, KeyError for a name that is not there, InputError
    for an eps that is no number.
    """
    name, _, eps = text.partition(":")
    packed = _packed()
    model: nn.Module = packed.load(name)
    entry = json.loads((packed.FOLDER / "index.json").read_text())[name]
    data = _images(_SETS.get(entry["dataset"], entry["dataset"]), n)
    return Subject(name, number(eps), model, data.x, data.y)
