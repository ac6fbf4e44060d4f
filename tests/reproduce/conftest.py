"""What the tests of experiments share: a picture is rendered once in a module, however often it
is drawn, and attacks are short, those of the suite `fast`, of its probes and of tables.
"""

from __future__ import annotations

import pytest

from torchproof.attack.catalogue import pgd
from torchproof.attack.pgd import PGD
from torchproof.core.objectives import Margin
from torchproof.core.threats import AnyThreat
from torchproof.evaluate import SUITES, Member, Suite, questions
from torchproof.recipes import many


@pytest.fixture(autouse=True, scope="module")
def quick_pictures(rendered_once: None) -> None:
    """A run and its resumption draw the same ones."""


@pytest.fixture(autouse=True)
def fast_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What experiments make of an evaluation is tested here, not how strong its attacks are."""

    def short(threat: AnyThreat) -> Suite:
        each = {"FGSM": pgd(threat, 1, 1.0), "PGD-5-margin": pgd(threat, 5, objective=Margin())}
        return Suite(tuple(Member(name, attack) for name, attack in each.items()))

    monkeypatch.setitem(SUITES, "fast", short)
    monkeypatch.setattr(questions, "_STEPS", 4)
    monkeypatch.setattr(many, "PGD", lambda steps, *more: PGD(min(steps, 4), *more))
