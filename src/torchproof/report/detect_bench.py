"""The page of `torchproof detect-bench`, and its pictures as files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from torchproof.detect.bench.record import FILE, RATES, Bench, Judged, Rate
from torchproof.report.detect_plots import (
    Scores,
    draw_areas,
    draw_matrices,
    draw_roc,
    main_fits,
)
from torchproof.report.sheet import Picture, Section, Sheet, Table, write_sheet

HOW_TO_READ = (
    "No image serves twice: detectors are fitted on training images, thresholds come from some "
    "test images and all figures from others, which the classifier gets right. AUROC is the chance "
    "that an adversarial image scores higher than a clean one; 0.5 is a guess.",
    "An attack that does not know the detector says little about it: the adaptive column is the "
    "one to read. Robust are images that are not misclassified, or are rejected when they are.",
)


def render_bench(found: Bench, scores: Scores, out: Path) -> Path:
    """Writes out/detect-bench.html, which needs nothing beside it, and every picture as PNG and
    SVG; the path of the page. Raises FileError.
    """
    accuracy = f"{100 * found.accuracy:.1f} % of {found.looked} test images right"
    about = (
        f"{found.about['data']} · {accuracy} · fitted on {found.fit}, calibrated on "
        f"{found.calibrate}, judged on {found.test} images · seed {found.settings['seed']}"
    )
    sheet = Sheet(
        "detectors of adversarial examples", str(found.about["model"]), about,
        (_first(found), *_pictures(found, scores), _attacks(found), *map(_every, found.judged)),
        FILE, _cautions(found), str(found.about.get("command", "")), found.about.get("versions"),
    )  # fmt: skip
    return write_sheet(sheet, out / "detect-bench.html")


def area(value: float | None, ci95: tuple[float, float] | None) -> str:
    """An AUROC with its interval."""
    if value is None or ci95 is None:
        return "–"
    return f"{value:.3f} ({ci95[0]:.3f} to {ci95[1]:.3f})"


def share(rate: Rate) -> str:
    """Per cent with the interval."""
    low, high = (100 * bound for bound in rate.ci95)
    return f"{100 * rate.share:.1f} % ({low:.1f} to {high:.1f})"


def _cautions(found: Bench) -> tuple[str, ...]:
    failed = [
        f"{one.name}: {one.adaptive.reading}; nothing is known about a stronger one"
        for one in found.judged
        if one.adaptive is not None and one.adaptive.failed
    ]
    lacks = [
        f"{o.name}: {o.adaptive.lacks}" for o in found.judged if o.adaptive and o.adaptive.lacks
    ]
    refused = [f"{name} is refused: {why}" for name, why in found.refused.items()]
    unattacked = [f"{n}: adaptive attack refused: {why}" for n, why in found.unattacked.items()]
    return (*failed, *lacks, *refused, *unattacked)


def _first(found: Bench) -> Section:
    asked = f"{100 * found.settings['fpr']:g} %"
    columns = (
        "detector", f"AUROC, {found.main}", "AUROC, adaptive", "robust accuracy with it",
        f"false alarms, {asked} asked for", "fit, s", "1,000 images, s", "memory to fit, MB",
    )  # fmt: skip
    threat = next((one.adaptive.threat for one in found.judged if one.adaptive), "")
    table = Table(
        f"{found.main}, and each detector's own adaptive attacks under {threat}; 95 % intervals.",
        columns, tuple(_line(one, found.main) for one in main_fits(found)),
    )  # fmt: skip
    return Section("Detectors", HOW_TO_READ, (table,))


def _line(one: Judged, main: str) -> tuple[str, ...]:
    told, adaptive, costs = one.told(main), one.adaptive, one.costs
    memory = "–" if costs.fit_megabytes is None else f"{costs.fit_megabytes:.0f}"
    return (
        one.name, "–" if told is None else area(told.auroc, told.ci95),
        "–" if adaptive is None else area(adaptive.after, adaptive.after_ci95),
        "–" if adaptive is None else share(adaptive.robust), share(one.alarms),
        f"{costs.fit:.2g}", f"{costs.score:.2g}", memory,
    )  # fmt: skip


def _pictures(found: Bench, scores: Scores) -> list[Section]:
    if not found.judged:
        return []
    drawn: dict[str, tuple[Figure | None, str]] = {
        "roc": (draw_roc(found, scores),
                "ROC curves; the axis of false alarms is logarithmic. Dotted: a guess."),
        "auroc": (draw_areas(found),
                  "AUROC of each detector on successful images of each attack, on images from "
                  "elsewhere, and on what its own adaptive attacks got misclassified."),
        "matrix": (draw_matrices(found),
                   "AUROC of supervised detectors, trained on one attack, on the others."),
    }  # fmt: skip
    shown = [Picture(n, caption, fig) for n, (fig, caption) in drawn.items() if fig is not None]
    return [Section("Pictures", pictures=tuple(shown))]


def _attacks(found: Bench) -> Section:
    columns = ("attack", "effort", "successful", "failed")
    rows = tuple((a.name, a.about, str(a.fooled), str(a.failed)) for a in found.attacks)
    table = Table(f"On the {found.test} test images.", columns, rows)
    return Section("Attacks", (), (table,))


def _every(one: Judged) -> Section:
    """All figures of one fitted detector."""
    about = (
        f"{one.recipe}, fitted on {one.fitted_on} images; threshold {one.threshold.value:.4g} from "
        f"{one.threshold.n} images. Gradient for attacks: {one.gradient}."
    )
    rates = [f"{rate:g}" for rate in RATES]
    columns = (
        "images", "n", "AUROC", "AUPR",
        *(f"TPR at {100 * rate:g} % FPR" for rate in RATES), "above the threshold",
    )  # fmt: skip
    rows = tuple(
        (f"{r.what}, {r.kind}", str(r.n), area(r.auroc, r.ci95), f"{r.aupr:.3f}",
         *(share(r.caught[rate]) for rate in rates), share(r.flagged))
        for r in one.rows
    )  # fmt: skip
    return Section(one.name, (about,), (Table("95 % intervals.", columns, rows),))
