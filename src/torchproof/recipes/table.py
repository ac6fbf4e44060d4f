"""A table of training runs: named plans, the same seeds for each, one evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from torchproof.core.errors import FileError, InputError
from torchproof.recipes.catalogue import recipe
from torchproof.recipes.plan import Plan
from torchproof.train import Settings

EXAMPLE = """base: {data: digits, threat: 'linf:0.15', settings: {epochs: 10}}
rows:
  AT: {method: AT(steps=7)}
  TRADES: {method: TRADES(beta=6)}
seeds: [0, 1, 2]
reference: AT"""


class Judgement(BaseModel):
    """How every network is judged: a suite on the first n images of a split.

    threat: by default each plan's own; weights: those chosen on held-out images, or the last.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int = Field(default=500, ge=1)
    suite: str = "fast"
    split: str = "test"
    threat: str | None = None
    weights: Literal["best", "last"] = "best"


class Table(BaseModel):
    """Plans by name, each trained with every seed. reference: the row that others are compared
    with, by default the first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: dict[str, Plan]
    seeds: tuple[int, ...] = (0, 1, 2)
    evaluate: Judgement = Judgement()
    reference: str | None = None

    @property
    def against(self) -> str:
        return self.reference or next(iter(self.rows))

    @classmethod
    def of(cls, content: Any) -> Table:
        """From the content of a file: `base` (or a `recipe` in it) is what the rows have in common.

        Raises InputError for anything else, UnknownName for names in no table.
        """
        if not isinstance(content, dict) or not isinstance(content.get("rows"), dict):
            raise _wrong(f"{type(content).__name__} without rows")
        rest = {k: v for k, v in content.items() if k not in ("base", "rows")}
        base = content.get("base") or {}
        rows = {str(k): _plan(base, row or {}, str(k)) for k, row in content["rows"].items()}
        try:
            made = cls(rows=rows, **rest)
        except (ValidationError, TypeError) as error:
            raise _wrong(str(error).splitlines()[0] if not rest else _first(error)) from None
        odd = [name for name in rows if not name or set(name) & set('/\\:*?"<>|')]
        if not rows or odd or not made.seeds or len(set(made.seeds)) < len(made.seeds):
            raise _wrong(f"rows {list(rows)} with seeds {list(made.seeds)}")
        if made.against not in rows:
            raise _wrong(f"reference {made.against!r}, which is no row")
        return made

    @classmethod
    def read(cls, path: Path) -> Table:
        """From a YAML file; raises FileError where that cannot be read, and as `of` does."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = str(error).splitlines()[0]
            raise FileError(
                f"{path} ({reason})", "a YAML file", f"write one such as\n{EXAMPLE}"
            ) from (error)
        return cls.of(content)


def _plan(base: Any, row: Any, name: str) -> Plan:
    """A row over what all have in common; settings are merged one by one."""
    if not isinstance(base, dict) or not isinstance(row, dict):
        raise _wrong(f"row {name}: {row!r}")
    both = {**base, **row}
    start = recipe(both.pop("recipe")).model_dump() if "recipe" in both else Plan().model_dump()
    settings = {**start["settings"], **base.get("settings", {}), **row.get("settings", {})}
    both["settings"] = Settings.of(settings)
    try:
        return Plan(**{**start, **both})
    except ValidationError as error:
        raise _wrong(f"row {name}: {_first(error)}") from None


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
    return str(error)


def _wrong(given: str) -> InputError:
    return InputError(f"a table of runs: {given}", "base, rows, seeds", f"write\n{EXAMPLE}")
