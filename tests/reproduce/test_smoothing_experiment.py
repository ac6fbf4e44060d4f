"""`reproduce smoothing`: what is read from the logs, the verdict, and what is missing."""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchproof.core.errors import FileError
from torchproof.reproduce import EXPERIMENTS, Request
from torchproof.verify.smoothing import Log, read_log

experiment = sys.modules[EXPERIMENTS["smoothing"].__module__]
NAME = "cohen_official__cifar10__resnet110__noise_0.25__test__sigma_0.25"


def log(radii: list[float]) -> Log:
    n = len(radii)
    zeros = np.zeros(n, np.int64)
    return Log(np.arange(n), zeros, zeros, np.array(radii), np.zeros(n))


@pytest.mark.parametrize(
    ("name", "sigma"),
    [(NAME, 0.25), ("cohen_official__cifar10__resnet110__noise_0.12__test__sigma_0.50", 0.5),
     ("mnist__stab__lbd_2__noise_0.5_1297", 0.5), ("mnist__cohen__noise_1.00_2110", 1.0)],
)  # fmt: skip
def test_the_noise_of_a_log_is_in_its_name(name: str, sigma: float) -> None:
    assert experiment.sigma_of(name) == sigma


def test_a_log_without_noise_in_its_name() -> None:
    with pytest.raises(FileError, match="noise_"):
        experiment.sigma_of("mnist")


def test_neyman_pearson_gives_the_logged_radii_back_and_nothing_gives_more() -> None:
    found = experiment.measured("x__noise_0.50_1", log([0.0, 0.1, 0.955, 1.906, 0.1]))
    assert found.acr["neyman-pearson"] == pytest.approx(found.log.acr, rel=1e-9)
    assert set(found.above.values()) == {0} and len(found.acr) == 8
    assert all(acr <= found.log.acr * (1 + 1e-6) for acr in found.acr.values())
    assert found.published is None and found.words == "x__noise_0.50_1"


def changed(**more: Any) -> dict[str, Any]:
    """A log whose published ACR is its own, changed."""
    found = experiment.measured("x__noise_0.50_1", log([0.5, 1.5]))
    return {"x": replace(found, **{"published": 1.0, **more})}


@pytest.mark.parametrize(
    ("more", "verdict", "said"),
    [
        ({}, "shows", "0 do not come out; 0 logs hold"),
        ({"published": 1.0004}, "shows", "1 with published"),
        ({"published": 1.001}, "contradicts", "1 do not come out (x__noise"),
        ({"published": 1.009, "trainings": 5}, "shows", "0 do not"),
        ({"published": 1.011, "trainings": 5}, "contradicts", "1 do not"),
        ({"known": (1.0, 0.9)}, "contradicts", "1 do not"),
        ({"log": log([0.09, 1.91])}, "shows", "0 logs hold radii above"),
        ({"log": log([0.05, 1.95])}, "shows", "1 logs hold radii above"),
        ({"log": log([0.03, 1.97])}, "contradicts", "1 logs hold radii above"),
        ({"above": {"renyi": 2}}, "contradicts", "2 radii of other theories"),
    ],
)
def test_the_verdict(more: dict[str, Any], verdict: str, said: str) -> None:
    judged, because = experiment.judge(changed(**more))
    assert judged == verdict and said in because


def test_a_published_log(data_dir: Path) -> None:
    files = experiment.logs_in(data_dir)
    assert set(experiment.KNOWN) <= set(files)
    found = experiment.measured(NAME, read_log(files[NAME]))
    judged, because = experiment.judge({NAME: found})
    # the largest radii of this log are those of alpha = 0.01, not 0.001
    assert judged == "shows" and "1 logs hold" in because and "alpha = 0.01" in because
    rows = experiment.rows({NAME: found})
    assert [r.published for r in rows[:5]] == [0.429, 0.748, 0.6, 0.428, 0.266]
    assert all(r.mean == pytest.approx(r.published, abs=5.1e-4) for r in rows[:5])


def stored(folder: Path, names: list[str]) -> Path:
    place = folder / "certification" / "smoothing_logs"
    place.mkdir(parents=True)
    text = "idx\tlabel\tpredict\tradius\tcorrect\n0\t3\t3\t0.1\t1\n1\t3\t-1\t0.0\t0\n"
    for name in names:
        (place / f"{name}.tsv.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    return folder


@pytest.mark.slow
def test_a_run_on_other_logs_says_that_they_are_others(tmp_path: Path) -> None:
    """Nothing is left out: logs that no table knows have rows as well."""
    data = stored(tmp_path / "data", [*experiment.KNOWN, "mine__noise_0.25_1"])
    said: list[str] = []
    request = Request(tmp_path / "out", data_dir=data, say=said.append)
    outcome = EXPERIMENTS["smoothing"](request)
    assert outcome.verdict == "contradicts" and outcome.seeds == (0,)
    assert len(said) == 17 and any("mine" in row.what for row in outcome.rows)
    page = (tmp_path / "out" / "logs.md").read_text(encoding="utf-8")
    assert sum(line.startswith("| mine__noise_0.25_1 |") for line in page.splitlines()) == 2
    kept = json.loads((tmp_path / "out" / "outcome.json").read_text(encoding="utf-8"))
    assert kept["rows"][0]["ours"] == [pytest.approx(0.05)]
    assert (tmp_path / "out" / "picture.png").stat().st_size > 5000


def test_missing_logs_are_named(tmp_path: Path) -> None:
    data = stored(tmp_path / "data", list(experiment.KNOWN)[1:])
    with pytest.raises(FileError, match=f"without 1 of 16 logs, {next(iter(experiment.KNOWN))}"):
        EXPERIMENTS["smoothing"](Request(tmp_path / "out", data_dir=data))
    with pytest.raises(FileError, match="without 16 of 16"):
        EXPERIMENTS["smoothing"](Request(tmp_path / "out", data_dir=tmp_path))
