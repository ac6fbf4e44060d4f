"""Certification logs as published code writes them (Cohen, Rosenfeld and Kolter 2019, and those who
built on it): tab-separated idx, label, predict, radius, correct and often time, a line per image.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from torchproof.core.errors import FileError
from torchproof.verify.smoothing.summary import Log

_COLUMNS = ("idx", "label", "predict", "radius", "correct")
_REMEDY = "give the log as it was written, plain or compressed with gzip"


def read_log(path: Path | str) -> Log:
    """The log in a file, plain or .gz. Seconds are NaN where there is no `time`, which may be a
    number or hours:minutes:seconds.

    Raises FileError for a missing or damaged file, missing columns, and naming the line for one
    that is cut short, is no number, or whose `correct` contradicts label and predict.
    """
    path = Path(path)
    expected = f"tab-separated columns {', '.join(_COLUMNS)}"
    try:
        data = path.read_bytes()
        text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        rows = list(csv.DictReader(text.decode().splitlines(), delimiter="\t"))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{path} ({error})", expected, _REMEDY) from error
    if not rows or not set(_COLUMNS) <= rows[0].keys():
        seen = ", ".join(map(str, rows[0])) if rows else "no line"
        raise FileError(f"{path} with {seen}", expected, _REMEDY)
    parsed = []
    for number, row in enumerate(rows, 2):
        try:
            parsed.append(_row(row))
        except (ValueError, TypeError, AttributeError) as error:
            given = f"{path}, line {number} ({error})"
            raise FileError(given, expected, _REMEDY) from error
    ids, labels, predictions, radii, seconds = zip(*parsed, strict=True)
    return Log(
        np.array(ids, np.int64),
        np.array(labels, np.int64),
        np.array(predictions, np.int64),
        np.array(radii),
        np.array(seconds),
    )


def _row(row: dict[str, str]) -> tuple[int, int, int, float, float]:
    label, prediction, radius = int(row["label"]), int(row["predict"]), float(row["radius"])
    if bool(int(row["correct"])) != (label == prediction):
        raise ValueError(f"correct = {row['correct']}: label {label}, predict {prediction}")
    if not (math.isfinite(radius) and radius >= 0):
        raise ValueError(f"radius {row['radius']}")
    return int(row["idx"]), label, prediction, radius, _seconds(row.get("time"))


def _seconds(text: str | None) -> float:
    """3.5 or 0:00:03.5; NaN for nothing."""
    if not text:
        return math.nan
    total = 0.0
    for part in text.split(":"):
        total = 60 * total + float(part)
    return total
