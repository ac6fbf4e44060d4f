"""The table of blocks that `insert` puts behind layers."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from torchproof.nn.cifs import CIFS
from torchproof.nn.denoise import Bilateral, MeanFilter, MedianFilter, NonLocal, NullFilter
from torchproof.nn.odenet import ode_block

BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "CIFS": CIFS,
    "NonLocal": NonLocal,
    "Bilateral": Bilateral,
    "MeanFilter": MeanFilter,
    "MedianFilter": MedianFilter,
    "NullFilter": NullFilter,
    "ODE": ode_block,
}
"""Name -> (channels, **options) -> maps (B, C, H, W) to the same shape, the identity or documented
at the start. One that needs the number of classes takes `classes`. A new block is one row here.
"""
