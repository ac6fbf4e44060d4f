"""GiveUp, FromClean: runs end where their rule says, and nothing else about them changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from torchproof.attack.apgd import APGD, checkpoints
from torchproof.attack.around import FromClean
from torchproof.attack.combine import Attack
from torchproof.attack.give_up import GiveUp, Levels, Slope
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.square import Square
from torchproof.attack.starts import Zero
from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.objectives import Margin, TargetedMargin
from torchproof.core.threats import Threat

EPS = 0.1


def line(slope: float) -> Any:
    """Two classes of one pixel x: logits 0 and slope * (x - 0.5) - 1, so the margin starts at -1 at
    x = 0.5 and rises by `slope` per unit.
    """

    def model(x: Tensor) -> Tensor:
        first = x.flatten(1)[:, 0]
        return torch.stack([0 * first, slope * (first - 0.5) - 1], 1)

    return model


def asked(search: Any, slope: float, objective: Any = Margin(), target: bool = False) -> Tensor:
    """Forward samples spent on one image at 0.5 with label 0."""
    x, y = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, dtype=torch.int64)
    attack = Attack(Threat(Linf(), EPS), objective, search)
    found = attack(line(slope), x, y, target=torch.ones(1, dtype=torch.int64) if target else None)
    return found.spent[0, 0]


def test_slope_stops_where_the_gain_does_not_reach() -> None:
    """Steps of eps / 10 raise the margin by slope * eps / 10 each: -1 -> -1 + k * slope / 100."""
    steady = PGD(10, length=0.1, start=Zero())
    # after 2 and 4 answers: best = -1 + 1 * gain and -1 + 3 * gain, gain = slope / 100
    for slope, patience, stops in ((5.0, 5.0, True), (5.0, 50.0, False)):
        gain = slope / 100
        hopeless = (-1 + 3 * gain) + patience * 2 * gain < 0
        assert hopeless is (stops if patience == 5.0 else hopeless)
        spent = asked(GiveUp(steady, (2, 4), Slope(patience)), slope)
        assert int(spent) == (4 + 1 if hopeless else 10 + 1), (
            "and one question about the last point"
        )


def test_levels_compare_with_the_first_value() -> None:
    steady = PGD(10, length=0.1, start=Zero())
    # after 5 answers the best margin is -1 + 4 * slope / 100
    slope = 10.0
    assert int(asked(GiveUp(steady, (5,), Levels((0.59,))), slope)) == 6
    assert int(asked(GiveUp(steady, (5,), Levels((0.61,))), slope)) == 11


def test_nothing_changes_where_nothing_stops() -> None:
    x, y = torch.rand(5, 1, 4, 4, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    weight = torch.linspace(-1, 1, 32, dtype=torch.float64).reshape(2, 16)

    def model(x: Tensor) -> Tensor:
        return x.flatten(1) @ weight.T + torch.tensor([5.0, 0.0])

    threat = Threat(Linf(), EPS)
    plain = Attack(threat, Margin(), APGD(20))(model, x, y, run=Run(slots=2))
    watched = GiveUp(APGD(20), tuple(checkpoints(20)), Slope(1e9))
    same = Attack(threat, Margin(), watched)(model, x, y, run=Run(slots=2))
    assert torch.equal(plain.spent, same.spent)
    assert torch.equal(torch.as_tensor(plain.value), torch.as_tensor(same.value))


@pytest.mark.parametrize("search", [APGD(6), Square(9), PGD(5)])
def test_from_clean_asks_once_more_and_goes_the_same_way(search: Any) -> None:
    """Also where rows are refilled at different steps, so that fresh and old rows mix."""
    x = torch.rand(5, 1, 4, 4, dtype=torch.float64)
    y = torch.zeros(5, dtype=torch.int64)
    seen: list[Tensor] = []
    weight = torch.linspace(-1, 1, 32, dtype=torch.float64).reshape(2, 16)

    def model(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        # a bend, so that the way depends on the point, and on nothing but the point
        return torch.tanh(x.flatten(1) @ weight.T) + torch.tensor([9.0, 0.0])

    threat = Threat(Linf(), EPS)
    run = Run(slots=2, budget=8)
    plain = Attack(threat, Margin(), search)(model, x, y)
    seen.clear()
    found = Attack(threat, Margin(), FromClean(search))(model, x, y)
    assert torch.equal(seen[0], x), "the clean points come first"
    assert torch.equal(found.spent - plain.spent, torch.tensor([[1, int(search.gradient)]] * 5))
    assert torch.equal(torch.as_tensor(found.value), torch.as_tensor(plain.value))
    small = Attack(threat, Margin(), FromClean(search))(model, x, y, run=Run(slots=2))
    assert torch.equal(torch.as_tensor(small.value), torch.as_tensor(plain.value))
    assert int(Attack(threat, Margin(), FromClean(search))(model, x, y, run=run).spent.max()) <= 8


def test_the_loss_is_watched_for_targeted_objectives() -> None:
    """The margin to the target crosses zero where the run wins, whatever other classes do."""
    steady = PGD(10, length=0.1, start=Zero())
    watch = GiveUp(steady, (5,), Levels((0.61,)), "loss")
    assert int(asked(watch, 10.0, TargetedMargin(), target=True)) == 11


@pytest.mark.parametrize(
    "make",
    [
        lambda: GiveUp(APGD(10), ()),
        lambda: GiveUp(APGD(10), (3, 3)),
        lambda: GiveUp(APGD(10), (3, 11)),
        lambda: GiveUp(APGD(10), (0, 5)),
        lambda: GiveUp(APGD(10), (3, 5), Levels((1.0,))),
        lambda: GiveUp(APGD(10), (3,), watch="grad"),
        lambda: Slope(0),
    ],
)
def test_refusals(make: Any) -> None:
    with pytest.raises(InputError):
        make()


def test_a_target_that_is_the_label_is_refused() -> None:
    x, y = torch.full((2, 1, 1, 1), 0.5), torch.tensor([0, 1])
    attack = Attack(Threat(Linf(), EPS), TargetedMargin(), PGD(2))
    with pytest.raises(InputError, match=r"labels at positions \[1\]"):
        attack(line(1.0), x, y, target=torch.tensor([1, 1]))


def test_an_objective_may_score_in_another_precision_than_the_images() -> None:
    class Narrow(Margin):
        def score(self, out: Tensor, goal: Any) -> Tensor:
            return super().score(out, goal).float()

    x = torch.rand(6, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = Attack(Threat(Linf(), EPS), Narrow(), PGD(3))(line(5.0), x, torch.zeros(6).long())
    assert found.score.dtype == torch.float64 and bool(found.score.isfinite().all())
