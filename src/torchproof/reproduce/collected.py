"""One page from several stored experiments; written by `pages`.

`torchproof reproduce NAME --out FOLDER/NAME` writes the folders that are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
             "shown, are of the papers' own scale and no comparison.", "",
             "| experiment | verdict | because | seconds | CPU seconds |",
             "|---|---|---|---:|---:|"]  # fmt: skip
    seconds = {name: _seconds(folder / name / "comparison.md", outcome) for name, outcome in found}
    lines += [
        f"| [{n}]({n}/table.md) | {o.verdict} | {o.because} | {seconds[n]} | {_cpu(o)} |"
        for n, o in found
    ]
    lines += ["", _long(seconds), *_costly([outcome for _, outcome in found])]
    for name, outcome in found:
        lines += ["", f"## {name}", "", f"{outcome.paper}. Claim: {outcome.claim}.", "",
                  f"**{outcome.verdict}**: {outcome.because}.", ""]  # fmt: skip
        lines.append(_tables(folder / name / "comparison.md", outcome))
    return "\n".join(lines).rstrip() + "\n"


@dataclass(frozen=True)
class Seconds:
    """What an experiment took; whole: false where it is known to have taken more."""

    value: float
    whole: bool = True

    def __str__(self) -> str:
        return f"{'' if self.whole else 'at least '}{self.value:,.0f}"


def _seconds(comparison: Path, outcome: Outcome) -> Seconds:
    """Of all seeds together. An outcome that was resumed may know of its last session only: then it
    is what the trainings of its table took, which is less than all of it.
    """
    table = comparison.read_text(encoding="utf-8") if comparison.exists() else ""
    if "| seconds |" not in table:
        return Seconds(outcome.seconds)
    trained = sum(int(value) for value in re.findall(r"\| (\d+) \|$", table, re.MULTILINE))
    trainings = float(trained * len(outcome.seeds))
    return Seconds(max(outcome.seconds, trainings), whole=outcome.seconds >= trainings)


def _cpu(outcome: Outcome) -> str:
    """Of all processes; empty where not all of a run was recorded."""
    return f"{outcome.cpu_seconds:,.0f}" if outcome.cpu_seconds else ""


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


def _long(seconds: Mapping[str, Seconds]) -> str:
    over = [f"{name} ({each} s)" for name, each in seconds.items() if each.value > LONG]
    resumed = [name for name, each in seconds.items() if not each.whole]
    took = (
        f"Longer than {LONG // 60} minutes: {', '.join(over)}."
        if over
        else f"All of them took at most {LONG // 60} minutes."
    )
    if not resumed:
        return f"{took} Seconds are as measured, on a machine that did other work too."
    return (
        f"{took} Seconds are as measured, on a machine that did other work too; those of resumed "
        f"experiments ({', '.join(resumed)}) are of the trainings alone, so at least that."
    )


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
