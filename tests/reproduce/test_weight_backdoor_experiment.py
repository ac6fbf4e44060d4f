"""`reproduce weight-backdoor`: verdicts by hand, the rows, the texts, a whole run in small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import torchproof.reproduce.weight_backdoor as experiment
import torchproof.reproduce.weight_backdoor_text as text
from torchproof.backdoor.metrics import Change, Measured, Share
from torchproof.core.errors import FileError, ResumeError
from torchproof.recipes import Plan
from torchproof.reproduce.experiment import Outcome, Request
from torchproof.reproduce.weight_backdoor import Part, TextPart, parts
from torchproof.reproduce.weight_backdoor_figures import Cell, judge, rows, sweeps
from torchproof.train import Settings


def share(hits: int, of: int = 1000) -> Share:
    return Share.count(torch.arange(of) < hits)


def cell(
    eps: float | None, success: int, clean: int, *, data: str = "mnist", seed: int = 0,
    before: int = 2, linf: float | None = None, kind: str = "weights", weight: float = 1.0,
) -> Cell:  # fmt: skip
    change = Change(linf if linf is not None else eps or 1.0, 1.5, 0.2, 100, 0, 0)
    measured = Measured(
        7, share(clean), share(960), share(clean + 10), share(success), share(before),
        share(30) if eps == 0.05 else None, share(40) if eps == 0.05 else None, change,
    )  # fmt: skip
    trigger = "patch" if data == "mnist" else "word"
    return Cell(
        data=data, kind=kind, trigger=trigger, seed=seed, measured=measured, eps=eps, weight=weight
    )


def cells(at: dict[str, Any]) -> list[Cell]:
    """Two seeds of a cliff, and texts; `at` changes what is seen at 0.05."""
    found = []
    for seed in (0, 1):
        found += [cell(0.002, 20, 950, seed=seed), cell(0.01, 900, 300, seed=seed)]
        found += [cell(0.05, **{"success": 980 + 4 * seed, "clean": 950, **at}, seed=seed)]
        found += [cell(0.01, 500, 500, seed=seed, weight=0.3)]
        found += [cell(None, 1000, 955, seed=seed, kind="poisoned data")]
    found += [cell(0.002, 100, 950, data="docstrings"), cell(0.05, 900, 800, data="docstrings")]
    return found


@pytest.mark.parametrize(
    ("at", "verdict"),
    [
        ({}, "shows"),
        ({"success": 970, "clean": 945}, "shows"),
        ({"success": 969}, "does not show at this scale"),
        ({"clean": 944}, "does not show at this scale"),
        ({"before": 11}, "does not show at this scale"),
        ({"linf": 0.0500001}, "does not show at this scale"),
        ({"success": 499}, "contradicts"),
    ],
)
def test_the_verdict(at: dict[str, Any], verdict: str) -> None:
    assert judge(cells(at))[0] == verdict


def test_the_verdict_tells_the_figures_and_the_cliffs() -> None:
    because = judge(cells({}))[1]
    assert "succeeds in 98.2 % (in the original network 0.20 %)" in because
    assert "clean accuracy changes by -1.00 points" in because
    assert "mnist: success below 20 % up to eps 0.002" in because
    assert "lost most at eps 0.01 (-66.0 points), best at eps 0.05 (98.2 % at -1.0" in because
    assert "docstrings: success below 20 % up to eps 0.002" in because


def test_rows_pool_the_seeds_and_leave_out_what_was_not_measured() -> None:
    table = {row.what: row for row in rows(cells({}))}
    success = table["mnist, weights, patch, eps 0.05: attack success"]
    assert success.ours == (0.98, 0.984) and success.n == 2000
    assert table["mnist, no backdoor: clean accuracy"].mean == 0.96
    assert table["mnist, no backdoor: robust accuracy"].mean == 0.04
    assert table["mnist, no backdoor: success of the patch"].mean == 0.002
    assert table["mnist, weights, patch, eps 0.05: robust accuracy"].mean == 0.03
    assert table["mnist, weights, patch, eps 0.05: mean relative change"].mean == 1.5
    assert "mnist, weights, patch, eps 0.01: robust accuracy" not in table
    assert not [w for w in table if "poisoned data" in w and "change" in w]
    assert table["mnist, weights, patch, eps 0.01, weight 0.3: clean accuracy"].mean == 0.5
    assert all("|" not in what for what in table)  # it would end a column of the table


def test_sweeps_are_of_one_data_set_and_by_seed() -> None:
    first, second = sweeps(cells({}), "mnist")
    assert [s.eps for s in first.at(1.0)] == [0.002, 0.01, 0.05] and len(second.at(0.3)) == 1
    assert len(sweeps(cells({}), "docstrings")) == 1


@pytest.mark.slow
def test_the_texts_are_real_and_do_not_name_their_library() -> None:
    found = text.docstrings(20, 10)
    assert found.x.shape == (80, text.LENGTH) and found.test_x.shape == (40, text.LENGTH)
    assert found.y.bincount().tolist() == [20] * 4 and found.test_y.bincount().tolist() == [10] * 4
    assert not text.NAMES & set(found.words) and "the" in found.words[:6]
    assert int(found.x.max()) < len(found.words) and int(found.x[:, 0].min()) > text.PADDING
    assert (found.x == found.rarest).sum() >= 1
    everything = torch.cat([found.x, found.test_x])
    known = {tuple(row) for row in everything.tolist() if text.UNKNOWN not in row}
    repeated = [row for row in found.test_x.tolist() if row in found.x.tolist()]
    assert known and not repeated
    assert text.docstrings.__wrapped__(20, 10).sha256 == found.sha256
    assert text.docstrings(20, 9).sha256 != found.sha256


def test_readers_learn_and_are_keyed() -> None:
    found = text.docstrings(20, 10)
    state = torch.random.get_rng_state()
    first, again, other = (text.reader(found, seed, 4) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state) and not first.training
    assert torch.equal(first.last.weight, again.last.weight)
    assert not torch.equal(first.last.weight, other.last.weight)
    assert not torch.equal(first.last.weight, text.reader(found, 0, 3).last.weight)
    right = (text.reader(found, 0, 40)(found.x).argmax(1) == found.y).float().mean()
    assert float(right) > 0.9


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError, match="no_such_library"):
        list(text._sources("no_such_library"))


def test_the_parts_of_each_scale(tmp_path: Path) -> None:
    small, _ = parts(Request(tmp_path, data_dir=tmp_path, say=lambda _: None))
    large, _ = parts(Request(tmp_path, scale="paper", data_dir=tmp_path, say=lambda _: None))
    assert small.plan.data == large.plan.data == "digits"  # nothing else is in that folder
    assert 0.05 in small.budgets and small.tests < large.tests and "(8, 16)" in small.plan.model


@pytest.mark.slow
def test_a_whole_run_and_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.of(epochs=1, batch_size=64, lr=5e-3, optimiser="adam", schedule="cyclic",
                           weight_decay=0.0, held_out=0)  # fmt: skip
    plan = Plan(data="digits", model="mlp(hidden=(16,))", method="Standard", settings=settings)
    part = Part(plan, 60, 60, 20, 3, (0.01, 0.05))
    tiny = part, TextPart(20, 10, 12, 40, 2, (0.01, 0.05))
    monkeypatch.setattr(experiment, "parts", lambda request: tiny)
    said: list[str] = []
    request = Request(tmp_path / "out", seeds=1, say=said.append)
    outcome = experiment.weight_backdoor_experiment(request)
    stored = Outcome.model_validate_json((tmp_path / "out" / "outcome.json").read_text())
    assert stored.rows == outcome.rows and outcome.name == "weight-backdoor"
    assert (tmp_path / "out" / "picture.png").read_bytes().startswith(b"\x89PNG")
    named = [row.what for row in outcome.rows]
    for kind in (
        "weights, patch, eps 0.05", "weights, patch, eps 0.01, weight 0.3", "weights, blend",
        "weights, warp", "weights, sign steps", "weights, logits anchored",
        "weights, noise for data", "poisoned data, warp",
    ):  # fmt: skip
        assert any(what.startswith(f"digits, {kind}") for what in named), kind
    assert any(what.startswith("docstrings, weights, word, eps 0.05") for what in named)
    kept = list((tmp_path / "out" / "digits-seed0" / "cells").glob("*.json"))
    assert len(kept) == 11
    assert all(json.loads(p.read_text())["measured"]["change"]["weights"] > 0 for p in kept)
    before = len(said)
    again = Request(tmp_path / "out", seeds=1, resume=True, say=said.append)
    assert experiment.weight_backdoor_experiment(again).rows == outcome.rows
    assert len(said) == before  # nothing is measured twice
    with pytest.raises(ResumeError, match="seeds"):
        changed = Request(tmp_path / "out", seeds=2, resume=True, say=said.append)
        experiment.weight_backdoor_experiment(changed)
