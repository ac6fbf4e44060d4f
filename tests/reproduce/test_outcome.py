"""What an experiment stores: rows, table, verdict, and a folder that belongs to one experiment."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

import pytest

from torchproof.core.errors import FileError, InputError, ResumeError
from torchproof.reproduce import EXPERIMENTS, Outcome, Request, Row
from torchproof.reproduce.experiment import at_hand, conclude


def outcome(**more: Any) -> Outcome:
    rows = (
        Row(what="PGD-AT: clean", ours=(0.9, 0.8, 0.85), n=500),
        Row(what="PGD-AT: PGD-100", ours=(0.5, 0.5, 0.5), n=500, published=0.9252, setting="MNIST"),
    )
    given = {
        "name": "madry", "paper": "Madry", "claim": "it holds", "scale": "small", "rows": rows,
        "settings": {"data": "digits", "threat": "linf:0.15"}, "seeds": (0, 1, 2),
        "verdict": "shows", "because": "of this", "seconds": 1.5, "versions": {"torch": "2"},
    }  # fmt: skip
    return Outcome(**(given | more))


def test_a_row_over_seeds() -> None:
    row = Row(what="x", ours=(0.1, 0.4, 0.7), n=10)
    assert row.mean == pytest.approx(0.4) and row.spread == pytest.approx(
        statistics.stdev(row.ours)
    )
    assert Row(what="x", ours=(0.3,), n=10).spread == 0


def test_the_table() -> None:
    lines = outcome().table().splitlines()
    assert lines[0] == "# madry: Madry" and "Claim: it holds" in lines
    assert "**shows**: of this" in lines and "data: digits; threat: linf:0.15" in lines
    assert "| accuracy, n = 500, seeds [0, 1, 2] | ours | published |" in lines
    assert "| PGD-AT: clean | 85.0 ± 5.0 % | – |" in lines
    assert "| PGD-AT: PGD-100 | 50.0 ± 0.0 % | 92.52 % (MNIST) |" in lines


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    whole = outcome()
    whole.write(tmp_path)
    assert Outcome.model_validate_json((tmp_path / "outcome.json").read_text()) == whole
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == whole.table()
    assert {path.name for path in tmp_path.iterdir()} == {"outcome.json", "table.md"}


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"seeds": -1}, {"scale": "huge"}])
def test_requests_that_cannot_be_meant(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Request(tmp_path, **wrong)


def test_a_folder_belongs_to_one_experiment(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "folder"
    Request(out, seeds=2).claim({"robust": "a"})
    stored = json.loads((out / "request.json").read_text())
    assert stored == {"scale": "small", "seeds": "2", "robust": "a"}
    with pytest.raises(FileError, match="add --resume"):
        Request(out, seeds=2).claim({"robust": "a"})
    Request(out, seeds=2, resume=True).claim({"robust": "a"})
    for request, settings, names in (
        (Request(out, seeds=3, resume=True), {"robust": "a"}, r"\(seeds\)"),
        (Request(out, "paper", 2, resume=True), {"robust": "a"}, r"\(scale\)"),
        (Request(out, seeds=2, resume=True), {"robust": "b"}, r"\(robust\)"),
        (Request(out, seeds=2, resume=True), {"other": "a"}, r"\(other, robust\)"),
    ):
        with pytest.raises(ResumeError, match=names):
            request.claim(settings)
    assert json.loads((out / "request.json").read_text()) == stored


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_damaged_requests(tmp_path: Path, content: str) -> None:
    (tmp_path / "request.json").write_text(content)
    with pytest.raises(FileError, match="settings of an experiment"):
        Request(tmp_path, resume=True).claim({})


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in ("file", "file/sub"):
        with pytest.raises(FileError, match="choose another --out"):
            Request(tmp_path / place).claim({})


def test_every_experiment_says_what_it_is() -> None:
    assert all(experiment.__doc__ for experiment in EXPERIMENTS.values())


def test_what_an_experiment_ends_in(tmp_path: Path) -> None:
    request = Request(tmp_path, seeds=2)
    row = Row.per_seed("accuracy", [0.8, 0.9], 20)
    found = conclude(
        request, name="one", paper="Someone", claim="it works", settings={}, rows=[row],
        judged=("shows", "of this"), picture=b"png",
    )  # fmt: skip
    assert Outcome.model_validate_json((tmp_path / "outcome.json").read_text()) == found
    assert (found.scale, found.seeds, found.verdict) == ("small", (0, 1), "shows")
    assert found.versions.keys() == {"torchproof", "torch", "python"} and 0 < found.seconds < 60
    assert (tmp_path / "picture.png").read_bytes() == b"png"
    again = conclude(
        request, name="one", paper="Someone", claim="it works", settings={}, rows=[row],
        judged=("shows", "of this"), picture=b"png",
    )  # fmt: skip
    assert again.seconds > 2 * found.seconds, "what the sessions before took counts"
    assert row.ci95 is not None and row.ci95[1] == 1.0, "no share is larger"
    signed = Row.per_seed("gain", [-0.9, 0.9], 20, least=-1.0)
    assert signed.ci95 == (-1.0, 1.0)
    assert Row.per_seed("loss", [0.8, 0.9], 20, "").ci95[1] > 1  # type: ignore[index]


def test_the_digits_stand_in_once_for_all_that_is_missing(tmp_path: Path) -> None:
    said: list[str] = []
    request = Request(tmp_path, data_dir=tmp_path, say=said.append)
    assert at_hand(["mnist", "digits", "cifar10"], request) == ["digits"]
    assert [text.split(",")[0] for text in said] == [
        "the bundled digits take the place of mnist",
        "the bundled digits take the place of cifar10",
    ]


def test_cpu_seconds_of_a_run_that_was_cut_off_are_not_told(tmp_path: Path) -> None:
    def ended(request: Request) -> float:
        request.claim({})
        row = Row(what="x", ours=(0.5,), n=1)
        made = conclude(
            request, name="x", paper="", claim="", settings={}, rows=[row],
            judged=("shows", ""), picture=b"",
        )  # fmt: skip
        return made.cpu_seconds

    first = ended(Request(tmp_path, cpu_before=-5.0))
    assert first > 5
    assert ended(Request(tmp_path, resume=True, cpu_before=-5.0)) > first + 5
    (tmp_path / "outcome.json").unlink()  # as if the first had been cut off
    os.utime(tmp_path / "request.json", (0, 0))
    assert ended(Request(tmp_path, resume=True)) == 0
