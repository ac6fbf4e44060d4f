"""`reproduce rat`: verdicts by hand, the rows, the parts, a whole run of tiny networks."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchproof.attack.universal import Semantic
from torchproof.core.errors import FileError, ResumeError
from torchproof.core.threats import parse
from torchproof.data import load
from torchproof.evaluate import Member
from torchproof.recipes import Plan
from torchproof.reproduce import EXPERIMENTS, Outcome, Request
from torchproof.reproduce import rat_figures as figures_of
from torchproof.reproduce.rat import ROUNDS, TUNED, Part, parts
from torchproof.reproduce.rat_figures import (
    COLUMNS,
    KINDS,
    Cell,
    Patterns,
    attacks,
    judge,
    measured,
    rows,
)
from torchproof.train import Settings

experiment = sys.modules[EXPERIMENTS["rat"].__module__]
RUN = EXPERIMENTS["rat"]


def cell(kind: str, fgsm: int, pgd: int, seed: int = 0, data: str = "mnist") -> Cell:
    right = dict.fromkeys(COLUMNS, 96) | {"FGSM": fgsm, "PGD-15": pgd}
    return Cell(data=data, kind=kind, seed=seed, n=100, right=right, first=(9, 90), fresh=(0.5, 1))


def cells(**changed: tuple[int, int]) -> list[Cell]:
    usual = {"base": (40, 30), "RAT, 1 round": (42, 33), "RAT, 4 rounds": (60, 50)}
    usual |= {"random patterns": (45, 35), "FGSM-AT": (75, 65), "PGD-AT": (74, 70)}
    given = {name.replace("_", " "): value for name, value in changed.items()}
    return [cell(kind, *{**usual, **given}[kind]) for kind in KINDS]


@pytest.mark.parametrize(
    ("changed", "verdict", "said"),
    [
        ({}, "shows", "+20.0 and +20.0 points over the base"),
        ({"base": (51, 30)}, "does not show at this scale", "+9.0 and +20.0"),
        ({"random_patterns": (45, 43)}, "does not show at this scale", "+15.0 and +7.0"),
        ({"base": (60, 50)}, "contradicts", "+0.0 and +0.0 points over the base"),
        ({"base": (60, 49)}, "does not show at this scale", "-15.0 and -15.0 points over FGSM-AT"),
    ],
)
def test_the_verdict(changed: dict[str, tuple[int, int]], verdict: str, said: str) -> None:
    found, because = judge(cells(**changed))
    assert found == verdict and said in because and because.startswith(f"mnist {verdict}: four")


def test_the_verdict_speaks_of_every_data_set() -> None:
    def cifar(**changed: tuple[int, int]) -> list[Cell]:
        return [c.model_copy(update={"data": "cifar10"}) for c in cells(**changed)]

    assert judge([*cells(), *cifar()])[0] == "shows"
    found, because = judge([*cells(), *cifar(base=(99, 99))])
    assert found == "does not show at this scale"
    first, second = because.split("; ")
    assert first.startswith("mnist shows: four rounds gain +20.0 and +20.0")
    assert second.startswith("cifar10 contradicts: four rounds gain -39.0 and -49.0")
    assert judge([*cells(base=(99, 99)), *cifar(base=(99, 99))])[0] == "contradicts"


def test_rows_pool_the_seeds() -> None:
    two = [*cells(), *(c.model_copy(update={"seed": 1}) for c in cells(base=(20, 10)))]
    seen = Patterns(data="mnist", n=100, strong=(0.7, 0.9), weak=(0.1, 0.2), alike=(0.3, -0.1))
    found = {row.what: row for row in rows(two, [seen, seen])}
    row = found["mnist, base: FGSM"]
    assert row.ours == (0.4, 0.2) and row.n == 200 and row.ci95 is not None
    gain = found["mnist, FGSM: RAT, 4 rounds minus base"]
    assert gain.ours == pytest.approx((0.2, 0.4)) and gain.n == 200
    assert gain.ci95 == pytest.approx((0.3 - 12.7062047 * 0.1, 1.0))  # of 1.57 to the most there is
    assert found["mnist, base: success of fresh patterns"].ours == (0.75, 0.75)
    assert found["mnist, base: accuracy on the patterns of round 1"].ours == (0.1, 0.1)
    assert found["mnist, base: success of its patterns, mean over classes"].mean == pytest.approx(
        0.8
    )
    assert found["mnist: patterns that correlate with their class"].ours == (0.5, 0.5)


def test_the_parts(tmp_path: Path, data_dir: Path) -> None:
    mnist, cifar = parts(Request(tmp_path, data_dir=data_dir))
    assert (mnist.plan.data, mnist.strong, mnist.weak) == ("mnist", "linf:0.3", "linf:0.1")
    assert (cifar.plan.data, mnist.few, cifar.few, ROUNDS) == ("cifar10", 500, 500, 4)
    assert parts(Request(tmp_path, "paper", data_dir=data_dir))[0].tests == 10000


def test_without_data_the_digits_take_their_place(tmp_path: Path) -> None:
    said: list[str] = []
    (only,) = parts(Request(tmp_path, data_dir=tmp_path, say=said.append))
    assert only.plan.data == "digits" and len(said) == 2 and "cifar10" in said[1]


def test_what_is_measured_of_a_network() -> None:
    """A network that answers by the mean brightness, whose attacks are known in closed form."""

    class Bright(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = x.flatten(1).mean(1) - 0.5
            return torch.stack([-z, z], 1)

    level = torch.tensor([0.2, 0.45, 0.55, 0.8, 0.3])
    x, y = level[:, None, None, None].expand(5, 1, 4, 4).clone(), torch.tensor([0, 0, 1, 1, 1])
    data = type("Two", (), {"x": x, "y": y, "__len__": lambda self: 5})()
    first = Semantic(torch.full((1, 1, 4, 4), 0.2), torch.tensor([1]), torch.ones(1), torch.ones(1))
    weak, strong = parse("linf:0.1"), parse("linf:0.2")
    right, on_first = measured(Bright(), data, weak, first, strong, 0)
    assert right == {"clean": 4, **dict.fromkeys(COLUMNS[1:], 2)}
    assert on_first == (1, 2)  # of 0.2 and 0.45 moved to 0.4 and 0.65
    assert list(attacks(weak)) == list(COLUMNS[1:-1])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.of(epochs=2, batch_size=32, lr=0.01, optimiser="adam", held_out=0)
    plan = Plan(model="mlp(hidden=(12,))", method="Standard", n=100, settings=settings)
    part = Part(plan, "linf:0.3", "linf:0.1", few=20, tests=10, steps=2)
    short = experiment.SETTINGS.model_copy(update={"epochs": 1})
    monkeypatch.setattr(experiment, "SETTINGS", short)
    monkeypatch.setattr(experiment, "parts", lambda request: [part])
    monkeypatch.setattr(experiment, "ROUNDS", 2)
    monkeypatch.setattr("torchproof.data.load", cache(load))
    evaluate = figures_of.evaluate

    def quick(model: Any, data: Any, threat: Any, **more: Any) -> Any:
        short = [Member(name, attack) for name, attack in list(attacks(threat).items())[:1]]
        return evaluate(model, data, threat, **{**more, "suite": short})

    monkeypatch.setattr(figures_of, "evaluate", quick)


def figures(out: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((out / "outcome.json").read_text())
    return {name: value for name, value in stored.items() if not name.endswith("seconds")}


@pytest.mark.slow
def test_a_run_and_its_resumption(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    whole = RUN(Request(tmp_path / "whole", seeds=1, say=said.append))
    assert sum("RAT, round" in text for text in said) == sum("random, r" in t for t in said) == 2
    assert Outcome.model_validate_json((tmp_path / "whole" / "outcome.json").read_text()) == whole
    assert (tmp_path / "whole" / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert "our reading" in whole.settings["reading"] and "linf:0.3" in whole.settings["digits"]
    found = {row.what: row for row in whole.rows}
    for kind in KINDS:
        for name in COLUMNS:
            assert len(found[f"digits, {kind}: {name}"].ours) == 1
        assert found[f"digits, {kind}: FGSM"].mean <= found[f"digits, {kind}: clean"].mean
    stored = [
        Cell.read(p) for p in sorted((tmp_path / "whole" / "digits-seed0").glob("cells/[!p]*"))
    ]
    assert {c.kind for c in stored} == set(KINDS) and {c.seed for c in stored} == {0}
    assert set(TUNED) < set(KINDS) and (tmp_path / "whole/digits-seed0/RAT/round-2").is_dir()

    class Stop(Exception):
        """What ends the run in the middle."""

    measure, calls = experiment.measured, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) in (2, 5):
            raise Stop
        return measure(*args)

    monkeypatch.setattr(experiment, "measured", interrupted)
    for resume in (False, True):
        with pytest.raises(Stop):
            RUN(Request(tmp_path / "cut", seeds=1, resume=resume, say=lambda _: None))
    with pytest.raises(ResumeError, match="seeds"):
        RUN(Request(tmp_path / "cut", seeds=2, resume=True, say=print))
    again = RUN(Request(tmp_path / "cut", seeds=1, resume=True, say=lambda _: None))
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole") and again.rows == whole.rows
    (tmp_path / "cut" / "digits-seed0" / "cells" / "base.json").write_text("{")
    with pytest.raises(FileError, match="remove that file"):
        RUN(Request(tmp_path / "cut", seeds=1, resume=True, say=lambda _: None))
