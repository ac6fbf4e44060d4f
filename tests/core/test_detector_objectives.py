"""Objectives against detectors: numbers worked out by hand, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchproof.core.errors import InputError, ModelError
from torchproof.core.hinges import Hinges
from torchproof.core.objectives import CrossEntropy, Goal, Margin
from torchproof.core.rejection import Rejecting
from torchproof.core.selective import Accepted, Selective
from torchproof.core.two_stage import TwoStage
from torchproof.core.unaware import Unaware

RULE = Rejecting(Margin(), threshold=1.0, weight=2.0)
Z = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.9], [0.0, 5.0, 1.0]])
REJECT = torch.tensor([0.0, 3.0, 0.5])
OUT = {"logits": Z, "reject": REJECT}


def goal(y: list[int], target: list[int] | None = None) -> Goal:
    none = [-1] * len(y) if target is None else target
    return Goal(torch.tensor(y), torch.tensor(none), torch.zeros(len(y)))


def test_unaware_reads_the_logits_and_is_judged_by_the_rule() -> None:
    about = goal([0, 0, 0])
    half = Unaware(CrossEntropy(), RULE)
    torch.testing.assert_close(half.loss(OUT, about), CrossEntropy().loss(Z, about))
    assert half.won(OUT, about).tolist() == [False, False, True]  # the second is rejected
    torch.testing.assert_close(half.score(OUT, about), torch.tensor([-2.0, -4.0, 1.0]))
    assert Unaware(Margin()).won(OUT, about).tolist() == [False, True, True]
    assert Unaware(Margin()).won(Z, about).tolist() == [False, True, True]  # a plain answer too


def test_selective_takes_the_class_first_and_then_the_detector() -> None:
    about = goal([0, 0, 0])
    torch.testing.assert_close(
        Selective(Margin(), RULE).loss(OUT, about), torch.tensor([-2.0, 2 * (1 - 3.0), 1.0])
    )
    torch.testing.assert_close(Accepted(RULE).loss(OUT, about), torch.tensor([2.0, -4.0, 1.0]))
    assert Selective(Margin(), RULE).won(OUT, about).tolist() == [False, False, True]


def test_two_stages_meet_at_the_slack() -> None:
    about = goal([0, 0, 0], [1, 1, 1])
    # ahead of the best other class by -2, 0.1 and 4: with slack 0.2 the second is not there yet
    staged = TwoStage(RULE, slack=0.2)
    torch.testing.assert_close(staged.loss(OUT, about), torch.tensor([-2.0, 0.1, 1.0]))
    torch.testing.assert_close(TwoStage(RULE).loss(OUT, about), torch.tensor([-2.0, -4.0, 1.0]))


def test_hinges_add_up_those_that_object() -> None:
    scores = torch.tensor([[0.0, 2.0], [3.0, 2.0], [0.0, 0.5]])
    out = {"logits": Z, "reject": scores}
    hinges = Hinges((1.0, 1.0), weights=(1.0, 3.0))
    about = goal([0, 0, 0])
    torch.testing.assert_close(hinges.loss(out, about), -torch.tensor([2.0 + 3.0, 2 + 3.0, 0.0]))
    torch.testing.assert_close(hinges.score(out, about), torch.tensor([-3.0, -3.0, 1.0]))
    assert hinges.won(out, about).tolist() == [False, False, True]
    # a single detector may answer (B,); the verdict is that of the rule
    one = Hinges((1.0,), weights=(2.0,))
    assert torch.equal(one.won(OUT, about), RULE.won(OUT, about))
    torch.testing.assert_close(one.score(OUT, about), RULE.score(OUT, about))


def test_a_detector_that_is_content_has_no_say() -> None:
    scores = torch.tensor([[0.0, 2.0]], requires_grad=True)
    loss = Hinges((1.0, 1.0)).loss({"logits": Z[:1], "reject": scores}, goal([0]))
    (found,) = torch.autograd.grad(loss.sum(), [scores])
    torch.testing.assert_close(found, torch.tensor([[0.0, -1.0]]))


@pytest.mark.parametrize("scores", [None, torch.zeros(3, 3), torch.zeros(3)])
def test_hinges_refuse_other_answers(scores: Tensor | None) -> None:
    out = {"logits": Z} if scores is None else {"logits": Z, "reject": scores}
    with pytest.raises(ModelError):
        Hinges((1.0, 1.0)).loss(out, goal([0, 0, 0]))


def test_numbers_that_cannot_be_meant() -> None:
    with pytest.raises(InputError):
        Hinges(())
    with pytest.raises(InputError):
        Hinges((1.0,), weights=(1.0, 2.0))
    with pytest.raises(InputError):
        TwoStage(RULE, slack=-1.0)
