"""`torchproof reproduce all`: every experiment has its turn, whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchproof.core.errors import FileError
from torchproof.reproduce import Outcome, Request, Row
from torchproof.reproduce.experiment import Verdict, conclude

Cli = Callable[..., Any]


def made(name: str, verdict: Verdict, asked: list[str]) -> Callable[[Request], Outcome]:
    def experiment(request: Request) -> Outcome:
        asked.append(name)
        request.claim({})
        return conclude(
            request, name=name, paper="a paper", claim="a claim", settings={},
            rows=[Row(what="x", ours=(0.5,), n=10)], judged=(verdict, "as it came"), picture=b"",
        )  # fmt: skip

    return experiment


def broken(request: Request) -> Outcome:
    raise FileError("no data", "data", "fetch it")


def test_all_of_them_run_and_what_is_there_is_left_out(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []
    table = {"one": made("one", "shows", asked), "two": broken,
             "three": made("three", "does not show at this scale", asked)}  # fmt: skip
    monkeypatch.setattr("torchproof.cli.reproduce.EXPERIMENTS", table)
    answer = cli("reproduce", "all", "--out", tmp_path)
    assert answer.code == 2 and "two failed" in answer.words and asked == ["one", "three"]
    table["two"] = made("two", "contradicts", asked)
    answer = cli("reproduce", "all", "--out", tmp_path, "--resume")
    assert answer.code == 1 and asked == ["one", "three", "two"]
    assert all(f" {name} " in answer.words for name in table)
    table["two"] = made("two", "shows", asked)
    (tmp_path / "two" / "outcome.json").unlink()
    assert cli("reproduce", "all", "--out", tmp_path, "--resume").code == 0


@pytest.mark.parametrize(("given", "expected"), [((), 3), (("--jobs", 2), 2)])
def test_seeds_take_all_cores_unless_told_otherwise(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: tuple[Any, ...], expected: int
) -> None:
    asked: list[int] = []

    def ahead(experiment: Callable[[Request], Outcome], request: Request, jobs: int) -> Outcome:
        asked.append(jobs)
        return made("one", "shows", [])(request)

    monkeypatch.setattr("torchproof.cli.reproduce.ahead", ahead)
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    assert cli("reproduce", "awp", "--out", tmp_path, *given).code == 0 and asked == [expected]


def test_the_list_names_all_28_systems(cli: Cli) -> None:
    answer = cli("reproduce", "--list")
    assert answer.code == 0
    for name in ("awp", "spat", "tail-index", "hypocritical", "iat", "certified-training"):
        assert name in answer.words
