"""`torchproof list`: every name there is, with one line of what it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
import typer
from rich.markup import escape
from rich.table import Table
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from torchproof.attack.catalogue import ATTACKS, OBJECTIVES, SCHEDULES, STARTS
from torchproof.cli.options import console
from torchproof.compare import ATTACKS as COMPARED
from torchproof.core.errors import unknown
from torchproof.core.norms import NORMS
from torchproof.corrupt import CORRUPTIONS
from torchproof.data import AUGMENTATIONS, DATASETS
from torchproof.detect.catalogue import DETECTORS
from torchproof.evaluate import SUITES
from torchproof.nn import MODELS
from torchproof.nn.activations import ACTIVATIONS, activation_of
from torchproof.nn.blocks import BLOCKS
from torchproof.recipes import RECIPES
from torchproof.reproduce import EXPERIMENTS
from torchproof.reproduce.study import Study
from torchproof.train import METHODS, OPTIMISERS, Settings
from torchproof.train import SCHEDULES as RATES
from torchproof.verify.methods import ESTIMATES
from torchproof.verify.methods import METHODS as VERIFIERS


def _documented(table: Mapping[str, Any]) -> dict[str, str]:
    return {name: summary(entry) for name, entry in table.items()}


def summary(entry: Any) -> str:
    """The first paragraph of an entry's docstring, as one line."""
    doc = inspect.getdoc(entry) or ""
    return " ".join(doc.split("\n\n")[0].split())


def _experiment(entry: Any) -> str:
    """What a study is about, or the first lines of an experiment of its own."""
    return f"{entry.claim} ({entry.paper})" if isinstance(entry, Study) else summary(entry)


def _activation(name: str) -> str:
    made = activation_of(name, 1)
    own = type(made).__module__.startswith("torchproof")
    return summary(type(made)) if own else f"torch.nn.{made}"


def _optimisers() -> dict[str, str]:
    """What each name builds, with the default settings."""
    return {name: _made(make([_parameter()], Settings.of())) for name, make in OPTIMISERS.items()}


def _rates() -> dict[str, str]:
    made = {name: _made(make(SGD([_parameter()]), 8)) for name, make in RATES.items()}
    return {name: " ".join((summary(RATES[name]) + f" ({torch_name})").split())
            for name, torch_name in made.items()}  # fmt: skip


def _parameter() -> nn.Parameter:
    return nn.Parameter(torch.zeros(1))


def _made(thing: Optimizer | LRScheduler) -> str:
    """Where torch has it."""
    nesterov = isinstance(thing, SGD) and thing.defaults["nesterov"]
    more = ", with Nesterov momentum" if nesterov else ""
    return f"{type(thing).__module__}.{type(thing).__name__}{more}"


def _settings() -> dict[str, str]:
    fields = Settings.model_fields.items()
    return {name: f"{field.description} (default {field.default})" for name, field in fields}


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "detectors": lambda: _documented(DETECTORS),
    "attacks": lambda: _documented(ATTACKS),
    "objectives": lambda: _documented(OBJECTIVES),
    "starts": lambda: _documented(STARTS),
    "schedules": lambda: _documented(SCHEDULES),
    "methods": lambda: _documented(METHODS),
    "models": lambda: _documented(MODELS),
    "blocks": lambda: _documented(BLOCKS),
    "activations": lambda: {name: _activation(name) for name in ACTIVATIONS},
    "data": lambda: dict(DATASETS),
    "augmentations": lambda: _documented(AUGMENTATIONS),
    "norms": lambda: _documented({name: type(norm) for name, norm in NORMS.items()}),
    "suites": lambda: _documented(SUITES),
    "recipes": lambda: _documented(RECIPES),
    "experiments": lambda: {name: _experiment(entry) for name, entry in EXPERIMENTS.items()},
    "corruptions": lambda: _documented(CORRUPTIONS),
    "compared": lambda: {name: about for name, (_, about) in COMPARED.items()},
    "verifiers": lambda: {
        **{name: row.line for name, row in VERIFIERS.items()},
        **{name: row.line for name, row in ESTIMATES.items()},
    },
    "settings": _settings,
    "optimisers": _optimisers,
    "rates": _rates,
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
