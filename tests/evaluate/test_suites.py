"""The suites by name: what they hold for each norm, and that their settings tell attacks apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torchproof.attack.catalogue import averaged, pgd
from torchproof.core.norms import L0, L1, L2, Linf, Norm
from torchproof.core.threats import Threat
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
    report = evaluate(net, blobs, Threat(norm, eps), "standard", n=5)
    assert [attack.name for attack in report.attacks] == names
    for row, image, clean in zip(report.examples, report.adversarial, blobs.x[:5], strict=True):
        moved = float(norm.length((image - clean)[None]))
        assert (0 < moved <= eps + 1e-9) if row.status == "broken" else moved == 0
    survivors = [row for row in report.examples if row.status == "robust"]
    assert all(row.budget == ";".join(names) for row in survivors)


def test_costs_are_those_of_the_published_budgets(net: nn.Module, blobs: Any) -> None:
    """At a tiny radius nothing breaks, and every attack spends its whole budget on everyone."""
    report = evaluate(net, blobs, Threat(Linf(), 1e-6), "standard", n=2)
    assert [(a.forward, a.backward) for a in report.attacks] == [
        (2 * 101, 2 * 100),
        (2 * (3 * 101 + 1), 2 * 3 * 100),  # three wrong classes, and a forward to rank them
        (2 * (3 * 101 + 1), 2 * 3 * 100),
        (2 * 5000, 0),
    ]
    assert report.forward == 2 + sum(a.forward for a in report.attacks)


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
