"""Where walks begin that bound the entries of a node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from torchproof.verify.linear import Walk
from torchproof.verify.memory import entries
from torchproof.verify.windows import Windows

ENTRIES = {"cpu": 2**19}  # of the largest tensor of rows, so that caches hold it and time is looked
MANY = 2**24  # at often, per type of device; elsewhere


class Start(NamedTuple):
    """rows (R, ...) at the node, each 1 at an entry and 0 elsewhere, and their examples in `walk`;
    places: of the entries in the node's answers (B, ...).
    """

    walk: Walk
    rows: Tensor
    example: Tensor
    places: tuple[Tensor, ...]


def at_once(walk: Walk | Windows) -> int:
    """Rows of a walk that are worked on together."""
    largest: int = max(walk.single[name].numel() for name in walk.graph.live)
    device = walk.single[walk.graph.input].device.type
    return max(1, min(ENTRIES.get(device, MANY), entries()) // largest)


def starts(walk: Walk, name: str, open_: Tensor, whole: bool = False) -> Iterator[Start]:
    """For the entries of the node where open_ (B, ...) holds, in parts; through windows where these
    are worth it, unless the walk is to be `whole`.
    """
    if not bool(open_.any()):
        return
    windows = None if whole else Windows.of(walk, name)
    if windows is not None:
        most = at_once(windows)
        yield from (Start(*start) for start in windows.starts(walk, open_, most))
        return
    places, most = open_.nonzero(), at_once(walk)
    counts = open_.flatten(1).sum(1).tolist()
    if len(places) >= len(counts) * most // 4:  # parts of one example, which look up nothing
        sizes = [min(most, n - first) for n in counts for first in range(0, n, most)]
    else:
        sizes = [min(most, len(places) - first) for first in range(0, len(places), most)]
    for part in torch.split(places, sizes):
        index = part.unbind(1)
        rows = torch.zeros(
            len(part), *open_.shape[1:], dtype=walk.single[name].dtype, device=part.device
        )
        rows[(torch.arange(len(part), device=part.device), *index[1:])] = 1.0
        yield Start(walk, rows, index[0], index)
