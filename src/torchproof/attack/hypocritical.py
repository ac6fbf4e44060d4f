"""Hypocritical examples, or false friends (Tao, Feng, Yi and Chen 2021, arXiv 2012.14738): inputs
moved so that a wrong model answers correctly, and passes a verification that it should fail.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchproof.attack.ascend import Run
from torchproof.attack.combine import Attack
from torchproof.attack.fgsm import FGSM
from torchproof.attack.pgd import PGD
from torchproof.attack.starts import Gaussian, Start
from torchproof.attack.untouched import home, precision, untouched
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.objectives import CrossEntropy, Hypocritical, Margin, Objective
from torchproof.core.sites import Model
from torchproof.core.threats import AnyThreat


def hypocritical(
    threat: AnyThreat,
    steps: int = 20,
    length: float = 0.25,
    objective: Objective = CrossEntropy(),
    start: Start = Gaussian(0.01),
) -> Attack:
    """PGD down the cross-entropy of the true label: errors become correct (Tao et al. 2021).

    length: of a step, in units of eps; start: normal noise of 0.01 input units, as the authors'
    evaluation; objective: what falls.
    """
    return Attack(threat, Hypocritical(objective), PGD(steps, length, start))


def hypocritical_fgsm(threat: AnyThreat) -> Attack:
    """One step down the linearised cross-entropy of the true label (Tao et al. 2021)."""
    return Attack(threat, Hypocritical(), FGSM())


def hypocritical_cw(threat: AnyThreat, steps: int = 100, length: float = 0.25) -> Attack:
    """PGD down the margin of Carlini and Wagner, the strongest of the three (Tao et al. 2021)."""
    return hypocritical(threat, steps, length, Margin())


@dataclass(frozen=True)
class Friends:
    """What a hypocritical attack made of N examples.

    value: (N, C, H, W) perturbations, zero where the clean input is answered correctly; before,
    after: (N,) bool, correct on the clean and on the moved input; spent: (N, 2) forward and
    backward samples, the clean pass included.
    """

    value: Tensor
    before: Tensor
    after: Tensor
    spent: Tensor


def befriend(attack: Attack, model: Model, x: Tensor, y: Tensor, run: Run = Run()) -> Friends:
    """`attack` on the examples that the model gets wrong; those it gets right stay as they are.

    So no correct example is ever broken, and the rise of the accuracy is the attack's success on
    the errors, exactly (the authors move correct examples too, and may break some). Raises
    InputError as `require_friendly` does.
    """
    require_friendly(attack)
    before = _right(model, x, y, run)
    wrong = (~before).nonzero()[:, 0]
    ids = torch.arange(len(x)) if run.ids is None else run.ids
    value, after = torch.zeros_like(x), before.clone()
    spent = torch.zeros(len(x), 2, dtype=torch.int64)
    spent[:, 0] = 1
    if len(wrong):
        rows = wrong.to(x.device)
        found = attack(model, x[rows], y[rows.to(y.device)], run=replace(run, ids=ids[wrong]))
        moved = found.value
        assert isinstance(moved, Tensor), "perturbations of single inputs are one tensor"
        won = found.lost.to(x.device)
        value[rows[won]] = moved.to(x)[won]
        after[wrong] = found.lost
        spent[wrong] += found.spent
    return Friends(value, before, after, spent)


def require_friendly(attack: Attack) -> None:
    """Raises InputError for an attack that wants anything but a correct answer of each example."""
    if not isinstance(attack.objective, Hypocritical) or "image" not in attack.threat.site.offers:
        given = f"{type(attack.objective).__name__} at the site {type(attack.threat.site).__name__}"
        remedy = "pass hypocritical(threat), or Attack(threat, Hypocritical(...), search)"
        raise InputError(given, "Hypocritical(...), a perturbation for each example", remedy)


@torch.no_grad()
def _right(model: Model, x: Tensor, y: Tensor, run: Run) -> Tensor:
    """(N,) bool, on the CPU: is the clean example answered correctly?"""
    device = home(model, x.device)
    kind = torch.promote_types(precision(model) or x.dtype, torch.float32)
    with untouched(model, keys.seed_of(run.seed, "clean"), device):
        answers = [
            model(part.to(device, kind)).argmax(1).cpu() for part in torch.split(x, run.slots)
        ]
    return torch.cat(answers) == y.cpu()
