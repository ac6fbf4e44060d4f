"""What is counted, reported and spent: exactly what the model saw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from torchproof.attack.apgd import APGD
from torchproof.attack.carlini_wagner import cw
from torchproof.attack.cases import Found
from torchproof.attack.combine import Attack, Chain, EveryTarget, Restarts
from torchproof.attack.ddn import ddn
from torchproof.attack.deepfool import deepfool
from torchproof.attack.fab import FAB
from torchproof.attack.fgsm import FGSM
from torchproof.attack.fmn import fmn
from torchproof.attack.hop_skip_jump import hop_skip_jump
from torchproof.attack.input_diversity import diverse
from torchproof.attack.l1_apgd import L1APGD
from torchproof.attack.nes import nes, spsa
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.square import Square
from torchproof.attack.starts import Zero
from torchproof.attack.translation_invariant import translation_invariant
from torchproof.attack.variance_tuning import vmi_fgsm
from torchproof.core.errors import InputError
from torchproof.core.norms import L1, L2, Linf
from torchproof.core.objectives import (
    DLR,
    Alternating,
    CrossEntropy,
    Margin,
    TargetedDLR,
    TargetedMargin,
)
from torchproof.core.sites import Latent
from torchproof.core.threats import Threat

LINF = Threat(Linf(), 0.12)
L2_ = Threat(L2(), 0.35)
L1_ = Threat(L1(), 1.0)

ATTACKS: dict[str, Any] = {
    "fgsm": Attack(LINF, CrossEntropy(), FGSM()),
    "pgd": Attack(LINF, CrossEntropy(), PGD(5)),
    "pgd l2 restarts": Restarts(Attack(L2_, DLR(), PGD(3)), 3),
    "apgd": Attack(LINF, CrossEntropy(), APGD(8)),
    "apgd l2": Attack(L2_, Alternating((CrossEntropy(), DLR())), APGD(8)),
    "apgd-t": EveryTarget(Attack(LINF, TargetedDLR(), APGD(4)), 3),
    "fab-t": EveryTarget(Attack(LINF, TargetedMargin(), FAB(5)), 3),
    "fab-t l2": EveryTarget(Attack(L2_, TargetedMargin(), FAB(5)), 2),
    "square": Attack(LINF, Margin(), Square(12)),
    "square l2": Attack(L2_, Margin(), Square(12)),
    "square l1": Attack(L1_, Margin(), Square(12)),
    "l1-apgd-t": EveryTarget(Attack(L1_, TargetedDLR(), L1APGD(8)), 2),
    "fab-t l1": EveryTarget(Attack(L1_, TargetedMargin(), FAB(5)), 2),
    "nes": nes(LINF, 60, pairs=4),
    "spsa": spsa(L2_, 60, pairs=4),
    "hop-skip-jump": hop_skip_jump(L2_, 80, first=10),
    "deepfool": deepfool(LINF, 6, 2),
    "ddn": ddn(L2_, 6),
    "fmn": fmn(L1_, 6),
    "cw": cw(L2_, 2, 4),
    "vmi-di-ti": translation_invariant(diverse(vmi_fgsm(LINF, 4, 0.3, samples=2)), 3),
    "latent": Attack(Threat(L2(), 0.3, site=Latent("bn")), CrossEntropy(), PGD(4)),
    "chain": Chain((Attack(LINF, CrossEntropy(), FGSM()), Attack(LINF, Margin(), Square(8)))),
}
each_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())


# ---- counts


def ladder(x: Tensor) -> Tensor:
    """Two logits, their difference the first pixel: every rise of it by 0.1 is a rise of the margin
    by 0.1.
    """
    first = x.flatten(1)[:, 0]
    return torch.stack([torch.zeros_like(first), first - 0.55], 1)


STEPS = 6


@pytest.mark.parametrize("slots", [1, 2, 5, 128])
def test_evaluations_are_counted_exactly(slots: int, counted: Any) -> None:
    """Example i is lost at question i: clean at 0.55 + ..., else after as many steps as it needs,
    or never.
    """
    start = torch.tensor([0.60, 0.50, 0.40, 0.30, 0.0, 0.0])
    x, y = start.reshape(6, 1, 1, 1), torch.zeros(6).long()
    model = counted(ladder)
    attack = Attack(Threat(Linf(), 0.4), Margin(), PGD(STEPS, length=0.25, start=Zero()))
    found = attack(model, x, y, run=Run(slots=slots))
    assert found.lost.tolist() == [True, True, True, True, False, False]
    never = [STEPS + 1, STEPS]
    assert found.spent.tolist() == [[1, 1], [2, 2], [3, 3], [4, 4], never, never]
    assert [model.forwards, model.backwards] == found.spent.sum(0).tolist()


@pytest.mark.parametrize(
    ("search", "forwards", "backwards"),
    [
        (FGSM(), 2, 1),
        (PGD(9), 10, 9),
        (APGD(9), 10, 9),
        (FAB(9), 10, 9),
        (Square(9), 9, 0),
        (Square(2), 2, 0),
        (Square(2), 2, 0),
        (PGD(1), 2, 1),
        (APGD(1), 2, 1),
    ],
    ids=repr,
)
def test_a_model_that_is_never_broken_costs_what_was_announced(
    search: Any, forwards: int, backwards: int, counted: Any
) -> None:
    model = counted(lambda x: ladder(x) - torch.tensor([0.0, 9.0]))
    x, y = torch.full((5, 1, 2, 2), 0.5), torch.zeros(5).long()
    attack = Attack(Threat(Linf(), 0.1), Margin(), search)
    found = attack(model, x, y, run=Run(slots=2))
    assert found.spent.tolist() == [[forwards, backwards]] * 5
    assert [model.forwards, model.backwards] == found.spent.sum(0).tolist()


@each_attack
def test_what_is_said_to_be_spent_is_what_the_model_saw(
    attack: Any, make_problem: Any, counted: Any
) -> None:
    """Choosing targets and asking a layer for its output are evaluations too."""
    p = make_problem(n=9, k=4, dtype=torch.float64)
    model = p.model
    seen = counted(model)
    if isinstance(getattr(attack, "threat", LINF).site, Latent):
        attack = Attack(Threat(L2(), 0.8, site=Latent("inner.bn")), CrossEntropy(), PGD(4))
    found = attack(seen, p.x, p.y, run=Run(slots=4))
    assert found.spent.sum(0).tolist() == [seen.forwards, seen.backwards]


@pytest.mark.parametrize("n", [2, 5])
def test_restarts_and_targets_cost_a_job_each_and_end_with_a_win(n: int, counted: Any) -> None:
    x, y = torch.tensor([0.55, 0.0]).reshape(2, 1, 1, 1), torch.zeros(2).long()
    model = counted(ladder)
    attack = Restarts(Attack(Threat(Linf(), 0.2), Margin(), PGD(3, length=1.0)), n)
    found = attack(model, x, y)
    assert found.lost.tolist() == [True, False]
    assert int(found.spent[0, 0]) <= 2, "a step of full length wins at the second question"
    assert found.spent[1].tolist() == [4 * n, 3 * n]
    assert found.by.tolist() == [[-1, 0], [-1, 0]], "the first of equals is kept"


def test_later_targets_are_cancelled_by_a_win_and_start_with_the_likeliest() -> None:
    def model(x: Tensor) -> Tensor:
        first = x.flatten(1)[:, 0]
        return torch.stack([1 + 0 * first, 0.7 + 0 * first, 0.4 + first, 0.9 + 0 * first], 1)

    x, y = torch.tensor([0.5, 0.0]).reshape(2, 1, 1, 1), torch.zeros(2).long()
    attack = EveryTarget(
        Attack(Threat(Linf(), 0.2), TargetedMargin(), PGD(2, length=1.0, start=Zero())), 9
    )
    found = attack(model, x, y)
    assert found.lost.tolist() == [True, False]
    assert int(found.by[0, 0]) == 2, (
        "targets by clean logits: 3, 2, 1 (or 2 first, where 0.9 = 0.4 + 0.5)"
    )
    first = attack(model, x - 0.01, y).by
    assert first.tolist() == [[2, 0], [3, 0]], "what lost nothing names its best run"
    quiet = attack(model, torch.zeros(1, 1, 1, 1), y[:1])
    assert int(quiet.spent[0, 0]) - 3 * 3 in (0, 1), (
        "three targets of three questions, and the clean one"
    )


# ---- endings


@each_attack
@pytest.mark.parametrize("slots", [1, 4])
def test_each_problem_is_reported_once_and_with_its_result(
    attack: Any, slots: int, make_problem: Any
) -> None:
    p = make_problem(n=9, k=4, dtype=torch.float64)
    reported: dict[int, tuple[bool, float]] = {}

    def on_done(found: Found, problems: list[int]) -> None:
        for i in problems:
            assert i not in reported, f"{i} twice"
            assert bool(found.done[i])
            reported[i] = bool(found.lost[i]), float(found.score[i])

    found = attack(p.model, p.x, p.y, run=Run(slots=slots, on_done=on_done))
    assert sorted(reported) == list(range(9)) and bool(found.done.all())
    for i, (lost, score) in reported.items():
        assert (lost, score) == (bool(found.lost[i]), float(found.score[i]))


def test_stopping_leaves_the_rest_undone(make_problem: Any, counted: Any) -> None:
    p = make_problem(n=12, dtype=torch.float64)
    asked = [0]

    def stop() -> bool:
        asked[0] += 1
        return asked[0] > 9

    model = counted(p.model)
    attack = Attack(Threat(Linf(), 0.02), CrossEntropy(), PGD(3))
    found = attack(model, p.x, p.y, run=Run(slots=2, stop=stop))
    assert 0 < int(found.done.sum()) < 12
    assert not bool(found.lost[~found.done].any())
    assert found.spent.sum(0).tolist() == [model.forwards, model.backwards], (
        "jobs under way have cost too"
    )
    none = attack(model, p.x, p.y, run=Run(stop=lambda: True))
    assert not bool(none.done.any()) and int(none.spent.sum()) == 0


@pytest.mark.parametrize("budget", [2, 4, 5, 7, 100])
@pytest.mark.parametrize("search", [PGD(6), Square(11), APGD(6)], ids=repr)
def test_a_job_spends_no_more_than_its_budget(budget: int, search: Any, counted: Any) -> None:
    model = counted(lambda x: ladder(x) - torch.tensor([0.0, 9.0]))
    x, y = torch.full((3, 1, 2, 2), 0.5), torch.zeros(3).long()
    found = Attack(LINF, Margin(), search)(model, x, y, run=Run(budget=budget))
    assert bool((found.spent.sum(1) <= budget).all())
    assert found.spent.sum(0).tolist() == [model.forwards, model.backwards]
    assert bool(found.done.all())


def test_a_budget_holds_for_each_job() -> None:
    x, y = torch.full((2, 1, 2, 2), 0.1), torch.zeros(2).long()
    attack = Restarts(Attack(LINF, Margin(), PGD(6)), 3)
    found = attack(lambda z: ladder(z), x, y, run=Run(budget=4))
    assert found.spent.tolist() == [[6, 6]] * 2


@pytest.mark.parametrize("slots", [0, -1])
def test_no_slots_are_refused(slots: int) -> None:
    with pytest.raises(InputError, match="slots"):
        Run(slots=slots)
