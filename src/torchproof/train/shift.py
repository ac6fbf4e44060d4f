"""Perturbed weights, for the time of a block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def shifted(model: nn.Module, shift: Mapping[str, Tensor] | None) -> Iterator[None]:
    """w + v inside the block, and v taken away again afterwards, whatever the block did to the
    weights.

    An optimiser step inside starts from w + v, weight decay included, as in the authors' code of
    AWP. Without a step the weights come back up to rounding only; `moved` brings them back
    exactly.
    """
    parameters = dict(model.named_parameters()) if shift else {}
    pairs = [(parameters[name], v) for name, v in (shift or {}).items()]
    with torch.no_grad():
        for parameter, v in pairs:
            parameter.add_(v)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, v in pairs:
                parameter.sub_(v)


@contextmanager
def moved(model: nn.Module, delta: Mapping[str, Tensor]) -> Iterator[dict[str, nn.Parameter]]:
    """w + delta inside the block, for leaves (1, *shape), and w bit for bit afterwards; yields the
    moved parameters.
    """
    parameters = dict(model.named_parameters())
    chosen = {name: parameters[name] for name in delta}
    saved = {name: p.detach().clone() for name, p in chosen.items()}
    with torch.no_grad():
        for name, parameter in chosen.items():
            parameter.add_(delta[name][0])
    try:
        yield chosen
    finally:
        with torch.no_grad():
            for name, parameter in chosen.items():
                parameter.copy_(saved[name])
