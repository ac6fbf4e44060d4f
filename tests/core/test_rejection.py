"""Models that may reject: attacked with success exactly where a linear programme finds a way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from torchproof.attack import APGD, EOT, PGD, Attack, Restarts
from torchproof.core.errors import InputError, ModelError
from torchproof.core.objectives import CrossEntropy, Goal, Margin, Targeted
from torchproof.core.rejection import (
    RejectClass,
    Rejected,
    Rejecting,
    WithDetector,
    calibrated,
)
from torchproof.core.threats import parse

EPS, SIDE, N = 0.08, 5, 24


class Lines(nn.Module):
    """Two classes by the sign of <a, x> - b."""

    def __init__(self, a: Tensor, b: float) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(a), b

    def forward(self, x: Tensor) -> Tensor:
        top = x.flatten(1) @ self.a - self.b
        return torch.stack([-top, top], 1) / 2


@pytest.fixture
def case() -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]:
    """A guarded linear classifier, images in the middle of the box, labels, and both directions.

    The detector is linear too and partly opposed: to cross the boundary raises suspicion.
    """
    g = torch.Generator().manual_seed(2)
    a, other = torch.randn(2, SIDE * SIDE, generator=g, dtype=torch.float64)
    x = 0.2 + 0.6 * torch.rand(N, 1, SIDE, SIDE, generator=g, dtype=torch.float64)
    d = other + a  # all labels are 0: the adversary wants <a, x> up, and so does the alarm
    tops = x.flatten(1) @ a
    model = Lines(a, float(tops.max()) + 0.05)

    room = float((x.flatten(1) @ d).quantile(0.8))  # a fifth of clean images is rejected

    def detector(z: Tensor) -> Tensor:
        return z.flatten(1) @ d - room

    y = torch.zeros(N, dtype=torch.int64)
    return WithDetector(model, detector), x, y, a, d


def feasible(x: Tensor, a: Tensor, b: float, d: Tensor, room: float) -> tuple[bool, float]:
    """Is there an allowed delta with <a, x + delta> > b and <d, x + delta> <= room? And by how
    much, at best, are both met?
    """
    flat, n = x.flatten().numpy(), SIDE * SIDE
    # maximise t, subject to <a, delta> >= b - <a, x> + t and <d, delta> <= room - <d, x> - t
    above = np.concatenate([-a.numpy(), [1.0]]), float(flat @ a.numpy() - b)
    below = np.concatenate([d.numpy(), [1.0]]), room - float(flat @ d.numpy())
    bounds = [(max(-EPS, -v), min(EPS, 1 - v)) for v in flat] + [(None, None)]
    objective = np.zeros(n + 1)
    objective[-1] = -1
    answer = linprog(objective, np.stack([above[0], below[0]]), [above[1], below[1]], bounds=bounds)
    return bool(-answer.fun > 0), float(-answer.fun)


@pytest.mark.parametrize("search", [PGD(60), APGD(60)], ids=["PGD", "APGD"])
def test_the_attack_wins_where_winning_is_possible(case: Any, search: Any) -> None:
    guarded, x, y, a, d = case
    room = float((x.flatten(1) @ d).quantile(0.8))
    ways = [feasible(image, a, guarded.model.b, d, room) for image in x]
    possible = torch.tensor([way for way, _ in ways])
    clear = torch.tensor([abs(slack) > 0.1 for _, slack in ways])
    assert 8 < int(possible.sum()) < N - 8 and int(clear.sum()) > 0.7 * N
    attack = Attack(parse(f"linf:{EPS}"), Rejecting(Margin(), 0.0), search)
    found = Restarts(attack, 3)(guarded, x, y)
    assert torch.equal(found.lost[clear], possible[clear])
    assert not found.lost[~possible].any()
    out = guarded(x + found.value)
    held = (out["logits"].argmax(1) != y) & (out["reject"] <= 0)
    assert torch.equal(held, found.lost)


def test_an_attack_that_is_blind_to_the_detector_is_caught(case: Any) -> None:
    guarded, x, y, *_ = case
    threat = parse(f"linf:{EPS}")
    blind = Attack(threat, Margin(), PGD(60))(guarded.model, x, y)
    out = guarded(x + blind.value)
    accepted = blind.lost & (out["reject"] <= 0)
    seeing = Restarts(Attack(threat, Rejecting(Margin()), PGD(60)), 3)(guarded, x, y).lost
    assert int(blind.lost.sum()) > int(seeing.sum()) > int(accepted.sum())


def outputs() -> tuple[dict[str, Tensor], Goal]:
    z = torch.tensor([[2.0, 1.0], [0.0, 3.0], [0.0, 3.0], [5.0, 4.5]], dtype=torch.float64)
    reject = torch.tensor([-1.0, 0.5, 0.3, 2.0], dtype=torch.float64)
    none = torch.full((4,), -1)
    return {"logits": z, "reject": reject}, Goal(torch.zeros(4, dtype=torch.int64), none, reject)


def test_loss_verdict_and_score_by_hand() -> None:
    out, goal = outputs()
    objective = Rejecting(Margin(), threshold=0.4, weight=10, temperature=0.5)
    margins, rooms = np.array([-1.0, 3, 3, -0.5]), np.array([14.0, -1, 1, -16])
    soft = -0.5 * np.log(np.exp(-margins / 0.5) + np.exp(-rooms / 0.5))
    assert objective.loss(out, goal).tolist() == pytest.approx(soft)
    assert objective.won(out, goal).tolist() == [False, False, True, False]
    assert objective.score(out, goal).tolist() == pytest.approx(np.minimum(margins, rooms))
    # cross-entropy is not zero on the boundary: how far it is won is the margin
    plain = Rejecting(CrossEntropy(), threshold=0.4, weight=10, temperature=0.5)
    assert torch.equal(plain.loss(out, goal), objective.loss(out, goal))
    assert Rejected(0.4).won(out, goal).tolist() == [False, True, False, True]
    assert Rejected(0.4).loss(out, goal).tolist() == pytest.approx([-1.4, 0.1, -0.1, 1.6])


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_rejection_as_one_more_class_is_exact(kind: torch.dtype) -> None:
    """The last class is the answer exactly where the input is rejected, whatever rounding does."""
    near = torch.tensor([0.4, 0.4 + 1e-7, 0.4 - 1e-7, 3.0, -3.0])
    z = torch.tensor([[1e4, 2.0]] * 5).to(kind)
    objective = Rejecting(Margin(), threshold=0.4, weight=1e-3)
    whole = objective.as_classes({"logits": z, "reject": near})
    assert whole.shape == (5, 3) and whole.dtype == torch.promote_types(kind, torch.float32)
    assert torch.equal(whole[:, :2], z.to(whole.dtype))
    assert (whole.argmax(1) == 2).tolist() == (near > 0.4).tolist()
    out, goal = outputs()
    wide = Rejecting(Margin(), threshold=0.4, weight=10).as_classes(out)
    # the detector's logit stands weight * (reject - threshold) above the best class
    assert (wide[:, 2] - wide[:, :2].amax(1)).tolist() == pytest.approx([-14.0, 1, -1, 16])
    won = (wide.argmax(1) != goal.y) & (wide.argmax(1) != 2)
    assert won.tolist() == [False, False, True, False]


def test_numbers_are_chosen_from_clean_inputs() -> None:
    z = torch.stack([torch.arange(101.0), torch.zeros(101)], 1) + 1
    score = torch.arange(101.0) / 50
    made = calibrated(lambda x: {"logits": z, "reject": score}, torch.zeros(101, 1, 2, 2), 0.1)
    assert made.threshold == pytest.approx(1.8) and made.weight == pytest.approx(50 / 1.0)
    assert made.temperature == pytest.approx(10) and float((score > made.threshold).sum()) == 10
    flat = {"logits": z, "reject": 0 * score}
    for model, share, said in ((flat, 0.1, "scores that differ"), (flat, 0.0, "between 0 and 1")):
        with pytest.raises(InputError, match=said):
            calibrated(lambda x, out=model: out, torch.zeros(101, 1, 2, 2), share)


def test_a_class_of_none_of_them_rejects_where_it_is_largest() -> None:
    fixed = torch.tensor([[1.0, 2.0, 0.5], [1.0, 2.0, 3.0]])
    model = RejectClass(nn.Identity())
    out = model(fixed)
    assert torch.equal(out["logits"], fixed[:, :2])
    assert out["reject"].tolist() == [-1.5, 1.0]
    goal = Goal(torch.tensor([0, 0]), torch.tensor([-1, -1]), torch.zeros(2))
    assert Rejecting().won(out, goal).tolist() == [True, False]


def test_it_targets_what_its_inner_objective_targets(case: Any) -> None:
    guarded, x, y, *_ = case
    objective = Rejecting(Targeted(), 0.0)
    assert objective.targeted and not Rejecting().targeted
    found = Attack(parse(f"linf:{EPS}"), objective, PGD(40))(guarded, x, y, target=1 - y)
    out = guarded(x + found.value)
    assert found.lost.any()
    assert (out["logits"].argmax(1) == 1)[found.lost].all() and (out["reject"] <= 0)[
        found.lost
    ].all()


def test_randomness_and_half_precision_pass_through(case: Any) -> None:
    guarded, x, y, *_ = case
    attack = Attack(parse(f"linf:{EPS}"), Rejecting(), PGD(3), wrap=lambda o: EOT(o, 2))
    assert attack(guarded, x, y).spent[:, 1].max() == 2 * 3
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2)).bfloat16()
    low = WithDetector(narrow, lambda z: z.flatten(1).sum(1) - 99)
    found = Attack(parse(f"linf:{EPS}"), Rejecting(), PGD(3))(low, x.float(), y)
    assert found.score.dtype == torch.float32 and found.score.isfinite().all()


def test_frozen_parts_stay_frozen() -> None:
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 2)).train()
    net[0].eval()
    for made in (WithDetector(net, lambda x: x.sum((1, 2, 3))), RejectClass(net)):
        assert made.training and net.training and not net[0].training


@pytest.mark.parametrize(
    "values", [{"weight": 0.0}, {"weight": -1.0}, {"threshold": float("nan")}, {"temperature": 0.0}]
)
def test_numbers_that_cannot_be_meant_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match="weight > 0"):
        Rejecting(Margin(), **values)


@pytest.mark.parametrize(
    "out",
    [
        torch.zeros(3, 2),
        {"logits": torch.zeros(3, 2)},
        {"logits": torch.zeros(3, 2), "reject": torch.zeros(3, 1)},
    ],
)
def test_a_model_that_does_not_answer_so_is_refused(out: Any) -> None:
    goal = Goal(torch.zeros(3, dtype=torch.int64), torch.full((3,), -1), torch.zeros(3))
    with pytest.raises(ModelError, match="reject"):
        Rejecting().won(out, goal)
