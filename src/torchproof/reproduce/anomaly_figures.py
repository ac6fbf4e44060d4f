"""Of `reproduce anomaly`: what is stored, the table, the verdict."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchproof.core.metrics import student
from torchproof.reproduce.experiment import Row, Verdict
from torchproof.reproduce.figures import Figures

PLAIN, REJECT, ORACLE, MAKE_WORSE = (
    "plain",
    "rejection by reconstruction",
    "oracle removal",
    "oracle, weight -0.1",
)
AAE, LATENTS = "AAE", "ITSR"
METHODS = (PLAIN, REJECT, ORACLE, MAKE_WORSE, AAE, LATENTS)
APART, TOGETHER, HALF = 1.5, 1.4, 0.5

PUBLISHED_IN = "balanced accuracy at 1 % contamination, 1000 units, by a digest of the paper"
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "mnist, 0 against 2": {PLAIN: 0.69, AAE: 0.91, LATENTS: 0.94},
    "fashion-mnist, T-shirt/top against Pullover": {PLAIN: 0.74, AAE: 0.70, LATENTS: 0.81},
    "fashion-mnist, T-shirt/top against Ankle boot": {PLAIN: 0.74, AAE: 0.89, LATENTS: 0.92},
}


class Point(Figures):
    """After some epochs: mean errors on training images (outlier: None where there is none); on
    test images by the paper's rule balanced accuracy, normal images left alone, outliers found;
    balanced accuracy by thresholds of held-out images; AUROC of the rule of these, of the error and
    of the latent likelihood.
    """

    epochs: int
    normal: float
    outlier: float | None
    balanced: float
    left_alone: float
    found: float
    balanced_held: float
    auroc: float
    auroc_error: float
    auroc_likelihood: float

    @property
    def ratio(self) -> float:
        """Of the outliers' error to the normal images'; raises ValueError without outliers."""
        if self.outlier is None:
            raise ValueError("there are no outliers")
        return self.outlier / self.normal


class Run(Figures):
    """One training. rejected, true: at each stage images of weight below 1, and outliers among
    them; negative: of the last stage. contrast: at each stage that rejects, error of the rejected /
    error of the others, when they were chosen. latent_area: AUROC of -log p on the training images.
    """

    method: str
    share: float
    seed: int
    planted: int
    points: tuple[Point, ...]
    rejected: tuple[int, ...]
    true: tuple[int, ...]
    negative: int
    negative_true: int
    latent_area: float | None
    likelihood_normal: tuple[float, ...]
    likelihood_outlier: tuple[float, ...]
    contrast: tuple[float, ...]

    def at(self, epochs: int) -> Point:
        return next(point for point in self.points if point.epochs == epochs)

    @property
    def end(self) -> Point:
        return self.points[-1]


class Areas(Figures):
    """AUROC of baselines by name, on n test images."""

    areas: dict[str, float]
    n: int


@dataclass(frozen=True)
class Found:
    """All runs on one kind of images, judged at the epochs `early` and `late`, and mainly at the
    contamination `share`; published: balanced accuracies of methods.
    """

    about: str
    early: int
    late: int
    share: float
    runs: tuple[Run, ...]
    areas: tuple[Areas, ...]
    published: Mapping[str, float]

    def of(self, method: str, share: float | None = None) -> list[Run]:
        """The runs of a method, one per seed."""
        wanted = self.share if share is None else share
        return [run for run in self.runs if run.method == method and run.share == wanted]

    @property
    def shares(self) -> list[float]:
        return sorted({run.share for run in self.runs})

    @property
    def gains(self) -> dict[str, list[float]]:
        """AUROC above that of the plain autoencoder, per seed, at the end."""
        plain = [run.end.auroc for run in self.of(PLAIN)]
        return {
            method: [r.end.auroc - p for r, p in zip(self.of(method), plain, strict=True)]
            for method in METHODS
            if method != PLAIN
        }


def rows(found: Found) -> list[Row]:
    """What contamination does over epochs, what each method does about it, what they rejected."""
    return [*_of_epochs(found), *_of_shares(found), *_of_methods(found), *_of_rejection(found)]


def _of_epochs(found: Found) -> list[Row]:
    plain = found.of(PLAIN)
    table: list[Row] = []
    for epochs in (found.early, found.late):
        points, when = [run.at(epochs) for run in plain], f"after {epochs} epochs"
        what = f"{found.about}: outlier / normal training error, {when}"
        table += [
            Row.per_seed(what, [p.ratio for p in points], plain[0].planted, ""),
            _share(found, f"balanced accuracy at the paper's threshold, {when}",
                   [p.balanced for p in points]),
            _share(found, f"normal images left alone by it, {when}",
                   [p.left_alone for p in points]),
            _share(found, f"balanced accuracy, threshold of held-out images, {when}",
                   [p.balanced_held for p in points]),
            _area(found, f"AUROC of the error, {when}", [p.auroc for p in points]),
        ]  # fmt: skip
    return table


def _of_shares(found: Found) -> list[Row]:
    table: list[Row] = []
    for share in found.shares:
        runs = found.of(PLAIN, share)
        ends = [run.end for run in runs]
        what = f"at {100 * share:g} % contamination, {found.late} epochs"
        if share:
            name = f"{found.about}: outlier / normal training error, {what}"
            table.append(Row.per_seed(name, [p.ratio for p in ends], runs[0].planted, ""))
        table.append(_area(found, f"AUROC of the error, {what}", [p.auroc for p in ends]))
        for epochs in (found.early, found.late):
            when = f"at {100 * share:g} % contamination, {epochs} epochs"
            right = [run.at(epochs).balanced for run in runs]
            table.append(
                _share(found, f"balanced accuracy at the paper's threshold, {when}", right)
            )
    return table


def _of_methods(found: Found) -> list[Row]:
    table: list[Row] = []
    for method in METHODS:
        ends = [run.end for run in found.of(method)]
        known = found.published.get(method)
        setting = "" if known is None else PUBLISHED_IN
        what = f"{method}: balanced accuracy at the paper's threshold"
        row = _share(found, what, [p.balanced for p in ends])
        table.append(row.model_copy(update={"published": known, "setting": setting}))
        what = f"{method}: balanced accuracy, threshold of held-out images"
        table.append(_share(found, what, [p.balanced_held for p in ends]))
        table.append(_area(found, f"{method}: AUROC", [p.auroc for p in ends]))
        if method in (AAE, LATENTS):
            what = f"{method}: AUROC of the error alone"
            table.append(_area(found, what, [p.auroc_error for p in ends]))
    for name in found.areas[0].areas:
        table.append(_area(found, f"{name}: AUROC", [one.areas[name] for one in found.areas]))
    return table


def _of_rejection(found: Found) -> list[Row]:
    reject, aae, itsr = (found.of(name) for name in (REJECT, AAE, LATENTS))
    about = found.about
    planted = [run.planted for run in reject]
    table = [
        Row.share(f"{about}: planted outliers found by early rejection",
                  [run.true[-1] for run in reject], planted),
        Row.share(f"{about}: outliers among the early rejected",
                  [run.true[-1] for run in reject], [run.rejected[-1] for run in reject]),
        Row.share(f"{about}: planted outliers among ITSR's candidates, last round",
                  [run.true[-2] for run in itsr], planted),
        Row.share(f"{about}: outliers among ITSR's candidates, last round",
                  [run.true[-2] for run in itsr], [run.rejected[-2] for run in itsr]),
    ]  # fmt: skip
    if any(run.negative for run in itsr):
        what = f"{about}: outliers among what ITSR makes worse"
        worse = [run.negative for run in itsr]
        table.append(Row.share(what, [run.negative_true for run in itsr], worse))
    what = f"{about}: ITSR, error of its candidates / of other images, last round"
    table.append(Row.per_seed(what, [run.contrast[-2] for run in itsr], itsr[0].rejected[-2], ""))
    for kind in ("normal", "outlier"):
        values = [statistics.fmean(getattr(run, f"likelihood_{kind}")) for run in aae]
        what = f"{about}: AAE, mean log-likelihood of latents, {kind} training images, nats"
        n = len(getattr(aae[0], f"likelihood_{kind}"))
        table.append(Row.per_seed(what, values, n, ""))
    areas = [run.latent_area for run in aae if run.latent_area is not None]
    row = _area(found, "AAE: AUROC of low latent likelihood, training images", areas)
    trained = len(aae[0].likelihood_normal) + len(aae[0].likelihood_outlier)
    table.append(row.model_copy(update={"n": trained}))
    return table


def _share(found: Found, what: str, values: Sequence[float]) -> Row:
    return Row.per_seed(f"{found.about}: {what}", list(values), found.areas[0].n)


def _area(found: Found, what: str, values: Sequence[float]) -> Row:
    ci95 = student(list(values), 0.0, 1.0)
    name, n = f"{found.about}: {what}", found.areas[0].n
    return Row(what=name, ours=tuple(values), n=n, unit="", ci95=ci95)


def judge(parts: Mapping[str, Found]) -> tuple[Verdict, str]:
    """By all parts: the ratio falls from 1.5 or more to 1.4 or less with ten times the epochs, the
    balanced accuracy at the paper's threshold falls, early rejection finds half of the outliers,
    and half of the oracle's gain where that exceeds the spread over seeds. A ratio that rises
    contradicts, where outliers stood apart to begin with.
    """
    verdicts, texts = zip(*(_judged(found) for found in parts.values()), strict=True)
    text = "; ".join(
        f"{name} ({verdict}): {text}"
        for name, verdict, text in zip(parts, verdicts, texts, strict=True)
    )
    if "contradicts" in verdicts:
        return "contradicts", text
    return ("shows" if set(verdicts) == {"shows"} else "does not show at this scale"), text


def _judged(found: Found) -> tuple[Verdict, str]:
    mean = statistics.fmean
    plain = found.of(PLAIN)
    early, late = ([run.at(epochs) for run in plain] for epochs in (found.early, found.late))
    ratios = mean(p.ratio for p in early), mean(p.ratio for p in late)
    right = mean(p.balanced for p in early), mean(p.balanced for p in late)
    caught = sum(r.true[-1] for r in found.of(REJECT)) / sum(r.planted for r in found.of(REJECT))
    areas = [p.auroc for p in late]
    spread = statistics.stdev(areas) if len(areas) > 1 else 0.0
    oracle, ours, itsr = (mean(found.gains[name]) for name in (ORACLE, REJECT, LATENTS))
    matters = oracle > spread
    text = (
        f"outlier / normal error {ratios[0]:.2f} to {ratios[1]:.2f} from "
        f"{found.early} to {found.late} epochs, balanced accuracy at the paper's threshold "
        f"{100 * right[0]:.1f} to {100 * right[1]:.1f} %{_without(found)}; early "
        f"rejection finds {100 * caught:.0f} % of the outliers; AUROC {mean(areas):.3f}, oracle "
        f"removal {oracle:+.3f} (spread over seeds {spread:.3f}), early rejection "
        f"{ours:+.3f}, ITSR {itsr:+.3f}"
    )
    if ratios[1] > ratios[0] >= APART:
        return "contradicts", text
    holds = (
        ratios[0] >= APART and ratios[1] <= TOGETHER and right[1] < right[0] and caught >= HALF
        and (not matters or ours >= HALF * oracle)
    )  # fmt: skip
    return ("shows" if holds else "does not show at this scale"), text


def _without(found: Found) -> str:
    """The same of clean training sets: how much of the fall is not contamination's."""
    clean = found.of(PLAIN, 0.0)
    if not clean:
        return ""
    ends = [
        100 * statistics.fmean(run.at(epochs).balanced for run in clean)
        for epochs in (found.early, found.late)
    ]
    return f" ({ends[0]:.1f} to {ends[1]:.1f} % without outliers in training)"
