"""What a proof file holds of searches: slopes of rows in the middle, and the parts of a tree."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchproof.verify.hinge_bounds import Parts
from torchproof.verify.hinge_parts import Neurons
from torchproof.verify.relu_split import Tree

LEVELS = 255  # slopes of rows in the middle are multiples of 1 / 255


@dataclass
class Middle:
    """Hears of slopes that bound what ReLUs read (`passes.Told`), and makes them a byte each."""

    kept: dict[str, list[tuple[tuple[Tensor, ...], dict[str, Tensor]]]] = field(
        default_factory=dict
    )

    def __call__(
        self, name: str, places: tuple[Tensor, ...], slopes: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        levels = {n: (s * LEVELS).round() for n, s in slopes.items()}
        self.kept.setdefault(name, []).append((places, levels))
        return {n: level / LEVELS for n, level in levels.items()}

    def told(self, name: str, example: int, shape: torch.Size) -> dict[str, Any] | None:
        """Of the entries of a node whose answers have this shape: their places, and levels for each
        with one sign, then for each with the other, of all units of the layers before, in order.
        """
        entries, above, below = list[Tensor](), list[Tensor](), list[Tensor]()
        for (whose, *index), levels in self.kept.get(name, []):
            own = (whose == example).nonzero()[:, 0]
            flat = torch.cat([level.flatten(1) for level in levels.values()], 1)
            entries.append(_flat(index, shape)[own])
            above.append(flat[own])
            below.append(flat[own + len(whose)])
        if not sum(map(len, entries)):
            return None
        return {"entries": torch.cat(entries).tolist(),
                "levels": packed(torch.cat([*above, *below]), "u1")}  # fmt: skip


def _flat(index: Sequence[Tensor], shape: torch.Size) -> Tensor:
    """Places in flattened answers."""
    found = torch.zeros_like(index[0])
    for part, size in zip(index, shape, strict=True):
        found = found * size + part
    return found


@dataclass
class Kept(Tree):
    """A tree that keeps its closed parts, whose signs are splits alone."""

    renew: bool = False
    closed: list[Parts] = field(default_factory=list)

    def _close(self, parts: Parts) -> None:
        super()._close(parts)
        self.closed.append(parts)

    def leaves(self, question: int, bent: Sequence[str]) -> list[dict[str, Any]]:
        """The parts of a question. splits: layer, entry and sign, with their multipliers `weights`;
        slopes: of the lower lines of all units, layer after layer.
        """
        neurons, told = self.bounder.neurons, []
        for parts in self.closed:
            for i in (parts.question == question).nonzero()[:, 0].tolist():
                split = (parts.signs[i] != 0).nonzero()[:, 0]
                layer, entry = _places(neurons, bent)
                told.append({
                    "splits": torch.stack([layer, entry, parts.signs[i].long()], 1)[split].tolist(),
                    "weights": parts.weights[i, split].double().clamp_min(0).tolist(),
                    "slopes": packed(_dense(neurons, bent, parts.slopes[i]), "<f4"),
                })  # fmt: skip
        return told


def _places(neurons: Neurons, bent: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(U,) the layer of each open neuron, and its place there."""
    layers = [torch.full_like(p.index, bent.index(p.node)) for p in neurons.pieces]
    return torch.cat(layers), torch.cat([piece.index for piece in neurons.pieces])


def _dense(neurons: Neurons, bent: Sequence[str], slopes: Tensor) -> Tensor:
    """Slopes (U,) at the places of all units, 0 elsewhere."""
    pieces = {piece.node: piece for piece in neurons.pieces}
    whole = []
    for name in bent:
        count = neurons.passed.walk.reference[name][0].numel()
        row = slopes.new_zeros(count)
        if name in pieces:
            row[pieces[name].index] = slopes[pieces[name].where]
        whole.append(row)
    return torch.cat(whole)


def packed(values: Tensor, kind: str) -> str:
    """Bytes of NumPy's type `kind`, deflated, in base 64."""
    content = values.cpu().numpy().astype(np.dtype(kind)).tobytes()
    return base64.b64encode(zlib.compress(content)).decode()
