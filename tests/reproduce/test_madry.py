"""`reproduce madry`: the verdict on hand-made tables, and a whole run of tiny networks."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchproof.cli import options
from torchproof.cli.main import main
from torchproof.core.errors import ResumeError
from torchproof.core.threats import parse
from torchproof.recipes import Plan
from torchproof.reproduce import Outcome, Request
from torchproof.reproduce.madry import PUBLISHED, attacks, judge, madry, plans
from torchproof.train import Settings

experiment = sys.modules[madry.__module__]
LABELS = ("clean", *attacks(parse("linf:0.1")), "worst of all")


def table(plain: list[float], robust: list[float], pgd: list[float]) -> dict[str, Any]:
    """The worst case of both networks, and PGD-40 of the robust one, by seed."""
    return {
        "standard": [{"PGD-40": w + 0.01, "worst of all": w} for w in plain],
        "PGD-AT": [
            {"PGD-40": p, "worst of all": w} for p, w in zip(pgd, robust, strict=True)
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("plain", "robust", "pgd", "verdict"),
    [
        ([0.0, 0.1], [0.5, 0.6], [0.55, 0.69], "shows"),
        ([0.0, 0.11], [0.5, 0.6], [0.55, 0.69], "does not show at this scale"),  # twin too good
        ([0.0, 0.1], [0.5, 0.49], [0.55, 0.5], "does not show at this scale"),  # gain too small
        ([0.0, 0.1], [0.5, 0.6], [0.55, 0.71], "does not show at this scale"),  # PGD-40 breaks
        ([0.3, 0.3], [0.2, 0.3], [0.5, 0.5], "contradicts"),
        ([0.3, 0.3], [0.2, 0.31], [0.5, 0.5], "does not show at this scale"),  # one seed gains
        ([0.0], [0.0], [0.0], "contradicts"),
    ],
)
def test_the_verdict(
    plain: list[float], robust: list[float], pgd: list[float], verdict: str
) -> None:
    found, because = judge(table(plain, robust, pgd))
    assert found == verdict
    gains = [100 * (r - p) for r, p in zip(robust, plain, strict=True)]
    assert f"gains {min(gains):.1f} to {max(gains):.1f} points" in because
    assert f"at most {100 * max(plain):.1f} %" in because and f"over {len(plain)} seeds" in because


def test_published_figures_carry_their_setting() -> None:
    assert PUBLISHED and set(PUBLISHED) <= set(LABELS)
    for value, setting in PUBLISHED.values():
        assert 0 < value < 1 and "eps 0.3" in setting and "MNIST" in setting


def test_the_paper_scale_is_that_of_the_paper(tmp_path: Path) -> None:
    pair, n = plans(Request(tmp_path, "paper"))
    assert n == 10000 and list(pair) == ["standard", "PGD-AT"]
    robust = pair["PGD-AT"]
    assert (robust.data, robust.threat, robust.n) == ("mnist", "linf:0.3", None)
    assert robust.method.startswith("AT(steps=40") and pair["standard"].method == "Standard"


def test_without_mnist_the_digits_take_its_place_and_that_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    pair, _ = plans(Request(tmp_path, data_dir=tmp_path, say=said.append))
    assert pair["PGD-AT"].data == pair["standard"].data == "digits"
    assert len(said) == 1 and "digits" in said[0] and "mnist, looked for in" in said[0]
    (tmp_path / "mnist.npz").write_bytes(b"PK damaged")
    plans(Request(tmp_path, data_dir=tmp_path, say=said.append))
    assert "numpy cannot read" in said[1]
    x, y = np.zeros((10, 28, 28), np.uint8), np.arange(10)
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    pair, _ = plans(Request(tmp_path, data_dir=tmp_path, say=said.append))
    assert len(said) == 2 and pair["PGD-AT"].data == "mnist"


@pytest.fixture(scope="module")
def tiny() -> Iterator[None]:
    """Networks of one hidden layer trained for two epochs, 12 test images."""
    settings = Settings.of(epochs=2, batch_size=32, lr=0.01, optimiser="adam")

    def small(request: Request) -> tuple[dict[str, Plan], int]:
        robust = Plan(
            model="mlp(hidden=(16,))", method="AT(steps=2)", threat="linf:0.1", n=200,
            settings=settings,
        )  # fmt: skip
        return {"standard": robust.model_copy(update={"method": "Standard"}), "PGD-AT": robust}, 12

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "plans", small)
        yield


@pytest.fixture(scope="module")
def finished(
    tiny: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Outcome, Path, list[str]]:
    """A whole run of one seed, its folder, and what it said."""
    out, said = tmp_path_factory.mktemp("madry") / "whole", []
    return madry(Request(out, seeds=1, say=said.append)), out, said


def figures(out: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((out / "outcome.json").read_text())
    return {name: value for name, value in stored.items() if not name.endswith("seconds")}


def test_a_run(finished: tuple[Outcome, Path, list[str]]) -> None:
    whole, out, said = finished
    assert [row.what for row in whole.rows] == [
        f"{name}: {label}" for name in ("standard", "PGD-AT") for label in LABELS
    ]
    rows = {row.what: row for row in whole.rows}
    for name in ("standard", "PGD-AT"):
        ours = {label: rows[f"{name}: {label}"].ours for label in LABELS}
        assert all(len(value) == 1 and 0 <= value[0] <= 1 for value in ours.values())
        assert ours["worst of all"][0] <= min(ours[label][0] for label in LABELS[:-1])
        assert ours["PGD-40, 10 restarts"] <= ours["clean"]
    published = {row.what: row.published for row in whole.rows if row.published is not None}
    assert published == {f"PGD-AT: {label}": value for label, (value, _) in PUBLISHED.items()}
    assert all(row.setting for row in whole.rows if row.published is not None)
    assert (whole.verdict, whole.because) == judge(
        {n: [{k: rows[f"{n}: {k}"].ours[0] for k in LABELS}] for n in ("standard", "PGD-AT")}
    )
    assert whole.seeds == (0,) and whole.settings["data"] == "digits" and whole.rows[0].n == 12
    assert Outcome.model_validate_json((out / "outcome.json").read_text()) == whole
    assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert sum("epoch" in line for line in said) == 4


def test_a_run_is_resumed(
    finished: tuple[Outcome, Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        """Something that ends the run in the middle of the second network's attacks."""

    evaluate, calls = experiment.evaluate, []

    def interrupted(*args: Any, **more: Any) -> Any:
        calls.append(more["out"])
        if len(calls) == 7:
            raise Stop
        return evaluate(*args, **more)

    cut = tmp_path / "cut"
    monkeypatch.setattr(experiment, "evaluate", interrupted)
    with pytest.raises(Stop):
        madry(Request(cut, seeds=1, say=print))
    monkeypatch.setattr(experiment, "evaluate", evaluate)
    assert not (cut / "outcome.json").exists()
    with pytest.raises(ResumeError, match="seeds"):
        madry(Request(cut, seeds=2, resume=True, say=print))
    madry(Request(cut, seeds=1, resume=True, say=print))
    assert figures(cut) == figures(finished[1])


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("verdict", "code"), [("shows", 0), ("contradicts", 1)])
def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: str, code: int
) -> None:
    monkeypatch.setattr(experiment, "judge", lambda table: (verdict, "of a test"))
    few = {k: v for k, v in attacks(parse("linf:0.1")).items() if k in ("FGSM", "PGD-40")}
    monkeypatch.setattr(experiment, "attacks", lambda threat: few)
    arguments = ["torchproof", "reproduce", "madry", "--seeds", "1", "--out", str(tmp_path / "m")]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(options.console, "width", 60)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code, err.getvalue()
    words = " ".join(out.getvalue().split())
    assert f"{verdict}: of a test" in words and f"stored in {tmp_path / 'm'}" in out.getvalue()
    assert all(len(line) <= 60 for line in out.getvalue().splitlines() if "stored in" not in line)
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert {"request.json", "outcome.json", "table.md", "picture.png"} <= names
