"""The page as a reader gets it: complete, escaped, self-contained, the same for the same input."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from torchproof.core.errors import FileError, InputError
from torchproof.report import Evaluation, render

Write = Callable[..., Path]
VOID = {"meta", "img", "br", "hr", "input", "link", "line", "path", "rect", "use"}


class Page(HTMLParser):
    """Elements with their attributes, the text outside style sheets, and unbalanced tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(*folders: Path, **options: Any) -> Page:
    return Page(render(list(folders), folders[0].parent / "report.html", **options).read_text())


def result(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return record


def test_html_is_balanced_and_ids_are_unique(write: Write, metrics: Path) -> None:
    found = page(write("one", alpha=100.0), write("two"), training=metrics)
    assert not found.wrong and not found.open
    ids = Counter(str(attributes["id"]) for _, attributes in found.elements if "id" in attributes)
    assert len(ids) > 20 and ids.most_common(1)[0][1] == 1
    for _, attributes in found.elements:
        labels = str(attributes.get("aria-labelledby") or "").split()
        links = re.findall(r"#([\w-]+)", str(attributes.get("href") or ""))
        clips = re.findall(r"url\(#([\w-]+)\)", str(attributes.get("clip-path") or ""))
        assert {*labels, *links, *clips} <= set(ids)


def test_nothing_is_loaded_and_nothing_runs(write: Write, metrics: Path) -> None:
    folders = write("one"), write("two")
    html = render(folders, folders[0].parent / "report.html", training=metrics).read_text()
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|javascript:", html)
    for _, attributes in Page(html).elements:
        assert not any(name.startswith("on") for name in attributes)
        source = attributes.get("src") or attributes.get("href") or ""
        assert not source or source.startswith(("data:image/png;base64,", "#"))
    assert "default-src 'none'" in html


def test_a_target_is_named_only_where_there_is_one(write: Write) -> None:
    untold = page(write("one")).text
    assert "not recorded" in untold, "of other fields"
    assert page(write("none", target=None)).text.replace("none", "one") == untold
    assert "target not recorded" not in untold
    assert "target class 3" in page(write("three", target="class 3")).text


def test_every_number_of_the_result_is_on_the_page_with_its_interval(write: Write) -> None:
    folder = write("one", alpha=100.0, eps=8 / 255, eps_text="8/255")
    record, text = result(folder), page(folder).text
    low, high = record["robust_accuracy_ci95"]
    interval = f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"
    robust = f"{100 * record['robust_accuracy']:.1f} % {interval}"
    assert robust in text
    assert f"{100 * record['clean_accuracy']:.1f} % 95 % interval" in text
    assert "L∞, ε = 8/255 (0.03137), suite standard, n = 60" in text
    for attack in record["attacks"]:
        for words in (attack["name"], attack["settings"], f"{attack['forward']:,}"):
            assert words in text
        assert f"{attack['broken']} {100 * attack['robust_accuracy']:.1f}" in text
        assert f"{attack['backward']:,}" in text
    for key in (
        "date",
        "model",
        "model_sha256",
        "data",
        "data_sha256",
        "device",
        "dtype",
        "command",
    ):
        assert record[key] in text
    for words in (
        "torch 2.13.0",
        "python 3.11.9",
        f"{record['forward']:,}",
        f"{record['backward']:,}",
    ):
        assert words in text
    assert "Certified accuracy: not computed" in text


def test_every_table_has_headers_and_every_picture_words(write: Write, metrics: Path) -> None:
    found = page(write("one"), training=metrics)
    assert found.all("img") and all(image.get("alt") for image in found.all("img"))
    assert all(head.get("scope") in {"row", "col"} for head in found.all("th"))
    figures = [svg for svg in found.all("svg") if svg.get("class") == "figure"]
    assert len(figures) == 3
    assert all(svg.get("role") == "img" and svg.get("aria-labelledby") for svg in figures)
    assert found.all("html")[0]["lang"] == "en"


def test_the_same_input_gives_the_same_bytes(write: Write, metrics: Path) -> None:
    folders = write("one", alpha=100.0), write("two")
    once = render(folders, metrics.parent / "a.html", training=metrics).read_bytes()
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "svg.fonttype": "path"}):
        again = render(folders, metrics.parent / "b.html", training=metrics).read_bytes()
        assert matplotlib.rcParams["lines.linewidth"] == 9
    assert once == again


def test_names_are_escaped_everywhere(write: Write) -> None:
    evil = "<script>alert(1)</script>\"'&<img src=x onerror=y>$x_1$"
    flags = [{"name": evil, "severity": evil, "evidence": evil, "remedy": evil}]
    folder = write("x")
    record = result(folder)
    attacks = [{**attack, "name": evil, "settings": evil} for attack in record["attacks"]]
    changes = {"model": evil, "data": evil, "suite": evil, "command": evil, "labels": [evil]}
    record |= changes | {"flags": flags, "attacks": attacks, "verdict": evil}
    (folder / "result.json").write_text(json.dumps(record))
    found = page(folder, title=evil, classes=[evil] * 10)
    assert not found.all("script") and not found.wrong
    assert all(image["alt"] and "onerror" not in image for image in found.all("img"))
    assert found.text.count("<script>alert(1)</script>") > 10


def test_unreliable_results_say_so_first(write: Write) -> None:
    flag = {"name": "random", "severity": "severe", "evidence": "they differ", "remedy": "use EOT"}
    good, bad = (
        write("good"),
        write("bad", flags=[flag], verdict="unreliable", labels=["grey-box only"]),
    )
    text = page(good, bad).text
    order = [text.index(words) for words in ("Unreliable", "severe: random", "robust accuracy 15")]
    assert order == sorted(order)
    assert "1 of 2 evaluations ( B ) did not pass" in text.replace("(B)", "( B )")
    for words in ("they differ", "use EOT", "grey-box only", "· unreliable"):
        assert words in text
    assert "Unreliable" not in page(good).text


def test_what_is_missing_is_said(write: Write) -> None:
    text = page(write("bare", images=False, examples=False)).text
    assert "Adversarial images were not saved" in text
    assert "Accuracy by class and confusion are missing" in text
    assert "No training curves" in text
    assert text.count("not checked") == 2


def test_files_that_contradict_each_other_are_reported(write: Write) -> None:
    folder = write("one")
    rows = (folder / "examples.csv").read_text().replace("broken,pgd", "robust,", 1)
    (folder / "examples.csv").write_text(rows)
    text = page(folder).text
    assert "The files contradict each other" in text
    assert "60 rows, 56 clean, 10 robust; result.json says 60 rows, 56 clean, 9 robust" in text


def test_radii_of_one_model_make_one_line_and_other_norms_another_plot(write: Write) -> None:
    radii = [
        write(f"r{k}", eps=k / 255, eps_text=f"{k}/255", alpha=100.0, model="m") for k in (16, 4, 8)
    ]
    other = {"norm": "l2", "eps": 0.5, "eps_text": "0.5"}
    found = page(*radii, write("other", threat=other))
    drawn = [svg for svg in found.all("svg") if svg.get("class") == "figure"]
    assert len(drawn) == 2
    about = re.findall(
        r"A: [\d.]+ % at 0, [\d.]+ % at 4/255, [\d.]+ % at 8/255, [\d.]+ % at 16/255", found.text
    )
    assert len(about) == 1
    for mark in ("A1", "A2", "A3", "B"):
        assert mark in found.text.split()


def test_a_union_of_threats_is_named_in_full(write: Write) -> None:
    union = [
        {"norm": "linf", "eps": 0.1, "eps_text": "0.1"},
        {"norm": "l2", "eps": 0.5, "eps_text": "0.5"},
    ]
    whole = {"norm": "union", "eps": None, "eps_text": "linf:0.1, l2:0.5", "union": union}
    text = page(write("both", threat=whole)).text
    assert "L∞, ε = 0.1 and L2, ε = 0.5, suite standard, n = 60" in text
    assert "union of several threats" in text


def test_the_same_examples_are_compared_pairwise(write: Write) -> None:
    robust, standard = write("robust", alpha=100.0), write("standard")
    held = []
    for folder in (robust, standard):
        examples = Evaluation.read(folder).examples
        assert examples is not None
        held.append({row.id for row in examples if row.status == "robust"})
    both, one, two = len(held[0] & held[1]), len(held[0] - held[1]), len(held[1] - held[0])
    text = page(robust, standard).text
    assert (
        f"{both} hold in both A and B , {one} only in A , {two} only in B , "
        f"{60 - both - one - two} in neither" in text
    )
    assert "hold in both" not in page(robust, write("else", data_sha256="00" * 32)).text


def test_class_names_replace_labels(write: Write) -> None:
    names = [f"class-{label}" for label in range(10)]
    text = page(write("one"), classes=names).text
    assert all(name in text for name in names)
    assert "class-1 →" in text


def test_training_is_told_with_its_attack_interval_and_overfitting(
    write: Write, metrics: Path
) -> None:
    text = page(write("one"), training=metrics).text
    epochs = [json.loads(line) for line in metrics.read_text().splitlines()]
    best, last = epochs[11]["robust"], epochs[-1]["robust"]
    assert (
        "epoch 12 of 20, chosen by robust accuracy on examples held out from training: "
        f"{100 * best:.1f} %" in text
    )
    assert f"best minus last, is {100 * (best - last):.1f} points" in text
    for words in ("PGD-10, linf:0.1", "n = 130", "18.0 s", "20,000 forward and 18,000 backward"):
        assert words in text


def test_no_results_and_no_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one evaluation"):
        render([], tmp_path / "report.html")


def test_a_folder_gets_report_html_and_no_remains(write: Write, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    assert render([write("one")], out) == out / "report.html"
    assert [path.name for path in out.iterdir()] == ["report.html"]


def test_the_run_is_matched_to_its_model_by_fingerprint(write: Write, metrics: Path) -> None:
    made, other = write("made", model_sha256="11" * 32), write("other", model_sha256="22" * 32)
    assert "cannot be checked that it made a model" in page(made, other, training=metrics).text
    card = metrics.parent / "model.json"
    card.write_text(json.dumps({"sha256": "22" * 32}))
    assert "Training of B other" in page(made, other, training=metrics.parent).text
    card.write_text(json.dumps({"sha256": "33" * 32}))
    assert "is none of those evaluated here" in page(made, other, training=metrics).text


def test_a_page_that_cannot_be_written_leaves_the_old_one(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write("one")
    old = render([folder], folder / "report.html", title="the old page").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torchproof.core.files.os.replace", full)
    with pytest.raises(FileError, match="No space left"):
        render([folder], folder / "report.html")
    assert (folder / "report.html").read_bytes() == old
    assert not list(folder.glob("*.part")) and not list(folder.glob(".*"))
