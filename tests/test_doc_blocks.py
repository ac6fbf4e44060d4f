"""The Python of these pages, tutorials among them, runs as printed, on small data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchproof.data import load

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [
    page
    for folder in ("diagnose", "backdoor", "detect", "tutorials")
    for page in sorted((DOCS / folder).glob("*.md"))
    if "```python" in page.read_text(encoding="utf-8")
    and page.parts[-2:] != ("detect", "index.md")  # see tests/detect/test_detect_page.py
]
# What is printed takes more data, or minutes: page -> those words, and what is run for them.
QUICKER = {"scan": {"rounds=60": "rounds=1", "n=6000, epochs=5": "n=160, epochs=1, steps=20"}}


def assumed() -> dict[str, Any]:
    """What a page may take for given: data, and a network that knows them a little."""
    train, test = load("digits", split="train").take(160), load("digits", split="test").take(60)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    adam = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(40):
        adam.zero_grad()
        nn.functional.cross_entropy(model(train.x), train.y).backward()  # type: ignore[no-untyped-call]
        adam.step()
    x, y = test.x, test.y
    given = {"model": model.eval(), "x": x, "y": y, "test_x": x, "test_y": y}
    return {**given, "train": train, "test": test}


def test_there_are_pages() -> None:
    assert {page.stem for page in PAGES} >= {"flatness", "tail-index", "scan", "injection"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_the_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    code = "\n".join(blocks)
    for printed, run in QUICKER.get(page.stem, {}).items():
        assert printed in code
        code = code.replace(printed, run)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(code, page.name, "exec", dont_inherit=True), assumed())
    for name in re.findall(r'"([\w-]+\.(?:png|svg|json))"', code):
        assert (tmp_path / name).is_file(), name
