"""The table of blocks that `insert` puts behind layers."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

BLOCKS: dict[str, Callable[..., nn.Module]] = {}
"""Name -> (channels, **options) -> maps (B, C, H, W) to the same shape, the identity or documented
at the start. One that needs the number of classes takes `classes`. A new block is one row here.
"""
