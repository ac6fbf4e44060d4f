"""What the rows of the zoo have in common, each trained once: a row more is a line more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.declaration import declaration
from torchproof.adaptive.judge import Judge
from torchproof.adaptive.trial import carry_out
from torchproof.adaptive.zoo import PLACES, ZOO
from torchproof.core.errors import UnknownName
from torchproof.core.threats import parse


@dataclass(frozen=True)
class Row:
    """clean: what is right at least, of the defended model and of the one without its defence.
    Under the threat the attempt of number `hand` that knows the defence breaks more than the naive
    ones of the paper, or as much, where not `more`; draws: of the judge; steps: of its search here.
    """

    clean: float
    threat: str = ""
    hand: int = 0
    draws: int = 1
    steps: int = 0
    more: bool = True


# What breaks `temporal` and `weakness`, and how, stands in their own files.
ROWS = {
    "k-wta": Row(0.5),
    "odds-are-odd": Row(0.7),
    "generative": Row(0.7),
    "sparse-fourier": Row(0.5, "l0:4"),
    "mahalanobis": Row(0.5, "linf:0.15", steps=40),
    "ecoc": Row(0.4, "linf:0.25", steps=40),
    "ensemble-diversity": Row(0.7, "linf:0.1", steps=40, more=False),
    "empir": Row(0.7, "linf:0.15", steps=40),
    "temporal": Row(0.4, draws=11),
    "mixup-inference": Row(0.4, "linf:0.2", draws=11, more=False),
    "me-net": Row(0.6, "linf:0.2", hand=1, draws=11),
    "asymmetrical": Row(0.5, "linf:0.2", steps=40),
    "weakness": Row(0.7, draws=11),
}
BROKEN = [name for name, row in ROWS.items() if row.threat]


def judge_of(model: Any, draws: int) -> Judge:
    return Judge(model, getattr(model, "rule", None), draws)


def test_the_table_of_the_zoo() -> None:
    assert set(ZOO) == set(PLACES) == set(ROWS) and len(ZOO) == len(list(ZOO)) == 13
    for name, defence in ZOO.items():
        assert defence.name == name
    with pytest.raises(UnknownName):
        ZOO["no-defence"]


@pytest.mark.parametrize("name", ROWS)
def test_a_tiny_one_is_trained_and_says_what_it_is(name: str, made_row: Callable[..., Any]) -> None:
    row, (material, defended, base) = ROWS[name], made_row(name)
    x, y = material.test.x, material.test.y
    told = declaration(defended, x, y)
    assert told.holds and declaration(base, x, y).holds
    assert told.declared == told.measured.properties  # nothing is left unsaid
    for model in (defended, base):
        assert float(judge_of(model, row.draws).clean(x, y).float().mean()) > row.clean


@pytest.mark.parametrize("name", BROKEN)
def test_who_knows_it_breaks_more(name: str, made_row: Callable[..., Any]) -> None:
    row, (material, defended, _) = ROWS[name], made_row(name)
    x, y, threat = material.test.x, material.test.y, parse(row.threat)
    judge, ids = judge_of(defended, row.draws), torch.arange(len(x))
    lost = torch.zeros(len(x), dtype=torch.bool)
    for attempt in ZOO[name].naive(defended, threat, material):
        lost |= carry_out(attempt, judge, x, y, ids).verdict.lost
    hand = shorter(ZOO[name].adaptive(defended, threat, material)[row.hand], row.steps)
    won, naive = carry_out(hand, judge, x, y, ids).won, int(lost.sum())
    assert won > naive or (not row.more and won == naive > 0)


def shorter(attempt: Attempt, steps: int) -> Attempt:
    """The attempt with so many steps; 0: as it is."""
    if not steps:
        return attempt
    attack: Any = attempt.attack
    return replace(attempt, attack=replace(attack, search=replace(attack.search, steps=steps)))
