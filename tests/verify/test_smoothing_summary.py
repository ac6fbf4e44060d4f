"""Average radius and certified accuracy, of stored logs of published models too."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta

from torchproof.core.errors import FileError, InputError
from torchproof.verify.smoothing import Log, read_log

HEAD = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"

# what the authors' tables, or those made from their logs, have for one log
PUBLISHED = {
    "cohen_official__cifar10__resnet110__noise_0.25__test__sigma_0.25": (
        0.429,
        [748, 600, 428, 266],
    ),
    "cohen_official__cifar10__resnet110__noise_0.50__test__sigma_0.50": (0.538, []),
    "cohen_official__cifar10__resnet110__noise_1.00__test__sigma_1.00": (0.542, []),
    "cifar10__cohen__cifar_resnet20__noise_0.50_7483": (0.524, []),
    "cifar10__consistency__cohen__num_2__lbd_20.0__eta_0.5__cifar_resnet110__noise_0.25": (
        0.552,
        [758, 676, 581, 467],
    ),
    "mnist__salman__pgd_255.0_10_10__num_4__noise_0.50_3916": (1.687, []),
}
# tables that average several trainings, of which one log is stored
AVERAGED = {
    "mnist__cohen__noise_0.25_3870": 0.911,
    "mnist__cohen__noise_0.50_1801": 1.558,
    "mnist__cohen__noise_1.00_2110": 1.618,
    "mnist__stab__lbd_2__noise_0.5_1297": 1.572,
    "mnist__macer_deferred30__num_16__lbd_16.0__gamma_8.0__beta_16.0__noise_0.50_1221": 1.590,
    "mnist__consistency__cohen__num_2__lbd_5.0__eta_0.5__noise_0.50_1": 1.655,
}


def stored(data_dir: Path, name: str) -> Path:
    folder = data_dir / "certification" / "smoothing_logs"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: the stored certification logs are needed")
    return folder / f"{name}.tsv.gz"


def naive(path: Path) -> float:
    """The average radius, line by line."""
    total, lines = 0.0, 0
    for line in gzip.decompress(path.read_bytes()).decode().splitlines()[1:]:
        _, label, prediction, radius, *_ = line.split("\t")
        total += float(radius) if label == prediction else 0.0
        lines += 1
    return total / lines


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures_come_out_of_the_logs(data_dir: Path, name: str) -> None:
    acr, permille = PUBLISHED[name]
    log = read_log(stored(data_dir, name))
    assert log.acr == pytest.approx(acr, abs=5.1e-4)  # radii have 3 digits
    found = [round(1000 * log.accuracy(r)) for r in (0, 0.25, 0.5, 0.75)]
    assert not permille or found == permille
    assert len(log) == (500 if "official" in name else 10_000)


@pytest.mark.parametrize("name", [*PUBLISHED, *AVERAGED])
def test_the_average_radius_is_that_of_a_plain_loop(data_dir: Path, name: str) -> None:
    path = stored(data_dir, name)
    log = read_log(path)
    assert log.acr == pytest.approx(naive(path), rel=1e-12)
    if name in AVERAGED:  # one training of several
        assert log.acr == pytest.approx(AVERAGED[name], abs=0.01)
    assert 0 < log.abstained < 0.3 and (log.radii[log.predictions == -1] == 0).all()


def log_of(rows: list[tuple[int, int, float]]) -> Log:
    labels, predictions, radii = (np.array(column) for column in zip(*rows, strict=True))
    n = len(rows)
    return Log(np.arange(n), labels, predictions, radii.astype(float), np.full(n, math.nan))


def test_what_counts() -> None:
    log = log_of([(3, 3, 0.5), (3, 4, 0.9), (1, -1, 0.0), (2, 2, 0.25), (0, 0, 0.0)])
    assert log.acr == pytest.approx(0.75 / 5) and log.abstained == 0.2
    assert [log.accuracy(r) for r in (0, 0.25, 0.26, 0.5, 0.51)] == [0.6, 0.4, 0.2, 0.2, 0.0]
    low, high = log.ci95(0.25)
    assert (low, high) == pytest.approx((beta.ppf(0.025, 2, 4), beta.ppf(0.975, 3, 3)))
    curve = log.curve([0.0, 0.25])
    assert [row["certified_accuracy"] for row in curve] == [0.6, 0.4]
    assert curve[1]["certified_accuracy_ci95"] == [low, high]
    for radius in (-0.1, math.nan):
        with pytest.raises(InputError, match="radius"):
            log.accuracy(radius)


def test_logs_nobody_can_mean() -> None:
    for radius in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="radius"):
            log_of([(0, 0, radius)])
    empty = np.array([], np.int64)
    with pytest.raises(InputError, match="at least one"):
        Log(empty, empty, empty, empty.astype(float), empty.astype(float))


def test_times_of_both_kinds_and_none(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(HEAD + "0\t3\t3\t0.5\t1\t0:01:03.5\n20\t7\t-1\t0.0\t0\t15.4\n")
    log = read_log(path)
    assert log.seconds.tolist() == [63.5, 15.4] and log.ids.tolist() == [0, 20]
    path.write_bytes(
        gzip.compress(b"idx\tlabel\tpredict\tradius\tcorrect\n5\t1\t2\t0.1\t0\n", mtime=0)
    )
    assert np.isnan(read_log(str(path)).seconds).all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no line"),
        (HEAD.encode(), "no line"),
        (b"id,label\n1,2\n", "id,label"),
        ((HEAD + "0\t3\t3\t0.5\t1\t1\n1\t3\t3").encode(), "line 3"),
        ((HEAD + "0\t3\t3\tmuch\t1\t1\n").encode(), "line 2"),
        ((HEAD + "0\t3\t3\t-0.5\t1\t1\n").encode(), "radius -0.5"),
        ((HEAD + "0\t3\t3\tnan\t1\t1\n").encode(), "radius nan"),
        ((HEAD + "0\t3\t4\t0.5\t1\t1\n").encode(), "correct = 1"),
        ((HEAD + "0\t3\t3\t0.5\t1\tlate\n").encode(), "line 2"),
        (b"\x1f\x8b\x08rest", "ended"),
        (gzip.compress(HEAD.encode() * 50, mtime=0)[:40], "ended"),
        (b"\xff\xfe\x00", "utf-8"),
    ],
)
def test_damaged_logs_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "log.tsv"
    path.write_bytes(content)
    with pytest.raises(FileError, match=said):
        read_log(path)


def test_a_missing_log(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        read_log(tmp_path / "none.tsv")
