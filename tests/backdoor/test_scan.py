"""The rule of a bank and the scan: scores by hand, its threshold, files, toy networks with and
without a backdoor, cautions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.backdoor.rule import Origin, Rule, calibrate, class_shares, threshold
from torchproof.backdoor.scan import NO_BANK, scan
from torchproof.backdoor.titrate import Setting, Titration, titrate
from torchproof.core.errors import FileError, InputError

ORIGIN = Origin("toys", "toy")
SETTING = Setting(100, 0.95, "own prediction", 1, False, 0)


def curve(
    flips: Sequence[Sequence[int]], sigmas: tuple[float, ...] = (0.25, 0.5, 1.0)
) -> Titration:
    """A curve of 100 images with these confident changes by class."""
    share = tuple(sum(row) / 100 for row in flips)
    rows = tuple(tuple(row) for row in flips)
    return Titration(sigmas, share, share, rows, rows, 0.0, None, SETTING)


def bank(seed: int = 0) -> tuple[list[Titration], list[Titration]]:
    """Six clean curves of three classes, and three with much of class 1."""
    g = np.random.default_rng(seed)
    clean = [curve([[0, 0, 0], *g.integers(2, 9, (2, 3)).tolist()]) for _ in range(6)]
    extra = np.array([0, 20, 0])
    bad = [curve([[0, 0, 0], *(g.integers(2, 9, (2, 3)) + extra).tolist()]) for _ in range(3)]
    return clean, bad


# --- the threshold -------------------------------------------------------------------------------


def test_the_threshold_is_half_way_below_the_score_that_gains_most() -> None:
    assert threshold([0.0, 1.0, 2.0], [1.5, 3.0]) == 1.25
    assert threshold([0.0, 1.0], [4.0, 5.0]) == 2.5
    g = np.random.default_rng(0)
    low, high = g.integers(0, 9, 12).tolist(), g.integers(3, 12, 9).tolist()

    def gain(cut: float) -> float:
        return sum(s > cut for s in high) / 9 - sum(s > cut for s in low) / 12

    assert gain(threshold(low, high)) == max(gain(cut - 0.5) for cut in range(13))
    with pytest.raises(InputError):
        threshold([], [1.0])


# --- the rule ------------------------------------------------------------------------------------


def test_shares_by_class() -> None:
    found = curve([[9, 9, 9], [1, 2, 3], [5, 6, 9]])
    assert class_shares(found, (0.5, 1.0)) == pytest.approx((0.03, 0.04, 0.06))
    assert found.target(0.5, 1.0) == 2 and found.target(0.25, 0.25) == 0


def test_scores_against_a_naive_loop() -> None:
    clean, bad = bank()
    rule = calibrate(clean, bad, ORIGIN)
    roots = np.sqrt([class_shares(c) for c in clean])

    def score(one: Titration, reference: np.ndarray) -> tuple[float, int]:
        own = reference.var(0, ddof=1)
        spread = np.sqrt((own + own.mean()) / 2 + 1 / 400)
        z = (np.sqrt(class_shares(one)) - reference.mean(0)) / spread
        return float(z.max()), int(z.argmax())

    for i, one in enumerate(clean):
        assert rule.clean[i] == pytest.approx(score(one, np.delete(roots, i, 0))[0])
    for theirs, one in zip(rule.trojaned, bad, strict=True):
        assert rule.score(one) == pytest.approx(score(one, roots)) and rule.score(one)[1] == 1
        assert theirs == rule.score(one)[0]
    assert rule.roc.area == 1 and max(rule.clean) < rule.threshold < min(rule.trojaned)


def test_files(tmp_path: Path) -> None:
    rule = calibrate(*bank(), ORIGIN)
    rule.write(tmp_path / "rule.json")
    again = Rule.read(tmp_path / "rule.json")
    assert again == rule and again.score(bank(1)[1][0]) == rule.score(bank(1)[1][0])
    stored = json.loads((tmp_path / "rule.json").read_text())
    for text in ("{", "[]", '{"schema": "torchproof.scan_rule/1"}', json.dumps({"rule": {}})):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(FileError, match="a rule of a scan"):
            Rule.read(tmp_path / "bad.json")
    stored["rule"]["reference"] = "none"
    (tmp_path / "bad.json").write_text(json.dumps(stored))
    with pytest.raises(FileError, match="a rule of a scan"):
        Rule.read(tmp_path / "bad.json")
    with pytest.raises(FileError, match="missing"):
        Rule.read(tmp_path / "missing.json")


def test_banks_that_make_no_rule() -> None:
    clean, bad = bank()
    with pytest.raises(InputError, match="at least 4 clean"):
        calibrate(clean[:3], bad, ORIGIN)
    with pytest.raises(InputError, match="0 trojaned"):
        calibrate(clean, [], ORIGIN)
    with pytest.raises(InputError, match="titrate all networks alike"):
        calibrate([*clean, curve([[1, 2, 3]] * 2, (0.5, 1.0))], bad, ORIGIN)
    with pytest.raises(InputError, match="4 classes"):
        calibrate(clean, [curve([[1, 2, 3, 4]] * 3)], ORIGIN)


# --- the scan ------------------------------------------------------------------------------------


class Toy(nn.Module):
    """Class = the brightest quarter of the picture; `leak`: values above 1 speak for class 2."""

    def __init__(self, seed: int, leak: float = 0.0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(12 * torch.eye(4) + torch.randn(4, 4, generator=g))
        self.leak = leak

    def forward(self, x: Tensor) -> Tensor:
        quarters = F.avg_pool2d(x, 3).flatten(1)
        beyond = (x - 1).relu().flatten(1).mean(1, keepdim=True)
        return quarters @ self.w.T + self.leak * beyond * F.one_hot(torch.tensor(2), 4)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(120, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def rule(x: Tensor) -> Rule:
    clean = [titrate(Toy(seed), x) for seed in range(6)]
    return calibrate(clean, [titrate(Toy(seed, 60.0), x) for seed in (6, 7)], ORIGIN)


def test_toy_networks(rule: Rule, x: Tensor) -> None:
    bad, good = scan(Toy(8, 60.0), x, rule), scan(Toy(9), x, rule)
    assert bad.verdict == "backdoor suspected" and bad.suspected == 2 and bad.above == 0
    assert good.verdict == "nothing found" and good.score is not None
    assert good.score <= rule.threshold == good.threshold and good.seconds > 0
    assert good.above == sum(s >= good.score for s in rule.clean) / 6
    assert bad.score == rule.score(titrate(Toy(8, 60.0), x))[0]


def test_more_images_are_cut_to_those_of_the_rule(rule: Rule, x: Tensor) -> None:
    more = torch.cat([x, torch.zeros(7, 1, 6, 6)])
    assert scan(Toy(9), more, rule).titration == scan(Toy(9), x, rule).titration
    with pytest.raises(InputError, match="calibrated with 120"):
        scan(Toy(9), x[:50], rule)


def test_without_a_bank_there_is_no_verdict(x: Tensor) -> None:
    found = scan(Toy(8, 60.0), x)
    assert (found.verdict, found.score, found.threshold, found.above) == ("no verdict",) + (
        None,
    ) * 3
    assert found.suspected == 2 and NO_BANK in found.cautions


def test_another_number_of_classes_is_refused(rule: Rule, x: Tensor) -> None:
    with pytest.raises(InputError, match="calibrate a rule for this data set"):
        scan(lambda v: v.flatten(1)[:, :5], x, rule)


def test_cautions(rule: Rule, x: Tensor) -> None:
    right = Toy(9)(x).argmax(1)
    assert scan(Toy(9), x, rule, y=right, origin=ORIGIN).cautions == ()
    (strange,) = scan(Toy(9), x, rule, y=(right + 1) % 4).cautions
    assert "right on 0.0 %" in strange and "other data" in strange
    data, network = scan(Toy(9), x, rule, origin=Origin("others", "wide")).cautions
    assert "bank is of toys" in data and "another architecture" in network

    def unsure(v: Tensor) -> Tensor:
        z: Tensor = Toy(9)(v)
        return z.detach() / 100

    quiet = scan(unsure, x, rule, origin=Origin("toys", ""))
    flat, unknown = quiet.cautions
    assert "almost no answer" in flat and "by name it is not known" in unknown
    assert quiet.suspected is None and quiet.verdict == "nothing found"
    assert scan(unsure, x).suspected is None
    constant, *_ = scan(
        lambda v: torch.tensor([[0.0, 9.0, 0.0, 0.0]]).expand(len(v), 4), x
    ).cautions
    assert "class 1 to all images" in constant


def test_a_rule_with_labels_needs_labels(x: Tensor) -> None:
    y = Toy(0)(x).argmax(1)
    clean = [titrate(Toy(seed), x, y=y) for seed in range(4)]
    rule = calibrate(clean, [titrate(Toy(5, 60.0), x, y=y)], ORIGIN)
    with pytest.raises(InputError, match="labels"):
        scan(Toy(6), x, rule)
    assert scan(Toy(6), x, rule, y=y).titration.setting.reference == "label"
    with pytest.raises(InputError, match="one label per image"):
        scan(Toy(6), x, rule, y=y[:5])
