"""What is attacked: a packed network of `$TORCHPROOF_DATA`, a radius, the first test images."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from torchproof.core.norms import name_of
from torchproof.core.threats import Threat, eps_text, parse
from torchproof.data import Dataset, load

# The packed networks name their sets in one word.
_SETS = {"fmnist": "fashion-mnist"}

# The test bench of whole evaluations: adversarially trained, certifiably trained, plain, and one
# whose gradients are masked; MNIST and CIFAR-10, Linf and L2.
NETWORKS = [
    "mnist_fast_pgd:linf:0.3", "mnist_trades:linf:0.3", "mnist_kw_small:linf:0.1",
    "cnn_a_adv:linf:2/255", "resnet2b_adv:linf:2/255", "oval_base_kw:linf:2/255",
    "shattered(cnn_a_adv):linf:2/255", "cnn_a_adv:l2:0.25", "kw_small_l2_36:l2:36/255",
    "mnist_mlp_6x100:linf:0.026",
]  # fmt: skip


class Shattered(nn.Module):
    """Fine ripples on the input before the network: a defence that only masks gradients.

    x - a sin(2 pi x / period) with a chosen so that the slope, 1 - 3 cos(2 pi x / period), is
    negative on two fifths of all values, 8-bit ones among them, while no input moves by half a grey
    level. What the network tells apart does not change; the sign of its gradient is worthless.
    """

    def __init__(self, model: nn.Module, period: float = 1 / 255) -> None:
        super().__init__()
        self.model, self.period = model, period
        self.training = model.training  # not .train(), which would reset frozen parts

    def forward(self, x: Tensor) -> Tensor:
        turns = 2 * math.pi / self.period
        out: Tensor = self.model(x - 3 / turns * torch.sin(turns * x))
        return out


@dataclass(frozen=True)
class Subject:
    """A network in eval mode, a threat to its inputs, and images x (N, C, H, W), y (N,)."""

    name: str
    threat: Threat
    model: nn.Module
    x: Tensor
    y: Tensor

    @property
    def eps(self) -> float:
        """The radius, in input units."""
        return self.threat.eps

    @property
    def label(self) -> str:
        """The network and the threat, as given on the command line."""
        norm = name_of(self.threat.norm)
        return f"{self.name}:{norm}:{eps_text(self.eps)}"

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
    """`NAME:THREAT`, such as cnn_a_adv:linf:2/255 or shattered(cnn_a_adv):linf:2/255, with the
    first n test images of the network's set.

    Raises SystemExit without `$TORCHPROOF_DATA`, KeyError for a name that is not there, InputError
    for a threat that is none.
    """
    name, _, threat = text.partition(":")
    inner = name.removeprefix("shattered(").removesuffix(")")
    packed = _packed()
    model: nn.Module = packed.load(inner)
    entry = json.loads((packed.FOLDER / "index.json").read_text())[inner]
    data = _images(_SETS.get(entry["dataset"], entry["dataset"]), n)
    return Subject(
        name, parse(threat), model if inner == name else Shattered(model), data.x, data.y
    )
