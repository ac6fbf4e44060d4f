"""The suites by name: what they hold for each norm, and that their settings tell attacks apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.catalogue import averaged, pgd
from torchproof.attack.combine import EveryTarget
from torchproof.core.norms import L0, L1, L2, Linf, Norm
from torchproof.core.objectives import TargetedMargin
from torchproof.core.threats import Threat, parse
from torchproof.evaluate import SUITES, Member, evaluate

AUTO = ["APGD-CE", "APGD-T", "FAB-T", "Square"]
STANDARD: list[tuple[Norm, float, list[str]]] = [
    (Linf(), 0.1, AUTO),
    (L2(), 0.4, AUTO),
    (L1(), 1.0, AUTO),
    (L0(), 2, ["PGD-100-margin", "PGD-100-T"]),
]


@pytest.mark.parametrize(("norm", "eps", "names"), STANDARD)
def test_standard_serves_every_norm(
    net: nn.Module, blobs: Any, norm: Norm, eps: float, names: list[str]
) -> None:
    """With fewer steps and queries, and two targets at most; the whole budget is spent below."""
    threat, lean = Threat(norm, eps), []
    for member in SUITES["standard"](threat).members:
        budget = {"queries": 200} if member.name == "Square" else {"steps": 30}
        attack = replace(member.attack, restarts=1, targets=min(member.attack.targets, 2))
        lean.append(Member(member.name, replace(attack, search=replace(attack.search, **budget))))
    report = evaluate(net, blobs, threat, lean, n=5)
    assert [attack.name for attack in report.attacks] == names
    for row, image, clean in zip(report.examples, report.adversarial, blobs.x[:5], strict=True):
        moved = float(norm.length((image - clean)[None]))
        assert (0 < moved <= eps + 1e-9) if row.status == "broken" else moved == 0
    survivors = [row for row in report.examples if row.status == "robust"]
    assert all(row.budget == ";".join(names) for row in survivors)


@pytest.mark.slow
def test_costs_are_those_of_the_published_budgets(net: nn.Module, blobs: Any) -> None:
    """At a tiny radius nothing breaks, and every attack spends its whole budget on the image; a
    tenth of its queries, of Square.
    """
    threat = Threat(Linf(), 1e-6)
    *members, square = SUITES["standard"](threat).members
    search: Any = square.attack.search
    assert square.name == "Square" and search.queries == 5000
    short = replace(square.attack, search=replace(search, queries=500))
    report = evaluate(net, blobs, threat, [*members, Member("Square", short)], n=1)
    assert [(a.forward, a.backward) for a in report.attacks] == [
        (101, 100),
        (3 * 101 + 1, 3 * 100),  # three wrong classes, and a forward to rank them
        (3 * 101 + 1, 3 * 100),
        (500, 0),
    ]
    assert report.forward == 1 + sum(a.forward for a in report.attacks)


def test_survivors_alone_go_on(net: nn.Module, blobs: Any, threat: Threat) -> None:
    report = evaluate(net, blobs, threat, "quick")
    first, second = report.attacks
    left = round(report.clean_accuracy * 60) - first.broken
    assert first.broken > 0 and second.forward <= 21 * left
    for row in report.examples:
        went = {"misclassified": "", "robust": "PGD-20-margin;PGD-20-CE"}.get(row.status)
        assert went is None or row.budget == went
        assert row.status != "broken" or row.budget.split(";")[-1] == row.broken_by


def test_settings_name_what_differs(threat: Threat) -> None:
    texts = {
        Member("a", attack).settings
        for attack in (
            pgd(threat),
            pgd(threat, 7),
            averaged(pgd(threat), 2),
            averaged(pgd(threat), 3),
        )
    }
    assert len(texts) == 4 and any("EOT" in text and "samples=3" in text for text in texts)
    for member in SUITES["standard"](threat).members:
        assert member.settings and member.source and "0x" not in member.settings
        assert member.rounded().settings != member.settings


def test_members_keep_their_seed_in_a_union(net: nn.Module, blobs: Any, threat: Threat) -> None:
    alone = evaluate(net, blobs, threat, "quick")
    both = evaluate(net, blobs, [threat, Threat(Linf(), 1e-6)], "quick")
    torch.testing.assert_close(alone.adversarial, both.adversarial, rtol=0, atol=1e-9)


def test_targets_are_no_more_than_there_are_classes() -> None:
    """Said once, and recorded as it is; nothing to say where there are enough."""
    x = torch.rand(6, 1, 1, 4, generator=torch.Generator().manual_seed(1))
    w = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))

    def model(z: Tensor) -> Tensor:
        return z.flatten(1) @ w

    y = model(x).argmax(1)
    nine = EveryTarget(pgd(parse("linf:0.01"), 2, objective=TargetedMargin()), 9)
    two = EveryTarget(pgd(parse("linf:0.01"), 2, objective=TargetedMargin()), 2)
    own = [Member("nine", nine), Member("two", two)]
    said = "3 classes: attacks at 9 wrong classes take the 2 there are"
    for given in ("thorough", own):
        report = evaluate(model, (x, y), parse("linf:0.01"), given)
        assert report.labels == [said]
        settings = [attack.settings for attack in report.attacks]
        assert any("2 of 9 targets" in text for text in settings)
        assert not any(", 9 targets" in text for text in settings)
    assert "of 9" in settings[0] and "2 targets" in settings[1] and "of 2" not in settings[1]
    assert evaluate(model, (x, y), parse("linf:0.01"), own[1:]).labels == []
    bytes_ = evaluate(model, ((x * 255).round() / 255, y), parse("linf:0.01"), own, quantised=True)
    assert said in bytes_.labels and "2 of 9 targets" in bytes_.attacks[0].settings


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()], ids=str)
def test_rand_runs_each_attack_once(norm: Norm) -> None:
    """As AutoAttack's version of that name, whatever restarts APGD-CE has in `standard`."""
    restarts = [member.attack.restarts for member in SUITES["rand"](Threat(norm, 1.0)).members]
    assert restarts == [1, 1]
