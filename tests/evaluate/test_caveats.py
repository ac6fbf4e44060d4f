"""What a model has to be reported with: the caveats of the modules in it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from torchproof.core.threats import parse
from torchproof.evaluate import evaluate
from torchproof.evaluate.identity import caveats
from torchproof.nn import Purified, build, in_front_of

SHAPE = {"channels": 1, "size": 8, "classes": 3}


def test_a_purified_network_is_grey_box_only(tmp_path: Path) -> None:
    inner = build("mlp", **SHAPE, hidden=(4,), seed=0)
    model = in_front_of(inner, widths=(4,), seed=0).eval()
    data = (torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]))
    report = evaluate(model, data, parse("linf:0.1"), suite="quick", out=tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert Purified.caveat in stored["labels"] and Purified.caveat.startswith("grey-box only")
    assert report.labels == stored["labels"]
    plain = evaluate(inner.eval(), data, parse("linf:0.1"), suite="quick")
    assert not any("grey-box" in label for label in plain.labels)


def test_each_caveat_is_said_once_and_functions_have_none() -> None:
    inner = build("mlp", **SHAPE, hidden=(4,), seed=0)
    twice = torch.nn.ModuleList([in_front_of(inner, widths=(4,)) for _ in range(2)])
    assert caveats(twice) == [Purified.caveat]
    assert caveats(lambda x: x) == []
