"""What `import` waits for: modules that take as long as a good part of torch are loaded late."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGES = sorted(
    ".".join(file.parent.relative_to(SOURCE).parts)
    for file in SOURCE.glob("torchproof/*/__init__.py")
)
SLOW = {
    "jinja2", "matplotlib", "onnx", "pandas", "sklearn", "timm", "torch.export", "torch._dynamo",
    "scipy.integrate", "scipy.optimize", "scipy.spatial", "scipy.stats",
}  # fmt: skip
# The command line, and the experiments with their pictures, are imported one by one.
COMMANDS = {"torchproof.cli", "torchproof.reproduce"}


def file_of(module: str) -> Path | None:
    path = SOURCE.joinpath(*module.split("."))
    return next((f for f in (path / "__init__.py", path.with_suffix(".py")) if f.is_file()), None)


def at_once(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Dotted names that importing such statements imports: none of functions, none for types."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from at_once(node.orelse)
        elif isinstance(node, (ast.If, ast.Try, ast.With, ast.ClassDef)):
            yield from at_once(ast.iter_child_nodes(node))  # type: ignore[arg-type]


@cache
def direct(module: str) -> frozenset[str]:
    """Modules, ours and others', that this one names; packages above a module come with it."""
    file = file_of(module)
    assert file is not None, module
    found: set[str] = set()
    for name in at_once(ast.parse(file.read_text(encoding="utf-8")).body):
        parts = name.split(".")
        found |= {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    ours = {name for name in found if name.startswith("torchproof")}
    return frozenset(found - ours | {name for name in ours if file_of(name) is not None})


def reached(*modules: str) -> set[str]:
    seen, todo = set[str](), list(modules)
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        if module.startswith("torchproof"):
            todo += direct(module)
    return seen


@pytest.mark.parametrize("package", [p for p in PACKAGES if p not in COMMANDS])
def test_a_package_does_not_wait_for_what_few_of_its_users_need(package: str) -> None:
    assert not reached(package) & SLOW


def test_the_names_of_torchproof_itself_need_torch_and_numpy_only() -> None:
    """Under 1.2 times the import of torch by itself; pydantic alone would be a tenth of it."""
    import torchproof

    table = {f"torchproof.{module}" for module in torchproof._FROM}
    found = reached(*table, "torchproof.evaluate.evaluation")
    assert {"torch", "numpy", "torchproof.evaluate.suites"} <= found  # the walk walks
    assert not {"pydantic", "safetensors", "scipy", "PIL", "yaml"} & found


def test_the_walk_sees_what_it_should() -> None:
    assert {"matplotlib", "jinja2"} <= reached("torchproof.report.page")
    assert "torchproof.verify.graph" in reached("torchproof.verify")
    assert "sklearn" not in reached("torchproof.detect.parts.one_class")  # within a function
