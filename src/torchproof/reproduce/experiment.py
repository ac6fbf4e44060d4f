"""What an experiment leaves: rows of ours beside the published figures, a verdict in words, a
picture.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from torchproof.core.errors import FileError, InputError, ResumeError
from torchproof.core.files import write
from torchproof.core.metrics import clopper_pearson

SCHEMA = "torchproof.experiment/1"
Verdict = Literal["shows", "does not show at this scale", "contradicts"]
Scale = Literal["small", "paper"]


class Row(BaseModel):
    """One figure: ours per seed (fractions, or numbers where `unit` is empty), and what was
    published, with its setting. ci95: of all seeds together; n: examples per seed, or in all where
    there is an interval.
    """

    what: str
    ours: tuple[float, ...]
    n: int
    published: float | None = None
    setting: str = ""
    unit: Literal["%", ""] = "%"
    ci95: tuple[float, float] | None = None

    @classmethod
    def share(cls, what: str, hits: Sequence[int], of: Sequence[int], **more: Any) -> Row:
        """hits[i] of of[i] at each seed, those of 0 left out, with the interval of Clopper and
        Pearson of the sums. Raises InputError where nothing was counted.
        """
        ours = tuple(h / n for h, n in zip(hits, of, strict=True) if n)
        ci95 = clopper_pearson(sum(hits), sum(of))
        return cls(what=what, ours=ours, n=sum(of), ci95=ci95, **more)

    def text(self, value: float) -> str:
        """A value in the row's unit."""
        return f"{100 * value:.1f}" if self.unit else f"{value:.3g}"

    @property
    def mean(self) -> float:
        return statistics.fmean(self.ours)

    @property
    def spread(self) -> float:
        """The sample standard deviation over seeds, 0 for one seed."""
        return statistics.stdev(self.ours) if len(self.ours) > 1 else 0.0


class Outcome(BaseModel):
    """The stored result of an experiment (outcome.json)."""

    model_config = ConfigDict(extra="forbid")

    schema_version: str = SCHEMA
    name: str
    paper: str
    claim: str
    scale: Scale
    settings: dict[str, str]
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    verdict: Verdict
    because: str
    seconds: float
    versions: dict[str, str]

    def write(self, out: Path) -> None:
        """outcome.json and table.md, each whole or not at all; raises FileError."""
        write(out / "outcome.json", (self.model_dump_json(indent=2) + "\n").encode())
        write(out / "table.md", self.table().encode())

    def table(self) -> str:
        """The rows as Markdown, ours beside the published."""
        lines = [
            f"# {self.name}: {self.paper}",
            "",
            f"Claim: {self.claim}",
            "",
            f"**{self.verdict}**: {self.because}",
            "",
            "; ".join(f"{k}: {v}" for k, v in self.settings.items()),
            "",
        ]
        if any(row.ci95 for row in self.rows):
            return "\n".join([*lines, *self._with_intervals()]) + "\n"
        lines += [
            f"| accuracy, n = {self.rows[0].n}, seeds {list(self.seeds)} | ours | published |",
            "|---|---:|---|",
        ]
        for row in self.rows:
            published = "–" if row.published is None else f"{100 * row.published:.2f} %"
            note = f"{published} ({row.setting})" if row.setting else published
            lines.append(
                f"| {row.what} | {100 * row.mean:.1f} ± {100 * row.spread:.1f} % | {note} |"
            )
        return "\n".join(lines) + "\n"

    def _with_intervals(self) -> list[str]:
        """The table of figures of several kinds, each with its n and interval."""
        lines = [
            f"| figure, seeds {list(self.seeds)} | n | ours | 95 % interval | published |",
            "|---|---:|---:|---:|---|",
        ]
        for row in self.rows:
            ours = f"{row.text(row.mean)} ± {row.text(row.spread)} {row.unit}".strip()
            low, high = row.ci95 or (None, None)
            within = "–" if low is None or high is None else f"{row.text(low)} to {row.text(high)}"
            known = "–" if row.published is None else f"{row.text(row.published)} {row.unit}"
            note = f"{known} ({row.setting})" if row.setting else known
            lines.append(f"| {row.what} | {row.n} | {ours} | {within} | {note} |")
        return lines


@dataclass(frozen=True)
class Request:
    """How an experiment is to be run."""

    out: Path
    scale: Scale = "small"
    seeds: int = 3
    resume: bool = False
    data_dir: Path | None = None
    say: Callable[[str], None] = print

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InputError(f"seeds = {self.seeds}", "a whole number >= 1", "three are usual")
        if self.scale not in get_args(Scale):
            raise InputError(f"scale {self.scale!r}", "small or paper", "choose one of the two")

    def claim(self, settings: dict[str, str]) -> None:
        """Makes the folder this run's; raises ResumeError or FileError for one that is
        another's.
        """
        path = self.out / "request.json"
        wanted = {"scale": self.scale, "seeds": str(self.seeds), **settings}
        if path.exists() and not self.resume:
            raise FileError(
                f"{self.out}, which holds an experiment", "a new folder", "add --resume"
            )
        if path.exists():
            stored = _stored(path)
            differing = [k for k in {*stored, *wanted} if stored.get(k) != wanted.get(k)]
            if differing:
                raise ResumeError(
                    f"other settings ({', '.join(sorted(differing))})",
                    "the settings the experiment was started with",
                    "choose another --out",
                )
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{self.out} ({error})", "a folder", "choose another --out") from error
        write(path, (json.dumps(wanted, indent=2) + "\n").encode())


def _stored(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no table")
        return content
    except (OSError, ValueError) as error:
        raise FileError(
            f"{path} ({error})", "the settings of an experiment", "choose another --out"
        ) from error
