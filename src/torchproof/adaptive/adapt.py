"""`adapt`: from suspicion to number. Flags, the active test, the part that misleads, a small search
for the attack that it does not mislead.

A debugger, never a certificate: robust accuracy after `adapt` is an upper bound like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from torchproof.adaptive.adapted import Adapted, Row
from torchproof.adaptive.attached import AsTable
from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.attribution import Component, attribution
from torchproof.adaptive.binarization import Binarization, Posed, Setting, posed
from torchproof.adaptive.choices import Bench, Choice, attempt_of, losses
from torchproof.adaptive.declaration import declaration
from torchproof.adaptive.discover import predictor_of
from torchproof.adaptive.estimators import AUTOGRAD, estimators
from torchproof.adaptive.hunt import Hunt
from torchproof.adaptive.intake import refuse
from torchproof.adaptive.judge import DRAWS, Judge
from torchproof.adaptive.predictor import Declared, DefendedPredictor
from torchproof.adaptive.suspicion import Suspicion, active_flag, suspicion
from torchproof.adaptive.sweep import Sweep, first, pilots
from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import Attack
from torchproof.attack.starts import Uniform, Zero
from torchproof.attack.untouched import untouched
from torchproof.core.errors import InputError
from torchproof.core.objectives import DLR, CrossEntropy, Margin, Objective
from torchproof.core.rejection import Rejecting, calibrated
from torchproof.core.sites import Model
from torchproof.core.threats import Threat
from torchproof.core.unaware import Unaware, logits_of
from torchproof.evaluate.flags import MASKING, WARNING, Flag

BUDGET = 4000  # samples per example
_FLAGGED, _TESTED, _COMPARED = 32, 16, 16  # examples
_DEAR = 6  # examples of the active test where every answer is an optimisation of its own
_DRAWS, _FEW, _POOR = 6, 3, 1500  # averaged in a step of the search; with a budget below the last
_MASKED = MASKING | {"unstable-predictions", "active-test-fails", "undefined-gradients"}


def adapt(
    model: Model, x: Tensor, y: Tensor, threat: Threat, budget: int = BUDGET, seed: int = 0, *,
    naive: Sequence[Attempt] | None = None, references: tuple[Tensor, Tensor] | None = None,
    setting: Setting = Setting(), slots: int = 128, say: Callable[[str], None] = lambda text: None,
) -> Adapted:  # fmt: skip
    """Debugs the evaluation of a model on images x (N, C, H, W) in [0, 1] with labels y (N,).

    budget: forward plus backward samples per example, on average, for all trials; flags, active
    test and comparison of the parts cost about as much again on a few dozen examples. naive: the
    evaluation in question, by default PGD-20 on cross-entropy and on the margin, unaware of any
    detector; the first of them takes the active test; references:
    images and labels that the adversary may imitate, by default x and y; slots: examples per model
    call; say: told how far it is. A model that may reject and has no rule is calibrated on x. The
    model stays as it was. Raises InputError and ModelError.
    """
    refuse(model, x, y, references)
    if budget < 1:
        raise InputError(f"budget = {budget}", "a number of samples per example >= 1", "try 4000")
    if naive is not None and not naive:
        raise InputError("no naive attack", "the evaluation in question", "leave it out for PGD-20")
    predictor = predictor_of(model, x)
    seen, rule = _terms(predictor, x, y, seed)
    random = seen.random
    judge = Judge(predictor, rule, DRAWS if random else 1, seed)
    attempts = tuple(naive) if naive is not None else _naive(threat, rule)
    clean = judge.clean(x, y)
    hunt = Hunt(judge, x, y, torch.arange(len(x)), clean.clone(), budget * len(x), seed, slots)
    say(f"clean accuracy {float(clean.float().mean()):.1%}; naive attack")
    for attempt in attempts:
        rows = hunt.standing.nonzero()[:, 0]
        if len(rows):
            hunt.run(attempt, rows, "naive")
    left = hunt.robust
    say("problems for the active test")
    few = x[: _DEAR if seen.optimises_at_test_time else _TESTED]
    problems = _posed(predictor, few, threat, rule, random, setting, seed)
    found, test, parts = _diagnosed(predictor, x, y, threat, attempts, judge, problems, seed, say)
    draws = 1 if not random else _DRAWS if budget >= _POOR else _FEW
    bench = _bench(predictor, threat, rule, draws, references or (x[clean], y[clean]), seed)
    found, best = _hunted(bench, hunt, found, parts, _used(attempts, rule), x, seed, say)
    after = None
    if best is not None and test is not None and not best.estimator.inside:
        say("active test of the best attack")
        after = _active(problems, [attempt_of(bench, best, "")])
    return _told(hunt, clean, left, found, test, after, parts, best)


def _terms(
    predictor: DefendedPredictor, x: Tensor, y: Tensor, seed: int
) -> tuple[Declared, Rejecting | None]:
    """What it is like, as measured, and how it is judged where it may reject."""
    seen = declaration(predictor, x[:_TESTED], y[:_TESTED], seed).measured
    if not seen.rejects or predictor.rule is not None:
        return seen.properties, predictor.rule
    with untouched(predictor):
        return seen.properties, calibrated(predictor, x)


def _naive(threat: Threat, rule: Rejecting | None) -> tuple[Attempt, ...]:
    losses = (("cross-entropy", CrossEntropy()), ("margin", Margin()))
    why = "a first look, for comparison"
    start = Zero() if threat.norm.least else Uniform()  # no ball of counts is evenly filled

    def attack(loss: Objective) -> Attack:
        return pgd(threat, 20, objective=Unaware(loss, rule), start=start)

    return tuple(Attempt(f"PGD-20 on {name}", attack(loss), why=why) for name, loss in losses)


def _used(attempts: Sequence[Attempt], rule: Rejecting | None) -> set[str]:
    """The names of the losses that the naive attack has tried."""
    if rule is not None:
        return {"class alone"}
    known: dict[type[Objective], str] = {
        CrossEntropy: "cross-entropy", Margin: "margin", DLR: "DLR"
    }  # fmt: skip
    found = set()
    for attempt in attempts:
        objective = getattr(attempt.attack, "objective", None)
        objective = getattr(objective, "inner", objective)
        found.add(known.get(type(objective), "cross-entropy"))  # type: ignore[arg-type]
    return found


def _diagnosed(
    predictor: DefendedPredictor, x: Tensor, y: Tensor, threat: Threat,
    attempts: Sequence[Attempt], judge: Judge, problems: Posed | None, seed: int,
    say: Callable[[str], None],
) -> tuple[Suspicion, Binarization | None, tuple[Component, ...]]:  # fmt: skip
    """Flags, the active test of the naive attack, the parts."""
    say("red flags")
    part = slice(0, _FLAGGED)
    found = suspicion(predictor, x[part], y[part], threat, attempts, judge.rule, seed)
    say("active test of the naive attack")
    test = _active(problems, attempts)
    flag = None if test is None else active_flag(test, attempts[0].name)
    found = found if flag is None else found.with_flags(flag)
    if not predictor.parts or not found.weight:
        return found, test, ()
    say("flags without each part, and through a substitute")
    part = slice(0, _COMPARED)
    few = suspicion(predictor, x[part], y[part], threat, attempts, judge.rule, seed)
    parts = attribution(predictor, x[part], y[part], threat, attempts, few, judge, seed)
    return found, test, parts


def _posed(
    predictor: DefendedPredictor, x: Tensor, threat: Threat, rule: Rejecting | None, random: bool,
    setting: Setting, seed: int,
) -> Posed | None:  # fmt: skip
    """The problems of the active test; None for a threat that has none."""
    if threat.site.shared:
        return None
    for kind in (setting, replace(setting, boundary="corner")):
        # corners are further away, so that random points meet them less often
        found = posed(predictor, x, threat, rule, random, kind, seed)
        if found.informative:
            break
    return found


def _active(problems: Posed | None, attempts: Sequence[Attempt]) -> Binarization | None:
    """The binarization test of the first attempt that is one attack; None without one."""
    for attempt in attempts if problems is not None else ():
        if isinstance(attempt.attack, Attack) and not attempt.attack.threat.site.shared:
            on = attempt.on.model if isinstance(attempt.on, AsTable) else attempt.on
            return problems.tried(attempt.attack, on)  # type: ignore[union-attr]
    return None


def _bench(
    predictor: DefendedPredictor, threat: Threat, rule: Rejecting | None, draws: int,
    references: tuple[Tensor, Tensor], seed: int,
) -> Bench:  # fmt: skip
    """What attacks are made from, with the answers to images that may be imitated."""
    x, y = references
    logits: tuple[Tensor, ...] = ()
    features: tuple[Tensor, ...] = ()
    with untouched(predictor, seed), torch.no_grad():
        outs = [predictor(part) for part in torch.split(x, 128)] if len(x) else []
    if outs:
        known = torch.cat([logits_of(out) for out in outs])
        logits = _by_class(known, y, known.shape[1])
        if isinstance(outs[0], dict) and "features" in outs[0]:
            told = torch.cat([out["features"].flatten(1) for out in outs])
            features = _by_class(told, y, known.shape[1])
    return Bench(predictor, threat, rule, logits, features, draws)


def _by_class(rows: Tensor, y: Tensor, classes: int) -> tuple[Tensor, ...]:
    """(R, D) for each class; nothing where one has no example."""
    found = tuple(rows[y.to(rows.device) == k] for k in range(classes))
    return found if all(len(part) for part in found) else ()


def _hunted(
    bench: Bench, hunt: Hunt, found: Suspicion, parts: Sequence[Component], used: set[str],
    x: Tensor, seed: int, say: Callable[[str], None],
) -> tuple[Suspicion, Choice | None]:  # fmt: skip
    """The search on a few examples that stand, then its result on all; flags that it adds."""
    standing = hunt.standing.nonzero()[:, 0]
    if not len(standing):
        return found, None
    count = pilots(hunt.budget, bench.draws)
    sweep = Sweep(bench, hunt, _pilot(hunt, standing, count), frozenset(used))
    masked = bool(_MASKED & set(found.names))
    say(f"search on {len(sweep.pilot)} examples: losses")
    every = losses(bench)
    ways = estimators(bench, parts, x, masked, seed)
    sweep.losses(every, AUTOGRAD, cheap=len(ways) > 1)
    if len(ways) > 1:
        say("search: estimators of the gradient")
        sweep.estimators(ways, every[:2])
        best = sweep.best()
        if best is not None:
            sweep.losses(every, best.choice.estimator)
    found = found.with_flags(*_won(sweep, used))
    say("search: targets and lengths")
    sweep.targets(_classes(bench) - 1)
    sweep.lengths()
    say("the best attacks on all that stands")
    return found, sweep.finish(_classes(bench) - 1)


def _pilot(hunt: Hunt, standing: Tensor, most: int) -> Tensor:
    """Half of them nearest to being lost, the others spread over the rest."""
    order = standing[hunt.score[standing].argsort(descending=True)]
    near, rest = order[: most // 2], order[most // 2 :]
    count = min(most - len(near), len(rest))
    spread = torch.linspace(0, max(len(rest) - 1, 0), count).long()
    return torch.cat([near, rest[spread]]).sort().values


def _classes(bench: Bench) -> int:
    if bench.references:
        return len(bench.references)
    return 4  # three targets, where not every class has an example


def _won(sweep: Sweep, used: set[str]) -> list[Flag]:
    """Flags that the trials themselves raise."""
    enough, flags = max(3, 0.25 * len(sweep.pilot)), []
    by_loss = first(sweep, [s.choice.loss for s in sweep.seen])
    own_losses = [seen for name, seen in by_loss.items() if name in used]
    usual = max(own_losses, key=lambda s: s.won, default=None)
    best = max(by_loss.values(), key=lambda s: s.won, default=None)
    if usual is not None and best is not None and best.won - usual.won >= enough:
        text = f"{best.choice.name} breaks {best.won} of {len(sweep.pilot)} examples that the "
        text += f"naive attack left, {usual.choice.name} {usual.won}"
        remedy = "attack with the loss that wins, and say why the usual one fails"
        flags.append(Flag("other-loss-wins", WARNING, text, remedy))
    for seen in sweep.seen:
        own = by_loss.get(seen.choice.loss.name)
        estimator = seen.choice.estimator
        way = estimator.inside or estimator.on is not None
        if way and own is not None and seen.won - own.won >= enough:
            text = f"{seen.choice.name} breaks {seen.won} of {len(sweep.pilot)} examples that the "
            text += f"naive attack left, autograd {own.won}"
            remedy = "the part hides the gradient: attack through a substitute of it"
            flags.append(Flag("surrogate-wins", WARNING, text, remedy))
            break
    return flags


def _told(
    hunt: Hunt, clean: Tensor, left: float, found: Suspicion, test: Binarization | None,
    after: Binarization | None, parts: tuple[Component, ...], best: Choice | None,
) -> Adapted:  # fmt: skip
    rows = tuple(
        Row(
            int(hunt.ids[i]), int(hunt.y[i]),
            "wrong" if not clean[i] else "standing" if hunt.standing[i] else "broken",
            hunt.by[i], float(hunt.score[i].clamp_min(-1e30)),
        )
        for i in range(len(hunt.x))
    )  # fmt: skip
    suspect = parts[0].part if parts and parts[0].score > 0 else None
    return Adapted(
        clean=float(clean.float().mean()), naive=left, robust=hunt.robust, flags=found.flags,
        declaration=found.declaration, active=test, active_after=after, components=parts,
        suspect=suspect, best=best.name if best is not None else "", steps=tuple(hunt.steps),
        rows=rows, spent=hunt.spent, budget=int(hunt.budget), x=hunt.worst,
    )  # fmt: skip
