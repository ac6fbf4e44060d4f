"""`torchproof concepts`, as typer runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from torchproof import data as sets
from torchproof.cli.concepts import concepts
from torchproof.concept import Cav, activations, reference
from torchproof.core.errors import MissingExtra, TorchproofError, UnknownName

APP = typer.Typer()
APP.command("concepts")(concepts)


def run(*args: object) -> Any:
    return CliRunner().invoke(APP, [str(part) for part in args])


@pytest.fixture(scope="session")
def threes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures: digits that are a three, twice as large as the network takes them."""
    folder = tmp_path_factory.mktemp("threes")
    train = sets.load("digits", split="train")
    for number, image in enumerate(train.x[train.y == 3][:40, 0]):
        grey = (255 * image.repeat_interleave(2, 0).repeat_interleave(2, 1)).byte().numpy()
        Image.fromarray(grey).save(folder / f"{number:02}.png")
    return folder


@pytest.mark.slow
def test_record_vector_and_pictures(trained: Path, threes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = run(
        trained, "--concept", threes, "--layer", "net.act2", "--draws", 3, "--most", 200,
        "--target", "3", "--target", "8", "--eps", 0.1, "--noise", 2, "--out", out,
    )  # fmt: skip
    assert answer.exit_code in (0, 1), answer.output
    stored = json.loads((out / "concepts.json").read_text())
    assert stored["schema"] == "torchproof.concepts/1" and stored["layer"] == "net.act2"
    assert [way["name"] for way in stored["ways"]] == ["CAV", "CAV, logistic", "A-CAV"]
    worst = max(way["spread"]["false_positives"] for way in stored["ways"])
    assert answer.exit_code == int(worst > 0.5)
    assert [one["target"] for one in stored["tcav"]] == [3, 8]
    assert stored["plan"]["margin"]["eps"] == 0.1 and stored["plan"]["noise"] == 2
    assert stored["n_concept"] + stored["n_concept_held"] == 40
    assert stored["random"] == "digits (train)" and "vector" not in stored
    with np.load(out / "vector.npz") as packed:
        assert packed["vector"].shape == (stored["width"],)
        assert np.linalg.norm(packed["vector"]) == pytest.approx(1)
    assert len(stored["most"]) == len(stored["least"]) == 8
    for name in ("quality.png", "images.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (out / name).with_suffix(".svg").read_bytes()
    page = (out / "concepts.html").read_text()
    assert page.count("data:image/png") == 2 and "A-CAV, averages" in page
    for one in stored["tcav"]:
        assert f"<td>{one['score']:.2f}</td>" in page
    assert "A-CAV" in answer.output and "TCAV" in answer.output


@pytest.mark.slow
def test_a_class_as_the_concept(trained: Path, tmp_path: Path) -> None:
    given = (trained, "--layer", "net.act3", "--draws", 2, "--n", 60, "--most", 300)
    answer = run(*given, "--concept", "digits=0", "--out", tmp_path / "out")
    assert answer.exit_code in (0, 1), answer.output
    stored = json.loads((tmp_path / "out" / "concepts.json").read_text())
    train, test = sets.load("digits", split="train"), sets.load("digits", split="test").take(60)
    assert stored["n_concept"] + stored["n_concept_held"] == int((train.y == 0).sum())
    counts = np.bincount(test.y.numpy(), minlength=10)
    assert [one["target"] for one in stored["tcav"]] == [k for k in range(10) if counts[k] >= 5]
    wrong = run(*given, "--concept", "digits=eleven", "--out", tmp_path / "b")
    assert isinstance(wrong.exception, UnknownName)


@pytest.mark.slow
def test_captum_is_asked_or_named(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(*args: Any, **more: Any) -> Any:
        model, layer, concept = args[:3]
        return (0.625,), Cav.of(np.ones(activations(model, concept[:1], layer).shape[1]), 0.0)

    given = (trained, "--concept", "digits=3", "--layer", "net.act3", "--draws", 2, "--n", 60,
             "--most", 300, "--target", "8", "--captum", "--out", tmp_path / "out")  # fmt: skip
    monkeypatch.setitem(sys.modules, "captum.concept", None)
    assert isinstance(run(*given).exception, MissingExtra)
    monkeypatch.setattr(reference, "captum_tcav", scores)
    answer = run(*given)
    assert answer.exit_code in (0, 1), answer.output
    (one,) = json.loads((tmp_path / "out" / "concepts.json").read_text())["captum"]
    assert one["target"] == 8 and one["scores"] == [0.625, 0.625] and len(one["cosines"]) == 2
    assert "captum" in answer.output and "0.62" in answer.output
    assert "captum was given" in (tmp_path / "out" / "concepts.html").read_text()


def test_layers_are_listed_and_suggested(trained: Path, threes: Path, tmp_path: Path) -> None:
    given = (trained, "--concept", threes, "--n", 20, "--out", tmp_path / "out", "--layer")
    answer = run(*given, "?")
    assert answer.exit_code == 0 and "net.act2" in answer.output.split()
    assert not (tmp_path / "out").exists()
    wrong = run(*given, "net.act9")
    assert isinstance(wrong.exception, TorchproofError) and "net.act" in str(wrong.exception)
