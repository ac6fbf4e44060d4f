"""The small space that `adapt` searches: losses, estimators of gradients, targets, lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from torchproof.adaptive.attached import AsTable
from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.judge import DRAWS
from torchproof.adaptive.predictor import DefendedPredictor
from torchproof.attack.apgd import APGD
from torchproof.attack.combine import Attack
from torchproof.attack.oracle import EOT, Oracle
from torchproof.attack.pgd import PGD
from torchproof.attack.search import Search
from torchproof.attack.selective import Orthogonal
from torchproof.attack.starts import Uniform, Zero
from torchproof.core.matching import Matching
from torchproof.core.norms import L0
from torchproof.core.objectives import (
    DLR,
    CrossEntropy,
    Margin,
    Objective,
    Targeted,
    TargetedDLR,
    TargetedMargin,
)
from torchproof.core.rejection import Heedless, Rejecting
from torchproof.core.selective import Selective
from torchproof.core.threats import AnyThreat
from torchproof.core.two_stage import TwoStage
from torchproof.core.unaware import Unaware


@dataclass(frozen=True)
class Bench:
    """What an attack on the workbench is made from. references: clean logits, class by class (R,
    K), and features (R, D) where the defence tells them; draws: answers averaged in a step, 1 for a
    model that is not random.
    """

    predictor: DefendedPredictor
    threat: AnyThreat
    rule: Rejecting | None
    references: tuple[Tensor, ...] = ()
    features: tuple[Tensor, ...] = ()
    draws: int = 1


Over = Callable[[Oracle, Objective], Oracle]


def _itself(oracle: Oracle, objective: Objective) -> Oracle:
    return oracle


@dataclass(frozen=True)
class Loss:
    """free: untargeted, aimed: with a target; None where there is no such form. wrap: an oracle of
    its own; plain: may the loss be compared from step to step, as APGD does?
    """

    name: str
    why: str
    free: Objective | None = None
    aimed: Objective | None = None
    wrap: Callable[[Oracle], Oracle] | None = None
    plain: bool = True


@dataclass(frozen=True)
class Estimator:
    """Where the gradient comes from. on: another model that is asked; over: an oracle around the
    plain one, given the objective; inside: does it stand next to the model, within EOT? price:
    forwards plus backwards per question.
    """

    name: str
    why: str
    on: nn.Module | None = None
    over: Over = _itself
    inside: bool = False
    price: int = 2


@dataclass(frozen=True)
class Choice:
    """One point of the space; restarts apply to random starts."""

    loss: Loss
    estimator: Estimator
    targets: int = 0
    steps: int = 40
    restarts: int = 1
    adaptive: bool = False

    @property
    def name(self) -> str:
        """How it is written in the record: search, steps, loss and what differs from the usual."""
        kind = "APGD" if self.adaptive else "PGD"
        parts = [f"{kind}-{self.steps} on {self.loss.name}"]
        parts += [] if self.estimator.name == "autograd" else [f"by {self.estimator.name}"]
        parts += [f"{self.targets} targets"] if self.targets else []
        parts += [f"{self.restarts} restarts"] if self.restarts > 1 else []
        return ", ".join(parts)

    def price(self, draws: int) -> int:
        """Sample-evaluations per example, at most."""
        jobs = max(self.targets, 1) * self.restarts
        extra = 2 if self.loss.wrap is not None else 1
        asked = jobs * (self.steps * self.estimator.price * extra + 1) * draws
        return asked + (DRAWS if draws > 1 else 1)  # the judge's


def attempt_of(bench: Bench, choice: Choice, why: str) -> Attempt:
    """The choice as an attempt."""
    loss, estimator = choice.loss, choice.estimator
    objective = loss.aimed if choice.targets else loss.free
    assert objective is not None
    on: nn.Module | None = estimator.on
    if isinstance(objective, Matching):
        on = AsTable(bench.predictor if on is None else on)
    # a random sparse start would have to be undone first
    sparse = isinstance(getattr(bench.threat, "norm", None), L0)
    search: Search = PGD(choice.steps, start=Zero() if sparse else Uniform())
    if choice.adaptive and loss.plain:
        search = APGD(choice.steps)

    def wrap(oracle: Oracle) -> Oracle:
        made = estimator.over(oracle, objective) if estimator.inside else oracle
        made = EOT(made, bench.draws) if bench.draws > 1 else made
        made = made if estimator.inside else estimator.over(made, objective)
        return made if loss.wrap is None else loss.wrap(made)

    restarts = choice.restarts if search.random else 1
    attack = Attack(bench.threat, objective, search, restarts, choice.targets, wrap)
    return Attempt(choice.name, attack, on, why)


def losses(bench: Bench) -> tuple[Loss, ...]:
    """Those that suit the model, the usual ones first."""
    rule = bench.rule
    found = _plain(bench) if rule is None else _aware(rule)
    judged: Objective = Unaware(Margin()) if rule is None else rule
    for key, references in (("logits", bench.references), ("features", bench.features)):
        if references:
            why = f"be like an image of another class: same {key}"
            aim = Matching(references, key, judged)
            found = (*found, Loss(f"{key[:-1]} matching", why, aimed=aim, plain=False))
    return found


def _plain(bench: Bench) -> tuple[Loss, ...]:
    def free(inner: Objective) -> Objective:
        return Unaware(inner)  # reads the logits of a table, too

    return (
        Loss("margin", "does not saturate", free(Margin()), free(TargetedMargin())),
        Loss("cross-entropy", "the usual loss", free(CrossEntropy()), free(Targeted())),
        Loss("DLR", "blind to the scale of logits", free(DLR()), free(TargetedDLR())),
    )


def _aware(rule: Rejecting) -> tuple[Loss, ...]:
    margin = replace(rule, inner=Margin())
    aimed = replace(rule, inner=TargetedMargin())
    return (
        Loss("class and acceptance", "both conditions at once", margin, aimed),
        Loss("class alone", "as if there were no detector", Unaware(Margin(), rule),
             Unaware(TargetedMargin(), rule)),
        Loss("heedless", "through the rejected zone to a class", aimed=Heedless(rule)),
        Loss("selective", "the class, then the detector alone", Selective(Margin(), rule),
             Selective(TargetedMargin(), rule), plain=False),
        Loss("orthogonal", "steps towards one that do not cost the other", margin,
             wrap=lambda oracle: Orthogonal(oracle, Margin(), rule), plain=False),
        Loss("two stages", "into a class, then the detector alone", aimed=TwoStage(rule),
             plain=False),
    )  # fmt: skip
