"""The pages of the workbench print what runs."""

from __future__ import annotations

import re
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from torchproof.adaptive.binarization import Setting

DOCS = Path(__file__).parents[2] / "docs" / "adaptive"


def code_of(page: str) -> str:
    parts = re.split(r"^```", (DOCS / page).read_text(encoding="utf-8"), flags=re.M)[1::2]
    split = (part.split("\n", 1) for part in parts)
    return "".join(code for mark, code in split if mark.strip() == "python")


@pytest.mark.slow
@pytest.mark.usefixtures("short_searches")
def test_the_tutorial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With problems of fewer points than by default."""
    for name in ("adapt", "binarization"):
        module = import_module(f"torchproof.adaptive.{name}")
        few = partial(getattr(module, name), setting=Setting(inside=100, random=10))
        monkeypatch.setattr(module, name, few)
    monkeypatch.chdir(tmp_path)
    code = code_of("tutorial.md").replace("take(100)", "take(32)").replace("1500", "200")
    space: dict[str, Any] = {}
    with torch.random.fork_rng():
        exec(compile(code, "tutorial.md", "exec", dont_inherit=True), space)
    printed = capsys.readouterr().out
    assert "zero gradient at 100%" in printed and "passes: False" in printed
    assert space["naive"] > space["broken"] + 0.3
    assert abs(space["broken"] - space["undefended"]) < 0.15
    assert space["found"].suspect == "levels"
    for name in ("slices", "course", "worst"):
        assert (tmp_path / f"{name}.png").is_file() and (DOCS / f"{name}.png").is_file()


def test_the_index_page(net: Any, images: Any, capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, Any] = {"network": net}
    exec(compile(code_of("index.md"), "index.md", "exec", dont_inherit=True), space)
    assert "('quantiser', 'activations')" in capsys.readouterr().out
    assert torch.equal(space["through"](images.x), space["defended"](images.x))
    assert space["surrogate"].parts == ("activations",)
