"""`reproduce tail-index`: verdicts and rows by hand, the training loop, a whole run of tiny
networks.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from torchproof.core import keys
from torchproof.core.errors import FileError, ResumeError
from torchproof.data import load
from torchproof.diagnose.stable import Estimate
from torchproof.diagnose.tail_index import Tails, TailTrack, tails
from torchproof.reproduce import tail_index as experiment
from torchproof.reproduce.experiment import Outcome, Request
from torchproof.reproduce.tail_index_figures import judge, rows
from torchproof.reproduce.tail_index_measures import ALPHAS, Cell, Exit, Synthetic, Track, groups

TINY = experiment.Setup(
    widths=(8, 12), steps=12, measured=(0, 12), tracked=8, draws=1000, repetitions=2, walkers=5
)


ONE_NOT = (True,) * 7 + (False,)


@cache
def found() -> Tails:
    noise = keys.normal(keys.mix("experiment", torch.arange(60)), 0, (200,))
    return tails(noise - noise.mean(0))


def read(alpha: float, control: float = 1.9, heavy: bool = True) -> Tails:
    own, other = (Estimate(a, a - 0.05, a + 0.05, 9000) for a in (alpha, control))
    return replace(found(), pooled=own, filtered=own, correlated=other, heavy_tailed=heavy)


def cells(
    *, wide: float = 1.2, narrow: float = 1.5, heavy: tuple[bool, ...] = (True,) * 8
) -> list[Cell]:
    """Two data sets, one loss, two widths, two seeds."""
    made, marks = [], iter(heavy)
    for seed in (0, 1):
        for data in ("mnist", "fashion-mnist"):
            for width, alpha in ((8, narrow), (64, wide)):
                made.append(Cell(
                    data=data, loss="nll", width=width, seed=seed, n=100, accuracy=0.9, fitted=1,
                    tails=read(alpha + 0.02 * seed, heavy=next(marks)),
                ))  # fmt: skip
    return made


def synthetic(off: float = 0.0, covered: int = 95) -> Synthetic:
    by = {f"{a}": (a + off, a + off) for a in ALPHAS}
    return Synthetic(
        draws=100, repetitions=100, covered={f"{a}": covered for a in ALPHAS},
        means={"published": by, "characteristic": by, "hill": by}, scales={"1.0": (1.5, 1.6)},
        zeros={"0.5": (0.33, 2.0)}, together=1.0,
    )  # fmt: skip


def exits(deeper: float = 1.0) -> list[Exit]:
    means = {}
    for alpha, high in ((1.5, deeper), (2.0, 5.0)):
        for width, wide in (("1", 1.0), ("2", 2.8)):
            for height, longer in (("0.5", 1.0), ("1", high)):
                means[f"alpha {alpha}, half width {width}, height {height}"] = 10 * wide * longer
    return [Exit(seed=s, walkers=50, means=means, predicted=means) for s in (0, 1)]


@pytest.mark.parametrize(
    ("told", "draws", "left", "verdict", "said"),
    [
        ({}, synthetic(), exits(), "shows", "than at the narrowest in 2 of 2"),
        ({}, synthetic(0.04), exits(), "does not show at this scale", "are not sound"),
        ({}, synthetic(covered=89), exits(), "does not show at this scale", "are not sound"),
        ({"wide": 1.6}, synthetic(), exits(), "does not show at this scale", "in 0 of 2"),
        ({"heavy": ONE_NOT}, synthetic(), exits(), "does not show at this scale", "leave 7 of 8"),
        ({}, synthetic(), exits(1.5), "does not show at this scale", "1.50 times (theory 1)"),
        ({"heavy": (False,) * 8}, synthetic(), exits(), "contradicts", "leave 0 of 8"),
        ({"narrow": 1.96}, synthetic(), exits(), "contradicts", "below 2 in 4 of 8"),
    ],
)  # fmt: skip
def test_the_verdict(
    told: dict[str, Any], draws: Synthetic, left: list[Exit], verdict: str, said: str
) -> None:
    got, because = judge(cells(**told), draws, left)
    assert got == verdict and said in because


def test_the_rows() -> None:
    track = TailTrack((0, 30), (read(1.9), read(1.4)), ())
    table = rows(cells(), [Track(data="mnist", seed=0, found=track)], synthetic(), exits())
    by = {row.what: row for row in table}
    assert len(by) == len(table)
    row = by["mnist, nll, width 64: published reading"]
    assert row.ours == pytest.approx((1.2, 1.22)) and row.n == 9000
    half = 12.7062 * 0.01
    assert row.ci95 == pytest.approx((1.21 - half, 1.21 + half), abs=1e-4)
    assert by["mnist, nll, width 8: Gaussian control, same covariance"].mean == 1.9
    heavy = by["fashion-mnist, nll, width 8: networks that the controls leave heavy-tailed"]
    assert heavy.ours == (1.0,) and heavy.n == 2
    assert by["synthetic, alpha 1.5: published estimator, intervals that hold it"].ours == (0.95,)
    step = "over training, step 30: "
    assert by[f"{step}published reading"].ours == (1.4,) and f"{step}exact zeros" in by
    own = {"coordinate by coordinate, median", "that control, coordinate by coordinate"}
    told = {row.what.removeprefix(step) for row in table if row.what.startswith(step)}
    assert told > own | {"Gaussian control, same deviations", "Gaussian control, same covariance"}
    looked = by["mnist, nll, width 8: coordinates not rejected as Gaussian"]
    assert looked.n == 200  # coordinates, all of them
    assert by["mean exit time, alpha 1.5, half width 2, height 1"].ours == (28.0, 28.0)
    refused = cells()[0].model_copy(update={"tails": None, "refused": "zeros", "loss": "hinge"})
    assert groups([*cells(), refused])[-1] == ("mnist, hinge", [])
    assert judge([*cells(), refused], synthetic(), exits())[0] == "does not show at this scale"


def test_plain_descent() -> None:
    data = load("digits", split="train").take(60)
    setup = replace(TINY, batch=20, steps=4, measured=(0, 4), lr=0.5)
    model = experiment.network(data, 8, 3, seed=1)
    assert [p.shape for p in model.parameters()] == [(8, 64), (8, 8), (10, 8)]
    twin = experiment.network(data, 8, 3, seed=1)
    steps = [step for step, _ in experiment.descend(model, data, setup, "nll", 1)]
    assert steps == [0, 4]
    for number in range(4):
        order = keys.permutation(60, 1, "tail index epoch", number // 3)
        chosen = order[number % 3 * 20 : number % 3 * 20 + 20]
        loss = F.cross_entropy(twin(data.x[chosen]), data.y[chosen])
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        with torch.no_grad():
            for p, g in zip(twin.parameters(), gradients, strict=True):
                p.sub_(0.5 * g)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.slow
def test_a_run_and_its_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "SMALL", TINY)
    monkeypatch.setattr(experiment, "DRIVERS", {1.5: 0.4, 2.0: 1.0})  # walkers leave soon
    said: list[str] = []
    request = Request(tmp_path / "out", seeds=1, data_dir=tmp_path, say=said.append)
    whole = experiment.tail_index_experiment(request)
    assert Outcome.model_validate_json((request.out / "outcome.json").read_text()) == whole
    for name in ("picture.png", "tails.png"):
        assert (request.out / name).read_bytes().startswith(b"\x89PNG")
    parts = sorted(p.name for p in (request.out / "parts").iterdir())
    assert len(parts) == 1 + 1 + 4 + 1 and "digits-hinge-12-seed0.json" in parts
    by = {row.what: row for row in whole.rows}
    assert by["Gaussian numbers, 10,000 coordinates that are equal: published estimator"].mean < 1.2
    assert 0 <= by["digits, nll, width 12: exact zeros"].mean < 0.5
    first = (request.out / "parts" / "digits-nll-8-seed0.json").stat().st_mtime_ns
    again = experiment.tail_index_experiment(replace(request, resume=True))
    assert again.rows == whole.rows and again.because == whole.because
    assert (request.out / "parts" / "digits-nll-8-seed0.json").stat().st_mtime_ns == first
    with pytest.raises(ResumeError, match="seeds"):
        experiment.tail_index_experiment(replace(request, resume=True, seeds=2))
    (request.out / "parts" / "synthetic.json").write_text(json.dumps({}))
    with pytest.raises(FileError, match="remove that file"):
        experiment.tail_index_experiment(replace(request, resume=True))
