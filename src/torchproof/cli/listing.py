"""`torchproof list`: every name there is, with one line of what it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from torchproof.attack.catalogue import ATTACKS, OBJECTIVES, SCHEDULES, STARTS
from torchproof.cli.options import console
from torchproof.core.errors import unknown
from torchproof.core.norms import NORMS
from torchproof.data import AUGMENTATIONS, DATASETS
from torchproof.evaluate import SUITES
from torchproof.nn import MODELS
from torchproof.recipes import RECIPES
from torchproof.reproduce import EXPERIMENTS
from torchproof.train import METHODS, OPTIMISERS, Settings
from torchproof.train import SCHEDULES as RATES


def _documented(table: Mapping[str, Any]) -> dict[str, str]:
    return {name: summary(entry) for name, entry in table.items()}


def summary(entry: Any) -> str:
    """The first paragraph of an entry's docstring, as one line."""
    doc = inspect.getdoc(entry) or ""
    return " ".join(doc.split("\n\n")[0].split())


def _settings() -> dict[str, str]:
    fields = Settings.model_fields.items()
    return {name: f"{field.description} (default {field.default})" for name, field in fields}


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "attacks": lambda: _documented(ATTACKS),
    "objectives": lambda: _documented(OBJECTIVES),
    "starts": lambda: _documented(STARTS),
    "schedules": lambda: _documented(SCHEDULES),
    "methods": lambda: _documented(METHODS),
    "models": lambda: _documented(MODELS),
    "data": lambda: dict(DATASETS),
    "augmentations": lambda: _documented(AUGMENTATIONS),
    "norms": lambda: _documented({name: type(norm) for name, norm in NORMS.items()}),
    "suites": lambda: _documented(SUITES),
    "recipes": lambda: _documented(RECIPES),
    "experiments": lambda: _documented(EXPERIMENTS),
    "settings": _settings,
    "optimisers": lambda: dict.fromkeys(OPTIMISERS, "torch.optim"),
    "rates": lambda: _documented(RATES),
}


def listing(
    kind: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(KINDS)}.")] = None,
) -> None:
    """Show every name there is: attacks, methods, models, data sets, suites, recipes ..."""
    if kind is not None and kind not in KINDS:
        raise unknown("kind of name", kind, KINDS)
    for name in [kind] if kind else KINDS:
        table = Table(title=name, title_justify="left", show_header=False, box=None)
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        for entry, text in KINDS[name]().items():
            table.add_row(escape(entry), escape(text))
        console.print(table)
        console.print()
