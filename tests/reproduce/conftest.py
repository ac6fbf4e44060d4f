"""What the tests of experiments share: a picture is rendered once in a module, however often it
is drawn, and the suite `fast` is two short attacks.
"""

from __future__ import annotations

import pytest

from torchproof.attack.catalogue import pgd
from torchproof.core.objectives import Margin
from torchproof.core.threats import AnyThreat
from torchproof.evaluate import SUITES, Member, Suite


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
