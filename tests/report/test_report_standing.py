"""Certified, undecided and broken examples on the page of an evaluation."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchproof.report import render

Write = Callable[..., Path]


def certified(folder: Path, sure: set[str], broken: int = 0) -> dict[str, Any]:
    """Writes into an evaluation that the examples of status robust with these ids are certified,
    and the first `broken` of the broken ones too; the record of result.json.
    """
    with (folder / "examples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    refuted = [row["id"] for row in rows if row["status"] == "broken"][:broken]
    for row in rows:
        stood = "certified" if row["id"] in sure else "undecided"
        fell = "contradicted" if row["id"] in refuted else "broken"
        row["certificate"] = {"robust": stood, "broken": fell}.get(row["status"], row["status"])
    with (folder / "examples.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    names = ("certified", "broken", "undecided", "contradicted", "misclassified", "unfinished")
    counts = {name: sum(row["certificate"] == name for row in rows) for name in names}
    record: dict[str, Any] = json.loads((folder / "result.json").read_text())
    record |= {"standing": counts, "certified_accuracy": counts["certified"] / len(rows)}
    (folder / "result.json").write_text(json.dumps(record))
    return record


def robust_ids(folder: Path) -> list[str]:
    with (folder / "examples.csv").open(newline="") as file:
        return [row["id"] for row in csv.DictReader(file) if row["status"] == "robust"]


def words(page: Path) -> str:
    return " ".join(page.read_text().split())


def count_of(text: str, name: str) -> int:
    """The number in the row of the table that `name` heads."""
    _, after = text.split(f'<th scope="row">{name}</th><td class="num', 1)
    return int(after.split(">", 1)[1].split("<", 1)[0])


def test_the_card_counts_certified_undecided_and_broken(write: Write, tmp_path: Path) -> None:
    folder = write("one")
    sure = set(robust_ids(folder)[:4])
    counts = certified(folder, sure)["standing"]
    text = words(render([folder], tmp_path / "report.html"))
    assert counts["certified"] == 4 and counts["undecided"] > 0 and counts["broken"] > 0
    for name in ("certified", "undecided", "broken", "misclassified"):
        assert count_of(text, name) == counts[name]
    assert "Alarm" not in text and "contradicted" not in text and "FAILS" not in text


def test_certified_and_broken_is_a_red_alarm(write: Write, tmp_path: Path) -> None:
    folder = write("one")
    certified(folder, set(robust_ids(folder)[:4]), broken=2)
    text = words(render([folder], tmp_path / "report.html"))
    assert '<p class="failed">Alarm: 2 certified examples were broken by an attack.' in text
    assert count_of(text, "contradicted") == 2


def test_counts_that_the_table_does_not_bear_out_are_reported(write: Write, tmp_path: Path) -> None:
    folder = write("one")
    record = certified(folder, set(robust_ids(folder)[:4]))
    record["standing"]["certified"] += 1
    record["standing"]["undecided"] -= 1
    record["certified_accuracy"] = record["standing"]["certified"] / record["n"]
    (folder / "result.json").write_text(json.dumps(record))
    text = words(render([folder], tmp_path / "report.html"))
    assert "The files contradict each other" in text and text.count("FAILS") == 1


def test_certified_accuracy_above_robust_accuracy_is_reported(write: Write, tmp_path: Path) -> None:
    folder = write("one")
    record = certified(folder, set())
    record["certified_accuracy"] = record["robust_accuracy"] + 1 / record["n"]
    (folder / "result.json").write_text(json.dumps(record))
    text = words(render([folder], tmp_path / "report.html"))
    assert "The files contradict each other" in text and "certified accuracy is at most" in text


def test_nothing_is_said_without_a_verifier(write: Write, tmp_path: Path) -> None:
    text = words(render([write("one")], tmp_path / "report.html"))
    assert 'class="facts standing"' not in text and "certified accuracy is at most" not in text
