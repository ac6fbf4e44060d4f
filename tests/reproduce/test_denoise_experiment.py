"""`reproduce denoise`: the verdict against the null block, and the noise of features."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from torchproof.nn import build
from torchproof.recipes.comparison import Cell, Line, line_of
from torchproof.reproduce import EXPERIMENTS, Request, denoise
from torchproof.reproduce.denoise import BEST, NAKED, NULL, Noise, _stages, judge
from torchproof.reproduce.study import DIGITS

STUDY = denoise.denoise_study


def cells(*robust: float) -> dict[int, Cell]:
    """A cell of 1000 images per seed."""
    return {
        seed: Cell(n=1000, clean=0.9, robust=r, pgd=r, fgsm=r, loss=1, train_loss=1, train_pgd=r,
                   standing=list(range(round(1000 * r))), backward=7, seconds=1, epochs=2,
                   catastrophic=0, overfitting=None, figures={}, flags=[])
        for seed, r in enumerate(robust)
    }  # fmt: skip


def lines(ours: tuple[float, ...], *others: str) -> dict[str, Line]:
    null = cells(*[0.5, 0.52, 0.48][: len(ours)])
    found = {NULL: line_of(NULL, "AT", null, null), BEST: line_of(BEST, "AT", cells(*ours), null)}
    return {**found, **{name: line_of(name, "AT", cells(*ours), null) for name in others}}


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ((0.53, 0.55, 0.52), "shows"),
        ((0.53, 0.52, 0.46), "does not show at this scale"),  # +3, 0, -2
        ((0.47, 0.49, 0.44), "contradicts"),
        ((0.60,), "does not show at this scale"),
    ],
    ids=["above", "around", "below", "one-seed"],
)
def test_the_verdict_goes_by_the_paired_interval(ours: tuple[float, ...], verdict: str) -> None:
    found, text = judge(lines(ours, NAKED, "mean"), ())
    assert found == verdict
    gain = 100 * (sum(ours) / len(ours) - 0.5)
    assert f"{BEST} {gain:+.1f} points" in text and f"{NAKED} {gain:+.1f} points" in text
    assert (" to " in text) == (len(ours) > 1)


def test_every_row_has_its_block_and_the_control_comes_first(tmp_path: Path) -> None:
    assert EXPERIMENTS["denoise"] is STUDY
    for scale in ("small", "paper"):
        request = Request(tmp_path / "out", data_dir=tmp_path, scale=scale, say=lambda text: None)
        table = STUDY.table(request)
        assert table.against == NULL and len(table.rows) == 8
        assert len({plan.method for plan in table.rows.values()}) == 1
        blocks = [plan.model.count("NonLocal(") for plan in table.rows.values()]
        places = 1 if scale == "small" else 4
        assert blocks == [0, 0, places, places, 0, 0, 0, 0]
        assert [name for name, plan in table.rows.items() if "insert" not in plan.model] == [NAKED]


def test_stages_before_and_behind_blocks() -> None:
    shape: dict[str, Any] = {"channels": 1, "size": 8, "classes": 3, "seed": 0}
    blocked = build("small-cnn", **shape, insert={"act2": "MeanFilter"})
    assert list(_stages(blocked).values()) == [
        "act1", "act2 before the block", "act2 behind the block", "act3",
    ]  # fmt: skip
    assert set(_stages(blocked)) <= {name for name, _ in blocked.named_modules()}
    assert list(_stages(build("resnet", **shape)).values()) == ["layer1", "layer2"]


def test_it_runs_from_end_to_end_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denoise, "IMAGES", 10)
    settings = {"epochs": 1, "batch_size": 50, "lr": 2e-3, "optimiser": "adam", "held_out": 20,
                "held_out_steps": 2}  # fmt: skip
    base = {**DIGITS, "n": 120, "method": "AT(steps=2)", "settings": settings}
    rows = {
        name: {
            "model": str(STUDY.rows[name]["model"]).replace("(", "(widths=(4, 8), hidden=16, ", 1)
        }
        for name in (NULL, BEST)
    }
    study = dataclasses.replace(STUDY, rows=rows, base=base, n=10)

    def asked(resume: bool = False) -> Request:
        return Request(
            tmp_path / "out", data_dir=tmp_path, seeds=1, resume=resume, say=lambda text: None
        )

    first = study(asked())
    again = study(asked(resume=True))
    assert first.rows == again.rows and first.because == again.because
    means = {row.what: row.mean for row in first.rows}
    assert f"{BEST}: PGD-20 minus fast" in means and f"{NULL}: feature noise, act1" in means
    behind = means[f"{BEST}: feature noise, act2 behind the block"]
    before = means[f"{BEST}: feature noise, act2 before the block"]
    assert min(behind, before) > 0 and behind != before
    path = tmp_path / "out" / "runs" / NULL / "seed0" / "feature_noise.json"
    stored = Noise.read(path)
    assert stored.n == 10 and torch.tensor(list(stored.ratios.values())).isfinite().all()
