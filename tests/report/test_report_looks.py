"""The looks within the epochs of a run: where they are drawn, and that none goes unsaid."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchproof.report import Training, plots, render

Write = Callable[..., Path]


def look(step: int, fgsm: float, robust: float, **more: Any) -> dict[str, Any]:
    told = {"step": step, "n": 130, "fgsm": fgsm, "robust": robust, "linearity": 0.75}
    return {**told, "first_layer": 2.0, "catastrophic": fgsm - robust > 0.25, **more}


def noted(metrics: Path, checks: dict[int, list[Any]]) -> Training:
    """The record with these looks, by epoch; ten steps make an epoch."""
    epochs = [json.loads(line) for line in metrics.read_text().splitlines()]
    lines = [{**epoch, "checks": checks.get(epoch["epoch"], [])} for epoch in epochs]
    metrics.write_text("\n".join(map(json.dumps, lines)))
    return Training.read(metrics)


def rings(run: Training) -> int:
    """How many are in the figure: its other markers are ticks, in another colour."""
    return len(re.findall(r"<use [^>]*--ink", str(plots.curves(run, plots.LOOKS, "gap", "a"))))


def test_looks_lie_where_their_steps_do(metrics: Path) -> None:
    run = noted(metrics, {1: [look(3, 0.5, 0.4), look(5, 0.5, 0.5)], 3: [look(28, 0.9, 0.5)]})
    assert [at for at, _ in run.looks] == pytest.approx([0.3, 0.5, 2.8])
    gaps = run.points(plots.GAP.name)
    assert [gap for _, gap in gaps] == pytest.approx([0.1, 0.0, 0.4])
    assert run.flagged == [gaps[2]] and run.catastrophic == [3]
    assert [v for _, v in run.points(plots.LINEARITY.name)] == [0.75] * 3
    assert run.points("loss")[1] == (2, run.series("loss")[1][1])  # of epochs, at their ends


def test_the_page_draws_them(write: Write, metrics: Path) -> None:
    folder, page = write("one"), metrics.parent / "report.html"
    before = render([folder], page, training=metrics).read_text()
    assert "Gap and cosine" not in before and "First layer" not in before
    run = noted(metrics, {2: [look(14, 0.5, 0.4), look(16, 0.9, 0.5), look(18, 0.9, 0.6)]})
    html = render([folder], page, training=metrics).read_text()
    assert "Gap and cosine over the epochs" in html and "First layer over the epochs" in html
    assert plots.GAP.words in html and plots.LINEARITY.words in html and "from 0.1 to 0.3" in html
    assert "checks" not in run.undrawn
    calm = noted(metrics, {2: [look(14, 0.5, 0.4), look(16, 0.5, 0.5), look(18, 0.5, 0.3)]})
    assert (rings(run), rings(calm)) == (2, 0)


def test_rings_leave_room_for_each_other(metrics: Path) -> None:
    every = {e: [look(10 * e - 10 + at, 0.9, 0.1) for at in range(1, 10)] for e in range(1, 21)}
    run = noted(metrics, every)
    assert len(run.flagged) == 180 and plots.MARKED / 2 < rings(run) <= plots.MARKED + 1


@pytest.mark.parametrize("lost", ["step", "fgsm"])
def test_what_a_foreign_loop_left_out_is_not_invented(metrics: Path, lost: str) -> None:
    told = look(5, 0.9, 0.5)
    del told[lost]
    assert "checks" in noted(metrics, {1: [{"n": 130}, look(5, 0.9, 0.5)]}).undrawn
    run = noted(metrics, {1: [told, "words"]})
    assert not run.points(plots.GAP.name) and not run.flagged
    assert ("checks" in run.undrawn) == (lost == "step")
    assert len(run.points(plots.LINEARITY.name)) == (lost != "step")
