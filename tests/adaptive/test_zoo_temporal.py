"""Temporal dependency: the reader's beginnings against reading them alone, and the row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from torchproof.adaptive.judge import Judge
from torchproof.adaptive.trial import carry_out
from torchproof.adaptive.zoo.temporal import (
    DEFENCE,
    SPLITS,
    Disagreement,
    EveryBeginning,
    Reader,
)
from torchproof.core.threats import parse


@pytest.fixture
def reader() -> Reader:
    torch.manual_seed(0)
    return Reader(8, 10).eval().requires_grad_(False)


def test_a_beginning_is_what_reading_it_alone_would_say(reader: Reader) -> None:
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    after = reader.after(x)
    for rows in range(1, 9):
        torch.testing.assert_close(after[:, rows - 1], reader(x[:, :, :rows]))


def test_the_score_is_a_total_variation_at_some_split(reader: Reader) -> None:
    x = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = reader(x).softmax(1)
    known = torch.stack([
        0.5 * (reader(x[:, :, : max(1, round(s * 8))]).softmax(1) - whole).abs().sum(1)
        for s in SPLITS
    ])  # fmt: skip
    torch.manual_seed(0)
    found = Disagreement(reader)(x, reader(x))
    apart = (known - found).abs()
    assert float(apart.amin(0).max()) < 1e-6 and float(apart.amin(1).max()) < 1e-6
    assert len(apart.argmin(0).unique()) > 1
    every = EveryBeginning(Disagreement(reader))(x)
    torch.testing.assert_close(every["reject"], known.amax(0))


def test_what_breaks_it_and_what_breaks_the_network_alone(made_row: Callable[..., Any]) -> None:
    material, defended, base = made_row("temporal")
    x, y = material.test.x, material.test.y
    judge, ids = Judge(defended, defended.rule, 11), torch.arange(len(x))
    threat = parse("linf:0.15")
    hand = carry_out(DEFENCE.adaptive(defended, threat, material)[0], judge, x, y, ids)
    assert hand.won > 0.8 * len(x)
    found = carry_out(DEFENCE.naive(defended, threat, material)[0], judge, x, y, ids)
    on_the_network = Judge(base)(found.x, y).lost
    assert bool(on_the_network.any()) and not bool(found.verdict.lost[~on_the_network].any())
