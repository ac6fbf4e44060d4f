"""The documentation site: formulas are set whole, and every public name is told of."""

from __future__ import annotations

import html
import importlib.util
import inspect
import pkgutil
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import torchproof

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FENCED = re.compile(r"^```.*?^```|`[^`\n]*`", re.M | re.S)
FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\s](?:[^$\n]*[^$\s])?)\$", re.S)
# parts of a package that is on a page itself, and what is run and not imported
WITHIN = {"torchproof.cli", "torchproof.evaluate.curve", "torchproof.evaluate.flags",
          "torchproof.evaluate.survey", "torchproof.reproduce.survey", "torchproof.train.certified",
          "torchproof.train.ladder", "torchproof.train.smoothed", "torchproof.verify.programme",
          "torchproof.adaptive.zoo"}  # fmt: skip


def hook() -> Any:
    """docs/formulas.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("formulas", DOCS / "formulas.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def marked(found: re.Match[str]) -> str:
    """What arithmatex makes of a formula."""
    tag, tex = ("div", found["block"]) if found["block"] else ("span", found["inline"])
    left, right = (r"\[", r"\]") if tag == "div" else (r"\(", r"\)")
    return f'<{tag} class="arithmatex">{left}{html.escape(tex)}{right}</{tag}>'


def test_every_formula_is_set_whole() -> None:
    formulas, count = hook(), 0
    for page in DOCS.rglob("*.md"):
        for found in FORMULA.finditer(FENCED.sub("", page.read_text(encoding="utf-8"))):
            made = formulas.on_page_content(marked(found))
            assert "<math" in made and "arithmatex" not in made, (page.name, found[0])
            count += 1
    assert count > 40


def test_what_cannot_be_set_is_refused() -> None:
    with pytest.raises(ValueError, match="does not know"):
        hook().on_page_content(r'<span class="arithmatex">\(\nosuchcommand{x}\)</span>')


def packages() -> list[str]:
    """All packages with a list of public names."""
    names = ["torchproof"]
    for found in pkgutil.walk_packages(torchproof.__path__, "torchproof."):
        if found.ispkg and hasattr(import_module(found.name), "__all__"):
            names.append(found.name)
    return names


PACKAGES = packages()


def test_every_package_has_its_place_in_the_api() -> None:
    pages = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    named = set(re.findall(r"^::: (\S+)$", pages, re.M))
    assert set(PACKAGES) - named == WITHIN & set(PACKAGES)
    for name in named:
        assert inspect.getdoc(import_module(name)), name


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_explained(name: str) -> None:
    module = import_module(name)
    assert len(module.__all__) == len(set(module.__all__))
    for public in module.__all__:
        thing = getattr(module, public)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            told, made = thing.__doc__ or "", f"{public}{inspect.signature(thing)}"
            made = made.removesuffix(" -> None")  # what a dataclass says of itself
            assert told.strip() and told != made, f"{name}.{public}"


def test_the_examples_name_what_there_is() -> None:
    """The workflow runs the test beside it, the job a command with options that exist."""
    import typer
    import yaml

    from torchproof import pytest as fixtures
    from torchproof.cli.main import app

    folder = ROOT / "examples" / "workflows"
    workflow = yaml.safe_load((folder / "robustness.yml").read_text())
    steps = [step.get("run", "") for step in workflow["jobs"]["robustness"]["steps"]]
    assert any("tests/test_robust.py" in step for step in steps)
    test = (folder / "test_robust.py").read_text()
    compile(test, "test_robust.py", "exec")
    given = set(re.findall(r"(\w+)=", test.split("assert_robust(")[-1]))
    assert given <= set(inspect.signature(fixtures.check_robust).parameters)
    job = (folder / "evaluate.sbatch").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"-m torchproof (\w+.*)", job)
    group: Any = typer.main.get_command(app)
    known = {o for p in group.commands[command.split()[0]].params for o in p.opts}
    assert set(re.findall(r"--[\w-]+", command)) <= known
