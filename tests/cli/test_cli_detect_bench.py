"""`torchproof detect-bench`, as typer runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from torchproof.cli.detect_bench import detect_bench
from torchproof.core.errors import FileError, InputError, UnknownName
from torchproof.detect.bench.record import Bench

APP = typer.Typer()
APP.command("detect-bench")(detect_bench)
FEW = (
    "--detector", "feature-squeezing", "--detector", "nss(at_most=60)", "--attack", "FGSM linf:0.3",
    "--fit", 80, "--calibrate", 80, "--n", 40, "--adaptive", 2,
)  # fmt: skip


def run(*args: object) -> Any:
    return CliRunner().invoke(APP, [str(part) for part in args])


@pytest.mark.slow
def test_record_page_and_pictures(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = run(trained, *FEW, "--out", out)
    assert answer.exit_code == 0, answer.output
    stored = Bench.read(out)
    assert stored.detectors == ("feature-squeezing", "nss")
    assert stored.about["data"] == "digits" and "torch" in stored.about["versions"]
    assert {a.name.split()[0] for a in stored.attacks} == {"FGSM", "PGD"}  # the main one always
    assert stored.judged[1].trained_on == stored.main == "PGD linf:0.3"
    assert stored.judged[1].adaptive is not None
    page = (out / "detect-bench.html").read_text()
    assert "AUROC, adaptive" in page and "NSS(" in page and 'src="data:image/png' in page
    for name in ("roc.png", "auroc.svg", "matrix.png", "records.jsonl"):
        assert (out / name).stat().st_size > 1000
    assert "adaptive" in answer.output and "detect-bench.html" in answer.output
    again = run(trained, *FEW, "--out", out)
    assert isinstance(again.exception, FileError)
    more = run(trained, *FEW, "--out", out, "--resume")
    assert more.exit_code == 0 and Bench.read(out).judged == stored.judged


def test_what_cannot_be_meant(trained: Path, tmp_path: Path) -> None:
    given = (trained, "--out", tmp_path / "out")
    for arguments, error, said in (
        (("--detector", "magnets"), UnknownName, "magnet"),
        (("--attack", "JSMA"), UnknownName, "attack"),
        (("--main", "DeepFool l2"), InputError, "radius"),
        (("--detector", "lid(neighbours=3)"), InputError, "arguments"),
        (("--other", "npz:nowhere.npz"), FileError, "nowhere"),
    ):
        answer = run(*given, *arguments)
        assert isinstance(answer.exception, error), (arguments, answer.output)
        assert said in str(answer.exception)
    assert not (tmp_path / "out").exists()


def test_a_detector_that_does_not_apply(trained: Path, tmp_path: Path) -> None:
    answer = run(
        trained, "--detector", "feature-squeezing", "--detector", "lid", "--attack", "FGSM",
        "--fit", 90, "--calibrate", 60, "--n", 30, "--adaptive", 2, "--out", tmp_path / "out",
    )  # fmt: skip
    assert answer.exit_code == 1 and "more than the 100" in " ".join(answer.output.split())


def test_no_images_from_elsewhere(trained: Path, tmp_path: Path) -> None:
    answer = run(
        trained, "--detector", "feature-squeezing", "--attack", "FGSM linf:0.3", "--other", "none",
        "--fit", 80, "--calibrate", 60, "--n", 30, "--adaptive", 2, "--out", tmp_path / "out",
    )  # fmt: skip
    assert answer.exit_code == 0, answer.output
    assert not any(r.kind == "elsewhere" for r in Bench.read(tmp_path / "out").judged[0].rows)
