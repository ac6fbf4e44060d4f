"""Mixup (Zhang et al. 2018) and manifold mixup (Verma et al. 2019): rows blended with other rows
of the batch, at the input or at a hidden layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy.special import betaincinv
from torch import Tensor, nn

from torchproof.core import keys
from torchproof.core.errors import ModelError, unknown
from torchproof.train.method import Batch, answers, cross_entropy

INPUT = ""  # the name of the place before the first layer


@dataclass(frozen=True)
class Mix:
    """Row i becomes ratio_i times itself plus (1 - ratio_i) times row pairs_i, at `layer`.

    pairs: (B,) int64; ratio: (B,) in [0, 1]; layer: the name of a submodule, INPUT for the images.
    """

    pairs: Tensor
    ratio: Tensor
    layer: str = INPUT

    def blend(self, h: Tensor) -> Tensor:
        """(B, ...) mixed rows, in the type of h."""
        ratio = self.ratio.reshape(-1, *(1,) * (h.dim() - 1))
        return (ratio * h + (1 - ratio) * h[self.pairs]).to(h.dtype)

    def logits(self, model: nn.Module, x: Tensor) -> Tensor:
        """(B, K) the model's answers to x with the rows mixed on the way; raises as `blended`
        does.
        """
        if self.layer == INPUT:
            return answers(model, self.blend(x))
        with blended(model, self):
            return answers(model, x)

    def cross_entropy(self, logits: Tensor, batch: Batch) -> Tensor:
        """(B,) cross-entropy with the mixed labels; it is linear in them."""
        own = cross_entropy(logits, batch)
        other = cross_entropy(logits, replace(batch, y=batch.y[self.pairs]))
        return self.ratio * own + (1 - self.ratio) * other


def draw(batch: Batch, alpha: float, layers: Sequence[str], branch: str) -> Mix:
    """One ratio from Beta(alpha, alpha), one pairing and one of `layers` for the batch, keyed by
    its seed and by `branch`.

    The ratio is the same in every process of a run; rows are paired within a process.
    """
    key = keys.mix(batch.seed, "mixup", branch)
    u = float(keys.uniform(key, 0, (1,), dtype=torch.float64))
    ratio = batch.x.new_full((len(batch.x),), float(betaincinv(alpha, alpha, u)))
    pairs = keys.permutation(len(batch.x), batch.seed, "pairs", branch).to(batch.x.device)
    place = int(keys.integers(key, 0, len(layers), (1,), stream=1))
    return Mix(pairs, ratio, layers[place])


@contextmanager
def blended(model: nn.Module, mix: Mix) -> Iterator[None]:
    """Inside the block the output of the layer `mix.layer` is mixed; no hook is left behind.

    Raises UnknownName for a layer that the model does not have, ModelError for one that does not
    run exactly once or does not answer with one tensor of a row per image.
    """
    runs = 0

    def hook(module: nn.Module, inputs: Any, out: Any) -> Tensor:
        nonlocal runs
        runs += 1
        if runs > 1 or not isinstance(out, Tensor) or len(out) != len(mix.pairs):
            raise _unfit(mix.layer, f"runs more than once or gives {type(out).__name__}")
        return mix.blend(out)

    handle = layer_of(model, mix.layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
    if not runs:
        raise _unfit(mix.layer, "did not run")


def layer_of(model: nn.Module, name: str) -> nn.Module:
    """The submodule of that name; the first names on its path may be left out where the rest says
    which (`layer1` for `net.layer1`). Raises UnknownName.
    """
    known: dict[str, nn.Module] = dict(model.named_modules())
    fitting = [n for n in known if n == name or n.endswith(f".{name}")]
    exact = [name] if name in known else fitting
    if len(exact) != 1:
        raise unknown("layer", name, [n for n in known if n])
    return known[exact[0]]


def _unfit(layer: str, what: str) -> ModelError:
    return ModelError(
        f"layer {layer!r}, which {what}",
        "a layer that runs once per forward pass and answers with one tensor (B, ...)",
        "mix at another layer, such as a whole stage",
    )
