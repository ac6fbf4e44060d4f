"""Fast-Lip (Weng et al. 2018, sec. 3.4): the Jacobian by interval products, over a ball.

Where a hidden value keeps its sign throughout the ball its slope is known; elsewhere it is in
[0, 1], and products of matrices with such slopes between them are bounded entry by entry.
Deviations: products are taken from the output to the input, so that a margin costs a backward pass;
the operations may be any of the tables, with the slopes of each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.verify.lipschitz.jacobian import Steepness
from torchproof.verify.lipschitz.local import Local


def largest(steepness: Steepness, rows: Tensor, example: Tensor) -> Tensor:
    """(R, *x) the largest absolute values of the derivatives of <row, answer>."""
    found = steepness.at_input(rows, example)
    return torch.maximum(found.lower.abs(), found.upper.abs())


FAST_LIP = Local(largest)
