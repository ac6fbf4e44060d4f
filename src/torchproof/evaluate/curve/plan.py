"""What a robustness curve is going to ask, checked beforehand, and how its record names it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchproof.attack.combine import Attack, EveryTarget
from torchproof.attack.fmn import fmn
from torchproof.attack.minimum import Unlimited
from torchproof.core.errors import InputError, unknown
from torchproof.core.norms import Norm, name_of
from torchproof.core.objectives import Classification, TargetedMargin
from torchproof.core.threats import Threat
from torchproof.evaluate import identity
from torchproof.evaluate.ledger import Header
from torchproof.evaluate.member import described
from torchproof.evaluate.subject import Subject
from torchproof.evaluate.suites import SUITES


def nearest(norm: Norm) -> Attack:
    """FMN with 50 steps towards each of the 4 likeliest classes.

    On three networks (Linf, L2, L1) it ends on average within 1.5 % of the nearest image known; 100
    steps towards the runner-up, whose region is often not the nearest, end 5 % farther out.
    """
    return EveryTarget(fmn(Unlimited(norm), 50, TargetedMargin()), 4)


@dataclass(frozen=True)
class CurvePlan:
    """The minimum-norm attack and its threat; check: the eps of the fixed-budget evaluations with
    `suite`, None for a choice after the curve is known; max_eps: where the curve ends.
    """

    attack: Attack
    threat: Unlimited
    check: tuple[float, ...] | None
    suite: str
    max_eps: float | None

    @classmethod
    def of(
        cls, norm: Norm, attack: Attack | None, check: Sequence[float] | None, suite: str,
        max_eps: float | None,
    ) -> CurvePlan:  # fmt: skip
        """Raises InputError for eps that are none and an attack that measures something else,
        UnknownName for a suite that no table holds.
        """
        if not isinstance(norm, Norm):
            remedy = "pass Linf(), L2(), L1() or L0()"
            raise InputError(f"norm {norm!r}", "a Norm such as L2()", remedy)
        made = nearest(norm) if attack is None else attack
        threat = getattr(made, "threat", None)
        usual = isinstance(threat, Unlimited) and threat == Unlimited(norm, unit=threat.unit)
        if not isinstance(made, Attack) or not isinstance(threat, Unlimited) or not usual:
            remedy = f"make it with Unlimited({type(norm).__name__}())"
            given = f"{type(made).__name__} on {threat}"
            expected = f"one Attack on any {name_of(norm)} distance in the box [0, 1]"
            raise InputError(given, expected, remedy)
        if type(made.objective).won is not Classification.won:
            remedy = "use Margin() or TargetedMargin()"
            raise InputError(f"{made.objective!r}", "untargeted misclassification", remedy)
        if suite not in SUITES:
            raise unknown("suite", suite, SUITES)
        for eps in [*(check or ()), *([] if max_eps is None else [max_eps])]:
            Threat(norm, eps)
        return cls(made, threat, None if check is None else tuple(check), suite, max_eps)

    @property
    def norm(self) -> Norm:
        return self.threat.norm

    @property
    def name(self) -> str:
        """Of the minimum-norm attack."""
        return type(self.attack.search).__name__

    def header(
        self, subject: Subject, sha256: str | None, name: str | None, command: str | None
    ) -> Header:
        """What identifies the minimum-norm run, and what its record says of it."""
        settings = {
            "kind": "curve",
            "threat": repr(self.threat),
            "attack": described(self.attack),
        }
        norm, who = type(self.norm).__name__, identity.called(subject.model, name)
        call = f"torchproof.evaluate.robustness_curve({who}, {subject.examples.name}, {norm}())"
        return identity.header(subject, sha256, name, settings, {"command": command or call})
