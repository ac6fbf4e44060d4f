"""The pages of `torchproof anomaly fit` and `torchproof anomaly score`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from torchproof.anomaly.figures import Told, ToldApart
from torchproof.anomaly.fit import Fitted
from torchproof.anomaly.premise import Premise
from torchproof.anomaly.scores import heat_maps, scores
from torchproof.report.anomaly_plots import draw_heat_maps, draw_scores
from torchproof.report.sheet import Picture, Section, Sheet, Table

SHOWN = 8  # images with heat maps
MAPS = "above images, below the squared error of each pixel, on one scale of colours"


def fit_sheet(
    fitted: Fitted, x: Tensor, rows: Sequence[int], about: Mapping[str, Any], record: str
) -> Sheet:
    """x (N, C, H, W): the training images; rows: which of the data set they are."""
    out = fitted.last < 1
    error = scores(fitted.learner.network, x).error
    kept, rejected = error[~out].tolist(), error[out].tolist()
    drawn = draw_scores(kept, rejected, "reconstruction error", names=("kept", "rejected"))
    pictures = [Picture("training-errors", "Errors of the training images at the end.", drawn)]
    if rejected:
        order = error.masked_fill(~out, -1.0).topk(min(SHOWN, len(rejected))).indices
        titles = [f"{rows[i]}: {float(error[i]):.3f}" for i in order.tolist()]
        maps = draw_heat_maps(x[order], heat_maps(fitted.learner.network, x[order]), titles)
        words = "Rejected images with the largest errors: row and error;"
        pictures.append(Picture("rejected", f"{words} {MAPS}.", maps))
    return Sheet(
        kind="anomaly fit", title=f"{about['method']} on {about['data']}",
        about=f"{len(x)} images of {about['data']} ({about['split']}) · {about['epochs']} epochs · "
        f"thresholds of {about['thresholds_from']}",
        cautions=warnings_of(fitted), record=record, command=about["command"],
        versions=about["versions"],
        sections=(Section("What was rejected", (
            f"{len(rejected)} of {len(x)} images did not count, or were made worse to reconstruct, "
            "in the last stage. Look at them: a rejection that hits rare normal images does harm.",
        ), _stages(fitted.premises), tuple(pictures)),),
    )  # fmt: skip


def warnings_of(fitted: Fitted) -> tuple[str, ...]:
    """What speaks against the rejections, each once."""
    return tuple(
        dict.fromkeys(one.warning for one in fitted.premises.values() if one and one.warning)
    )


def _stages(premises: Mapping[str, Premise | None]) -> tuple[Table, ...]:
    found = [(name, one) for name, one in premises.items() if one is not None]
    if not found:
        return ()
    rows = tuple(
        (
            name, f"{one.rejected}", f"{one.error_rejected:.4f}", f"{one.error_kept:.4f}",
            f"{one.likelihood_rejected:.2f}", f"{one.likelihood_kept:.2f}",
        )
        for name, one in found
    )  # fmt: skip
    caption = "When they were chosen: means of the rejected images and of the kept ones."
    columns = ("stage", "rejected", "their error", "of others", "log p(z)", "of others")
    return (Table(caption, columns, rows),)


def score_sheet(
    suspicion: Tensor, about: Mapping[str, Any], record: str, truth: Tensor | None = None,
    told: Told | None = None, shown: tuple[Tensor, Tensor, Sequence[int]] | None = None,
) -> Sheet:  # fmt: skip
    """Of suspicions (N,), with the truth (N,), bool, and what follows from it where it is known;
    shown: the most suspicious images (M, C, H, W), their heat maps (M, H, W) and rows.
    """
    groups = (suspicion, suspicion[:0]) if truth is None else (suspicion[~truth], suspicion[truth])
    both = [group.tolist() for group in groups]
    drawn = draw_scores(both[0], both[1], "suspicion", 0.0)
    pictures = [Picture("scores", "Suspicion; above 0 is an anomaly.", drawn)]
    if shown is not None:
        x, maps, rows = shown
        titles = [f"{row}: {float(suspicion[row]):.1f}" for row in rows]
        words = "The most suspicious images: row and suspicion;"
        made = draw_heat_maps(x, maps, titles)
        pictures.append(Picture("heat-maps", f"{words} {MAPS}.", made))
    flagged = int((suspicion > 0).sum())
    return Sheet(
        kind="anomaly score", title=f"{about['model']} on {about['data']}",
        about=f"{len(suspicion)} images of {about['data']} ({about['split']})",
        record=record, command=about["command"], versions=about["versions"],
        sections=(Section("What was found", (
            f"{flagged} of {len(suspicion)} images are anomalies: suspicion is how far the score "
            "that is furthest lies beyond its threshold.",
        ), _quality(told), tuple(pictures)),),
    )  # fmt: skip


def _quality(told: Told | None) -> tuple[Table, ...]:
    if told is None:
        return ()
    low, high = told.ci95
    rows = [
        ("AUROC", f"{told.auroc:.3f} ({low:.3f} to {high:.3f})"),
        ("anomalies found", f"{100 * told.found:.1f} %"),
        ("normal images left alone", f"{100 * told.left_alone:.1f} %"),
        ("balanced accuracy", f"{100 * told.balanced:.1f} %"),
    ]
    if isinstance(told, ToldApart):
        rows += [
            ("AUROC of the reconstruction error alone", f"{told.auroc_error:.3f}"),
            ("AUROC of the latent likelihood alone", f"{told.auroc_likelihood:.3f}"),
        ]
    caption = "Against the truth; the interval is of 95 %."
    return (Table(caption, ("figure", "value"), tuple(rows)),)
