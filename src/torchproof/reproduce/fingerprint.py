"""Is a stored result still what its code would give? A fingerprint of the experiment's own code.

It covers the modules of `torchproof.reproduce` that an experiment is made of: its settings, its
sizes, its judgement. It leaves out comments, docstrings and whatever draws, and the library below,
whose behaviour the tests hold.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).parent
SHARED = {
    "ahead",
    "experiment",
    "figures",
    "fingerprint",
    "catalogue",
    "places",
}  # of no experiment of its own
DRAWN = {"bytes", "Figure", "Axes"}

Read = Callable[[str], str | None]


def fingerprint(module: str, read: Read | None = None) -> str:
    """16 hexadecimal digits of the experiment whose function stands in `module`, a dotted name
    below torchproof.reproduce. read(path): the text of a file of this package, None for one that
    is not there; by default the files as they are.
    """
    parts = sorted(map(_essence, _texts(module, read or _present)))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _present(path: str) -> str | None:
    file = SOURCE / path
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _texts(module: str, read: Read) -> list[str]:
    """The sources of the module and of those of this package that it imports, and so on."""
    texts: dict[str, str] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        path = name.replace(".", "/")
        text = read(f"{path}.py")
        text = read(f"{path}/__init__.py") if text is None else text
        if text is None or name in texts or name in SHARED:
            continue
        texts[name] = text
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PREFIX):
                inner = (node.module or "").removeprefix(PREFIX)
                todo += [inner, *(f"{inner}.{alias.name}" for alias in node.names)]
    return list(texts.values())


PREFIX = "torchproof.reproduce."


def _essence(text: str) -> str:
    """The code without imports, docstrings, annotations' layout and functions that draw."""
    tree = ast.parse(text)
    tree.body = [node for node in tree.body if not _left_out(node)]
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
    return ast.dump(tree)


def _left_out(node: ast.stmt) -> bool:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return True
    if not isinstance(node, ast.FunctionDef):
        return False
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    marks = [node.returns, *(argument.annotation for argument in every)]
    names = {n.id for mark in marks if mark is not None for n in ast.walk(mark)
             if isinstance(n, ast.Name)}  # fmt: skip
    return bool(names & DRAWN)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
