"""What cannot be meant is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from torchproof.attack.apgd import APGD
from torchproof.attack.catalogue import square
from torchproof.attack.combine import Attack, Chain, EveryTarget, Restarts
from torchproof.attack.fab import FAB
from torchproof.attack.fgsm import FGSM
from torchproof.attack.pgd import PGD
from torchproof.attack.square import Square
from torchproof.attack.starts import Zero
from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.objectives import (
    KL,
    Alternating,
    CrossEntropy,
    Hypocritical,
    Margin,
    Targeted,
    TargetedDLR,
    TargetedMargin,
)
from torchproof.core.rejection import Rejecting
from torchproof.core.sites import Universal
from torchproof.core.threats import Region, Threat

LINF = Threat(Linf(), 0.12)


# ---- what cannot be meant


PGD3, ZERO3 = PGD(3), PGD(3, start=Zero())
REFUSED: dict[str, Any] = {
    "restarts of the same": lambda: Restarts(Attack(LINF, CrossEntropy(), FGSM()), 2),
    "restarts from zero": lambda: Restarts(Attack(LINF, CrossEntropy(), ZERO3), 2),
    "no restart": lambda: Attack(LINF, CrossEntropy(), PGD3, restarts=0),
    "less than no target": lambda: Attack(LINF, TargetedMargin(), PGD3, targets=-1),
    "kl from zero": lambda: Attack(LINF, KL(), ZERO3),
    "kl in stages from zero": lambda: Attack(LINF, Alternating((KL(), Margin())), ZERO3),
    "kl reversed from zero": lambda: Attack(LINF, Hypocritical(KL()), ZERO3),
    "every target of a shared perturbation": lambda: EveryTarget(
        Attack(Threat(Linf(), 0.1, site=Universal()), TargetedMargin(), PGD3)
    ),
    "every target of an untargeted objective": lambda: EveryTarget(
        Attack(LINF, CrossEntropy(), PGD3)
    ),
    "a mask per image": lambda: Attack(Region(LINF, torch.ones(2, 1, 4, 4)), Margin(), PGD3),
    "no attack": lambda: Chain(()),
    "no steps": lambda: PGD(0),
    "half a step": lambda: APGD(1.5),  # type: ignore[arg-type]
    "true steps": lambda: FAB(True),
    "no queries": lambda: Square(0),
    "no length": lambda: PGD(3, length=0.0),
    "length nan": lambda: PGD(3, length=math.nan),
    "length inf": lambda: PGD(3, length=math.inf),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_meant_is_refused_at_construction(make: Any) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.remedy


def test_a_mask_per_image_is_told_where_to_go() -> None:
    with pytest.raises(InputError, match=r"Given\.each") as caught:
        REFUSED["a mask per image"]()
    assert "each of 2 images" in caught.value.given
    Attack(Region(LINF, torch.ones(1, 1, 4, 4)), Margin(), PGD3)  # one mask, however it is written


@pytest.mark.parametrize(
    "objective",
    [TargetedMargin(), Alternating((Margin(), TargetedDLR())), Hypocritical(TargetedMargin())],
    ids=repr,
)
def test_targeted_objectives_need_targets(objective: Any, make_problem: Any) -> None:
    p = make_problem()
    with pytest.raises(InputError, match="target"):
        Attack(LINF, objective, PGD3)(p.model, p.x, p.y)


@pytest.mark.parametrize(
    "target", [torch.tensor([1]), torch.tensor([1] * 5), torch.tensor([[1]] * 4)]
)
def test_targets_must_be_one_per_problem(target: Tensor, make_problem: Any) -> None:
    p = make_problem(n=4)
    with pytest.raises(InputError, match="target"):
        Attack(LINF, TargetedMargin(), PGD3)(p.model, p.x, p.y, target=target)


@pytest.mark.parametrize("count", [3, 5])
def test_labels_must_be_one_per_image(count: int, make_problem: Any) -> None:
    p = make_problem(n=4)
    with pytest.raises(InputError):
        Attack(LINF, CrossEntropy(), PGD3)(p.model, p.x, torch.zeros(count).long())


@pytest.mark.parametrize("objective", [TargetedMargin(), TargetedDLR(), Targeted()], ids=repr)
@pytest.mark.parametrize(("wrong", "known"), [(99, "classes 0 to 2"), (-2, "classes 0 to K - 1")])
def test_targets_are_classes_of_the_model(
    objective: Any, wrong: int, known: str, make_problem: Any
) -> None:
    problem = make_problem(n=4, k=3)
    target = problem.target.clone()
    target[2] = wrong
    for search in (PGD(3), APGD(3)):
        with pytest.raises(InputError, match=rf"target {wrong}\..*{known}.*count classes from 0"):
            Attack(LINF, objective, search)(problem.model, problem.x, problem.y, target=target)
    shared = Threat(Linf(), 0.12, site=Universal())
    with pytest.raises(InputError, match=rf"target {wrong}\."):
        Attack(shared, objective, PGD(3))(
            problem.model, problem.x, problem.y, target=torch.tensor([wrong])
        )


def test_targets_of_a_model_that_rejects(make_problem: Any) -> None:
    problem = make_problem(n=4, k=3)

    def model(x: Tensor) -> dict[str, Tensor]:
        z = problem.model(x)
        return {"logits": z, "reject": z[:, 0]}

    with pytest.raises(InputError, match=r"target 3\..*classes 0 to 2"):
        Attack(LINF, Rejecting(TargetedMargin()), PGD(3))(
            model, problem.x, problem.y, target=problem.target * 0 + 3
        )


def test_objectives_that_read_no_target_take_any(make_problem: Any) -> None:
    problem = make_problem(n=4, k=3)
    attack = Attack(LINF, Margin(), PGD(3))
    far, none = (
        attack(problem.model, problem.x, problem.y, target=t).score.shape
        for t in (torch.full((4,), 99), None)
    )
    assert far == none


@pytest.mark.parametrize("queries", [0, 1, -3, 2.5, True, "many"])
def test_square_speaks_of_queries(queries: Any) -> None:
    with pytest.raises(InputError, match=r"queries = .*whole number of queries >= 2") as refused:
        square(LINF, queries)
    assert "steps" not in str(refused.value)
