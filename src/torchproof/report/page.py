"""The page: what is laid out where, and the one function that writes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from torchproof.core.errors import InputError
from torchproof.core.files import write
from torchproof.evaluate.record import Result
from torchproof.report import numbers, plots
from torchproof.report.audit import Check, audit
from torchproof.report.classes import ClassRow, Confusion, by_class, confusion, pairing, weakest
from torchproof.report.evaluation import Evaluation
from torchproof.report.figures import SERIES
from torchproof.report.gallery import Gallery, gallery
from torchproof.report.numbers import Share
from torchproof.report.training import FIGURE, Training

# Entries of result.json with a place of their own on the page; all others are listed as settings.
PLACED = {
    "clean_accuracy",
    "robust_accuracy",
    "robust_accuracy_ci95",
    "certified_accuracy",
    "standing",
    "attacks",
    "flags",
    "labels",
    "verdict",
    "command",
    "versions",
    "threat",
    "probes",
}
COUNTS = {"n", "forward", "backward"}
UNSAID = {"target", "rejection_rate"}  # null where they do not apply, which needs no saying


@dataclass(frozen=True)
class Section:
    """One evaluation and what the page shows of it; `mark` is its letter, `number` its colour."""

    mark: str
    number: int
    evaluation: Evaluation
    gallery: Gallery
    classes: tuple[ClassRow, ...]
    confusion: Confusion | None
    checks: tuple[Check, ...]
    class_names: tuple[str, ...]

    @property
    def result(self) -> Result:
        """What result.json says."""
        return self.evaluation.result

    @property
    def listed(self) -> list[ClassRow]:
        """The classes that the page shows: the weakest."""
        return weakest(self.classes)

    @property
    def contradicted(self) -> bool:
        """Whether a check of the files against each other failed."""
        return any(check.passed is False for check in self.checks)

    @property
    def remaining(self) -> list[Share]:
        """The accuracy left after each attack of the cascade."""
        n = self.evaluation.n
        return [Share.measured(attack.robust_accuracy, n) for attack in self.result.attacks]

    def outside(self, name: str) -> float:
        """Forward, backward or seconds of neither attacks nor probes: those of the clean pass."""
        spent = sum(float(getattr(attack, name)) for attack in self.result.attacks)
        spent += self.result.probes.seconds if name == "seconds" else 0.0
        return float(getattr(self.result, name)) - spent

    @property
    def settings(self) -> list[tuple[str, str]]:
        """Every entry of result.json without a place of its own, and the versions."""
        entries = self.result.model_dump(by_alias=True)
        rows = [
            (key.replace("_", " "), _text(key, value))
            for key, value in entries.items()
            if key not in PLACED and not (key in UNSAID and value is None)
        ]
        rows.insert(2, ("threat", self.evaluation.threat))
        versions = [f"{name} {version}" for name, version in self.result.versions.items()]
        return [*rows, ("versions", ", ".join(versions))]

    def class_name(self, label: int) -> str:
        """The name of a label, or the label."""
        return self.class_names[label] if label < len(self.class_names) else str(label)


def render(
    results: Sequence[Path | Evaluation],
    out: Path,
    *,
    training: Path | None = None,
    title: str | None = None,
    classes: Sequence[str] = (),
) -> Path:
    """Writes one self-contained HTML page about stored evaluations and returns its path.

    `results` are directories with result.json (or evaluations read from them), `out` the file to
    write or a directory for `report.html`, `training` a run directory or its metrics.jsonl,
    `classes` the names of the classes by label (without them the page shows the labels). The page
    needs no network and no script; the same input gives the same bytes. Raises InputError for no
    results, FileError for a missing or damaged file and where the page cannot be written.
    """
    if not results:
        raise InputError(
            "no results", "at least one evaluation", "name a directory with result.json"
        )
    evaluations = [
        found if isinstance(found, Evaluation) else Evaluation.read(found) for found in results
    ]
    run = None if training is None else Training.read(training)
    html = _html(_sections(evaluations, tuple(classes)), run, title)
    path = out / "report.html" if out.is_dir() or not out.suffix else out
    write(path, html.encode())
    return path


def _html(sections: list[Section], run: Training | None, title: str | None) -> str:
    names = list(dict.fromkeys(section.result.model for section in sections))
    template = _environment().get_template("report.html.j2")
    return template.render(
        title=title or "Robustness of " + _named(names),
        shared=_shared(sections),
        sections=sections,
        radii=_radii(sections),
        pairs=_pairs(sections),
        training=run,
        trained=[section for section in sections if run is not None and _made(run, section)],
        curves=[] if run is None else _curves(run),
    )


def _sections(evaluations: Sequence[Evaluation], classes: tuple[str, ...]) -> list[Section]:
    """Letters by model; several radii of one model under one kind of threat are A1, A2, ..."""
    order = dict.fromkeys(_subject(evaluation) for evaluation in evaluations)
    members = [[e for e in evaluations if _subject(e) == subject] for subject in order]
    sections = []
    for number, group in enumerate(members):
        group.sort(key=lambda evaluation: evaluation.threats[0].eps or 0.0)
        for turn, evaluation in enumerate(group):
            mark = _letter(number) + (str(turn + 1) if len(group) > 1 else "")
            sections.append(_section(mark, number, evaluation, classes))
    return sections


def _section(mark: str, number: int, evaluation: Evaluation, classes: tuple[str, ...]) -> Section:
    examples = evaluation.examples or ()
    return Section(
        mark,
        number,
        evaluation,
        gallery(evaluation),
        tuple(by_class(examples)),
        confusion(examples) if examples else None,
        tuple(audit(evaluation)),
        classes,
    )


def _subject(evaluation: Evaluation) -> tuple[str, ...]:
    """What must agree for two evaluations to be points of one line against eps."""
    result = evaluation.result
    keys = ("model", "model_sha256", "data", "data_sha256", "n", "suite", "quantised")
    norms = [numbers.norm(threat) for threat in evaluation.threats]
    return (*(str(getattr(result, key)) for key in keys), *norms)


def _letter(number: int) -> str:
    """A to Z, then AA, AB, ..."""
    first, last = divmod(number, 26)
    return (_letter(first - 1) if first else "") + chr(ord("A") + last)


def _radii(sections: Sequence[Section]) -> list[tuple[str, Markup, list[Section]]]:
    """(norm, plot, sections in it) for every norm that a single threat has."""
    found: list[tuple[str, Markup, list[Section]]] = []
    single = [section for section in sections if len(section.evaluation.threats) == 1]
    for norm in dict.fromkeys(numbers.norm(section.evaluation.threats[0]) for section in single):
        drawn = [s for s in single if numbers.norm(s.evaluation.threats[0]) == norm]
        groups = [
            [s for s in drawn if s.number == number] for number in sorted({s.number for s in drawn})
        ]
        lines = [_line(group) for group in groups]
        found.append((norm, plots.against_eps(lines, norm, f"eps{len(found)}"), drawn))
    return found


def _line(group: Sequence[Section]) -> plots.Line:
    start = plots.Point(0.0, "0", group[0].evaluation.clean)
    radii = [radius for section in group for radius in section.evaluation.points]
    points = [plots.Point(r.eps, r.tick, r.share) for r in sorted(radii, key=lambda r: r.eps)]
    return plots.Line(_letter(group[0].number), group[0].number, (start, *points))


def _pairs(sections: Sequence[Section]) -> list[tuple[Section, Section, tuple[int, int, int, int]]]:
    """Each later evaluation against the first one that met the same examples and threat."""
    found = []
    for row, second in enumerate(sections):
        for first in sections[:row]:
            tally = pairing(first.evaluation, second.evaluation)
            if tally is not None:
                found.append((first, second, tally))
                break
    return found


def _curves(run: Training) -> list[tuple[Markup, list[plots.Curve]]]:
    """The plots of the training run that its record allows, with the curves in each."""
    kinds = [
        (plots.ACCURACIES, "accuracy, %"),
        (plots.GAPS, "overfitting, as a share"),
        (plots.LOSSES, "loss, nats"),
        (plots.LOOKS, "gap and cosine"),
        (plots.FIRST_LAYER, "first layer"),
        *(
            ((plots.Curve(f"{FIGURE}{name}", name.replace("_", " "), 5),), name.replace("_", " "))
            for name in run.figures
        ),
    ]
    drawn = [
        (plots.curves(run, wanted, axis, f"run{row}"), [c for c in wanted if run.points(c.name)])
        for row, (wanted, axis) in enumerate(kinds)
    ]
    return [(plot, curves) for plot, curves in drawn if plot is not None]


def _named(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) <= 2 else f"{len(names)} models"


def _shared(sections: Sequence[Section]) -> list[str]:
    """What holds for every evaluation of the page, for the line under its title."""
    said = [
        [f"data {section.result.data}" for section in sections],
        [section.evaluation.conditions for section in sections],
        [section.result.date[:10] for section in sections],
    ]
    return [entries[0] for entries in said if entries[0] and len(set(entries)) == 1]


def _made(run: Training, section: Section) -> bool:
    """Whether this run trained the network of this evaluation."""
    return run.sha256 is not None and run.sha256 == section.result.model_sha256


def _text(key: str, value: object) -> str:
    if value is None:
        return "not recorded"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key in COUNTS and isinstance(value, int):
        return numbers.count(value)
    if key == "seconds" and isinstance(value, int | float):
        return numbers.duration(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("torchproof.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=numbers.count, duration=numbers.duration)
    environment.globals.update(series=SERIES)
    return environment
