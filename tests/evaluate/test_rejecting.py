"""Evaluating models that may reject: exact on linear ones, counted honestly, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from torchproof.attack.catalogue import apgd_t, fab_t, pgd
from torchproof.attack.combine import Attack, EveryTarget
from torchproof.attack.pgd import PGD
from torchproof.core.errors import InputError, ModelError
from torchproof.core.norms import Linf
from torchproof.core.objectives import CrossEntropy, Goal, Hypocritical, Margin, TargetedMargin
from torchproof.core.rejection import Heedless, RejectClass, Rejecting, WithDetector, calibrated
from torchproof.core.threats import Threat
from torchproof.evaluate import Member, Report, Suite, evaluate, merge
from torchproof.evaluate.certificate import Proof
from torchproof.evaluate.robustbench import model_info

CLASSES, PIXELS, N, EPS = 3, 16, 40, 0.03
THREAT = Threat(Linf(), EPS)
RULE = Rejecting(threshold=0.0, weight=2.0)


class Linear(nn.Module):
    """z = W (x - 1/2), of images (B, 1, 4, 4)."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(5)
        self.w = nn.Parameter(torch.randn(CLASSES, PIXELS, generator=g, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.w.T


class Alarm(nn.Module):
    """A linear detector d (x - 1/2) - b; higher = more suspicious."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(6)
        self.d = nn.Parameter(torch.randn(PIXELS, generator=g, dtype=torch.float64))
        self.b = 0.4

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.d - self.b


def guarded() -> WithDetector:
    return WithDetector(Linear(), Alarm()).eval()


def data() -> tuple[Tensor, Tensor]:
    """40 inner images, of which every eighth has another label than the model's answer."""
    g = torch.Generator().manual_seed(7)
    x = 0.1 + 0.8 * torch.rand(N, 1, 4, 4, generator=g, dtype=torch.float64)
    y = Linear()(x).argmax(1)
    y[::8] = (y[::8] + 1) % CLASSES
    return x, y


def slack(x: Tensor, y: int) -> float:
    """max over classes t != y and the box of min(z_t - every other z, 0 - reject), by linear
    programming: positive where the image can be misclassified and accepted.
    """
    w, d, b = Linear().w.detach().numpy(), Alarm().d.detach().numpy(), Alarm().b
    at = x.flatten().numpy() - 0.5
    best = -np.inf
    for t in set(range(CLASSES)) - {y}:
        # maximise s with s <= (w_t - w_j) (at + delta) for all j != t, s <= b - d (at + delta)
        slopes = np.array([*(w[t] - w[j] for j in range(CLASSES) if j != t), -d])
        start = slopes @ at + np.array([0.0] * (CLASSES - 1) + [b])
        above = np.concatenate([-slopes, np.ones((len(slopes), 1))], 1)
        limits = [(-EPS, EPS)] * PIXELS + [(None, None)]
        found = linprog([0.0] * PIXELS + [-1.0], A_ub=above, b_ub=start, bounds=limits)
        best = max(best, float(-found.fun))
    return best


@pytest.mark.parametrize("suite", ["fast", "thorough"])
def test_what_can_be_misclassified_and_accepted_is_lost(suite: str) -> None:
    model, (x, y) = guarded(), data()
    x, y = x[20:], y[20:]
    report = evaluate(model, (x, y), THREAT, suite, rejecting=RULE)
    with torch.no_grad():
        answer, away = model.model(x).argmax(1), model.detector(x) > 0
    seen = {"broken": 0, "robust": 0, "misclassified": 0}
    for row in report.examples:
        i = row.id
        assert row.predicted == (CLASSES if away[i] else int(answer[i]))
        assert row.clean == bool(answer[i] == y[i] and not away[i])
        best = slack(x[i], int(y[i]))
        if row.clean and abs(best) > 0.01:
            assert row.status == ("broken" if best > 0 else "robust"), best
        seen[row.status] += 1
        assert row.status != "broken" or row.adversarial not in (int(y[i]), CLASSES)
    assert min(seen.values()) > 0
    assert report.rejection_rate == pytest.approx(float(away.double().mean()))
    assert 0 < report.rejection_rate < 0.5
    right = (answer == y) & ~away
    assert report.clean_accuracy == pytest.approx(float(right.double().mean()))
    assert report.verdict == "ok", report.flags
    # the images themselves, judged without the library
    assert report.adversarial is not None
    for row in report.examples:
        if row.status == "broken":
            with torch.no_grad():
                out = model(report.adversarial[row.id][None])
            assert int(out["logits"].argmax()) != row.label and float(out["reject"]) <= 0
    assert any("misclassified and accepted" in label for label in report.labels)
    left = [label for label in report.labels if "FAB-T" in label]
    assert bool(left) == (suite == "thorough")


@pytest.mark.slow
def test_rejection_helps_but_less_than_a_blind_attack_says() -> None:
    model, (x, y) = guarded(), data()
    keep = model.detector(x) <= 0  # those that are accepted, so that both count the same images
    pair = x[keep][:16], y[keep][:16]
    bare = evaluate(model.model, pair, THREAT, "quick")
    both = evaluate(model, pair, THREAT, "fast", rejecting=RULE)
    blind = Attack(THREAT, Margin(), PGD(40))(model.model, *pair)
    with torch.no_grad():
        out = model(pair[0] + blind.value)
    naive = (out["logits"].argmax(1) != pair[1]) & (out["reject"] <= 0)
    assert bare.robust_accuracy <= both.robust_accuracy < 1 - float(naive.double().mean())


def test_a_class_of_none_of_them() -> None:
    """K + 1 logits, the last being rejection: the answers are the argmax of all of them."""
    model, (x, y) = RejectClass(Linear()).eval(), data()
    y = y.clamp_max(CLASSES - 2)  # two classes and the one of none
    report = evaluate(model, (x, y), THREAT, "quick", rejecting=Rejecting())
    with torch.no_grad():
        answer = model.model(x).argmax(1)
    assert [row.predicted for row in report.examples] == answer.tolist()
    away = float((answer == CLASSES - 1).double().mean())
    assert report.rejection_rate == away > 0


def test_shards_slots_and_probes(tmp_path: Path) -> None:
    def go(**more: Any) -> Report:
        return evaluate(guarded(), data(), THREAT, "fast", rejecting=RULE, n=10, **more)

    whole = go(slots=7)
    for i in range(2):
        go(out=tmp_path / str(i), shard=f"{i}/2")
    both = merge([tmp_path / "0", tmp_path / "1"])
    assert both.examples == whole.examples
    assert both.rejection_rate == whole.rejection_rate and both.labels == whole.labels


def test_targets_are_chosen_among_classes() -> None:
    """The most likely wrong classes are those of the logits; rejection is none of them."""
    model, (x, y) = guarded(), data()
    attack = EveryTarget(Attack(THREAT, Rejecting(TargetedMargin()), PGD(30)), 9)
    found = attack(model, x, y)
    chosen = found.by[:, 0]
    assert bool((chosen != y).all()) and set(chosen.tolist()) == set(range(CLASSES))


def refused(error: type[Exception], words: str, **more: Any) -> None:
    given: dict[str, Any] = {"suite": "quick", "rejecting": RULE} | more
    with pytest.raises(error, match=words):
        evaluate(given.pop("model", guarded()), data(), THREAT, **given)


def test_what_cannot_be_meant_is_refused() -> None:
    def none(model: Any, x: Tensor, y: Tensor, threat: Any) -> Proof:
        return Proof(torch.zeros(len(x), dtype=torch.bool), 0, 0)

    refused(ModelError, "rejecting=calibrated", rejecting=None)
    refused(ModelError, "logits", model=Linear())
    refused(InputError, "a target, and a model that may reject", target=1)
    refused(InputError, "a verifier and a model that may reject", verifier=none)
    refused(InputError, "20 draws", suite="rand")
    refused(InputError, "FAB", suite=[Member("FAB-T", fab_t(THREAT))])
    wrong = Attack(THREAT, Hypocritical(CrossEntropy()), PGD(3))
    refused(InputError, "objective of misclassification", suite=[Member("friend", wrong)])
    other = Attack(THREAT, Rejecting(threshold=0.5), PGD(3))
    refused(InputError, "same threshold", suite=[Member("other", other)])


def test_members_of_ones_own_have_to_be_accepted() -> None:
    own = Rejecting(Margin(), 0.0, weight=5.0)
    mine = [
        Member("CE", pgd(THREAT, 3)),
        Member("T", apgd_t(THREAT, 3)),
        Member("mine", Attack(THREAT, own, PGD(3))),
    ]
    report = evaluate(guarded(), data(), THREAT, Suite(mine), rejecting=RULE)
    texts = [attack.settings for attack in report.attacks]
    assert "Rejecting(inner=CrossEntropy(), threshold=0.0, weight=2.0" in texts[0]
    assert "Rejecting(inner=TargetedDLR(), threshold=0.0, weight=2.0" in texts[1]
    assert "weight=5.0" in texts[2]


def test_robustbench_has_no_place_for_it() -> None:
    report = evaluate(guarded(), data(), THREAT, "quick", rejecting=RULE)
    with pytest.raises(InputError, match="misclassified and accepted"):
        model_info(report.result, dataset="mine")


class Unsure(nn.Module):
    """A network that rejects where it is not sure enough (Hendrycks and Gimpel 2017)."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.ReLU(), nn.Linear(24, 4))
        with torch.no_grad():
            for p in self.body.parameters():
                p.copy_(torch.randn(p.shape, generator=g) * 0.6)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z = self.body(x)
        return {"logits": z, "reject": -z.softmax(1).amax(1)}


def test_the_other_side_of_a_valley_of_doubt() -> None:
    """What plain targeted steps on the cross-entropy break, `quick` breaks too."""
    model, g, threat = Unsure().eval(), torch.Generator().manual_seed(2), Threat(Linf(), 0.06)
    x, others = torch.rand(24, 1, 6, 6, generator=g), torch.rand(400, 1, 6, 6, generator=g)
    y = model.body(x).argmax(1)
    rule = calibrated(model, others, 0.1)
    broken = torch.zeros(24, dtype=torch.bool)
    for target in range(4):
        moved = x.clone()
        for _ in range(40):
            live = moved.detach().requires_grad_()
            loss = nn.functional.cross_entropy(model.body(live), torch.full((24,), target))
            (grad,) = torch.autograd.grad(loss, live)
            moved = (x + (live.detach() - 0.01 * grad.sign() - x).clamp(-0.06, 0.06)).clamp(0, 1)
            out = model(moved)
            broken |= (out["logits"].argmax(1) != y) & (out["reject"] <= rule.threshold)
    report = evaluate(model, (x, y), threat, "quick", rejecting=rule)
    accepted = model(x)["reject"] <= rule.threshold
    found = torch.tensor([row.status == "broken" for row in report.examples])
    assert int((broken & accepted).sum()) >= 8
    assert int((broken & accepted & ~found).sum()) <= 1
    heeding, heedless = report.attacks[:2], report.attacks[2]
    assert sum(a.broken for a in heeding) <= 3, "they turn back"
    assert heedless.broken >= 5 and "3 targets" in heedless.settings
    assert heedless.forward + heedless.backward <= 124 * 24


def test_heedless_looks_at_the_classes_and_is_judged_like_the_rest() -> None:
    out = {
        "logits": torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]]),
        "reject": torch.tensor([0.2, 0.6]),
    }
    goal = Goal(torch.tensor([0, 0]), torch.tensor([1, 2]), torch.zeros(2))
    rule = Rejecting(Margin(), 0.5, weight=2.0)
    heedless = Heedless(rule)
    entropy = nn.functional.cross_entropy(out["logits"], goal.target, reduction="none")
    assert torch.equal(heedless.loss(out, goal), -entropy)
    assert torch.equal(heedless.score(out, goal), rule.score(out, goal))
    assert heedless.won(out, goal).tolist() == [False, False]
    out["reject"] = torch.tensor([0.6, 0.2])
    assert heedless.won(out, goal).tolist() == [False, True]
