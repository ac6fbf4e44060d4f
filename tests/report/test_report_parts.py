"""The parts of a report on their own: reading, galleries, checks, curves, numbers."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import beta

from torchproof.core.errors import FileError
from torchproof.report import Evaluation, Training, gallery, numbers, plots, render
from torchproof.report.audit import audit
from torchproof.report.classes import GRID, LISTED, by_class, confusion, weakest
from torchproof.report.evaluation import Example
from torchproof.report.numbers import Share

Write = Callable[..., Path]


def row(number: int, label: int, status: str, adversarial: int = -1) -> Example:
    clean = status != "misclassified"
    by = "pgd" if status == "broken" else ""
    predicted = label if clean else adversarial
    return Example(number, label, clean, status, by, "pgd", 1, 1, predicted, adversarial)


def pixels(uri: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (7, 10), (499, 500), (1234, 10000)])
def test_shares_have_the_exact_interval(hits: int, n: int) -> None:
    share = Share.counted(hits, n)
    low = beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, n - hits)
    assert (share.low, share.high) == pytest.approx((low, high))
    digits = 2 if n > 1000 else 1
    assert share.interval == f"{100 * low:.{digits}f} to {100 * high:.{digits}f}"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.84, "0.84 s"),
        (12.34, "12.3 s"),
        (245, "4 min 05 s"),
        (7380, "2 h 03 min"),
        (119.7, "2 min 00 s"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert numbers.duration(seconds) == words


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record.clear(),
        lambda record: record.update(schema="other/1"),
        lambda record: record.update(n=0),
        lambda record: record.update(robust_accuracy=1.2),
        lambda record: record.pop("attacks"),
    ],
)
def test_a_damaged_result_is_a_file_error(write: Write, damage: Callable[[Any], None]) -> None:
    folder = write("one")
    record = json.loads((folder / "result.json").read_text())
    damage(record)
    (folder / "result.json").write_text(json.dumps(record))
    with pytest.raises(FileError):
        Evaluation.read(folder)


def test_missing_truncated_and_foreign_files_are_file_errors(write: Write, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"result\.json"):
        Evaluation.read(tmp_path)
    folder = write("one")
    archive = (folder / "adversarial.npz").read_bytes()
    (folder / "adversarial.npz").write_bytes(archive[: len(archive) // 2])
    with pytest.raises(FileError, match="adversarial"):
        Evaluation.read(folder)
    np.savez(folder / "adversarial.npz", x=np.array([{}], dtype=object), x_adv=np.zeros(1))
    with pytest.raises(FileError, match="adversarial"):
        Evaluation.read(folder)


def test_the_gallery_is_chosen_by_rule() -> None:
    lost = [row(9, 0, "broken"), row(3, 0, "broken"), row(5, 1, "broken"), row(1, 2, "broken")]
    assert [example.id for example in gallery.chosen(lost)] == [3, 5, 1, 9]
    many = [row(number, number % 3, "broken") for number in range(30)]
    assert [example.id for example in gallery.chosen(many)] == list(range(gallery.SHOWN))


def test_pictures_are_the_stored_images(write: Write) -> None:
    evaluation = Evaluation.read(write("one"))
    images = evaluation.images
    assert images is not None
    for picture in gallery.gallery(evaluation).pictures:
        at = picture.example.id
        assert np.array_equal(pixels(picture.clean), np.rint(images.x[at, 0] * 255))
        assert np.array_equal(pixels(picture.adversarial), np.rint(images.x_adv[at, 0] * 255))
        assert "0.1" in picture.scale


def test_colour_images_are_scaled_by_their_largest_change(write: Write) -> None:
    evaluation = Evaluation.read(write("one", threat={"norm": "l2", "eps": 3, "eps_text": "3"}))
    assert evaluation.images is not None
    generator = np.random.default_rng(0)
    x = generator.uniform(0.2, 0.8, (60, 3, 8, 8))
    delta = generator.uniform(-0.1, 0.1, x.shape)
    images = replace(evaluation.images, x=x, x_adv=x + delta)
    shown = gallery.gallery(replace(evaluation, images=images))
    assert shown.colour and shown.pictures
    for picture in shown.pictures:
        change = delta[picture.example.id]
        drawn = pixels(picture.perturbation).transpose(2, 0, 1)
        assert np.abs(drawn - 255 * (0.5 + change / (2 * np.abs(change).max()))).max() <= 0.5 + 1e-9
        assert picture.length == f"L2 length {np.linalg.norm(change.ravel()):.4g}"


def test_one_channel_is_drawn_white_where_nothing_changed() -> None:
    image = gallery.coloured(np.array([[[-1.0, 0.0, 1.0]]]))
    assert image.shape == (3, 1, 3)
    assert np.allclose(image[:, 0, 0], gallery.DARKER) and np.allclose(
        image[:, 0, 2], gallery.BRIGHTER
    )
    assert image[:, 0, 1].min() > 0.95


def test_classes_are_counted_one_by_one() -> None:
    examples = [
        row(0, 0, "robust"),
        row(1, 0, "broken", 2),
        row(2, 0, "misclassified", 1),
        row(3, 2, "robust"),
    ]
    first, second = by_class(examples)
    assert (first.label, first.clean.hits, first.robust.hits, first.robust.n) == (0, 2, 1, 3)
    assert (second.label, second.robust.hits, second.robust.n) == (2, 1, 1)
    table = confusion(examples)
    assert table is not None
    assert table.labels == (0, 1, 2)
    assert table.grid == ((1, 1, 1), (0, 0, 0), (0, 0, 1))
    assert (table.errors, table.unknown) == (2, 0)


def test_answers_that_were_not_recorded_are_not_invented() -> None:
    assert confusion([row(0, 0, "robust"), row(1, 0, "broken", -1)]) is None
    some = confusion([row(0, 0, "broken", 1), row(1, 0, "broken", -1)])
    assert some is not None and (some.errors, some.unknown) == (1, 1)


def test_many_classes_are_shortened_to_the_weakest_and_most_frequent() -> None:
    labels = range(LISTED + 5)
    examples = [row(number, number, "broken" if number > 3 else "robust", 0) for number in labels]
    rows = weakest(by_class(examples))
    assert len(rows) == LISTED and all(found.robust.value == 0 for found in rows)
    table = confusion(examples)
    assert len(labels) > GRID and table is not None and not table.grid
    assert table.pairs[0] == (4, 0, 1)


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({}, []),
        ({"robust_accuracy_ci95": [0.0, 0.5]}, [0]),
        ({"robust_accuracy": 0.2}, [0, 1, 2]),
    ],
)
def test_the_report_checks_what_the_files_say(
    write: Write, change: Any, failing: list[int]
) -> None:
    checks = audit(Evaluation.read(write("one", **change)))
    assert [at for at, check in enumerate(checks) if check.passed is False] == failing


def test_images_outside_ball_or_box_are_found(write: Write) -> None:
    evaluation = Evaluation.read(write("one"))
    assert evaluation.images is not None and evaluation.examples is not None
    at = next(example.id for example in evaluation.examples if example.status == "broken")
    for moved in (0.3, -2.0):
        x_adv = evaluation.images.x_adv.copy()
        x_adv[at] = evaluation.images.x[at] + moved
        changed = replace(evaluation, images=replace(evaluation.images, x_adv=x_adv))
        check = audit(changed)[-1]
        assert check.passed is False and "1 outside" in check.evidence


def test_training_survives_a_cut_off_line_but_not_a_damaged_one(metrics: Path) -> None:
    whole = metrics.read_text()
    metrics.write_text(whole[:-30])
    assert len(Training.read(metrics).epochs) == 19
    metrics.write_text(whole.replace('"step": 20', '"step" 20'))
    with pytest.raises(FileError, match="line 2"):
        Training.read(metrics.parent)
    metrics.write_text("")
    with pytest.raises(FileError, match="without an epoch"):
        Training.read(metrics)


def test_foreign_names_of_the_same_numbers_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    values = [0.2, 0.5, 0.5, 0.4]
    lines = [
        {"epoch": at, "holdout_robust": value, "train_loss": 1.0} for at, value in enumerate(values)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    run = Training.read(path)
    assert run.best == 1 and run.held_out is None and run.share(1, "robust") is None
    assert run.series("loss") == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0)]


def test_what_a_method_notes_is_drawn_without_a_binomial_interval(
    write: Write, metrics: Path
) -> None:
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    watched = {"mixing_ratio": 0.5, "weight_shift": 0.2, "friendly_steps": 3.0}
    more = {"figures": watched, "fgsm": 0.9, "confused": [[3, 8, 7]]}
    late = {"catastrophic": True, "checks": [{"catastrophic": False}]}
    noted = [{**line, **more, **(late if line["epoch"] > 18 else {})} for line in lines]
    metrics.write_text("\n".join(map(json.dumps, noted)))
    run = Training.read(metrics)
    assert sorted(run.figures) == sorted(watched) and run.catastrophic == [19, 20]
    assert run.confused == [(3, 8, 7)] and not {"fgsm", *watched} & set(run.undrawn)
    curve = plots.Curve("figures.mixing_ratio", "mixing ratio", 5)
    plain = plots.curves(run, [curve], "mixing ratio", "a")
    shares = plots.curves(run, [plots.ACCURACIES[0]], "accuracy, %", "b")
    assert plain is not None and "FillBetween" not in plain and "FillBetween" in str(shares)
    html = render([write("one")], metrics.parent / "report.html", training=metrics).read_text()
    assert "Catastrophic overfitting in epoch 19, 20" in html and "confused most" in html
    assert all(name.replace("_", " ") in html for name in watched)
    assert "catastrophic overfitting: one step" in html
    gaps = [0.9 - line["robust"] for line in lines]
    assert [gap for _, gap in run.points("gap")] == pytest.approx(gaps)
