"""The page on the comparison of detectors runs as printed; what a step costs is seen."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from torchproof import data as sets
from torchproof.detect.bench.costs import costing
from torchproof.detect.bench.record import FILE
from torchproof.detect.catalogue import DETECTORS


@pytest.mark.slow
def test_the_page(classifier: nn.Module, tmp_path: Path) -> None:
    """The code that docs/detect/index.md prints runs as printed."""
    page = Path(__file__).parents[2] / "docs" / "detect" / "index.md"
    parts = page.read_text(encoding="utf-8").split("```python\n")[1:]
    train, test = (sets.load("digits", split=part) for part in ("train", "test"))
    space = {
        "model": classifier, "x": train.x[:200], "y": train.y[:200], "held_out": test.x[:100],
        "new": test.x[100:150], "out": tmp_path / "out",
    }  # fmt: skip
    for part in parts:
        exec(compile(part.split("```")[0], "index.md", "exec"), space)
    assert space["flagged"].shape == (50,)
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {FILE, "detect-bench.html", "roc.png"}
    for name in DETECTORS:
        assert (page.parent / f"{name}.md").is_file() and f"({name}.md)" in page.read_text()


def test_costs_are_seen() -> None:
    with costing(torch.device("cpu")) as cost:
        held = torch.ones(300_000_000, dtype=torch.uint8)  # 300 megabytes
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
    assert cost.seconds >= 0.1 and len(held) == 300_000_000
    assert cost.megabytes is None or cost.megabytes >= 200  # some may be given back meanwhile
