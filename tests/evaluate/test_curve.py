"""Robustness curves: closed forms on linear models, checks that correct them, the record."""

from __future__ import annotations

import csv
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta
from torch import Tensor, nn

from torchproof.attack.catalogue import fab_t, pgd
from torchproof.attack.combine import Chain
from torchproof.attack.ddn import ddn
from torchproof.attack.deepfool import deepfool
from torchproof.attack.fmn import fmn
from torchproof.attack.minimum import Unlimited
from torchproof.core.errors import FileError, InputError, UnknownName
from torchproof.core.norms import L0, L1, L2, Linf, Norm
from torchproof.core.objectives import Targeted
from torchproof.core.threats import parse
from torchproof.evaluate import RobustnessCurve, robustness_curve
from torchproof.evaluate.curve.record import CurvePoints, CurveRecord
from torchproof.report.robustness_curves import draw_curves

N = 30
DUAL = {"linf": 1, "l2": 2, "l1": math.inf}
NORMS: dict[str, Norm] = {"linf": Linf(), "l2": L2(), "l1": L1()}


class Plane(nn.Module):
    """z = (0, w x + b): the boundary is one plane, well inside the box around most images."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        w = torch.randn(12, generator=g, dtype=torch.float64)
        self.w = nn.Parameter(w.sign() * (0.5 + w.abs()))
        self.b = nn.Parameter(0.02 - 0.5 * self.w.detach().sum())

    def forward(self, x: Tensor) -> Tensor:
        z = (x.flatten(1) * self.w).sum(1) + self.b
        return torch.stack([torch.zeros_like(z), z], 1)


def images() -> tuple[Tensor, Tensor]:
    """Grey enough that the box does not matter; a fifth of the labels is wrong."""
    g = torch.Generator().manual_seed(1)
    x = 0.45 + 0.1 * torch.rand(N, 1, 3, 4, generator=g, dtype=torch.float64)
    y = Plane()(x).argmax(1)
    y[::5] = 1 - y[::5]
    return x, y


def true_distances(norm: str) -> np.ndarray:
    """|w x + b| / |w|_dual for correct examples, 0 for the others."""
    model, (x, y) = Plane(), images()
    w = model.w.detach().numpy()
    z = x.flatten(1).numpy() @ w + float(model.b.detach())
    far = np.abs(z) / np.linalg.norm(w, DUAL[norm])
    return np.where((z > 0) == y.numpy().astype(bool), far, 0.0)


def nearest(found: RobustnessCurve) -> np.ndarray:
    return np.array([row.nearest for row in found.rows])


@pytest.mark.parametrize("norm", NORMS)
def test_of_a_linear_model_the_curve_in_closed_form(norm: str) -> None:
    truth, attack = true_distances(norm), fab_t(Unlimited(NORMS[norm]), 30, 1)
    found = robustness_curve(Plane(), images(), NORMS[norm], attack, suite="quick")
    ratio = nearest(found)[truth > 0] / truth[truth > 0]
    assert np.array_equal(nearest(found) > 0, truth > 0) and 0 < (truth == 0).sum() < N
    assert ratio.min() >= 1 - 1e-9 and ratio.max() < 1.02
    record = found.record
    assert record.verdict == "ok" and record.not_found == record.unfinished == 0
    assert record.clean_accuracy == found.accuracy(0) == (truth > 0).mean()
    near = np.sort(truth[truth > 0])
    for low, high in pairwise(near):
        if high > 1.04 * low:  # between two examples everybody agrees
            eps = math.sqrt(1.02 * low * high)
            hits = int((truth > eps).sum())
            assert found.accuracy(eps) == hits / N
            by_beta = beta.ppf([0.025, 0.975], [hits, hits + 1], [N - hits + 1, N - hits])
            assert found.ci95(eps) == pytest.approx(np.nan_to_num(by_beta), abs=1e-9)
    assert record.median_distance == pytest.approx(near[(len(near) - 1) // 2], rel=0.02)


@pytest.mark.parametrize("norm", NORMS)
def test_default_attack_and_default_checks(norm: str) -> None:
    found = robustness_curve(Plane(), images(), NORMS[norm], suite="quick")
    truth = true_distances(norm)
    assert (nearest(found) >= truth * (1 - 1e-9)).all()
    assert np.quantile(nearest(found)[truth > 0] / truth[truth > 0], 0.9) < 1.1
    checks = found.record.checks
    assert 1 <= len(checks) <= 3 and found.record.attack.startswith("FMN(steps=50")
    for check in checks:
        assert check.worst_case == found.accuracy(check.eps) <= min(check.accuracy, check.curve)
        assert float(f"{check.eps:.2g}") == check.eps and check.suite == "quick"
        assert check.forward > 0 and check.accuracy_ci95[0] <= check.accuracy


def test_l0_is_counted_and_checked_at_whole_numbers() -> None:
    found = robustness_curve(Plane(), images(), L0(), max_eps=9, suite="quick")
    far = nearest(found)
    assert (far == far.round()).all() and far[far > 0].min() >= 1
    assert found.record.checks and all(
        check.eps == round(check.eps) for check in found.record.checks
    )
    assert found.record.max_eps == found.record.curve.eps[-1] == 9


def test_points_are_a_step_function() -> None:
    points = CurvePoints.of([0.0, 0.2, 0.2, 0.5, math.inf], 0.4)
    assert points.eps == [0.0, 0.2, 0.4] and points.accuracy == [0.8, 0.4, 0.4]
    assert all(
        a <= b <= c for a, b, c in zip(points.low, points.accuracy, points.high, strict=True)
    )
    whole = CurvePoints.of([0.1, 0.3], 0.3)
    assert whole.eps == [0.0, 0.1, 0.3] and whole.accuracy == [1.0, 0.5, 0.0]


def feeble(norm: Norm) -> Any:
    """One step: whoever falls at all falls far behind the boundary."""
    return deepfool(Unlimited(norm), 1, 1)


class Bent(nn.Module):
    """The plane's answers with a margin that is cubed: its linearisation leads nowhere near."""

    def __init__(self) -> None:
        super().__init__()
        self.plane = Plane()

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.plane(x)
        return z.pow(3) + 0.01 * z


def test_a_weak_attack_is_caught_and_corrected() -> None:
    truth = true_distances("linf")
    eps = float(np.quantile(truth[truth > 0], 0.5))
    weak = robustness_curve(Bent(), images(), Linf(), feeble(Linf()), [eps])
    record, check = weak.record, weak.record.checks[0]
    assert check.curve > check.accuracy == check.worst_case == (truth > eps).mean()
    placed = {row.id for row in weak.rows if row.found_by == f"fast at {eps:.6g}"}
    assert set(check.lowered) == placed and len(placed) > 2
    assert all(row.nearest == eps < row.distance for row in weak.rows if row.id in placed)
    assert weak.accuracy(eps) == check.worst_case
    below = [a for e, a in zip(record.curve.eps, record.curve.accuracy, strict=True) if e < eps]
    before = [a for e, a in zip(record.uncorrected.eps, record.uncorrected.accuracy, strict=True)
              if e < eps]  # fmt: skip
    assert below == before  # a check says nothing about smaller eps
    flag = record.flags[0]
    assert (flag.name, flag.severity) == ("upper-bound", "severe") and record.verdict != "ok"
    assert str(len(placed)) in flag.evidence
    names = {flag.name for flag in record.flags}
    assert ("not-found" in names) == (record.not_found > 0)


def test_a_strong_attack_is_not() -> None:
    truth = true_distances("linf")
    eps = float(np.quantile(truth[truth > 0], 0.5))
    strong = robustness_curve(Bent(), images(), Linf(), check=[eps])
    assert strong.record.checks[0].lowered == [] and strong.record.verdict == "ok"
    assert strong.record.curve == strong.record.uncorrected
    assert strong.record.flags == []


def test_without_checks_it_says_so() -> None:
    found = robustness_curve(Plane(), images(), L2(), check=[])
    assert [(f.name, f.severity) for f in found.record.flags] == [("unchecked", "note")]
    assert found.record.verdict == "ok" and found.record.checks == []


class Deaf(nn.Module):
    """Answers class 0 whatever it sees."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.mean((1, 2, 3)) + 2, -x.mean((1, 2, 3))], 1)


def test_where_nothing_is_found_the_curve_stays_up(tmp_path: Path) -> None:
    x, _ = images()
    found = robustness_curve(Deaf(), (x, torch.zeros(N).long()), Linf(), out=tmp_path)
    record = found.record
    assert record.not_found == N and record.median_distance is None and record.checks == []
    assert found.accuracy(10.0) == 1.0 and record.curve.accuracy == [1.0]
    assert "not-found" in [flag.name for flag in record.flags]
    stored = json.loads((tmp_path / "curve.json").read_text())
    assert stored["max_eps"] == 0.0
    draw_curves([record], tmp_path / "flat.svg")


class TwoFaced(nn.Module):
    """Right where no gradients are wanted, mirrored where they are."""

    def __init__(self) -> None:
        super().__init__()
        self.plane = Plane()

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.plane(x)
        return z.flip(1) if torch.is_grad_enabled() and z.requires_grad else z


def test_an_image_that_does_not_hold_does_not_count() -> None:
    model, (x, _) = TwoFaced(), images()
    y = model.plane(x).argmax(1)
    found = robustness_curve(model, (x, y), Linf(), fmn(Unlimited(Linf()), 5), [])
    record, true = found.record, np.abs(true_distances("linf"))
    assert record.unconfirmed > 0 and "unconfirmed" in [flag.name for flag in record.flags]
    far = nearest(found)
    assert (far[(true > 0)] >= true[true > 0] * (1 - 1e-9)).all()


class Rooted(nn.Module):
    """The plane with a term of 0 whose gradient is NaN where the first pixel is below `least`."""

    def __init__(self, least: float) -> None:
        super().__init__()
        self.plane, self.least = Plane(), least

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.plane(x)
        above = x[:, 0, 0, :1] - self.least
        return z + 0 * (above * (above > 0)).sqrt()


@pytest.mark.parametrize(
    ("least", "severity", "words"),
    [(0.4999, "warning", "the attacks met"), (0.5, "severe", "clean images"), (0.0, None, "")],
)
def test_undefined_gradients_are_counted_and_flagged(
    tmp_path: Path, least: float, severity: str | None, words: str
) -> None:
    x, _ = images()
    x[:, 0, 0, 0] = 0.5  # below 0.4999 is where only the attack gets
    y = Plane()(x).argmax(1)
    attack = fmn(Unlimited(Linf()), 20)
    found = robustness_curve(Rooted(least), (x, y), Linf(), attack, (), out=tmp_path)
    flags = {flag.name: flag for flag in found.record.flags}
    flag = flags.get("undefined-gradients")
    assert (None if flag is None else flag.severity) == severity
    assert flag is None or (words in flag.evidence and "square roots" in flag.remedy)
    assert found.record.verdict == ("unreliable" if severity == "severe" else "ok")
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    met = [line for line in lines if '"attack":"nearest"' in line and '"undefined":' in line]
    assert found.record.undefined == len(met) and bool(met) == (severity is not None)


def test_what_is_written_is_what_was_found(tmp_path: Path) -> None:
    found = robustness_curve(Plane(), images(), L2(), n=20, out=tmp_path, suite="quick")
    assert CurveRecord.read(tmp_path) == found.record and found.record.n == 20
    with (tmp_path / "distances.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [float(row["nearest"]) for row in rows] == nearest(found).tolist()
    assert found.record.forward == sum(int(row["forward"]) for row in rows)
    assert [row["found_by"] for row in rows if row["distance"] == "0.0"] == ["clean"] * 4
    draw_curves([found.record], tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_damaged_records_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="torchproof curve"):
        CurveRecord.read(tmp_path)
    (tmp_path / "curve.json").write_text('{"schema": "torchproof.curve/1"}')
    with pytest.raises(FileError, match=r"curve\.json"):
        CurveRecord.read(tmp_path)


@pytest.mark.parametrize(
    "more",
    [
        {"norm": "linf"},
        {"attack": fmn(Unlimited(L2()))},
        {"attack": fmn(Unlimited(Linf(), low=-1))},
        {"attack": pgd(parse("linf:0.1"))},
        {"attack": ddn(Unlimited(L2()), objective=Targeted()), "norm": L2()},
        {"attack": "fmn"},
        {"attack": Chain((fmn(Unlimited(Linf())), fmn(Unlimited(Linf()))))},
        {"check": [0.1, 0.0]},
        {"check": [math.inf]},
        {"norm": L0(), "check": [0.5]},
        {"max_eps": -1.0},
        {"suite": "fastest"},
        {"n": 0},
        {"seed": -1},
        {"slots": 0},
        {"max_seconds": 0},
    ],
    ids=lambda given: ", ".join(given),
)
def test_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    with pytest.raises((InputError, UnknownName)) as caught:
        robustness_curve(Plane(), images(), **({"norm": Linf(), "out": tmp_path / "o"} | more))
    assert caught.value.given and caught.value.expected and caught.value.remedy
    assert not (tmp_path / "o").exists()


def test_pictures_that_cannot_be_drawn(tmp_path: Path) -> None:
    flat = [robustness_curve(Plane(), images(), norm, check=[]).record for norm in (L2(), Linf())]
    for curves, name in ((flat, "a.png"), ([], "a.png"), (flat[:1], "a.gif")):
        with pytest.raises(InputError):
            draw_curves(curves, tmp_path / name)
