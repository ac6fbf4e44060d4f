"""`torchproof list`: every table, every name, a line about each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from torchproof.attack.catalogue import NAMES
from torchproof.cli.listing import KINDS
from torchproof.data import DATASETS
from torchproof.train import METHODS, OPTIMISERS, Settings


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_of_a_kind_has_one_line(cli: Callable[..., Any], kind: str) -> None:
    entries = KINDS[kind]()
    assert entries
    for name, text in entries.items():
        assert len(text) >= 10 and "\n" not in text, f"{kind}: {name!r} has the line {text!r}"
        assert text != dict.__doc__  # that of a class without a docstring of its own
    answer = cli("list", kind, width=200)
    assert answer.code == 0 and answer.err == ""
    for name, text in entries.items():
        assert name in answer.out and text[:60] in answer.words


def test_all_kinds_are_printed(cli: Callable[..., Any]) -> None:
    answer = cli("list", width=200)
    assert answer.code == 0
    assert all(f"\n{kind} " in f"\n{answer.out}" for kind in KINDS)


def test_nothing_that_an_expression_may_name_is_missing() -> None:
    shown = {n for k in ("attacks", "objectives", "starts", "schedules") for n in KINDS[k]()}
    assert shown == set(NAMES)
    assert set(KINDS["methods"]()) == set(METHODS) and set(KINDS["data"]()) == set(DATASETS)
    assert set(KINDS["settings"]()) == set(Settings.model_fields)
    assert set(KINDS["optimisers"]()) == set(OPTIMISERS)


def test_optimisers_and_rates_say_what_torch_calls_them() -> None:
    optimisers, rates = KINDS["optimisers"](), KINDS["rates"]()
    assert optimisers["adamw"].endswith(".AdamW") and optimisers["sgd"].endswith(".SGD")
    assert "Nesterov" in optimisers["nesterov"] and "Nesterov" not in optimisers["sgd"]
    assert "CosineAnnealingLR" in rates["cosine"] and "ConstantLR" in rates["constant"]


def test_an_unknown_kind_suggests_the_nearest(cli: Callable[..., Any]) -> None:
    cli("list", "atacks").refused("atacks", "did you mean attacks")
    cli("list", "zzz").refused("choose one of", "suites")


@pytest.mark.parametrize("width", [30, 50])
def test_names_stay_whole_in_a_narrow_terminal(cli: Callable[..., Any], width: int) -> None:
    answer = cli("list", "attacks", width=width)
    lines = answer.out.splitlines()
    assert max(map(len, lines)) <= width
    for name in KINDS["attacks"]():
        assert any(line.strip().startswith(name) for line in lines), name
    assert "Goodfellow et al. 2015" in answer.words
