"""Of `reproduce ladder`: what is measured of the networks of one data set and seed."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchproof.attack.catalogue import apgd, pgd
from torchproof.attack.run import Run
from torchproof.attack.untouched import untouched
from torchproof.core.norms import Linf
from torchproof.core.objectives import DLR
from torchproof.core.threats import Threat
from torchproof.data.dataset import Dataset
from torchproof.reproduce.ladder_figures import EPS, GRID, NETWORKS, Cell
from torchproof.train.ladder import Boundary, Fixed, Ladder, encode, interval
from torchproof.train.ladder.stages import reconstruction_error


@dataclass(frozen=True)
class Networks:
    """The network as it was, fine-tuned by LADDER, and by PGD-AT."""

    base: nn.Module
    ladder: nn.Module
    robust: nn.Module

    @property
    def named(self) -> dict[str, nn.Module]:
        return dict(zip(NETWORKS, (self.base, self.ladder, self.robust), strict=True))


def measured(
    networks: Networks, found: Ladder, few: Dataset, test: Dataset, seed: int, share: float
) -> Cell:
    """The six items of LADDER's acceptance, on test images. share: how far examples are moved."""
    boundary, x, y = found.boundary, test.x, test.y
    unit = float(encode(boundary.model, boundary.layer, few.x).norm(dim=1).mean())
    error, decisions = reconstruction_error(boundary, x)
    doses = [Fixed(dose * unit)(boundary, x, y, seed) for dose in GRID]
    guided = Fixed(share * unit)(boundary, x, y, seed).images
    off, inside = _attention(boundary, x)
    named = networks.named
    return Cell(
        data=test.name,
        seed=seed,
        n=len(test),
        latent=unit,
        beta_off=off,
        beta_inside=inside,
        errors=tuple(record.loss for record in found.decoding),
        test_error=error,
        decoded=int((decisions == y).sum()),
        svm_median=statistics.median(boundary.pairs.accuracy.tolist()),
        svm_least=float(boundary.pairs.accuracy.min()),
        scores=tuple(float(dose.score.mean()) for dose in doses),
        flips=tuple(int(dose.flipped.sum()) for dose in doses),
        clean={name: _right(model, x, y) for name, model in named.items()},
        guided={name: _right(model, guided, y) for name, model in named.items()},
        white={
            f"{name} {eps}": _white(model, x, y, eps, seed)
            for name, model in named.items()
            for eps in EPS
        },
        transfer={
            f"{name} {eps}": hits
            for eps in EPS
            for name, hits in _transferred(networks, x, y, eps, seed).items()
        },
    )


@torch.no_grad()
def _right(model: nn.Module, x: Tensor, y: Tensor) -> int:
    with untouched(model):
        answers = torch.cat([model(part).argmax(1) for part in torch.split(x, 256)])
    return int((answers == y).sum())


def _attention(boundary: Boundary, x: Tensor) -> tuple[float, bool]:
    """The largest |beta - 1| over all pairs and images; do all beta lie in the interval?"""
    z = encode(boundary.model, boundary.layer, x)
    low, high = interval(z.shape[1])
    betas = [boundary.pairs.svm(row).beta(z).aminmax() for row in range(len(boundary.pairs))]
    least, most = min(float(b.min) for b in betas), max(float(b.max) for b in betas)
    rounding = 1e-6
    return max(most - 1, 1 - least), low - rounding <= least and most <= high + rounding


def _white(model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> int:
    """Right under the worse of APGD-CE and APGD-DLR, 50 steps each, on this network."""
    threat = Threat(Linf(), eps)
    with untouched(model), torch.no_grad():
        left = (model(x).argmax(1) == y).nonzero()[:, 0]
    for attack in (apgd(threat, 50), apgd(threat, 50, DLR())):
        if len(left):
            lost = attack(model, x[left], y[left], run=Run(seed=seed, ids=left)).lost
            left = left[~lost]
    return len(left)


def _transferred(networks: Networks, x: Tensor, y: Tensor, eps: float, seed: int) -> dict[str, int]:
    """Right on stored attack images: PGD-40 on the network as it was, kept at the worst point."""
    run = Run(seed=seed, patience=math.inf)
    value = pgd(Threat(Linf(), eps), 40, 0.1)(networks.base, x, y, run=run).value
    assert isinstance(value, Tensor), "perturbations of single inputs are one tensor"
    images = (x + value).clamp(0, 1)
    return {name: _right(model, images, y) for name, model in networks.named.items()}
