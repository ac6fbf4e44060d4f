"""Tables of pandas, with a stand-in for the package that keeps what it is given."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from torchproof import evaluate
from torchproof.core.errors import InputError, MissingExtra
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.evaluate.frames import attack_frame, to_frame
from torchproof.evaluate.report import Report
from torchproof.train.record import Record

EPOCH: dict[str, Any] = {
    "epoch": 1, "step": 3, "loss": 0.5, "lr": 0.1, "held_out": 10, "clean": 0.9, "robust": None,
    "attack": None, "best_epoch": 1, "best_clean": 0.9, "best_robust": None, "overfitting": 0.0,
    "collapsed": False, "forward": 4, "backward": 5, "seconds": 1.0, "figures": {"kl": 0.25},
}  # fmt: skip


class Frame:
    """Rows, columns and index, as they were given."""

    def __init__(self, rows: list[dict[str, Any]], columns: list[str] | None = None) -> None:
        self.rows, self.columns, self.index, self.attrs = rows, columns, "", {}

    def set_index(self, name: str) -> Frame:
        self.index = name
        return self


@pytest.fixture
def pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=Frame))


@pytest.fixture(scope="module")
def report() -> Report:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    x, y = torch.rand(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    return evaluate(net, (x, y), Threat(Linf(), 0.1), suite="quick")


def test_a_report_has_a_row_per_example(pandas: None, report: Report) -> None:
    frame: Any = to_frame(report)
    assert frame.rows == [asdict(row) for row in report.examples] and frame.index == "id"
    assert frame.columns == list(frame.rows[0]) and len(frame.rows) == 6
    assert frame.attrs["robust_accuracy"] == report.robust_accuracy
    assert frame.attrs["schema"] == "torchproof.evaluation/1"


def test_a_report_has_a_row_per_attack(pandas: None, report: Report) -> None:
    frame: Any = attack_frame(report)
    assert [row["name"] for row in frame.rows] == [a.name for a in report.attacks]
    assert frame.index == "name" and frame.columns == list(frame.rows[0])


def test_records_have_a_row_each(pandas: None) -> None:
    @dataclass(frozen=True)
    class Own:
        value: int
        inside: dict[str, dict[str, int]]

    frame: Any = to_frame([Record(**EPOCH)])
    (row,) = frame.rows
    assert row["figures.kl"] == 0.25 and "figures" not in row and row["loss"] == 0.5
    made: Any = to_frame(Own(i, {"a": {"b": i}}) for i in range(2))
    assert made.rows == [{"value": i, "inside.a.b": i} for i in range(2)]
    with pytest.raises(InputError, match="a record of type int"):
        to_frame([3])


def test_a_missing_pandas_is_told(monkeypatch: pytest.MonkeyPatch, report: Report) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for call in (to_frame, attack_frame):
        with pytest.raises(MissingExtra, match=r"torchproof\[pandas\]"):
            call(report)


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="pandas is not installed")
def test_real_tables(report: Report) -> None:
    frame = to_frame(report)
    assert frame.index.name == "id" and len(frame) == 6
    assert frame.clean.mean() == report.clean_accuracy
    assert list(attack_frame(report).index) == [a.name for a in report.attacks]
