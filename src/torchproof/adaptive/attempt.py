"""An attempt at a defence: an attack, what it is computed on, and why it was tried."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from torchproof.attack.combine import Attack, Chain


@dataclass(frozen=True)
class Attempt:
    """`name` identifies it in tables and keys its randomness; `why`: what it changes, in words.

    on: the model that the attack asks, None for the defended predictor itself. What it finds is
    always judged on the defended predictor, so `on` may be a substitute that answers alike
    (`substituted`) or a surrogate (`without`): then the images transfer or they do not.
    """

    name: str
    attack: Attack | Chain
    on: nn.Module | None = None
    why: str = ""
