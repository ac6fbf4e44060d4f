"""Numbers that weigh the terms of a loss: what is no finite number >= 0 fails when it is built."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.train import AT, AWP, JSIGR, SPAT, THRM, TRADES, GradAlign, Standard, Sum
from torchproof.train.alp import ALP
from torchproof.train.factor import check_factor
from torchproof.train.first_layer import FirstLayer
from torchproof.train.hat import HAT
from torchproof.train.hypersphere import HE
from torchproof.train.mart import MART
from torchproof.train.mma import MMA
from torchproof.train.score import SCORE

THREAT = Threat(Linf(), 0.1)
BUILD: dict[str, Callable[[Any], Any]] = {
    "TRADES, beta": lambda v: TRADES(THREAT, beta=v),
    "MART, lam": lambda v: MART(THREAT, lam=v),
    "THRM, beta": lambda v: THRM(THREAT, beta=v),
    "ALP, lam": lambda v: ALP(THREAT, lam=v),
    "SCORE, beta": lambda v: SCORE(THREAT, beta=v),
    "HE, margin": lambda v: HE(THREAT, margin=v),
    "HAT, gamma": lambda v: HAT(THREAT, gamma=v, standard=nn.Identity()),
    "HAT, helper": lambda v: HAT(THREAT, helper=v, standard=nn.Identity()),
    "SPAT, beta": lambda v: SPAT(THREAT, beta=v),
    "SPAT, margin": lambda v: SPAT(THREAT, margin=v),
    "SPAT, offset": lambda v: SPAT(THREAT, offset=v),
    "JSIGR, jacobian": lambda v: JSIGR(jacobian=v),
    "JSIGR, selective": lambda v: JSIGR(selective=v),
    "GradAlign, lam": lambda v: GradAlign(THREAT, lam=v),
    "FirstLayer, decay": lambda v: FirstLayer(v),
    "AWP, gamma": lambda v: AWP(AT(THREAT), gamma=v),
    "Sum, weight": lambda v: Sum(AT(THREAT), Standard(), weights=(1, v)),
}


@pytest.mark.parametrize("value", [-1, math.inf, math.nan, "6", None])
@pytest.mark.parametrize("what", BUILD)
def test_only_finite_numbers_weigh_terms(what: str, value: Any) -> None:
    with pytest.raises(InputError, match=what.split(", ")[1]) as said:
        BUILD[what](value)
    assert "input units" not in str(said.value)
    BUILD[what](0.5)


@pytest.mark.parametrize("value", [0, 0.0, 1, 1e9])
def test_finite_numbers_pass(value: float) -> None:
    check_factor("beta", value, "6 is usual")


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: Sum(AT(THREAT), Standard(), weights=(0, 0)), "all 0"),
        (lambda: Sum(AT(THREAT), weights=1.0), "a weight for each"),  # type: ignore[arg-type]
        (lambda: JSIGR(stride=1.5), "counts"),  # type: ignore[arg-type]
        (lambda: JSIGR(projections=1.5), "counts"),  # type: ignore[arg-type]
        (lambda: JSIGR(renew=0.5), "counts"),  # type: ignore[arg-type]
        (lambda: MMA(THREAT, bisections=2.5), "bisections"),  # type: ignore[arg-type]
        (lambda: AT("linf:8/255"), "threat"),  # type: ignore[arg-type]
        (lambda: TRADES(8 / 255), "threat"),  # type: ignore[arg-type]
    ],
)
def test_other_things_that_cannot_be_meant(build: Callable[[], Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        build()
