"""The page that a survey is read on: docs/results/certification.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from torchproof.core.files import write
from torchproof.evaluate.survey import APPROACHES, Approach, Survey
from torchproof.evaluate.survey.record import Cell, Row, Share, Smoothed, Violation
from torchproof.reproduce.survey.figure import drawn

PAGE, PICTURE = "certification.md", "certification/survey.png"
DEFINITIONS = "../certification/"
_DEFINED = re.compile(rf"\[([^]]+)\]\({re.escape(DEFINITIONS)}[^)]*\)")


def publish(found: Survey, folder: Path) -> Path:
    """Writes the page, without the links out of it, and its picture, each whole or not at all;
    raises FileError.
    """
    write(folder / PICTURE, drawn(found))
    write(folder / PAGE, _DEFINED.sub(r"\1", page(found)).encode())
    return folder / PAGE


def page(found: Survey) -> str:
    """The page as Markdown, with the links of a page in docs/results."""
    parts = (_head, _checks, _approaches, _tables, _theories, _trainings, _made)
    return "\n".join(line for part in parts for line in part(found)).rstrip() + "\n"


def _head(found: Survey) -> Iterator[str]:
    yield from (
        "# Certification: the survey's experiment",
        "",
        "The 26 approaches of Li, Xie and Li (2023, \"SoK: Certified Robustness for Deep Neural "
        "Networks\"), and some beyond them, on the same networks, the same images and **one input "
        "set for all**: the ball cut with the pixel box. (The survey's own platform gives half of "
        "its methods the ball without the box.) What each one is, and which are the same, is in "
        "[the taxonomy](../certification/taxonomy.md).",
        "",
        f"The first {found.n} test images of each network; at most {found.seconds:g} s for an "
        f"image and a method, {found.in_all:g} s for all images of a network: a method that needs "
        "more is asked about the first ones only, and n says about how many. Wrongly classified "
        "images are not certified. Intervals are those of Clopper and Pearson, 95 %. Limits are on "
        "the clock, and methods with one of their own have a second more to end; seconds in the "
        "tables are of computing, or of the clock where time ran out; the network is already "
        "traced. Programmes, semidefinite bounds and branch and "
        "bound start from propagated bounds, and answer with these when their time is over: images "
        "out of time may be certified.",
        "",
        f"![Certified accuracy and seconds of every method]({PICTURE})",
        "",
    )  # fmt: skip


def _checks(found: Survey) -> Iterator[str]:
    yield from ("## Checks", "")
    decided = sum(cell.decided for cell in found.cells)
    right = sum(cell.clean.hits for cell in found.cells)
    told = (
        f"Attacked by {found.attack}. On equal sets no bound may exceed a margin that an attack or "
        "a solver reached, which is the minimum itself where MILP found it (all margins of "
        f"{decided} of {right} images), and no certified image may be broken: "
    )
    if not found.violations:
        yield from (told + "**no violation**.", "")
        return
    yield from (
        told + f'<span style="color:red">**{len(found.violations)} violations**</span>.',
        "",
    )
    yield from (
        "| network | threat | image | method | | bound | reached |",
        "|---|---|---:|---|---|---:|---:|",
    )
    yield from (_violation(v) for v in found.violations)
    yield ""


def _violation(v: Violation) -> str:
    return (f"| {v.network} | {v.threat} | {v.image} | {v.method} | {v.wrong} | {v.told:.6g} | "
            f"{v.reached:.6g} |")  # fmt: skip


def _approaches(found: Survey) -> Iterator[str]:
    yield from ("## All of them", "", "| # | approach | here | family | result |",
                "|---:|---|---|---|---|")  # fmt: skip
    for a in APPROACHES:
        note = f"; {a.note}" if a.note else ""
        here = f"[`{a.key}`]({DEFINITIONS}{a.anchor})"
        number = str(a.number) if a.number else "–"
        yield f"| {number} | {a.name} | {here} | {a.family}{note} | {_result(found, a)} |"
    yield ""


def _result(found: Survey, a: Approach) -> str:
    """In a few words, with the place of the whole."""
    if a.kind == "theory":
        n = sum(s.theory == a.key for s in found.theories)
        return f"[logs: {n}](#same-counts-four-theories)" if n else "no log at hand"
    if a.kind == "training":
        logs = [bool(s.log) for s in found.trainings if s.training == a.name]
        counts = {"logs": sum(logs), "trained here": len(logs) - sum(logs)}
        told = ", ".join(f"{what}: {n}" for what, n in counts.items() if n)
        return f"[{told}](#smoothing-trainings)" if told else "no log here"
    rows = [row for cell in found.cells for row in cell.rows if row.method == a.key]
    if any(row.claimed is not None for row in rows):
        claims, wrong = (sum(getattr(r, k) or 0 for r in rows) for k in ("claimed", "wrongly"))
        return f"an estimate: reaches eps on {claims} images, of which attacks broke {wrong}"
    counted = [row.certified for row in rows if row.certified is not None]
    same = f"= `{rows[0].same}`: " if rows and rows[0].same else ""
    if not counted:
        return same + "; ".join(dict.fromkeys(row.failed or "not asked" for row in rows))
    sure, n = sum(s.hits for s in counted), sum(s.n for s in counted)
    return f"{same}[{sure} of {n} images](#networks)"


def _tables(found: Survey) -> Iterator[str]:
    yield from ("## Networks", "")
    for cell in found.cells:
        yield from _table(cell)


def _table(cell: Cell) -> Iterator[str]:
    yield from (
        f"### {cell.network}, {cell.norm} {cell.eps_text}",
        "",
        f"Training: {cell.training}. Data: {cell.data}. Clean accuracy {_percent(cell.clean)}; "
        f"after attacks {_percent(cell.attacked)}, above which no certified accuracy can be.",
        "",
        "| approach | certified, % | interval | n | median s | out of time | |",
        "|---|---:|---:|---:|---:|---:|---|",
    )  # fmt: skip
    yield from (_line(row) for row in cell.rows if row.claimed is None)
    yield ""


def _line(row: Row) -> str:
    approach = next(a for a in APPROACHES if a.key == row.method)
    name = f"[{approach.name}]({DEFINITIONS}{approach.anchor})"
    seconds = "–" if row.median_seconds is None else f"{row.median_seconds:.3g}"
    note = row.failed.replace("|", "/")
    if row.same:
        note, seconds = f"= `{row.same}`, not run again", "–"
    late = f"{row.late}, {row.enough} certified" if row.enough else str(row.late)
    if row.certified is None:
        return f"| {name} | – | – | 0 | {seconds} | {late} | {note} |"
    low, high = row.certified.ci95
    return (f"| {name} | {100 * row.certified.value:.0f} | {100 * low:.0f} to {100 * high:.0f} | "
            f"{row.certified.n} | {seconds} | {late} | {note} |")  # fmt: skip


def _percent(share: Share) -> str:
    low, high = share.ci95
    return (f"{100 * share.value:.0f} % ({share.hits} of {share.n}, {100 * low:.0f} to "
            f"{100 * high:.0f})")  # fmt: skip


def _theories(found: Survey) -> Iterator[str]:
    yield from (
        "## Same counts, four theories",
        "",
        "Stored certificates of Gaussian smoothing, l2: pA is read back from the radius in the "
        "log, and each theory makes its own radius of it. Nothing is sampled again. The survey "
        "evaluates differential privacy and Renyi divergence in l1 too, with Laplace noise, for "
        "which there is no log here; f-divergence is the largest of the radii of four divergences.",
        "",
    )  # fmt: skip
    yield from _smoothed(found.theories, lambda s: f"{s.data}, {s.training} | {s.theory}")


def _trainings(found: Survey) -> Iterator[str]:
    there = {s.training for s in found.trainings if s.log}
    missing = [a.name for a in APPROACHES if a.kind == "training" and a.name not in there]
    more = f" No log here: {', '.join(missing)}." if missing else ""
    if any(not s.log for s in found.trainings):
        more += (" Networks on digits are trained for this survey, one of each training; the "
                 "pre-trained one starts from noise augmentation on the "
                 "same digits, where Salman et al. 2019 start from a larger data set.")  # fmt: skip
    yield from (
        "## Smoothing trainings",
        "",
        "Certificates that the authors of the networks stored (n = 100,000 samples), by the lemma "
        "of Neyman and Pearson, alpha = 0.001; networks are compared at equal sigma only."
        f"{more}",
        "",
    )  # fmt: skip
    yield from _smoothed(found.trainings, lambda s: f"{s.data} | {s.training}")


def _smoothed(rows: tuple[Smoothed, ...], named: object) -> Iterator[str]:
    assert callable(named)
    if not rows:
        yield from ("There are no stored logs at hand.", "")
        return
    radii = [f"{r:g}" for r in rows[0].radii]
    yield "| network | | sigma | images | ACR | " + " | ".join(f"r >= {r}" for r in radii) + " |"
    yield "|---|---|---:|---:|---:|" + "---:|" * len(radii)
    for s in rows:
        shares = " | ".join(f"{100 * share.value:.1f}" for share in s.certified)
        yield f"| {named(s)} | {s.sigma:g} | {s.certified[0].n} | {s.acr:.3f} | {shares} |"
    wide: dict[int, float] = {}
    for share in (share for s in rows for share in s.certified):
        low, high = share.ci95
        wide[share.n] = max(wide.get(share.n, 0.0), high - low)
    told = ", ".join(f"{100 * width:.1f} points of {n:,} images" for n, width in wide.items())
    yield from ("", f"Certified accuracy in %; intervals are at most as wide as {told}.", "")


def _made(found: Survey) -> Iterator[str]:
    versions = ", ".join(f"{k} {v}" for k, v in found.versions.items())
    command = found.command or "torchproof survey --scale small"
    yield f"Made by `{command}` ({found.date}; {versions}); result.json has every figure."
