"""Every rule on hand-made records: evidence that raises it, and evidence that just does not."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from torchproof.evaluate.flags import MASKING, RULES, Evidence, flags
from torchproof.evaluate.ledger import Header
from torchproof.evaluate.outcome import Example

N = 30
RULE = {rule.name: rule for rule in RULES}
PGD: dict[str, Any] = {"name": "PGD", "settings": "PGD on CrossEntropy()", "gradient": True}
SQUARE: dict[str, Any] = {"name": "Square", "settings": "Square on Margin()", "gradient": False}
CLEAN = {
    "prediction": 0, "scale": 5.0, "margin": -3.0, "simplex": False, "moved": 0.0, "flat": False,
    "vanished": False, "undefined": False, "sampled": True, "forward": 1, "backward": 0,
}  # fmt: skip
PROBES = {
    "noise": 0, "single": False, "misled": False, "rough": 1.0, "beyond": True, "longer": False,
    "late": 0.1, "silent": False, "answer": 0, "by": "PGD", "steps": 40,
}  # fmt: skip
ATTACK = {"lost": False, "score": -2.0, "forward": 21, "backward": 20}


@dataclass(frozen=True)
class Case:
    """What differs from sound records: in `few` examples, in one more, which is enough."""

    few: int
    clean: dict[str, Any] = field(default_factory=dict)
    probes: dict[str, Any] = field(default_factory=dict)
    attack: dict[str, Any] = field(default_factory=dict)
    row: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)  # further records of these examples
    settings: dict[str, Any] = field(default_factory=dict)
    severity: str = "severe"
    n: int = N


BROKEN = {"status": "broken", "broken_by": "Square", "budget": "PGD;Square"}
FAILED = {"recheck PGD": {"ok": False, "inside": False}}
CASES: dict[str, Case] = {
    "probabilities": Case(N - 1, clean={"simplex": True}),
    "random": Case(0, clean={"moved": 0.1}),
    "saturated-softmax": Case(5, clean={"vanished": True}),
    "unstable-predictions": Case(5, probes={"rough": 0.2}, severity="warning"),
    "zero-gradients": Case(0, clean={"flat": True}, severity="warning"),
    "undefined-gradients": Case(0, clean={"undefined": True}),
    "misleading-gradients": Case(5, probes={"misled": True}, severity="warning"),
    "gradient-free-wins": Case(2, row=BROKEN),
    "noise-wins": Case(1, probes={"noise": 3}, severity="warning"),
    "single-step-wins": Case(1, probes={"single": True}, severity="warning"),
    "unbounded-attack-fails": Case(2, probes={"beyond": False}),
    "more-steps-help": Case(2, probes={"longer": True, "late": None}, severity="warning"),
    "incomplete-optimisation": Case(15, probes={"late": 0.5}),
    "silent-success": Case(0, probes={"silent": True}),
    "all-rejected": Case(14, probes={"answer": 4}),
    "recheck-failed": Case(0, more=FAILED),
    "float-noise": Case(0, attack={"score": -1e-6}, severity="note"),
    "few-examples": Case(6, row={"clean": False, "status": "misclassified"}, severity="note", n=16),
    "small-budget": Case(14, row={"forward": 10, "backward": 9}, severity="warning"),
    "certificate-refuted": Case(
        0, row={"status": "broken", "broken_by": "PGD"}, more={"certificate": {"certified": True}}
    ),
    "unfinished": Case(0, row={"status": "unfinished", "budget": ""}),
    "unprobed": Case(0, more={"probes": None}, severity="note"),
}


def made(case: Case, count: int) -> Evidence:
    """Sound records of case.n examples, but for the first `count` of them."""
    rows, records = [], {}
    for i in range(case.n):
        odd = i < count
        row: dict[str, Any] = {
            "id": i, "label": 0, "clean": True, "status": "robust", "broken_by": "",
            "budget": "PGD", "forward": 22, "backward": 20, "predicted": 0, "adversarial": 0,
        }  # fmt: skip
        rows.append(Example(**(row | (case.row if odd else {}))))
        of: dict[str, Any] = {
            "clean": {"id": i, **CLEAN, **(case.clean if odd else {})},
            "probes": {"id": i, **PROBES, **(case.probes if odd else {})},
            "PGD": {"id": i, **ATTACK, **(case.attack if odd else {})},
        }
        of |= case.more if odd else {}
        records[i] = {name: record for name, record in of.items() if record is not None}
    settings = {"attacks": [PGD, SQUARE], "dtype": "float32", "n": case.n} | case.settings
    header = Header(settings, {}, list(range(case.n)), [0] * case.n)
    return Evidence(header, rows, records)


def raised(evidence: Evidence) -> dict[str, str]:
    """The severity of every flag that is raised, by its name."""
    found = flags(evidence.header, evidence.rows, evidence.records)
    return {flag.name: flag.severity for flag in found}


def test_every_rule_has_a_case_and_sound_records_raise_none() -> None:
    assert set(CASES) == set(RULE) and len(RULE) == len(RULES)
    assert raised(made(Case(0), 0)) == {}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_is_raised_by_its_evidence_and_not_by_less(name: str) -> None:
    case = CASES[name]
    assert name not in raised(made(case, case.few))
    found = raised(made(case, case.few + 1))
    assert found == {name: case.severity}


@pytest.mark.parametrize("name", [name for name in CASES if name in MASKING | {"silent-success"}])
def test_evidence_names_examples_or_counts(name: str) -> None:
    case = CASES[name]
    (flag,) = [
        flag for flag in flags(*vars(made(case, case.few + 1)).values()) if flag.name == name
    ]
    assert str(case.few + 1) in flag.evidence and flag.remedy == RULE[name].remedy


@pytest.mark.parametrize(
    ("name", "case", "count", "severity"),
    [
        ("zero-gradients", Case(0, clean={"flat": True}), 3, "severe"),
        ("misleading-gradients", Case(0, probes={"misled": True}), 15, "severe"),
        ("gradient-free-wins", Case(0, row=BROKEN, n=400), 3, "warning"),
        ("gradient-free-wins", Case(0, row=BROKEN, n=400), 9, "severe"),
        ("single-step-wins", Case(0, probes={"single": True}), 4, "severe"),
        ("more-steps-help", Case(0, probes={"longer": True, "late": None}), 6, "severe"),
        ("random", Case(0, clean={"moved": 0.1}, row={"forward": 900}, settings={"draws": 20}), N,
         "note"),
        ("saturated-softmax", Case(0, clean={"vanished": True}, settings={"attacks": [
            PGD, PGD | {"name": "margin", "settings": "PGD on Margin()"}]}), 6, "warning"),
        ("undefined-gradients", Case(0, probes={"failed": ["beyond"]}), 1, "note"),
        ("undefined-gradients", Case(0, attack={"undefined": 3}), 1, "severe"),
        ("undefined-gradients", Case(0, attack={"undefined": 3}, row={
            "status": "broken", "broken_by": "PGD"}), 1, "warning"),
        ("undefined-gradients", Case(0, probes={"failed": ["surroundings"]}), 1, "warning"),
        ("recheck-failed", Case(0, more={"recheck PGD": {"ok": False, "inside": True}}), 1,
         "warning"),
        ("recheck-failed", Case(0, more={"recheck PGD": {"ok": False, "inside": True}},
                                row={"forward": 900}, settings={"draws": 20}), N, "warning"),
        ("recheck-failed", Case(0, more={"recheck PGD": {"ok": False, "inside": False}},
                                row={"forward": 900}, settings={"draws": 20}), N, "severe"),
        ("small-budget", Case(0, settings={"attacks": [SQUARE]}, row={"budget": "Square"}), N,
         "warning"),
    ],
)  # fmt: skip
def test_severities(name: str, case: Case, count: int, severity: str) -> None:
    assert raised(made(case, count)) == {name: severity}


def test_what_weaker_attacks_win_is_no_flag_where_the_suite_won_too() -> None:
    won = {"status": "broken", "broken_by": "PGD"}
    probes = {"noise": 3, "single": True, "longer": True, "silent": True, "beyond": False}
    assert raised(made(Case(0, row=won, probes=probes), N - 3)) == {}


def test_severe_flags_come_first() -> None:
    case = Case(0, attack={"score": -1e-6}, probes={"misled": True, "silent": True})
    evidence = made(case, 6)
    order = [f.severity for f in flags(evidence.header, evidence.rows, evidence.records)]
    assert order == ["severe", "warning", "note"]


def test_the_page_holds_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "red-flags.md"
    found = re.findall(r"^\| `([a-z-]+)` \| (.+) \| (.+)\. \|$", page.read_text(), flags=re.M)
    assert found == [(r.name, r.meaning, r.remedy[0].upper() + r.remedy[1:]) for r in RULES]
