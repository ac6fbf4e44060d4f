"""Evaluations in RobustBench's form: its fields, true values only, merged as it does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from torchproof.core.errors import FileError, InputError
from torchproof.core.norms import L1, L2
from torchproof.core.threats import Threat
from torchproof.evaluate import Report, evaluate
from torchproof.evaluate.robustbench import model_info, write_model_info

# of the dataclass ModelInfo and of the files of RobustBench, less those about corruptions
FIELDS = {
    "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue",
    "architecture", "eps", "clean_acc", "reported", "autoattack_acc", "footnote", "external",
    "unreliable",
}  # fmt: skip


@pytest.fixture(scope="module")
def report(_fitted: Any, blobs: Any) -> Report:
    threat = Threat(L2(), 0.5)
    return evaluate(_fitted, blobs, threat, "quick", n=40, data_name="cifar10 (test)", name="net")


@pytest.fixture
def changed(report: Report) -> Any:
    """`changed(verdict="unreliable")`: the result with other values."""
    return lambda **values: report.result.model_copy(update=values)


def test_the_fields_are_those_of_robustbench(report: Report) -> None:
    info = report.robustbench(
        name="A title", authors="A, B", venue="ICML 2026", link="https://example.org",
        architecture="WideResNet-28-10", additional_data=False, number_forward_passes=1,
        reported=0.5342, autoattack_acc=0.5, footnote="Uses tricks.",
    )  # fmt: skip
    assert set(info) == FIELDS
    assert info["dataset"] == "cifar10" and info["eps"] == "0.5" and info["unreliable"] is False
    for field in ("clean_acc", "reported", "autoattack_acc", "external"):
        assert re.fullmatch(r"\d+\.\d\d", info[field])
    assert info["reported"] == "53.42" and info["autoattack_acc"] == "50.00"
    robust = sum(row.clean and row.status == "robust" for row in report.examples) / 40
    assert info["external"] == f"{100 * robust:.2f}"
    assert info["clean_acc"] == f"{100 * sum(row.clean for row in report.examples) / 40:.2f}"
    assert info["footnote"].startswith("Uses tricks. External robust accuracy by torchproof")


def test_only_what_is_known_is_filled_in(report: Report) -> None:
    info = report.robustbench()
    empty = {"link", "name", "authors", "additional_data", "number_forward_passes", "venue",
             "architecture", "reported", "autoattack_acc"}  # fmt: skip
    assert {k for k, v in info.items() if v is None} == empty
    for said in ("suite quick", "40 examples", "seed 0", "upper bound", "Not AutoAttack's own"):
        assert said in info["footnote"]


def test_eps_is_written_as_the_field_writes_it(changed: Any, report: Report) -> None:
    threat = report.result.threat.model_copy(
        update={"norm": "linf", "eps": 8 / 255, "eps_text": "8/255"}
    )
    assert model_info(changed(threat=threat))["eps"] == "8/255"


def test_an_unreliable_verdict_and_8_bit_images_are_said(changed: Any) -> None:
    info = model_info(changed(verdict="unreliable", quantised=True))
    assert info["unreliable"] is True and "8-bit images only" in info["footnote"]


def test_files_lie_and_merge_as_in_robustbench(report: Report, tmp_path: Path) -> None:
    path = write_model_info(tmp_path, "Ours2026Name_R18", report.result, authors="A")
    assert path == tmp_path / "model_info" / "cifar10" / "L2" / "Ours2026Name_R18.json"
    stored = json.loads(path.read_text())
    assert stored["authors"] == "A" and stored["venue"] is None
    path.write_text(json.dumps(stored | {"venue": "ICML 2026", "extra": 1, "external": "1.00"}))
    write_model_info(tmp_path, "Ours2026Name_R18", report.result)
    merged = json.loads(path.read_text())
    assert merged["venue"] == "ICML 2026" and merged["extra"] == 1 and merged["authors"] == "A"
    assert merged["external"] == stored["external"]
    path.write_text("{")
    with pytest.raises(FileError, match="restore or delete"):
        write_model_info(tmp_path, "Ours2026Name_R18", report.result)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"reported": 53.42}, "a fraction from 0 to 1"),
        ({"autoattack_acc": -0.1}, "a fraction from 0 to 1"),
    ],
)
def test_percentages_are_not_taken_for_fractions(
    fields: dict[str, Any], said: str, report: Report
) -> None:
    with pytest.raises(InputError, match=said):
        report.robustbench(**fields)


def test_what_robustbench_has_no_place_for_is_refused(
    changed: Any, report: Report, _fitted: Any, blobs: Any, tmp_path: Path
) -> None:
    sparse = evaluate(_fitted, blobs, Threat(L1(), 1.0), "quick", n=8)
    both = evaluate(_fitted, blobs, [Threat(L2(), 0.5), Threat(L1(), 1.0)], "quick", n=8)
    part = evaluate(_fitted, blobs, Threat(L2(), 0.5), "quick", n=8, shard="0/2")
    for other in (sparse, both, part):
        with pytest.raises(InputError, match="one threat of Linf or L2 on all examples"):
            other.robustbench()
    with pytest.raises(InputError, match="changes confined to a region"):
        model_info(changed(labels=["changes confined to a region"]))
    with pytest.raises(InputError, match="pass dataset="):
        model_info(changed(data="my images (test)"))
    assert model_info(changed(data="my images (test)"), dataset="mine")["dataset"] == "mine"
    with pytest.raises(InputError, match="the model name"):
        write_model_info(tmp_path, "../up", report.result)
