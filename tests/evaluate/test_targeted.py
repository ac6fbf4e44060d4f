"""Targeted evaluation: exact on linear models, consistent when sharded and resumed, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from torchproof.attack.catalogue import apgd_t, gama_pgd, pgd, square
from torchproof.core.errors import InputError, ResumeError
from torchproof.core.norms import L0, L1, L2, Linf, Norm
from torchproof.core.objectives import CrossEntropy, Margin, Targeted
from torchproof.core.threats import Threat
from torchproof.evaluate import Member, Report, evaluate, merge
from torchproof.evaluate.certificate import Proof
from torchproof.evaluate.robustbench import model_info
from torchproof.evaluate.targeted import TARGETED, TargetMargin, turned

CLASSES, EPS = 4, 0.05
THREAT = Threat(Linf(), EPS)


class Linear(nn.Module):
    """z = W x, of images (B, 1, 3, 4)."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(3)
        self.w = nn.Parameter(torch.randn(CLASSES, 12, generator=g, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.w.T


def data(model: nn.Module) -> tuple[Tensor, Tensor]:
    """40 inner images; every fifth label is not the model's answer."""
    g = torch.Generator().manual_seed(4)
    x = 0.3 + 0.4 * torch.rand(40, 1, 3, 4, generator=g, dtype=torch.float64)
    y = model(x).argmax(1)
    y[::5] = (y[::5] + 1) % CLASSES
    return x, y


def gap(model: Linear, x: Tensor, t: int) -> float:
    """max over the box of min_{j != t} z_t - z_j, by linear programming."""
    w = model.w.detach().numpy()
    others = [j for j in range(CLASSES) if j != t]
    slopes = np.array([w[t] - w[j] for j in others])
    start = slopes @ (x.flatten().numpy() - 0.5)
    # maximise s with s <= start_j + slope_j d, |d| <= eps
    above = np.concatenate([-slopes, np.ones((len(others), 1))], 1)
    limits = [(-EPS, EPS)] * 12 + [(None, None)]
    found = linprog([0.0] * 12 + [-1.0], A_ub=above, b_ub=start, bounds=limits)
    return float(-found.fun)


def shortened() -> list[Member]:
    """`standard`, targeted, with the twenty-fifth part of the queries of Square."""
    members = TARGETED["standard"](THREAT).members
    assert "queries=5000" in members[-1].settings
    return [*members[:-1], turned(Member("Square", square(THREAT, 200)))]


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["quick", "fast", "thorough", "standard"])
def test_exactly_what_can_be_moved_to_the_target_is_lost(suite: str, tmp_path: Path) -> None:
    model, t = Linear(), 2
    x, y = data(model)
    members = shortened() if suite == "standard" else suite
    report = evaluate(model, (x, y), THREAT, members, target=t, out=tmp_path)
    kept = (y != t).nonzero()[:, 0].tolist()
    assert [row.id for row in report.examples] == kept and report.n == len(kept) < 40
    answers, seen = model(x).argmax(1), {"broken": 0, "robust": 0, "misclassified": 0}
    for row in report.examples:
        reach = gap(model, x[row.id], t)
        right = bool(answers[row.id] == y[row.id])
        assert abs(reach) > 1e-3, "too near to tell"
        assert row.status == ("misclassified" if not right else "broken" if reach > 0 else "robust")
        assert row.adversarial == (t if row.status == "broken" else row.predicted)
        seen[row.status] += 1
    assert min(seen.values()) > 0
    assert report.robust_accuracy == seen["robust"] / report.n
    untargeted = evaluate(model, (x[kept], y[kept]), THREAT, "quick")
    assert untargeted.robust_accuracy < report.robust_accuracy
    assert report.target == f"class {t}" and untargeted.target is None
    assert f"targeted at class {t}: other errors do not count" in report.labels
    assert f"{40 - len(kept)} examples of their target class left out" in report.labels
    assert Report.load(tmp_path).target == report.target


def test_a_target_for_each_example() -> None:
    model = Linear()
    x, y = data(model)
    target = (y + 1) % CLASSES
    target[3] = y[3]
    report = evaluate(model, (x, y), THREAT, "quick", target=target)
    assert report.n == 39 and 3 not in {row.id for row in report.examples}
    for row in report.examples:
        if row.clean:
            reach = gap(model, x[row.id], int(target[row.id]))
            assert (row.status == "broken") == (reach > 0)
    assert any(row.status == "broken" for row in report.examples)
    first = evaluate(model, (x, y), THREAT, "quick", target=target, n=20)
    assert first.examples == report.examples[: first.n] and first.n == 19


def test_what_is_answered_with_the_target_already_is_misclassified() -> None:
    model = Linear()
    x, y = data(model)
    t = int(model(x).argmax(1)[0])  # a wrong answer, the label being another
    report = evaluate(model, (x, y), THREAT, "quick", target=t)
    (row,) = [row for row in report.examples if row.id == 0]
    assert (row.predicted, row.status, row.budget) == (t, "misclassified", "")


def test_shards_and_resumption(tmp_path: Path) -> None:
    model = Linear()
    x, y = data(model)
    target = (y + torch.arange(40) % 3) % CLASSES  # a third of them their own class

    def go(**more: Any) -> Report:
        return evaluate(model, (x, y), THREAT, "fast", target=target, n=10, **more)

    whole = go(out=tmp_path / "whole", slots=7)
    folders = [tmp_path / "a", tmp_path / "b"]
    for i, folder in enumerate(folders):
        go(out=folder, shard=f"{i}/2")
    both = merge(folders)
    assert both.examples == whole.examples and both.labels == whole.labels
    assert go(out=tmp_path / "whole", resume=True).examples == whole.examples
    with pytest.raises(ResumeError, match="target"):
        evaluate(model, (x, y), THREAT, "fast", target=2, out=tmp_path / "whole", resume=True)


@pytest.mark.parametrize("norm", [Linf(), L2(), L1(), L0()], ids=repr)
@pytest.mark.parametrize("suite", TARGETED)
def test_every_suite_serves_every_norm(norm: Norm, suite: str) -> None:
    made = TARGETED[suite](Threat(norm, 3.0))
    for member in (*made.members, *made.reserve):
        objective = member.attack.objective
        assert isinstance(objective, (Targeted, TargetMargin)) and member.attack.targets == 0
    names = [m.name for m in (*made.members, *made.reserve)]
    assert len(set(names)) == len(names) > 1


def test_members_of_ones_own_are_turned() -> None:
    model = Linear()
    x, y = data(model)
    mine = [Member("T", apgd_t(THREAT, 15)), Member("CE", pgd(THREAT, 20)),
            Member("Square", square(THREAT, 100))]  # fmt: skip
    found = [turned(member).attack for member in mine]
    assert [f.objective for f in found] == [TargetMargin(), Targeted(), TargetMargin()]
    assert found[0].targets == 0 and found[0].search == mine[0].attack.search
    report = evaluate(model, (x, y), THREAT, mine, target=1)
    assert "TargetMargin()" in report.attacks[0].settings
    reached = [row for row in report.examples if row.clean and gap(model, x[row.id], 1) > 0]
    assert reached and all(row.status == "broken" for row in reached)


@pytest.mark.slow
def test_probes_ask_about_the_target(tmp_path: Path) -> None:
    """An attack that is too short is told apart from one that cannot win."""
    model = Linear()
    x, y = data(model)
    weak = pgd(THREAT, 2, length=0.1, objective=Margin())
    report = evaluate(model, (x, y), THREAT, [Member("weak", weak)], target=2)
    names = {flag.name for flag in report.flags}
    assert "more-steps-help" in names or "incomplete-optimisation" in names
    honest = evaluate(model, (x, y), THREAT, "thorough", target=2, n=20)
    assert honest.verdict == "ok", honest.flags


def refused(words: str, **more: Any) -> None:
    model = Linear()
    given = {"suite": "quick", "target": 2} | more
    with pytest.raises(InputError, match=words) as caught:
        evaluate(model, data(model), THREAT, **given)
    assert caught.value.remedy


def test_what_cannot_be_meant_is_refused() -> None:
    refused("target = 4", target=4)
    refused("target = -1", target=-1)
    refused("target = True", target=True)
    refused("target = 2.0", target=2.0)
    refused("target = torch.int32", target=torch.zeros(40).int())
    refused("shape", target=torch.zeros(39).long())
    refused("shape", target=torch.zeros(41).long())
    refused("all of the class", target=data(Linear())[1])
    refused("GuidedMargin", suite=[Member("GAMA", gama_pgd(THREAT))])
    aimed = Member("aimed", pgd(THREAT, objective=Targeted()), aim="x")
    refused("aimed", suite=[aimed])

    def none(model: Any, x: Tensor, y: Tensor, threat: Any) -> Proof:
        return Proof(torch.zeros(len(x), dtype=torch.bool), 0, 0)

    refused("verifier and a target", verifier=none)


def test_robustbench_has_no_place_for_it() -> None:
    model = Linear()
    report = evaluate(model, data(model), THREAT, "quick", target=2)
    with pytest.raises(InputError, match="targeted at class 2"):
        model_info(report.result, dataset="mine")


def test_the_margin_of_the_target_is_positive_where_it_is_the_answer() -> None:
    z = torch.tensor([[1.0, 3.0, 2.0], [5.0, 1.0, 0.0]])
    goal: Any = type("Goal", (), {"target": torch.tensor([1, 1]), "y": torch.tensor([0, 0])})
    assert TargetMargin().loss(z, goal).tolist() == [1.0, -4.0]
    assert TargetMargin().won(z, goal).tolist() == [True, False]
    assert TargetMargin().score(z, goal).tolist() == [1.0, -4.0]
    assert CrossEntropy() not in (TargetMargin(), Targeted())
