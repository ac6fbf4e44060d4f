"""Of `reproduce hgd`: the attack sets of the test, and what is measured of a denoiser on them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchproof.attack.attack_set import AttackSet, Way
from torchproof.attack.catalogue import pgd
from torchproof.attack.run import Run
from torchproof.attack.untouched import untouched
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.data.dataset import Dataset
from torchproof.evaluate import evaluate
from torchproof.nn import Purified
from torchproof.reproduce.hgd_figures import (
    CLEAN,
    END_TO_END,
    ERROR_ON,
    SETS,
    SUITE,
    UNSEEN,
    Cell,
)


@dataclass(frozen=True)
class Classifiers:
    """a: the one that denoisers are guided by; a, b: those that training images are attacked on; c:
    the one whose attacks no denoiser has seen.
    """

    a: nn.Module
    b: nn.Module
    c: nn.Module


def attacked(nets: Classifiers, test: Dataset, seed: int) -> dict[str, Tensor]:
    """The test images by the name of their attack set, clean ones among them."""
    sources = {"A": nets.a, "B": nets.b, "C": nets.c}
    found = {CLEAN: test.x}
    for name, (attack, source, eps) in SETS.items():
        made = AttackSet({source: sources[source]}, (eps,), (Way(attack, source),))
        found[name] = made(test.x, seed=seed).adv
    return found


def measured(
    kind: str, denoiser: nn.Module | None, nets: Classifiers, test: Dataset, seed: int,
    few: int, classifier: nn.Module | None = None,
) -> Cell:  # fmt: skip
    """All figures of a denoiser, None for none, before A (or before `classifier`) and before B.

    few: test images for attacks on denoiser and classifier together.
    """
    target = nets.a if classifier is None else classifier
    whole = target if denoiser is None else Purified(denoiser, target).eval()
    images, y = attacked(nets, test, seed), test.y
    right = {name: _right(whole, x, y) for name, x in images.items()}
    new = y >= UNSEEN
    cell = Cell(
        data=test.name,
        kind=kind,
        seed=seed,
        n=len(test),
        right={name: int(hits.sum()) for name, hits in right.items()},
        unseen={name: int(hits[new].sum()) for name, hits in right.items()},
        unseen_n=int(new.sum()),
        few=few,
        white=_white(whole, test.take(few), seed),
    )
    if classifier is not None:
        return cell
    other = nets.b if denoiser is None else Purified(denoiser, nets.b).eval()
    error, squared = _errors(denoiser, nets.a, test.x, images[ERROR_ON])
    more = {
        "other": {name: int(_right(other, x, y).sum()) for name, x in images.items()},
        "error": error,
        "squared": squared,
    }
    return cell.model_copy(update=more)


@torch.no_grad()
def _right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(N,) which images are classified correctly."""
    with untouched(model):
        return torch.cat([model(part).argmax(1) for part in torch.split(x, 256)]) == y


@torch.no_grad()
def _errors(
    denoiser: nn.Module | None, classifier: nn.Module, x: Tensor, adv: Tensor
) -> tuple[float, float]:
    """Means over images of |f(D(x*)) - f(x)|_1 / |f(x)|_1, f the logits, and of (D(x*) - x)^2."""
    if denoiser is None:
        found = adv
    else:
        with untouched(denoiser):
            found = torch.cat([denoiser(part) for part in torch.split(adv, 256)])
    with untouched(classifier):
        clean, moved = classifier(x), classifier(found)
    error = (moved - clean).abs().sum(1) / clean.abs().sum(1)
    return float(error.mean()), float((found - x).square().mean())


def _white(model: nn.Module, test: Dataset, seed: int) -> dict[str, int]:
    """Images still right when denoiser and classifier are attacked as one."""
    threat, found = Threat(Linf(), END_TO_END), {}
    at = _right(model, test.x, test.y).nonzero()[:, 0]
    run = Run(seed=seed, ids=at, patience=0 if len(at) else math.inf)
    lost = pgd(threat, 40, 0.1)(model, test.x[at], test.y[at], run=run).lost
    found["PGD-40"] = len(at) - int(lost.sum())
    report = evaluate(model, test, threat, suite=SUITE, seed=seed, save_adversarial=False)
    return {**found, f"{SUITE} suite": round(report.robust_accuracy * len(test))}
