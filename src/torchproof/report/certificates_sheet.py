"""The page of `torchproof certify`."""

from __future__ import annotations

from collections import Counter

from matplotlib.figure import Figure

from torchproof.core.errors import InputError
from torchproof.core.metrics import clopper_pearson
from torchproof.evaluate.certified import Certificates, Row
from torchproof.report.pictures import blank, plainly
from torchproof.report.sheet import Picture, Section, Sheet, Table

MEANINGS = {
    "certified": "proved: no input of the threat changes the answer",
    "undecided": "not proved, and no counterexample met: attack it",
    "broken": "a counterexample was met, and the model confirms it",
    "wrong": "misclassified as it is",
    "unfinished": "not looked at yet: go on with --resume",
}
COLOURS = {"certified": "#2b8a3e", "undecided": "#8a8f98", "broken": "#b93a0e", "wrong": "#30343b"}
MARGIN = (
    "The bound of an image is below the least margin of its class over another, anywhere in the "
    "threat: above zero it is a proof; below, it may be loose. How far it is below zero says how "
    "much tighter a method has to be."
)


def certificates_sheet(found: Certificates) -> Sheet:
    """What is proved of how many images, class by class, and how near the others are to it."""
    threat = f"{found.threat['norm']}:{found.threat['eps_text']}"
    sections = [Section("How many are proved?", (_headline(found),), (_counts(found),))]
    if any(row.margin is not None for row in found.examples):
        picture = Picture("margins", "One dot an image, sorted by its bound.", draw_margins(found))
        sections.append(Section("How near are the others?", (MARGIN,), pictures=(picture,)))
    sections.append(Section("Class by class", tables=(_classes(found),)))
    return Sheet(
        kind="certificates", title=f"What is proved of {found.model}", sections=tuple(sections),
        about=f"data {found.data} · {threat} · method {found.method} · n = {found.n}",
        record=found.file, command=found.command, versions=found.versions,
    )  # fmt: skip


@plainly
def draw_margins(found: Certificates) -> Figure:
    """The bounds of all images that have one, sorted; raises InputError where none has."""
    rows = sorted(
        (row for row in found.examples if row.margin is not None), key=lambda row: row.margin or 0.0
    )
    if not rows:
        raise InputError("no bounds", "at least one", "choose a method that bounds margins")
    figure = blank(9.6, 4.2)
    axes = figure.subplots()
    for status, colour in COLOURS.items():
        places = [i for i, row in enumerate(rows) if row.status == status]
        if places:
            bounds = [rows[i].margin or 0.0 for i in places]
            axes.plot(places, bounds, ".", color=colour, label=status, markersize=5)
    axes.axhline(0, color="#30343b", linewidth=0.8)
    axes.set_xlabel("images, sorted")
    axes.set_ylabel("lower bound of the least margin")
    axes.legend(frameon=False)
    return figure


def _headline(found: Certificates) -> str:
    low, high = found.certified_accuracy_ci95
    limit = "" if found.timeout is None else f" Each image had {found.timeout:g} s at most."
    return (
        f"Certified accuracy {100 * found.certified_accuracy:.1f} % (95 % interval "
        f"{100 * low:.1f} to {100 * high:.1f} %), clean accuracy "
        f"{100 * found.clean_accuracy:.1f} %. True robust accuracy lies between the two. "
        f"{found.seconds:.1f} s in all.{limit} Assumed: {found.assumptions}."
    )


def _counts(found: Certificates) -> Table:
    count: Counter[str] = Counter(row.status for row in found.examples)
    rows = [(name, str(count[name]), told) for name, told in MEANINGS.items() if count[name]]
    return Table(f"Of {found.n} images.", ("status", "images", "meaning"), tuple(rows))


def _classes(found: Certificates) -> Table:
    by_label: dict[int, list[Row]] = {}
    for row in found.examples:
        by_label.setdefault(row.label, []).append(row)
    return Table(
        "Intervals of single classes are wide.",
        ("class", "images", "correct", "certified", "95 % interval"),
        tuple(_of_class(label, rows) for label, rows in sorted(by_label.items())),
    )


def _of_class(label: int, rows: list[Row]) -> tuple[str, ...]:
    sure = sum(row.status == "certified" for row in rows)
    right = sum(row.status not in ("wrong", "unfinished") for row in rows)
    low, high = clopper_pearson(sure, len(rows))
    interval = f"{100 * low:.1f} to {100 * high:.1f} %"
    return str(label), str(len(rows)), str(right), f"{100 * sure / len(rows):.1f} %", interval
