"""Results on disk: a JSON record with everything, and the same as a Markdown table."""

from __future__ import annotations

import datetime
import json
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parent / "results"


def facts(versions: dict[str, str], missing: dict[str, str]) -> dict[str, Any]:
    """What a result needs beside its numbers; nothing that names the machine."""
    programme = [Path(sys.argv[0]).name, *(_neutral(a) for a in sys.argv[1:])]
    return {
        "date": datetime.date.today().isoformat(),
        "command": "python benchmarks/" + shlex.join(programme),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, **versions},
        "missing": missing,
        "threads": torch.get_num_threads(),
        "device": "cpu",
        "dtype": "float32",
    }


def _neutral(argument: str) -> str:
    """A path on this machine, as a word."""
    return "PATH" if argument.startswith(("/", "~", "..")) else argument


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; numbers to the right, thousands set apart."""
    numeric = [all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(head))]
    lines = [list(head), ["---:" if right else "---" for right in numeric]]
    lines += [[_cell(value) for value in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def store(name: str, record: dict[str, Any], text: str) -> None:
    """Writes results/NAME.json and .md, and prints the latter."""
    RESULTS.mkdir(exist_ok=True)
    about = record["facts"]
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    foot = [f"{about['date']}, {about['threads']} thread(s), CPU, {about['dtype']}; {versions}."]
    foot += [f"Not there: {name}, {reason}." for name, reason in about["missing"].items()]
    text += "\n" + "\n".join(foot) + f"\n\n`{about['command']}`\n"
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(text)
    print(text)
