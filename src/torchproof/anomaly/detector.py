"""A trained autoencoder with its thresholds, and how it is kept on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from torchproof.anomaly.learner import Setting
from torchproof.anomaly.networks import Architecture, Autoencoder
from torchproof.anomaly.scores import Rule, Scores, heat_maps, scores
from torchproof.core.errors import FileError, InputError
from torchproof.nn.cards import load_state, read_card, read_foreign
from torchproof.nn.cards import save as save_card

MODEL = "anomaly-autoencoder"


@dataclass(frozen=True, eq=False)
class Detector:
    """Images in, suspicion out. Raises InputError for images of another shape (C, H, W)."""

    network: Autoencoder
    setting: Setting
    shape: tuple[int, int, int]
    rule: Rule

    def scores(self, x: Tensor) -> Scores:
        """What is measured of images x (N, C, H, W), before the decision."""
        return scores(self.network, fitting(x, self.shape))

    def suspicion(self, x: Tensor) -> Tensor:
        """(N,), above 0 for an anomaly."""
        return self.rule.suspicion(self.scores(x))

    def flags(self, x: Tensor) -> Tensor:
        """(N,), bool: the paper's decision."""
        return self.rule.flags(self.scores(x))

    def heat_maps(self, x: Tensor) -> Tensor:
        """(N, H, W): squared error by pixel."""
        return heat_maps(self.network, fitting(x, self.shape))

    def save(self, path: str | os.PathLike[str], more: Mapping[str, Any] | None = None) -> None:
        """Weights as safetensors, the rest in the JSON card beside them; `more` goes into the
        card.
        """
        about = {"setting": asdict(self.setting), "shape": self.shape, "rule": asdict(self.rule)}
        save_card(self.network, path, {**(more or {}), "model": MODEL, "options": about})


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Detector:
    """What `Detector.save` wrote; raises FileError for files that are missing, damaged or of
    another kind.
    """
    card = read_card(path)
    if card.get("model") != MODEL:
        given = f"{path} with a model {card.get('model')!r}"
        raise FileError(given, MODEL, "give the folder that an autoencoder was fitted into")
    try:
        about = card["options"]
        made = {
            **about["setting"],
            "architecture": Architecture(**about["setting"]["architecture"]),
        }
        channels, height, width = (int(n) for n in about["shape"])
        setting, rule = Setting(**made), Rule(**about["rule"])
        network = setting.architecture.build((channels, height, width), 0)
    except (KeyError, TypeError, ValueError) as error:
        remedy = "restore the card, or fit again"
        raise FileError(f"the card of {path} ({error})", "options of a detector", remedy) from error
    load_state(network, read_foreign(_weights(path)))
    return Detector(network.to(device).eval(), setting, (channels, height, width), rule)


def _weights(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    return text if text.endswith(".safetensors") else os.path.join(text, "model.safetensors")


def fitting(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x itself; raises InputError unless it is (N, *shape)."""
    if tuple(x.shape[1:]) != tuple(shape) or not len(x):
        given = f"images of shape {tuple(x.shape)}"
        raise InputError(given, f"(N, {', '.join(map(str, shape))})", "resize them")
    return x
