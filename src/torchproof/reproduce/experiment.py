"""What an experiment is asked for, and what it leaves: rows of ours beside the published figures, a
verdict in words, a picture.

An experiment is a function of a `Request` that claims the folder, measures, and ends in `conclude`.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from torchproof import data as sets
from torchproof.core.errors import FileError, InputError, ResumeError
from torchproof.core.files import write
from torchproof.core.metrics import clopper_pearson, student
from torchproof.evaluate.versions import versions
from torchproof.reproduce.fingerprint import fingerprint
from torchproof.reproduce.places import PLACES

SCHEMA = "torchproof.experiment/1"
Verdict = Literal["shows", "does not show at this scale", "contradicts"]
Scale = Literal["small", "paper"]


class Row(BaseModel):
    """One figure: ours per seed (fractions, or numbers where `unit` is empty), and what was
    published, with its setting. ci95: of all seeds together; n: examples per seed, or in all where
    there is an interval. digits: the significant ones that a number is shown with.
    """

    what: str
    ours: tuple[float, ...]
    n: int
    published: float | None = None
    setting: str = ""
    unit: Literal["%", ""] = "%"
    ci95: tuple[float, float] | None = None
    digits: int = 3

    @classmethod
    def share(cls, what: str, hits: Sequence[int], of: Sequence[int], **more: Any) -> Row:
        """hits[i] of of[i] at each seed, those of 0 left out, with the interval of Clopper and
        Pearson of the sums. Raises InputError where nothing was counted.
        """
        ours = tuple(h / n for h, n in zip(hits, of, strict=True) if n)
        ci95 = clopper_pearson(sum(hits), sum(of))
        return cls(what=what, ours=ours, n=sum(of), ci95=ci95, **more)

    @classmethod
    def per_seed(
        cls, what: str, values: Sequence[float], n: int,
        unit: Literal["%", ""] = "%", least: float = 0.0,
    ) -> Row:  # fmt: skip
        """One value per seed, with Student's interval over seeds; shares lie in [least, 1]."""
        ci95 = student(values, least, 1.0) if unit else student(values)
        return cls(what=what, ours=tuple(values), n=n, unit=unit, ci95=ci95)

    def text(self, value: float) -> str:
        """A value in the row's unit."""
        return f"{100 * value:.1f}" if self.unit else f"{value:.{self.digits}g}"

    @property
    def known(self) -> str:
        """What was published, with its setting."""
        text = "–"
        if self.published is not None:  # with the digits that it was published with
            scaled = 100 * self.published if self.unit else self.published
            text = f"{scaled:.4g} {self.unit}".strip()
        return f"{text} ({self.setting})" if self.setting else text

    @property
    def told(self) -> str:
        """The mean, with the spread where there is more than one value."""
        spread = f" ± {self.text(self.spread)}" if len(self.ours) > 1 else ""
        return f"{self.text(self.mean)}{spread} {self.unit}".strip()

    @property
    def mean(self) -> float:
        return statistics.fmean(self.ours)

    @property
    def spread(self) -> float:
        """The sample standard deviation over seeds, 0 for one seed."""
        return statistics.stdev(self.ours) if len(self.ours) > 1 else 0.0


class Outcome(BaseModel):
    """The stored result of an experiment (outcome.json). seconds: wall clock; cpu_seconds: of all
    processes, 0 where some were not measured; code: its `fingerprint`, "" where that is not known.
    """

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
    code: str = ""
    cpu_seconds: float = 0.0

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
            lines.append(f"| {row.what} | {row.told} | {row.known} |")
        return "\n".join(lines) + "\n"

    def _with_intervals(self) -> list[str]:
        """The table of figures of several kinds, each with its n and interval."""
        lines = [
            f"| figure, seeds {list(self.seeds)} | n | ours | 95 % interval | published |",
            "|---|---:|---:|---:|---|",
        ]
        for row in self.rows:
            low, high = row.ci95 or (None, None)
            within = "–" if low is None or high is None else f"{row.text(low)} to {row.text(high)}"
            lines.append(f"| {row.what} | {row.n} | {row.told} | {within} | {row.known} |")
        return lines


class Partial(Exception):
    """The seeds that one process was asked for are measured; the experiment is not at its end."""


@dataclass(frozen=True)
class Request:
    """How an experiment is to be run. own: the seeds that this process measures of the `seeds` of
    the whole experiment, all where it is empty.
    """

    out: Path
    scale: Scale = "small"
    seeds: int = 3
    resume: bool = False
    data_dir: Path | None = None
    say: Callable[[str], None] = print
    own: tuple[int, ...] = ()
    made: float = field(default_factory=time.time, compare=False)
    started: float = field(default_factory=time.monotonic, compare=False)
    cpu_before: float = field(default_factory=lambda: _cpu_seconds(), compare=False)

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InputError(f"seeds = {self.seeds}", "a whole number >= 1", "three are usual")
        if self.scale not in get_args(Scale):
            raise InputError(f"scale {self.scale!r}", "small or paper", "choose one of the two")

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds to measure now."""
        return self.own or tuple(range(self.seeds))

    def part(self, seed: int) -> Request:
        """What a process is asked that measures this seed for an experiment of others."""
        return replace(self, own=(seed,), resume=True, say=print)

    def refuse_another(self) -> None:
        """Raises FileError for a folder that holds an experiment which is not to be resumed."""
        if (self.out / "request.json").exists() and not self.resume:
            given = f"{self.out}, which holds an experiment"
            raise FileError(given, "a new folder", "add --resume")

    def claim(self, settings: dict[str, str]) -> None:
        """Makes the folder this run's; raises ResumeError or FileError for one that is
        another's.
        """
        path = self.out / "request.json"
        wanted = {"scale": self.scale, "seeds": str(self.seeds), **settings}
        self.refuse_another()
        if path.exists():
            stored = _stored(path)
            differing = [k for k in {*stored, *wanted} if stored.get(k) != wanted.get(k)]
            if differing:
                raise ResumeError(
                    f"other settings ({', '.join(sorted(differing))})",
                    "the settings the experiment was started with",
                    "choose another --out",
                )
            return
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{self.out} ({error})", "a folder", "choose another --out") from error
        write(path, (json.dumps(wanted, indent=2) + "\n").encode())


def available(name: str, request: Request) -> bool:
    """Is this data set there? Says so, and why, where it is not."""
    try:
        sets.load(name, data_dir=request.data_dir, split="test")
    except FileError as error:
        request.say(f"the bundled digits take the place of {name}, because of: {error.given}")
        return False
    return True


def at_hand(names: Iterable[str], request: Request) -> list[str]:
    """The data sets that are there; the bundled digits, once, in the place of all others."""
    return list(dict.fromkeys(n if available(n, request) else "digits" for n in names))


def conclude(
    request: Request,
    *,
    name: str,
    paper: str,
    claim: str,
    settings: dict[str, str],
    rows: Sequence[Row],
    judged: tuple[Verdict, str],
    picture: bytes,
) -> Outcome:
    """Writes outcome.json, table.md and picture.png into the folder of the request.

    judged: the verdict and why. What it took is counted since the request was made, on top of what
    the outcome of a run that is resumed says. Raises Partial, and writes nothing, where the request
    is for some of the seeds.
    """
    if request.own:
        raise Partial
    spent = time.monotonic() - request.started + _before(request, "seconds")
    outcome = Outcome(
        name=name, paper=paper, claim=claim, scale=request.scale, settings=settings,
        seeds=request.all_seeds, rows=tuple(rows), verdict=judged[0], because=judged[1],
        seconds=spent, versions=versions(),
        code=fingerprint(PLACES[name][0]) if name in PLACES else "",
        cpu_seconds=_cpu_spent(request),
    )  # fmt: skip
    outcome.write(request.out)
    write(request.out / "picture.png", picture)
    return outcome


def _cpu_seconds() -> float:
    """Of this process and of those that it has seen the end of."""
    return sum(os.times()[:4])


def _cpu_spent(request: Request) -> float:
    """Since the folder was claimed; 0 where a run that was cut off took some of it."""
    now, before = _cpu_seconds() - request.cpu_before, _before(request, "cpu_seconds")
    path = request.out / "request.json"
    fresh = not path.exists() or path.stat().st_mtime > request.made - 1  # coarse clocks of files
    return now + before if fresh or before else 0.0


def _before(request: Request, spent: str) -> float:
    try:
        return float(json.loads((request.out / "outcome.json").read_text())[spent])
    except (OSError, ValueError, KeyError, TypeError):  # none, or one that is made again
        return 0.0


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
