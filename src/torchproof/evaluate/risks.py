"""The risks of a model that may be attacked by foes and by false friends, as exact counts.

D+ are the examples that the clean model answers correctly, D- the others (Tao et al. 2021):

    R_nat = P(D-)          R_adv = P(made wrong | D+)        R_hyp = P(made correct | D-)
    R_sta = P(answer changed) = (1 - R_nat) R_adv + R_nat R_sta(D-),      R_hyp <= R_sta(D-)
    A_hyp = A_nat + R_nat R_hyp, the accuracy that a verification on hypocritical examples shows
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from pydantic import BaseModel

from torchproof.core.metrics import clopper_pearson


class Fate(NamedTuple):
    """What became of one example: correct when clean; made correct by a false friend; answer
    changed by the adversary.
    """

    correct: bool
    befriended: bool
    changed: bool


class Share(BaseModel):
    """hits of n and the 95 % interval of Clopper and Pearson; value and interval null for n = 0."""

    hits: int
    n: int
    value: float | None
    ci95: tuple[float, float] | None

    @classmethod
    def of(cls, hits: int, n: int) -> Share:
        if n == 0:
            return cls(hits=0, n=0, value=None, ci95=None)
        return cls(hits=hits, n=n, value=hits / n, ci95=clopper_pearson(hits, n))


@dataclass(frozen=True)
class Risks:
    """Counts of n examples: `correct` of the clean model; `broken` of those; of the others
    `befriended`, made correct, and `swayed`, whose answer was changed by foe or friend; `unstable`
    of all n.
    """

    n: int
    correct: int
    broken: int
    befriended: int
    swayed: int
    unstable: int

    @classmethod
    def of(cls, fates: Sequence[Fate]) -> Risks:
        """Counts a set of examples. An example that a friend makes correct has changed its answer,
        whether or not the adversary found that.
        """
        return cls(
            n=len(fates),
            correct=sum(f.correct for f in fates),
            broken=sum(f.correct and f.changed for f in fates),
            befriended=sum(f.befriended and not f.correct for f in fates),
            swayed=sum(not f.correct and (f.changed or f.befriended) for f in fates),
            unstable=sum(f.changed or (f.befriended and not f.correct) for f in fates),
        )

    @property
    def wrong(self) -> int:
        return self.n - self.correct

    @property
    def shares(self) -> dict[str, Share]:
        """Every risk by name, and the two accuracies."""
        return {
            "clean_accuracy": Share.of(self.correct, self.n),
            "verification_accuracy": Share.of(self.correct + self.befriended, self.n),
            "natural_risk": Share.of(self.wrong, self.n),
            "adversarial_risk": Share.of(self.broken, self.correct),
            "hypocritical_risk": Share.of(self.befriended, self.wrong),
            "stability_risk": Share.of(self.unstable, self.n),
            "stability_risk_on_errors": Share.of(self.swayed, self.wrong),
        }

    @property
    def identities(self) -> dict[str, bool]:
        """The equalities and the inequality of this module's head, in exact fractions; those about
        an empty D- hold where it is empty.
        """
        natural = Fraction(self.wrong, self.n)
        clean, verified = 1 - natural, Fraction(self.correct + self.befriended, self.n)
        hyp = Fraction(self.befriended, self.wrong) if self.wrong else Fraction(0)
        sway = Fraction(self.swayed, self.wrong) if self.wrong else Fraction(0)
        adv = Fraction(self.broken, self.correct) if self.correct else Fraction(0)
        return {
            "R_hyp = (A_hyp - A_nat) / (1 - A_nat)": verified - clean == natural * hyp,
            "R_sta = (1 - R_nat) R_adv + R_nat R_sta(D-)": Fraction(self.unstable, self.n)
            == clean * adv + natural * sway,
            "R_hyp <= R_sta(D-)": hyp <= sway,
        }
