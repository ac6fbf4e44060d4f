"""docs/results/README.md from the stored experiments; written by `pages`.

A result whose experiment was edited since is marked: see `fingerprint`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torchproof.reproduce.collected import stored
from torchproof.reproduce.experiment import Outcome
from torchproof.reproduce.fingerprint import fingerprint
from torchproof.reproduce.places import PLACES
from torchproof.reproduce.systems import SYSTEMS

HEAD = "| experiment | does the claim show? | seeds | minutes | CPU minutes | torch | |"


def page(folder: Path) -> str:
    """The table of all systems and of the further experiments; raises FileError for a stored
    result that is damaged.
    """
    lines = [
        "# Results",
        "",
        "Generated from the stored experiments by `make results`; no number is written by hand. "
        "One small experiment for each of the 28 published systems, `torchproof reproduce NAME`: "
        "does the paper's main claim show on two cores? Each has a table with intervals, the "
        "published figures with their settings, and a picture. Minutes are of the clock, on a "
        "machine with two cores that did other work too; CPU minutes, of all processes, tell the "
        "cost; either is empty where not all of a run was recorded. The seeds share the two "
        "cores.",
        "",
        *_table(folder, [(s.name, f"{i}. {s.title}") for i, s in enumerate(SYSTEMS, 1)]),
        "",
        "## Further experiments",
        "",
        *_table(folder, [(name, "") for name in PLACES if name not in _SYSTEMS]),
        "",
        "edited since: settings, measuring or judging code of the experiment itself (not of the "
        "library below, which tests hold) differ from those that made the result. It is to be "
        "made again unless the change was one of form.",
        "",
        "## What was claimed, and why the verdict",
        "",
        *_reasons(folder),
    ]
    return "\n".join(lines) + "\n"


_SYSTEMS = {system.name for system in SYSTEMS}


def _table(folder: Path, named: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield from (HEAD, "|---|---|---:|---:|---:|---|---|")
    for name, title in named:
        text = f"{title}: `{name}`" if title else f"`{name}`"
        if not (folder / name / "outcome.json").exists():
            yield f"| {text} | not measured yet | | | | | |"
            continue
        yield _row(f"{title}: [{name}]({name}/table.md)" if title else f"[{name}]({name}/table.md)",
                   stored(folder / name))  # fmt: skip


def _reasons(folder: Path) -> Iterator[str]:
    names = [s.name for s in SYSTEMS] + [name for name in PLACES if name not in _SYSTEMS]
    for name in names:
        if (folder / name / "outcome.json").exists():
            told = stored(folder / name)
            claimed = f"- **{name}** ({told.paper}). Claim: {told.claim}."
            yield f"{claimed} **{told.verdict}**: {told.because}."


def _row(text: str, outcome: Outcome) -> str:
    minutes, cpu = _minutes(outcome.seconds), _minutes(outcome.cpu_seconds)
    torch = outcome.versions.get("torch", "")
    return (f"| {text} | **{outcome.verdict}** | {len(outcome.seeds)} | {minutes} | {cpu} "
            f"| {torch} | {_mark(outcome)} |")  # fmt: skip


def _minutes(seconds: float) -> str:
    if seconds == 0:  # not recorded
        return ""
    return f"{seconds / 60:,.0f}" if seconds >= 60 else "< 1"


def _mark(outcome: Outcome) -> str:
    if outcome.name not in PLACES or not outcome.code:
        return "code not recorded"
    now = fingerprint(PLACES[outcome.name][0])
    return "" if outcome.code == now else "edited since"
