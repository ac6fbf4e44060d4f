"""One page from several stored experiments; written by `pages`.

`torchproof reproduce NAME --out FOLDER/NAME` writes the folders that are read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from torchproof.core.errors import FileError
from torchproof.reproduce.experiment import Outcome

LONG = 900  # seconds on two cores that a small scale is meant to stay below


def collected(folder: Path, title: str, names: Sequence[str]) -> str:
    """Claims, verdicts and tables of the named experiments, as Markdown; raises FileError for one
    that is missing or damaged.
    """
    found = [(name, stored(folder / name)) for name in names]
    lines = [f"# {title}", "",
             "Generated from the stored experiments by `make results`. Published figures, where "
             "shown, are of the papers' own scale and no comparison. Seconds are of the clock, on "
             "a machine with two cores that did other work too; CPU seconds, of all processes, "
             "tell the cost; either is empty where not all of a run was recorded. The seeds "
             "share the two cores, so their trainings can add up to more seconds.", "",
             "| experiment | verdict | because | seconds | CPU seconds |",
             "|---|---|---|---:|---:|"]  # fmt: skip
    outcomes = [outcome for _, outcome in found]
    lines += [
        f"| [{n}]({n}/table.md) | {o.verdict} | {o.because} | {_whole(o.seconds)} "
        f"| {_whole(o.cpu_seconds)} |"
        for n, o in found
    ]
    lines += ["", _long(outcomes), *_costly(outcomes)]
    for name, outcome in found:
        lines += ["", f"## {name}", "", f"{outcome.paper}. Claim: {outcome.claim}.", "",
                  f"**{outcome.verdict}**: {outcome.because}.", ""]  # fmt: skip
        lines.append(_tables(folder / name / "comparison.md", outcome))
    return "\n".join(lines).rstrip() + "\n"


def _whole(seconds: float) -> str:
    """Empty where not all of a run was recorded."""
    return f"{seconds:,.0f}" if seconds else ""


def _costly(outcomes: Sequence[Outcome]) -> list[str]:
    """Which need more of two cores than a small scale is meant to, however idle they are."""
    over = [o.name for o in outcomes if o.cpu_seconds > 2 * LONG]
    if not over:
        return []
    names = ", ".join(over)
    return [
        "",
        f"More than {2 * LONG // 60} minutes of CPU time, so too long for two cores: {names}.",
    ]


def _long(outcomes: Sequence[Outcome]) -> str:
    """Which took longer by the clock than a small scale is meant to."""
    over = [f"{o.name} ({_whole(o.seconds)} s)" for o in outcomes if o.seconds > LONG]
    if over:
        return f"Longer than {LONG // 60} minutes: {', '.join(over)}."
    known = "All of them" if all(o.seconds for o in outcomes) else "All whose time is known"
    return f"{known} took at most {LONG // 60} minutes."


def _tables(comparison: Path, outcome: Outcome) -> str:
    """The table of methods, where there is one, and what was measured beside it."""
    if not comparison.exists():
        return _without_title(outcome.table())
    table = comparison.read_text(encoding="utf-8").rstrip()
    names = re.findall(r"^\| (.+?) `", table, re.MULTILINE)
    known = {
        f"{name}: {what}" for name in names for what in ("clean", outcome.settings.get("suite"))
    }
    more = tuple(row for row in outcome.rows if row.what not in known)
    if not more:
        return table
    return f"{table}\n\n{_without_title(outcome.model_copy(update={'rows': more}).table())}"


def stored(folder: Path) -> Outcome:
    """The outcome in a folder; raises FileError where there is none, or a damaged one."""
    path = folder / "outcome.json"
    try:
        return Outcome.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        remedy = f"run `torchproof reproduce {folder.name} --out {folder}`"
        raise FileError(f"{path} ({reason})", "a stored experiment", remedy) from error


def _without_title(text: str) -> str:
    """A table's page from its first row on where it starts with a heading."""
    if not text.startswith("# "):
        return text.rstrip()
    rows = text.splitlines()
    first = next((i for i, row in enumerate(rows) if row.startswith("|")), 0)
    return "\n".join(rows[first:]).rstrip()
