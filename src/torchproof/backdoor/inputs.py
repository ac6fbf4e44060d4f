"""What may be stamped: images, or texts as token numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.core.checks import check_images


def check_inputs(x: Tensor) -> None:
    """Images (N, C, H, W) in [0, 1], or token numbers (N, L) >= 0, int64; raises InputError."""
    text = isinstance(x, Tensor) and x.dtype == torch.int64 and x.ndim == 2 and x.numel() > 0
    if not (text and int(x.min()) >= 0):
        check_images(x)
