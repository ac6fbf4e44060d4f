"""One page from stored experiments."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from torchproof.core.errors import FileError
from torchproof.reproduce import pages
from torchproof.reproduce.collected import collected
from torchproof.reproduce.collected import stored as read
from torchproof.reproduce.experiment import Outcome, Row

DOCS = Path(__file__).parents[2] / "docs"


def stored(folder: Path, name: str, *more: Row) -> None:
    (folder / name).mkdir(parents=True)
    Outcome(
        name=name, paper="Someone 2020", claim="it works", scale="small", settings={"data": "d"},
        seeds=(0, 1), rows=(Row.share("AT: clean", [3, 4], [5, 5]), *more), verdict="shows",
        because="7 of 10", seconds=1.0, versions={},
    ).write(folder / name)  # fmt: skip


def test_a_page_has_every_verdict_and_table(tmp_path: Path) -> None:
    stored(tmp_path, "one")
    stored(tmp_path, "two")
    (tmp_path / "two" / "comparison.md").write_text("about two\n\n| a |\n|---|\n| 1 |\n")
    page = collected(tmp_path, "All of it", ["one", "two"])
    assert page.startswith("# All of it\n")
    assert (
        page.count("| shows | 7 of 10 | 1 |") == 2
        and "All of them took at most 15" in page
        and "[two](two/table.md)" in page
    )
    assert "| AT: clean | 10 |" in page and "about two" in page
    assert page.count("# one") == 1  # the table's own title is left out


def test_a_page_has_what_was_measured_beside_the_table(tmp_path: Path) -> None:
    more = Row.share("AT: under noise", [1, 2], [5, 5])
    deeper = Row.share("a deeper network, AT: clean", [1, 2], [5, 5])
    stored(tmp_path, "one", more, deeper)
    (tmp_path / "one" / "comparison.md").write_text("about one\n\n| m |\n|---|\n| AT `AT()` |\n")
    page = collected(tmp_path, "All of it", ["one"])
    assert "about one" in page and "| AT: under noise | 10 |" in page
    assert "| a deeper network, AT: clean | 10 |" in page and "| AT: clean" not in page


def test_what_took_long_is_said(tmp_path: Path) -> None:
    """By the outcome, or by the table's trainings where a resumed run forgot its first session."""
    for name in ("short", "long", "resumed"):
        stored(tmp_path, name)
    path = tmp_path / "long" / "outcome.json"
    path.write_text(path.read_text().replace('"seconds": 1.0', '"seconds": 900.6'))
    table = "| m | seconds |\n|---|---:|\n| a `A` | 300 |\n| b `B` | 160 |\n"
    (tmp_path / "resumed" / "comparison.md").write_text(table)
    page = collected(tmp_path, "All of it", ["short", "long", "resumed"])
    assert "Longer than 15 minutes: long (901 s), resumed (at least 920 s). Seconds are" in page
    assert "of resumed experiments (resumed) are of the trainings alone" in page
    assert "| 7 of 10 | at least 920 |" in page and "short (" not in page


def test_figures_without_a_unit_are_no_percentages(tmp_path: Path) -> None:
    loss = Row(what="loss, nats", ours=(2.0, 2.02), n=5, unit="", published=1.5)
    stored(tmp_path, "one", loss)
    outcome = Outcome.model_validate_json((tmp_path / "one" / "outcome.json").read_text())
    for rows in ((loss,), outcome.rows):  # without intervals, and with some
        table = outcome.model_copy(update={"rows": rows}).table()
        assert "2.01 ± 0.0141 |" in table and "| 1.5 |" in table and "201" not in table


def test_cpu_time_that_two_cores_do_not_have_is_named(tmp_path: Path) -> None:
    for name, cpu in (("cheap", 1799.0), ("dear", 1801.0)):
        stored(tmp_path, name)
        told = read(tmp_path / name).model_copy(update={"cpu_seconds": cpu})
        told.write(tmp_path / name)
    page = collected(tmp_path, "T", ["cheap", "dear"])
    assert "| 7 of 10 | 1 | 1,799 |" in page and "for two cores: dear." in page


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="reproduce nothing"):
        collected(tmp_path, "T", ["nothing"])


def test_all_pages_are_written_or_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pages.main([]) == 2 and pages.main([str(tmp_path)]) == 2
    assert "reproduce awp" in capsys.readouterr().err and not list(tmp_path.iterdir())
    shutil.copytree(DOCS / "results", tmp_path / "results")
    assert pages.main([str(tmp_path)]) == 0
    for path in pages.pages(DOCS):
        assert (tmp_path / path.relative_to(DOCS)).read_text().startswith("# ")
