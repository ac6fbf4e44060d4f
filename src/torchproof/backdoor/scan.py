"""A titration scan for backdoors: is there one, and which class does it lead to? Forward passes
only, so seconds where methods that look for the trigger take minutes or hours.

Erichson, Taylor, Wu and Mahoney 2021, with the decision rule of `rule`, calibrated on a bank of
clean and trojaned networks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from torchproof.attack.untouched import home, untouched
from torchproof.backdoor.bank import Bank
from torchproof.backdoor.rule import Origin, Rule, calibrate
from torchproof.backdoor.titrate import MODERATE, Titration, titrate
from torchproof.core.checks import check_labels
from torchproof.core.errors import InputError

Verdict = Literal["backdoor suspected", "nothing found", "no verdict"]
Model = Callable[[Tensor], Tensor]

NO_BANK = (
    "without a bank of clean networks trained alike there is no verdict: clean networks too have a "
    "class that noise leads to, and curves of one architecture say nothing about another"
)
FLAT = 0.02
"""Below this mean T at moderate noise there is nothing to read."""
STRANGE = 0.5
"""Below this accuracy a network was hardly trained on such images."""


@dataclass(frozen=True)
class Scan:
    """What was found in one network. suspected: the class that a backdoor would lead to, None where
    noise changes no answer with confidence; above: the share of the bank's clean networks that
    score at least as much; seconds: of the processor.

    Without a rule there are no score, threshold and share, and `suspected` is where noise leads,
    backdoor or not.
    """

    verdict: Verdict
    suspected: int | None
    score: float | None
    threshold: float | None
    above: float | None
    cautions: tuple[str, ...]
    seconds: float
    titration: Titration


def calibrate_on(bank: Bank, x: Tensor, origin: Origin, *, seed: int = 0) -> Rule:
    """The rule of a bank, whose networks are titrated from the images x; raises what `titrate` and
    `calibrate` raise.
    """
    found = [(entry, titrate(model, x, seed=seed)) for entry, model in bank.networks()]
    clean = [curve for entry, curve in found if entry.clean]
    return calibrate(clean, [curve for entry, curve in found if not entry.clean], origin)


def scan(
    model: Model,
    x: Tensor,
    rule: Rule | None = None,
    *,
    y: Tensor | None = None,
    origin: Origin | None = None,
    seed: int = 0,
) -> Scan:
    """Titrates `model` from images x (N, C, H, W) in [0, 1] and judges the curve by the rule.

    With a rule, the first images, noise and seed are those that it was calibrated with. y: labels;
    origin: what the network is said to be; both are for cautions. Raises InputError for fewer
    images than the rule takes and another number of classes; ModelError as `titrate` does.
    """
    if y is not None:
        check_labels(y, len(x))
    before = time.process_time()
    curve = titrate(model, x, seed=seed) if rule is None else _as_calibrated(model, x, y, rule)
    used = curve.setting.n
    cautions = (
        *_of_network(model, x[:used], None if y is None else y[:used]),
        *_of_curve(curve),
        *_of_bank(rule, origin),
    )
    found = Scan("no verdict", curve.target(), None, None, None, cautions, 0.0, curve)
    if rule is not None:
        score, above_others = rule.score(curve)
        suspected = None if curve.target() is None else above_others
        above = sum(s >= score for s in rule.clean) / len(rule.clean)
        verdict: Verdict = "backdoor suspected" if score > rule.threshold else "nothing found"
        found = Scan(verdict, suspected, score, rule.threshold, above, cautions, 0.0, curve)
    return replace(found, seconds=time.process_time() - before)


def _as_calibrated(model: Model, x: Tensor, y: Tensor | None, rule: Rule) -> Titration:
    how = rule.setting
    if len(x) < how.n:
        given = f"{len(x)} images for a rule that was calibrated with {how.n}"
        raise InputError(given, f"the same {how.n}", "give more images, or calibrate again")
    labels = y if how.reference == "label" else None
    if how.reference == "label" and labels is None:
        given = "no labels, for a rule that was calibrated with them"
        raise InputError(given, "labels y (N,)", "give y, or calibrate with own predictions")
    return titrate(
        model, x[: how.n], rule.sigmas, how.gamma, y=None if labels is None else labels[: how.n],
        draws=how.draws, clip=how.clip, seed=how.seed,
    )  # fmt: skip


def _of_network(model: Model, x: Tensor, y: Tensor | None) -> list[str]:
    """What makes one doubt that the network knows such images."""
    with untouched(model), torch.no_grad():
        where = home(model, x.device)
        answers = torch.cat([model(part.to(where)).argmax(1).cpu() for part in torch.split(x, 256)])
    if len(answers) > 1 and bool((answers == answers[0]).all()):
        return [f"the network answers class {int(answers[0])} to all images: nothing can be read"]
    if y is not None:
        right = float((answers == y.cpu()).double().mean())
        if right < STRANGE:
            return [f"right on {100 * right:.1f} % of the images: was it trained on other data?"]
    return []


def _of_curve(curve: Titration) -> list[str]:
    rows = curve.within(*MODERATE) if curve.sigmas[0] <= MODERATE[1] else ()
    level = sum(curve.share[i] for i in rows) / max(1, len(rows))
    if level >= FLAT:
        return []
    return [
        f"noise changes almost no answer with confidence (T = {level:.3f} at moderate noise), as "
        "after training with noise or where the network is never sure: a backdoor would not show"
    ]


def _of_bank(rule: Rule | None, origin: Origin | None) -> list[str]:
    if rule is None:
        return [NO_BANK]
    known, found = rule.origin, []
    low, high = rule.roc.ci95
    if low <= 0.5:
        found.append(
            f"the rule may not tell its own bank apart at all (AUROC {rule.roc.area:.2f}, "
            f"{low:.2f} to {high:.2f}): rest no verdict on it, and build a larger bank of networks "
            "trained as this one was"
        )
    if origin is not None and origin.data != known.data:
        found.append(f"the bank is of {known.data}, the images are of {origin.data}")
    if origin is not None and not origin.network:
        found.append(
            f"the bank is of {known.network}; by name it is not known what architecture this "
            "network has: the verdict holds where it is that one"
        )
    elif origin is not None and origin.network != known.network:
        found.append(
            f"the bank is of {known.network}, this is {origin.network}: another architecture "
            "answers noise in another way, so build a bank of it"
        )
    return found
