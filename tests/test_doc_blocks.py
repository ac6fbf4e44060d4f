"""The Python of these pages, tutorials among them, runs as printed, on small data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchproof.data import load
from torchproof.train import Settings

DOCS = Path(__file__).parents[1] / "docs"
# Pages whose code another test runs, because it has something to look at.
ELSEWHERE = {
    "adaptive/index.md", "adaptive/tutorial.md", "anomaly/index.md", "architectures.md",
    "black-box.md", "certification/bounds.md", "certification/lipschitz.md",
    "certification/zonotopes.md", "concept/index.md", "curves.md", "detect/index.md", "engine.md",
    "objectives.md",
}  # fmt: skip
PAGES = [
    page
    for page in sorted(DOCS.rglob("*.md"))
    if "```python" in page.read_text(encoding="utf-8")
    and str(page.relative_to(DOCS)) not in ELSEWHERE
]
LATE = {"test.x[300:], test.y[300:]": "test.x[300:340], test.y[300:340]"}
FEWER = {"train.take(400), test.take(250)": "train.take(200), test.take(80)"}
# What is printed takes more data, or minutes: page -> those words, and what is run for them.
QUICKER = {
    "scan": {"rounds=60": "rounds=1", "n=6000, epochs=5": "n=160, epochs=1, steps=20"},
    "ladder": {
        '"net.fc1"': '"1"',
        "size=28": "size=8",
        "Fixed(0.5)": "Fixed(0.5), decoding=once, fine_tuning=once",
    },
    "programmes": {"model, x, y": "model, x[:2], y[:2]"},
    "complete": {"model, x, y": "model, x[:6], y[:6]"},
    "region": {
        "rounds=4": "rounds=1",
        "model, x, y": "model, x[:20], y[:20]",
        "(x, y), threat": "(x[:20], y[:20]), threat",
    },
    "evaluate": {"x, y = test.x[:60], test.y[:60]": "x, y = test.x[:6], test.y[:6]"},
    "train": {"epochs=10": "epochs=2", "x, y = test.x[:60], test.y[:60]": "x, y = x[:6], y[:6]"},
    "tail-index": {"Linear(64, 32)": "Linear(64, 8)", "Linear(32, 10)": "Linear(8, 10)"},
    "lipschitz": {'split="train").x[:20]': 'split="train").x[:5]'},
    "flatness": {"draws=6, starts=3": "draws=2, starts=1", ".take(40)": ".take(12)"},
    "sfad": {"epochs=12": "epochs=2", **LATE},
    "magnet": LATE,
    "dnr": {"at_most=500": "at_most=200", **LATE},
    "nic": {"epochs=40": "epochs=10", **LATE},
    "lid": FEWER,
    "kd-bu": FEWER,
    "nss": {**FEWER, "arange(400)": "arange(200)"},
    "semidefinite": {"model, x, y": "model, x[:1], y[:1]", "time_limit=60": "time_limit=5"},
}
# What is printed needs a package that tests do not.
NEEDS = {"semidefinite": "cvxpy"}


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
    given |= {"x_test": x, "y_test": y, "once": Settings.of(epochs=1, batch_size=32, held_out=0)}
    return {**given, "train": train, "test": test}


def test_there_are_pages() -> None:
    assert {page.stem for page in PAGES} >= {"flatness", "tail-index", "scan", "streaming"}
    assert all((DOCS / page).is_file() for page in ELSEWHERE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_the_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if page.stem in NEEDS:
        pytest.importorskip(NEEDS[page.stem], reason=f"{page.name} is about {NEEDS[page.stem]}")
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
