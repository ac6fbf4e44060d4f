"""What a linear read-out of a defended model reads: the features behind all of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.adaptive.predictor import DefendedPredictor
from torchproof.core.errors import ModelError
from torchproof.core.sites import Model
from torchproof.core.unaware import logits_of
from torchproof.nn.taps import hidden_layers, tapped


@dataclass(frozen=True)
class Readout:
    """Of the named layers (the last hidden ones), or of the logits where `layers` is empty."""

    layers: tuple[str, ...]

    @property
    def name(self) -> str:
        """The layers, joined, or `logits`."""
        return " + ".join(self.layers) if self.layers else "logits"

    @classmethod
    def of(cls, model: Model, x: Tensor) -> Readout:
        """The last hidden layer of every network of the model; the logits where one cannot be read
        (it runs several times, or there is none).
        """
        if not isinstance(model, nn.Module):
            return cls(())
        roots = {"": model}
        if isinstance(model, DefendedPredictor):
            roots = {f"networks.{i}": net for i, net in enumerate(model.networks)}
        try:
            names = tuple(
                ".".join(part for part in (root, hidden_layers(net, x[:2], 1)[0]) if part)
                for root, net in roots.items()
            )
            made = cls(names)
            made.read(model, x[:2])
        except ModelError:
            return cls(())
        return made

    def read(self, model: Model, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (B, F), differentiable, and the score of rejection (B,), None without one."""
        if not torch.is_inference_mode_enabled():
            return self._read(model, x)
        # a part that optimises at test time could differentiate nothing there
        with torch.inference_mode(False), torch.no_grad():
            return self._read(model, x.clone() if x.is_inference() else x)

    def _read(self, model: Model, x: Tensor) -> tuple[Tensor, Tensor | None]:
        out: Any
        if self.layers and isinstance(model, DefendedPredictor) and model.reject is not None:
            # what rejects may ask the network again: read is what it answers first
            names = [f"whole.{name}" for name in self.layers]
            out, parts = tapped(_Unjudged(model), x, names)
            out, found = model.judged(x, out), torch.cat([part.flatten(1) for part in parts], 1)
        elif self.layers:
            assert isinstance(model, nn.Module)
            out, parts = tapped(model, x, self.layers)
            found = torch.cat([part.flatten(1) for part in parts], 1)
        else:
            out = model(x)
            found = logits_of(out)
        return found, out["reject"] if isinstance(out, Mapping) and "reject" in out else None


class _Unjudged(nn.Module):
    """A defended predictor without its last part, whose layers keep their names below `whole`."""

    def __init__(self, whole: DefendedPredictor) -> None:
        super().__init__()
        self.whole = whole
        self.training = False

    def forward(self, x: Tensor) -> Any:
        return self.whole.unjudged(x)
