"""What the documents print works as printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchproof.nn import insert

ROOT = Path(__file__).parents[1]


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a document that are marked with this language."""
    parts = re.split(r"^```", (ROOT / name).read_text(encoding="utf-8"), flags=re.M)[1::2]
    split = (part.split("\n", 1) for part in parts)
    return [code for mark, code in split if mark.strip() == language]


def test_the_five_lines_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("README.md", "python")
    code = code.replace("28", "4")  # the same lines on a smaller picture, to be quick
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "ok" in printed and "torch.Size([8, 1, 4, 4])" in printed


def test_the_engine_page() -> None:
    (code,) = blocks("docs/engine.md", "python")
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()
    x, y = torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 2])
    space: dict[str, Any] = {"model": model, "x": x, "y": y}
    exec(compile(code, "engine.md", "exec"), space)
    assert (space["x_adv"] - x).abs().max() <= 8 / 255 + 1e-6


def test_the_page_on_bounds() -> None:
    (code,) = blocks("docs/certification/bounds.md", "python")
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()
    x = torch.rand(3, 1, 4, 4)
    space: dict[str, Any] = {"model": model, "x": x, "y": model(x).argmax(1)}
    exec(compile(code, "bounds.md", "exec"), space)
    assert space["lower"].shape == (3, 3) and len(space["found"].examples) == 3


@pytest.mark.parametrize("page", ["lipschitz", "zonotopes"])
def test_the_pages_on_other_certificates(page: str) -> None:
    (code,) = blocks(f"docs/certification/{page}.md", "python")
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()
    x = torch.rand(3, 1, 4, 4)
    space: dict[str, Any] = {"model": model, "x": x, "y": model(x).argmax(1)}
    exec(compile(code, f"{page}.md", "exec"), space)
    if page == "zonotopes":
        assert space["lower"].shape == (3, 3)
    else:
        assert bool((space["far"] > 0).all()) and space["sure"].dtype == torch.bool


def test_the_page_on_architectures() -> None:
    first, second = blocks("docs/architectures.md", "python")
    space: dict[str, Any] = {}
    exec(compile(first, "architectures.md", "exec"), space)
    assert space["net"].options["insert"] == {"layer2": "NonLocal(form='dot')"}
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(3 * 4, 4)).eval()
    x = torch.rand(2, 1, 4, 4)
    net = insert(model, "0", "CIFS()", x)
    space = {"net": net, "x": x, "y": torch.tensor([0, 3])}
    exec(compile(second, "architectures.md", "exec"), space)
    assert [r.shape for r in space["probes"]] == [(2, 4)]


def test_the_black_box_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("docs/black-box.md", "python")
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()
    x = torch.rand(3, 1, 4, 4)
    space: dict[str, Any] = {"model": model, "x": x, "y": model(x).argmax(1)}
    exec(compile(code, "black-box.md", "exec"), space)
    assert space["any_search"](model, x, space["y"]).spent[:, 1].tolist() == [0, 0, 0]
    assert bool((space["near"].distance > 0).all())
    assert (tmp_path / "queries.json").is_file() and (tmp_path / "queries.png").is_file()


def test_the_page_on_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("docs/curves.md", "python")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(code, "curves.md", "exec", dont_inherit=True), {})
    assert capsys.readouterr().out.split()[-1] == "ok"
    assert (tmp_path / "curve" / "curve.png").is_file()


def test_the_page_on_objectives() -> None:
    code = "".join(blocks("docs/objectives.md", "python"))
    space: dict[str, Any] = {}
    with torch.random.fork_rng():
        exec(compile(code, "objectives.md", "exec", dont_inherit=True), space)
    assert 0 < space["success"] < 1 and space["lost"].any()
    assert (space["worst"] > 0.1).all() and (space["share_wrong"] > 0.2).all()


def test_the_readme_names_real_commands_and_options() -> None:
    import typer

    from torchproof.cli.main import app

    group = typer.main.get_command(app)
    commands: dict[str, Any] = group.commands  # type: ignore[attr-defined]
    pages = [
        "README.md",
        *(f"docs/{name}.md" for name in ("training", "corruptions", "comparing", "curves")),
    ]
    lines = "\n".join(block for page in pages for block in blocks(page, ""))
    lines = lines.replace("\\\n", " ")
    shown = [line for line in lines.splitlines() if line.strip().startswith("torchproof ")]
    assert len(shown) >= 8
    for line in shown:
        words = shlex.split(re.sub(r"[\[\]|]", " ", line.replace("...", "")), comments=True)
        options = {o for p in commands[words[1]].params for o in p.opts}
        assert {w for w in words if w.startswith("--")} <= options, line


PARTS = {"comparison.md", "sweep.md", "logs.md"}  # of results, which their pages link to


def pages_of(nav: Any) -> list[str]:
    """The paths of a navigation, whose sections may be nested."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in pages_of(part)]


def test_the_navigation_has_every_page_once() -> None:
    import yaml

    listed = pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    docs = ROOT / "docs"
    there = {str(path.relative_to(docs)) for path in docs.rglob("*.md") if path.name not in PARTS}
    assert len(listed) == len(set(listed)) and set(listed) == there


def test_every_link_between_pages_leads_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").rglob("*.md")]
    lost = []
    for page in pages:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", link) and not (page.parent / link).exists():
                lost.append(f"{page.relative_to(ROOT)}: {link}")
    assert not lost
