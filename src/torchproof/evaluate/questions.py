"""The questions of the probes; each answers for every example it is asked about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import Attack
from torchproof.attack.starts import Zero
from torchproof.core import keys
from torchproof.core.norms import Linf
from torchproof.core.objectives import Classification, Margin
from torchproof.core.threats import Threat
from torchproof.evaluate.entries import Entry
from torchproof.evaluate.inquiry import Answer, Inquiry
from torchproof.evaluate.ledger import Record
from torchproof.evaluate.member import PROBES
from torchproof.evaluate.suites import bounded, confined
from torchproof.evaluate.surroundings import surroundings
from torchproof.evaluate.watched import Watched

_STEPS = 20  # of the attack on the whole box
_MOST = 200  # steps of an attack that is run again


def whole_box(inquiry: Inquiry) -> list[Answer]:
    """beyond: does PGD on the margin win where every pixel may take any value? None in a region,
    and for a model that may reject: far from the data it rightly does.
    """
    if confined(inquiry.threat) or inquiry.subject.rejecting is not None:
        return [({"beyond": None}, 0, 0)] * len(inquiry.rows)
    ball = bounded(inquiry.threat)
    box = Threat(Linf(), ball.high - ball.low, low=ball.low, high=ball.high)
    x, y = inquiry.subject.rows(inquiry.rows)
    attack = pgd(box, _STEPS, objective=Margin(), start=Zero())
    found = attack(inquiry.subject.model, x, y, run=inquiry.run("beyond"))
    return [
        ({"beyond": lost, **_failed(blind)}, *spent) if done else None
        for lost, spent, done, blind in zip(
            found.lost.tolist(), found.spent.tolist(), found.done.tolist(),
            found.undefined.tolist(), strict=True,
        )
    ]  # fmt: skip


def _failed(undefined: int) -> Record:
    """What a record says of a question that met gradients that were NaN or infinite."""
    return {"failed": True} if undefined else {}


def _candidate(entries: Sequence[Entry], aim: bool) -> tuple[str, Attack, int] | None:
    """The attack with the most steps that can be given more of them, its label and new steps; `aim`
    says that every example has a target.
    """
    best: tuple[str, Attack, int] | None = None
    for entry in entries:
        attack = entry.member.attack
        search: Any = attack.search
        sized = is_dataclass(search) and any(field.name == "steps" for field in fields(search))
        aimed = attack.objective.targeted and not attack.targets and not aim
        if not sized or aimed or not search.gradient or search.wanders:
            continue
        if best is None or search.steps > best[1].search.steps:
            best = entry.label, attack, min(2 * search.steps, _MOST)
    return best


def longer(inquiry: Inquiry) -> list[Answer]:
    """An attack of the suite with twice its steps (at most 200) and a new start: longer: does it
    win; late: the share of its progress in the second half; silent: did it pass over a win;
    answer: the class at the worst point where it did not win; by, steps: which attack.

    late is None where the run won or was cut short; answer where losing one's class is no win, or
    the attack sees to it that it is not rejected.
    """
    candidate = _candidate(inquiry.entries, inquiry.target is not None)
    if candidate is None:
        return [({}, 0, 0)] * len(inquiry.rows)
    label, attack, steps = candidate
    x, y = inquiry.subject.rows(inquiry.rows)
    watch, inner = Watched(), attack.wrap
    search: Any = attack.search
    again = replace(
        attack,
        search=replace(search, steps=steps),
        restarts=1,
        targets=min(attack.targets, 1),
        wrap=lambda oracle: watch.over(inner(oracle)),
    )
    # an oracle that asks many times per step (EOT, NES) gets no more than others do
    run = replace(inquiry.run("longer"), budget=(2 * _MOST + 1) * inquiry.draws)
    found = again(inquiry.subject.model, x, y, target=inquiry.target, run=run)
    if not bool(found.done.all()):
        return [None] * len(inquiry.rows)
    assert isinstance(found.value, Tensor)
    with inquiry.subject.asked(PROBES) as ask, torch.inference_mode():
        z = ask(x + found.value.to(x))
    plain = isinstance(attack.objective, Classification) or not attack.objective.targeted
    plain = plain and inquiry.subject.rejecting is None
    answers: list[Answer] = []
    for i, target, lost, spent, answer, blind in zip(
        inquiry.ids.tolist(), found.by[:, 0].tolist(), found.lost.tolist(), found.spent.tolist(),
        z.argmax(1).tolist(), found.undefined.tolist(), strict=True,
    ):  # fmt: skip
        key = int(keys.mix(run.seed, torch.tensor([i]), target, 0)[0])
        more: Record = {
            "longer": lost,
            "late": None if lost else watch.late(key, steps),
            "silent": not lost and watch.won(key),
            "answer": answer if plain and not lost else None,
            "by": label,
            "steps": steps,
            **_failed(blind),
        }
        answers.append((more, spent[0] + inquiry.draws, spent[1]))
    return answers


# The name of each question, who answers it, and whether only examples left standing are asked.
QUESTIONS: tuple[tuple[str, Callable[[Inquiry], list[Answer]], bool], ...] = (
    ("surroundings", surroundings, False),
    ("beyond", whole_box, True),
    ("longer", longer, True),
)
