"""`reproduce ladder`: the six items by hand, the rows, what is measured, a whole run of tiny
networks.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import FileError, ResumeError
from torchproof.data import load
from torchproof.recipes import Plan
from torchproof.reproduce import EXPERIMENTS, Outcome, Request
from torchproof.reproduce import ladder_measures as measures
from torchproof.reproduce.ladder import Part, parts
from torchproof.reproduce.ladder_figures import EPS, GRID, LABEL, NETWORKS, Cell, items, judge, rows
from torchproof.train import Settings

experiment = sys.modules[EXPERIMENTS["ladder"].__module__]
RUN = EXPERIMENTS["ladder"]


def under(original: int, ladder: int, robust: int) -> dict[str, int]:
    return dict(zip(NETWORKS, (original, ladder, robust), strict=True))


def attacked(near: dict[str, int], far: dict[str, int]) -> dict[str, int]:
    return {f"{k} {e}": v for e, of in zip(EPS, (near, far), strict=True) for k, v in of.items()}


def cell(data: str = "mnist", seed: int = 0, **changed: Any) -> Cell:
    usual: dict[str, Any] = {
        "n": 100, "latent": 40.0, "beta_off": 0.005, "beta_inside": True, "errors": (0.2, 0.1, 0.1),
        "test_error": 0.02, "decoded": 95, "svm_median": 0.98, "svm_least": 0.9,
        "scores": (-1, 0, 1, 2, 3, 4), "flips": (4, 8, 20, 40, 55, 70),
        "clean": under(97, 97, 96), "guided": under(60, 90, 62),
        "white": attacked(under(30, 40, 90), under(0, 1, 60)),
        "transfer": attacked(under(25, 80, 93), under(0, 35, 85)),
    }  # fmt: skip
    return Cell(data=data, seed=seed, **{**usual, **changed})


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, ""),
        ({"beta_inside": False}, "1"),
        ({"decoded": 93}, "2"),
        ({"errors": (0.1, 0.11)}, "2"),
        ({"svm_median": 0.96}, "3"),
        ({"flips": (4, 8, 6, 40, 55, 70)}, "4"),
        ({"flips": (10, 10, 20, 40, 55, 70)}, "4"),
        ({"flips": (4, 8, 20, 40, 45, 50)}, "4"),
        ({"scores": (0, 1, 0.5, 2, 3, 4)}, "4"),
        ({"guided": under(80, 97, 62)}, "5"),
        ({"guided": under(60, 74, 62)}, "5"),
        ({"clean": under(97, 95, 96)}, "5"),
        ({"white": attacked(under(30, 91, 90), under(0, 1, 60))}, "6"),
    ],
)
def test_the_six_items(changed: dict[str, Any], missed: str) -> None:
    found = list(items("mnist", [cell(**changed)]))
    assert [what[0] for what, met in found if not met] == list(missed)
    verdict, because = judge([cell(**changed), cell("fashion-mnist")])
    assert verdict == ("does not show at this scale" if missed else "shows")
    assert because.count("missed") == len(missed) and because.endswith(LABEL)


def test_fashion_is_asked_for_less_and_no_gain_contradicts() -> None:
    easy = cell("fashion-mnist", svm_median=0.91, decoded=80)
    assert all(met for _, met in items("fashion-mnist", [easy]))
    assert judge([cell(guided=under(60, 60, 60))])[0] == "contradicts"
    (*_, (last, _)) = items("mnist", [cell()])
    assert "1.0 % white-box at 0.3, so not linf-robust" in last and "35.0 % on stored" in last
    (*_, (last, _)) = items("mnist", [cell(white=attacked(under(30, 40, 90), under(0, 12, 60)))])
    assert "not linf-robust" not in last


def test_rows_pool_the_seeds() -> None:
    found = {row.what: row for row in rows([cell(), cell(seed=1, decoded=85, svm_median=0.94)])}
    row = found["mnist: 2. original on G(e(x))"]
    assert row.ours == (0.95, 0.85) and row.n == 200 and row.ci95 is not None
    svm = found["mnist: 3. SVM accuracy, median of pairs"]
    assert svm.mean == pytest.approx(0.96) and svm.ci95 is not None and svm.ci95[0] < 0.9
    assert found["mnist: 4. decision changed at 1.5 latent lengths"].ours == (0.7, 0.7)
    assert found["mnist: 6. LADDER, stored PGD images of the original, eps 0.3"].mean == 0.35
    assert found["mnist: 6. PGD-AT, white-box APGD-CE and DLR, eps 0.1"].mean == 0.9
    assert len(found) == 6 + 2 * len(GRID) + 2 * 3 + 2 * 2 * 3


def test_the_parts(tmp_path: Path, data_dir: Path) -> None:
    mnist, fashion = parts(Request(tmp_path, data_dir=data_dir))
    assert (mnist.plan.data, fashion.plan.data) == ("mnist", "fashion-mnist")
    assert mnist.plan.model == "lenet" and not mnist.large
    assert (mnist.share, fashion.share) == (0.75, 0.25)
    large = parts(Request(tmp_path, "paper", data_dir=data_dir))[0]
    assert large.epochs == (1000, 100) and large.few == 4500 and large.large
    said: list[str] = []
    (only,) = parts(Request(tmp_path, data_dir=tmp_path / "none", say=said.append))
    assert only.plan.data == "digits" and len(said) == 2


class Bright(nn.Module):
    """Two classes by mean brightness, whose attacks are known in closed form."""

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1).mean(1) - self.threshold
        return torch.stack([-z, z], 1)


def test_white_box_and_stored_images() -> None:
    level = torch.tensor([0.15, 0.35, 0.45, 0.55, 0.65, 0.85])
    x = level[:, None, None, None].expand(6, 1, 4, 4).clone()
    y = torch.tensor([0, 0, 0, 1, 1, 1])
    base, tuned, robust = Bright(), Bright(0.62), Bright(0.3)
    assert measures._white(base, x, y, 0.1, 0) == 4 and measures._white(base, x, y, 0.3, 0) == 2
    networks = measures.Networks(base, tuned, robust)
    # stored images: 0.25 0.45 0.55 | 0.45 0.55 0.75
    found = measures._transferred(networks, x, y, 0.1, 0)
    assert found == {"original": 4, "LADDER": 4, "PGD-AT": 4}
    assert list(networks.named) == list(NETWORKS) and networks.named["LADDER"] is tuned


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.of(epochs=2, batch_size=32, lr=0.01, optimiser="adam", held_out=0)
    plan = Plan(
        model="lenet(widths=(4, 6), hidden=12, padding=2)", method="Standard", n=200,
        settings=settings,
    )  # fmt: skip
    part = Part(plan, few=80, tests=16, epochs=(2, 1), share=0.5)
    monkeypatch.setattr(experiment, "parts", lambda request: [part])
    monkeypatch.setattr("torchproof.data.load", cache(load))
    monkeypatch.setattr(measures, "apgd", lambda threat, steps, *more: apgd(threat, 4, *more))


apgd = measures.apgd


def figures(out: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((out / "outcome.json").read_text())
    return {name: value for name, value in stored.items() if not name.endswith("seconds")}


@pytest.mark.slow
def test_a_run_and_its_resumption(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    whole = RUN(Request(tmp_path / "whole", seeds=1, say=said.append))
    assert Outcome.model_validate_json((tmp_path / "whole" / "outcome.json").read_text()) == whole
    assert (tmp_path / "whole" / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert whole.settings["label"] == LABEL and LABEL in whole.because
    stored = Cell.read(tmp_path / "whole" / "digits-seed0" / "figures.json")
    assert rows([stored]) == whole.rows and stored.n == 16 and len(stored.errors) == 2
    assert stored.beta_inside and 0 < stored.beta_off < 0.2
    assert any("45 SVMs" in text for text in said)

    class Stop(Exception):
        """What ends the run in the middle."""

    def stopped(*args: Any) -> None:
        raise Stop

    measure, robust = experiment.measured, experiment.Subjects.robust
    monkeypatch.setattr(experiment.Subjects, "robust", stopped)
    with pytest.raises(Stop):
        RUN(Request(tmp_path / "cut", seeds=1, say=lambda _: None))
    monkeypatch.setattr(experiment.Subjects, "robust", robust)
    monkeypatch.setattr(experiment, "measured", stopped)
    with pytest.raises(Stop):
        RUN(Request(tmp_path / "cut", seeds=1, resume=True, say=lambda _: None))
    monkeypatch.setattr(experiment, "measured", measure)
    with pytest.raises(ResumeError, match="seeds"):
        RUN(Request(tmp_path / "cut", seeds=2, resume=True, say=print))
    RUN(Request(tmp_path / "cut", seeds=1, resume=True, say=lambda _: None))
    cut, uncut = figures(tmp_path / "cut"), figures(tmp_path / "whole")
    ours = [[row.pop("ours") for row in each.pop("rows")] for each in (cut, uncut)]
    assert cut == uncut
    for one, other in zip(*ours, strict=True):  # float32 networks are read back, on any processor
        assert one == pytest.approx(other, rel=1e-5)
    (tmp_path / "cut" / "digits-seed0" / "figures.json").write_text("{")
    with pytest.raises(FileError, match="remove that file"):
        RUN(Request(tmp_path / "cut", seeds=1, resume=True, say=lambda _: None))
