"""What is surveyed: networks with their images and threats."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from torchproof.core.checks import check
from torchproof.core.errors import InputError
from torchproof.core.fingerprints import data_sha256, model_sha256
from torchproof.core.threats import Threat
from torchproof.verify import graph_of
from torchproof.verify.graph import Graph


@dataclass(frozen=True)
class Subject:
    """A network, what it was trained for, images x (N, C, H, W) with labels y (N,), and what is
    asked about. load: makes the network, in another process too, so it has to be picklable: a
    function of a module, or a `functools.partial` of one. Raises InputError for no threat or one
    that is given twice.
    """

    name: str
    training: str
    load: Callable[[], nn.Module]
    data: str
    x: Tensor
    y: Tensor
    threats: tuple[Threat, ...]

    def __post_init__(self) -> None:
        check(self.x, self.y)
        texts = [str(threat) for threat in self.threats]
        if not texts or len(set(texts)) < len(texts):
            raise InputError(f"threats {texts} of {self.name}", "different ones", "name each once")

    @property
    def two(self) -> np.ndarray:
        """(2, C, H, W) images in float64, to trace the network with."""
        two: np.ndarray = self.x[:1].double().cpu().repeat(2, 1, 1, 1).numpy()
        return two

    def identity(self) -> dict[str, str]:
        """What the answers about it depend on."""
        images = data_sha256(self.x, self.y)
        return {"weights": model_sha256(self.load()) or "", "data": self.data, "images": images}


@dataclass(frozen=True)
class Network:
    """The same network twice: in float64, and its graph in float64."""

    model: nn.Module
    graph: Graph

    @classmethod
    def of(cls, load: Callable[[], nn.Module], x: np.ndarray) -> Network:
        """Traces what `load` makes with images x (2, C, H, W). Raises ModelError for operations
        without a rule.
        """
        model = copy.deepcopy(load()).cpu().double().eval().requires_grad_(False)
        with torch.no_grad():
            return cls(model, graph_of(model, torch.from_numpy(x)))
