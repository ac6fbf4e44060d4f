"""A row of the zoo says what it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.predictor import DefendedPredictor
from torchproof.attack.catalogue import pgd
from torchproof.core.errors import InputError
from torchproof.data import load


def row(net: Any) -> Defence:
    return Defence(
        name="none",
        source="nobody",
        read="nothing",
        reconstructed="all of it",
        data="digits",
        threat="linf:0.1",
        flags=("random",),
        why="it is a test",
        train=lambda material, seed: (DefendedPredictor(net), net),
        naive=lambda defended, threat, material: (Attempt("PGD", pgd(threat, 5)),),
        adaptive=lambda defended, threat, material: (),
    )


def test_a_row_trains_and_attacks(net: Any, threat: Any) -> None:
    test = load("digits")
    material = Material(load("digits", split="train"), test.take(20), test.take(40))
    made = row(net)
    defended, base = made.train(material, 0)
    (attempt,) = made.naive(defended, threat, material)
    assert torch.equal(defended(material.test.x), base(material.test.x))
    assert attempt.attack(defended, material.test.x, material.test.y).done.all()


@pytest.mark.parametrize(
    "change", [{"name": ""}, {"source": ""}, {"read": ""}, {"flags": ()}, {"threat": "near"}]
)
def test_a_row_that_says_too_little_is_refused(net: Any, change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        replace(row(net), **change)
