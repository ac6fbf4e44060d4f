"""One page from stored experiments."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest

from torchproof.core.errors import FileError
from torchproof.reproduce import pages, results
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


def test_what_took_long_is_said_by_the_clock(tmp_path: Path) -> None:
    """Trainings that ran side by side add up to more than the run took."""
    for name, seconds, cpu in (("short", 1.0, 0.0), ("long", 900.6, 0.0), ("jobs", 460.0, 905.0)):
        stored(tmp_path, name)
        told = read(tmp_path / name)
        told.model_copy(update={"seconds": seconds, "cpu_seconds": cpu}).write(tmp_path / name)
    table = "| m | seconds |\n|---|---:|\n| a `A` | 300 |\n| b `B` | 160 |\n"
    (tmp_path / "jobs" / "comparison.md").write_text(table)
    page = collected(tmp_path, "All of it", ["short", "long", "jobs"])
    assert "Longer than 15 minutes: long (901 s).\n" in page
    assert "| 7 of 10 | 460 | 905 |" in page and "at least" not in page and "resumed" not in page


def test_time_that_is_not_known_is_left_out(tmp_path: Path) -> None:
    stored(tmp_path, "cut-off")
    read(tmp_path / "cut-off").model_copy(update={"seconds": 0.0}).write(tmp_path / "cut-off")
    page = collected(tmp_path, "T", ["cut-off"])
    assert "| 7 of 10 |  |  |" in page and "All whose time is known took at most 15" in page


def cells(page: str) -> dict[str, list[str]]:
    """The cells of each row about an experiment, by its name."""
    rows = [row for row in page.splitlines() if row.startswith("| ") and "/table.md) |" in row]
    return {row.split("/table.md")[0].split("](")[1]: row.split("|") for row in rows}


def test_both_kinds_of_page_tell_the_same_time() -> None:
    """Of the clock, and of the processors."""
    folder = DOCS / "results"
    told = {name: row[4:6] for name, row in cells(results.page(folder)).items()}
    for title, names in pages.COLLECTED.values():
        rows = cells(collected(folder, title, names))
        assert set(rows) == set(names)
        for name, row in rows.items():
            for seconds, minutes in zip(row[-3:-1], told[name], strict=True):
                spent, shown = seconds.strip().replace(",", ""), minutes.strip()
                if not (spent and shown and "<" not in shown):
                    assert bool(spent) == bool(shown) and float(spent or 0) < 60, name
                    continue
                assert abs(float(spent) / 60 - float(shown.replace(",", ""))) < 0.51, name


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


def test_all_pages_are_written_or_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pages.main([]) == 2 and pages.main([str(tmp_path)]) == 2
    assert "reproduce awp" in capsys.readouterr().err and not list(tmp_path.iterdir())
    shutil.copytree(DOCS / "results", tmp_path / "results")
    made = cache(pages.pages)  # asked about again below
    monkeypatch.setattr(pages, "pages", made)
    assert pages.main([str(tmp_path)]) == 0
    assert len(made(tmp_path)) == len(pages.COLLECTED) + 3
    for path in made(tmp_path):
        assert path.is_relative_to(tmp_path) and path.read_text().startswith("# ")
