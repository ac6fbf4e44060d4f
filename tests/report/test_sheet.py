"""Pages of sections hold what they are given, and need nothing beside them."""

from __future__ import annotations

import re
from pathlib import Path

from torchproof.report.pictures import blank
from torchproof.report.sheet import Picture, Section, Sheet, Table, write_sheet


def page(command: str = "torchproof <it>") -> Sheet:
    figure = blank(2, 2)
    figure.add_subplot().plot([0, 1], [0, 1])
    table = Table("What was found.", ("name", "value"), (("a & b", "1"), ("c", "2")))
    return Sheet(
        kind="anomaly fit", title="A <title>", about="12 images", record="fit.json",
        cautions=("little is known",), command=command, versions={"torch": "2.0", "numpy": "1.0"},
        sections=(Section("First", ("A line.",), (table,), (Picture("line", "It rises.", figure),)),
                  Section("Second")),
    )  # fmt: skip


def test_a_page_and_its_pictures(tmp_path: Path) -> None:
    path = write_sheet(page(), tmp_path / "page.html")
    assert {p.name for p in tmp_path.iterdir()} == {"page.html", "line.png", "line.svg"}
    html = path.read_text()
    assert "A &lt;title&gt;" in html and "torchproof &lt;it&gt;" in html
    assert re.findall("<h2>(.*?)</h2>", html) == ["First", "Second", "How this was made"]
    assert re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', html) == [
        ("a &amp; b", "1"), ("c", "2"),
    ]  # fmt: skip
    assert "Beware: little is known." in html and "It rises. (line.png, .svg)" in html
    assert "torch 2.0, numpy 1.0" in html and "All numbers are in fit.json" in html
    assert not re.findall(r'(?:src|href)="(?!data:)', html), "nothing beside the page is needed"


def test_the_same_page_twice(tmp_path: Path) -> None:
    first, second = (write_sheet(page(), tmp_path / n / "page.html") for n in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert "How this was made" not in write_sheet(page(""), tmp_path / "page.html").read_text()
