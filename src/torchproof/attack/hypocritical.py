"""Hypocritical examples, or false friends (Tao, Feng, Yi and Chen 2021, arXiv 2012.14738): inputs
moved so that a wrong model answers correctly, and passes a verification that it should fail.
"""

from __future__ import annotations

from torchproof.attack.combine import Attack
from torchproof.attack.fgsm import FGSM
from torchproof.attack.pgd import PGD
from torchproof.attack.starts import Gaussian, Start
from torchproof.core.errors import InputError
from torchproof.core.objectives import CrossEntropy, Hypocritical, Margin, Objective
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


def require_friendly(attack: Attack) -> None:
    """Raises InputError for an attack that wants anything but a correct answer of each example."""
    if not isinstance(attack.objective, Hypocritical) or "image" not in attack.threat.site.offers:
        given = f"{type(attack.objective).__name__} at the site {type(attack.threat.site).__name__}"
        remedy = "pass hypocritical(threat), or Attack(threat, Hypocritical(...), search)"
        raise InputError(given, "Hypocritical(...), a perturbation for each example", remedy)
