"""Reports and records as tables of pandas, which is imported when it is asked for (extra `pandas`).

`to_frame(report)` has a row per example, `attack_frame(report)` one per attack, and
`to_frame(records)` one per record: of epochs (`torchproof.train.Record`), or of anything else that
is a dataclass or a pydantic model.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import asdict, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from torchproof.core.errors import InputError, MissingExtra
from torchproof.evaluate.outcome import Example
from torchproof.evaluate.record import AttackRecord
from torchproof.evaluate.report import Report

if TYPE_CHECKING:
    from pandas import DataFrame


def to_frame(what: Report | Iterable[Any]) -> DataFrame:
    """A row per example of a report, by its id, with result.json in `frame.attrs`; or a row per
    record, where tables inside a record, such as the figures of an epoch, become columns
    `figures.NAME`.

    Raises MissingExtra without pandas, InputError for records that are none.
    """
    pandas = _pandas()
    if isinstance(what, Report):
        names = [field.name for field in fields(Example)]
        frame = pandas.DataFrame([asdict(row) for row in what.examples], columns=names)
        frame = frame.set_index("id")
        frame.attrs = what.result.model_dump(mode="json")
        return frame
    rows: Any = what
    return pandas.DataFrame([_flat(_content(row)) for row in rows])


def attack_frame(report: Report) -> DataFrame:
    """A row per attack, in the order in which they were run, by its name; raises MissingExtra."""
    names = list(AttackRecord.model_fields)
    rows = [attack.model_dump() for attack in report.result.attacks]
    return _pandas().DataFrame(rows, columns=names).set_index("name")


def _content(row: Any) -> dict[str, Any]:
    if hasattr(row, "model_dump"):
        content: dict[str, Any] = row.model_dump()
        return content
    if is_dataclass(row) and not isinstance(row, type):
        return asdict(row)
    remedy = "pass a report, or a list of records"
    raise InputError(f"a record of type {type(row).__name__}", "fields with values", remedy)


def _flat(content: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Tables inside as columns of their own, named by their path."""
    out: dict[str, Any] = {}
    for name, value in content.items():
        nested = isinstance(value, dict)
        out |= _flat(value, f"{path}{name}.") if nested else {f"{path}{name}": value}
    return out


def _pandas() -> Any:
    try:
        return importlib.import_module("pandas")
    except Exception as error:  # one that was built for another numpy fails in its own ways
        given = f"a table without pandas ({type(error).__name__}: {error})"
        raise MissingExtra(given, "pandas", "run `pip install 'torchproof[pandas]'`") from error
