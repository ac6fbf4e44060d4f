"""The two-dimensional problem of Antoniou et al. 2022, where single losses get stuck."""

from __future__ import annotations

import math

import torch
from torch import nn

from torchproof.attack.alternating import LOSSES
from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.starts import Zero
from torchproof.core.norms import L2
from torchproof.core.threats import Threat

WEIGHT = ((0.3, -0.3), (1.0, -0.01), (-0.25, 0.75))
POINT, LABEL = (-0.45, -0.8), 0
EPS, STEPS = 0.7, 50
BEST = 0.2372  # the largest margin on the circle

# The first adversarial step (None: none) and the best margin, calculated apart from this package.
EXPECTED: dict[str, tuple[int | None, float]] = {
    "CE": (2, 0.1881),
    "CW": (None, -0.0166),
    "DLR": (None, -0.0170),
    "CW-CE": (31, 0.1875),
    "DLR-CE": (31, 0.1875),
    "CE-CW": (2, 0.2372),
    "CE-DLR": (2, 0.2022),
    "CW-DLR": (None, -0.0166),
    "DLR-CW": (None, -0.0166),
}


def toy(name: str) -> tuple[int | None, float]:
    """The first adversarial step, None for none, and the best margin that one schedule of losses
    reaches: 50 steps of eps / 2 along the normalised gradient, eps 0.7 in L2, no box.
    """
    layer = nn.Linear(2, 3, bias=False).double().requires_grad_(False)
    layer.weight.copy_(torch.tensor(WEIGHT, dtype=torch.float64))
    model = nn.Sequential(nn.Flatten(), layer)
    x = torch.tensor(POINT, dtype=torch.float64).reshape(1, 1, 1, 2)
    y = torch.tensor([LABEL])
    threat = Threat(L2(), EPS, low=-math.inf, high=math.inf)
    attack = Attack(threat, LOSSES[name], PGD(STEPS, 0.5, Zero()))
    best = attack(model, x, y, run=Run(patience=math.inf))
    first = attack(model, x, y)  # ends with the first win
    step = int(first.spent[0, 0]) - 1 if bool(first.lost) else None
    return step, float(best.score)


def agrees(name: str, found: tuple[int | None, float]) -> bool:
    """Is that the calculated line of the table, the margin to 1e-3?"""
    step, margin = EXPECTED[name]
    return found[0] == step and abs(found[1] - margin) <= 1e-3
