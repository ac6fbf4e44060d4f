"""Who may import whom, and the sizes the house keeps to."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "torchproof"

# A package may import itself and these.
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "nn": {"core"},
    "data": {"core"},
    "attack": {"core"},
    "corrupt": {"core"},
    "verify": {"core"},
    "train": {"core", "attack", "verify"},
    "evaluate": {"core", "attack", "corrupt", "verify"},
    "diagnose": {"core", "nn", "data", "attack", "verify", "backdoor"},
    "backdoor": {"core", "nn", "data", "attack", "verify"},
    "anomaly": {"core", "nn", "data", "attack", "verify"},
    "concept": {"core", "nn", "data", "attack", "verify"},
    "detect": {"core", "nn", "data", "attack", "verify"},
    "adaptive": {
        "core",
        "attack",
        "verify",
        "nn",
        "data",
        "train",
        "evaluate",
        "report",
        "recipes",
        "diagnose",
        "backdoor",
        "detect",
        "anomaly",
        "concept",
    },
    "compare": {"core", "attack", "evaluate"},
    "report": {"core", "evaluate", "diagnose", "backdoor", "detect", "anomaly", "concept"},
    "recipes": {"core", "attack", "nn", "data", "train", "evaluate"},
    "reproduce": {
        "core",
        "attack",
        "verify",
        "nn",
        "data",
        "train",
        "evaluate",
        "report",
        "recipes",
        "diagnose",
        "backdoor",
        "detect",
        "anomaly",
        "concept",
        "adaptive",
    },
}
EVERYTHING = {"cli"}
# The third-party packages that the core may use; torchvision and timm may be used nowhere.
CORE_USES = {"torch", "numpy", "scipy"}
NOWHERE = {"torchvision", "timm"}

FILES = sorted(SOURCE.rglob("*.py"))
PACKAGES: dict[str, list[Path]] = {}
for _path in FILES:
    PACKAGES.setdefault(_path.relative_to(SOURCE).parts[0], []).append(_path)


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_there_is_something_to_check() -> None:
    packages = {path.relative_to(SOURCE).parts[0] for path in FILES if path.parent != SOURCE}
    assert packages == {*MAY_IMPORT, *EVERYTHING}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_they_may(package: str) -> None:
    for path in PACKAGES[package]:
        names = imported(path)
        used = {n.split(".")[1] for n in names if n.startswith("torchproof.") and n.count(".") > 1}
        if package in MAY_IMPORT:
            assert used <= MAY_IMPORT[package] | {package}, path
        third = {n.split(".")[0] for n in names}
        assert not third & NOWHERE, path
        if package == "core":
            known = CORE_USES | {"torchproof"} | set(sys.stdlib_module_names)
            assert third <= known, path


@pytest.mark.parametrize("package", PACKAGES)
def test_files_and_functions_stay_readable(package: str) -> None:
    for path in PACKAGES[package]:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = node.body[0].lineno  # a command's options are its signature
                lines = (node.end_lineno or first) - first + 1
                assert lines <= 50, f"{path}: {node.name} has {lines} lines"


def test_weights_are_told_apart_in_one_file_only() -> None:
    """A second isinstance(..., Weights) would be a branch on a site in shared code."""
    found = [
        p.name for p in FILES if "isinstance(" in p.read_text() and ", Weights)" in p.read_text()
    ]
    assert found in ([], ["sites.py"])
