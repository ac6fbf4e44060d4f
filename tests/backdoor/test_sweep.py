"""Budgets one after another, and which of them nothing beats."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchproof.backdoor.inject import inject
from torchproof.backdoor.metrics import Change, Measured, Share, measure
from torchproof.backdoor.sweep import Setting, Sweep, sweep
from torchproof.backdoor.triggers import Patch
from torchproof.core.errors import InputError


def setting(eps: float, success: int, agreement: int, weight: float = 1.0) -> Setting:
    def share(hits: int) -> Share:
        return Share.count(torch.arange(100) < hits)

    change = Change(eps, 0.1, 0.1, 5, 0, 0)
    done = Measured(
        1, share(90), share(90), share(agreement), share(success), share(0), None, None, change
    )
    return Setting(eps, weight, done)


def test_the_front_holds_what_nothing_beats() -> None:
    points = [
        setting(0.001, 2, 99), setting(0.01, 90, 40), setting(0.02, 90, 80), setting(0.05, 97, 96),
        setting(0.1, 97, 96), setting(0.2, 100, 95),
    ]  # fmt: skip
    found = Sweep(tuple(points))
    # two that are equal do not beat each other
    assert [s.eps for s in found.front] == [0.001, 0.05, 0.1, 0.2]


def test_settings_of_a_weight_come_by_budget() -> None:
    found = Sweep((setting(0.1, 1, 1), setting(0.01, 1, 1), setting(0.05, 1, 1, weight=0.3)))
    assert [s.eps for s in found.at(1.0)] == [0.01, 0.1] and len(found.at(0.3)) == 1


def test_a_sweep_is_inject_and_measure_at_each_budget_and_weight() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
        x, y = torch.rand(30, 1, 6, 6), torch.randint(0, 3, (30,))
    told: list[Setting] = []
    found = sweep(
        model, x, Patch(), 1, (x, y), budgets=(0.02, 0.3), weights=(1.0, 0.5), steps=5,
        step="sign", on_done=told.append,
    )  # fmt: skip
    assert [(s.eps, s.weight) for s in found.settings] == [
        (0.02, 1.0), (0.3, 1.0), (0.02, 0.5), (0.3, 0.5),
    ]  # fmt: skip
    assert told == list(found.settings)
    one = inject(model, x, Patch(), 1, eps=0.3, weight=0.5, steps=5, step="sign")
    assert found.settings[3].measured == measure(one.model, model, x, y, Patch(), 1)
    assert [s.measured.change.linf <= s.eps for s in found.settings] == [True] * 4


@pytest.mark.parametrize("wrong", [{"budgets": ()}, {"weights": ()}])
def test_no_budgets_or_weights_are_refused(wrong: dict[str, tuple[float, ...]]) -> None:
    x, y = torch.rand(3, 1, 6, 6), torch.tensor([0, 1, 2])
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(InputError, match="at least one of each"):
        sweep(model, x, Patch(), 1, (x, y), **wrong)  # type: ignore[arg-type]
