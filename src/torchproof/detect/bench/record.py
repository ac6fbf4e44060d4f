"""What a comparison of detectors leaves (detect-bench.json), and how figures are made of scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from torchproof.core.errors import FileError
from torchproof.core.files import write
from torchproof.core.metrics import clopper_pearson
from torchproof.core.ranking import auroc, auroc_interval, average_precision, caught_at
from torchproof.detect.adaptive import DROP, Evasion
from torchproof.detect.calibrate import Threshold

SCHEMA = "torchproof.detect-bench/1"
FILE = "detect-bench.json"
RATES = (0.01, 0.05, 0.10)
Kind = Literal["successful", "failed", "elsewhere"]


class Part(BaseModel):
    """Of a record; nothing changes it, and nothing else belongs in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Rate(Part):
    """share: of n, with Clopper and Pearson's interval."""

    share: float
    ci95: tuple[float, float]
    n: int

    @classmethod
    def of(cls, mask: Tensor) -> Self:
        hits, n = int(mask.sum()), len(mask)
        return cls(share=hits / n, ci95=clopper_pearson(hits, n), n=n)


class Told(Part):
    """How n images of one kind are told from the clean test images: successful and failed ones of
    the attack `what`, or those of the data set `what`, from elsewhere.

    aupr: of as many positives and negatives as there were; caught: TPR where so many (key) of the
    clean test images are flagged, a figure of the ranking; flagged: by the calibrated threshold.
    """

    what: str
    kind: Kind
    n: int
    auroc: float
    ci95: tuple[float, float]
    aupr: float
    caught: dict[str, Rate]
    flagged: Rate

    @classmethod
    def of(cls, what: str, kind: Kind, clean: Tensor, scores: Tensor, threshold: Threshold) -> Self:
        area = auroc(clean, scores)
        rates = {f"{fpr:g}": caught_at(clean, scores, fpr) for fpr in RATES}
        return cls(
            what=what, kind=kind, n=len(scores), auroc=area,
            ci95=auroc_interval(area, len(clean), len(scores)),
            aupr=average_precision(clean, scores),
            caught={k: Rate(share=c.share, ci95=c.ci95, n=len(scores)) for k, c in rates.items()},
            flagged=Rate.of(threshold.flags(scores)),
        )  # fmt: skip


class Adaptive(Part):
    """The detector's own attacks on n test images under `threat`. before, after: AUROC of the
    misclassified images of the plain attack `plain` and of the adaptive ones (None where there are
    none). robust: neither misclassified nor, if so, accepted; accepted: misclassified and accepted.
    lacks: the attack that could not be made, and why.
    """

    threat: str
    plain: str
    attacks: int
    n: int
    misclassified: int
    before: float | None
    before_ci95: tuple[float, float] | None
    after: float | None
    after_ci95: tuple[float, float] | None
    robust: Rate
    seconds: float
    lacks: str = ""

    @property
    def drop(self) -> float | None:
        """By how much the AUROC fell."""
        return None if self.before is None or self.after is None else self.before - self.after

    @property
    def failed(self) -> bool:
        """Did the attack fail to lower the AUROC by `DROP`? Images may evade the detector all the
        same, where its AUROC was low to begin with.
        """
        return self.drop is None or self.drop < DROP

    @property
    def reading(self) -> str:
        known = [f"{v:.3f}" if v is not None else "unknown" for v in (self.before, self.after)]
        text = f"AUROC {known[0]} to {known[1]}, robust accuracy {100 * self.robust.share:.1f} %"
        if not self.failed:
            return text
        evaded = 1 - self.robust.share
        yet = f", yet {100 * evaded:.0f} % of the images evade it" if evaded > 0.5 else ""
        return f"{text}; the adaptive attack failed to lower it by {DROP:g}{yet}"

    @classmethod
    def of(
        cls, threat: str, plain: str, before: Told | None, clean: Tensor, found: Evasion,
        seconds: float,
    ) -> Self:  # fmt: skip
        wrong = found.score[found.wrong]
        area = auroc(clean, wrong) if len(wrong) else None
        return cls(
            threat=threat, plain=plain, attacks=found.attacks, n=len(found.wrong),
            misclassified=len(wrong), before=None if before is None else before.auroc,
            before_ci95=None if before is None else before.ci95, after=area,
            after_ci95=None if area is None else auroc_interval(area, len(clean), len(wrong)),
            robust=Rate.of(~found.evaded), seconds=seconds, lacks=found.lacks,
        )  # fmt: skip


class Limit(Part):
    """The calibrated threshold: see `detect.calibrate.Threshold`."""

    value: float
    fpr: float
    n: int
    ci95: tuple[float, float]

    @classmethod
    def of(cls, threshold: Threshold) -> Self:
        return cls(value=threshold.value, fpr=threshold.fpr, n=threshold.n, ci95=threshold.ci95)


class Costs(Part):
    """fit, score: seconds to fit, and for 1,000 images; megabytes: memory that was added meanwhile,
    None where the system does not tell.
    """

    fit: float
    score: float
    fit_megabytes: float | None
    score_megabytes: float | None


class Judged(Part):
    """One detector, fitted; trained_on: the attack whose images it was shown, None without.
    alarms: clean test images above the threshold; gradient: what attacks see of the score.
    """

    detector: str
    recipe: str
    trained_on: str | None
    fitted_on: int
    gradient: str
    threshold: Limit
    alarms: Rate
    rows: tuple[Told, ...]
    adaptive: Adaptive | None
    costs: Costs

    @property
    def name(self) -> str:
        return titled(self.detector, self.trained_on)

    def told(self, what: str, kind: Kind = "successful") -> Told | None:
        """That row; None where there were no such images."""
        return next((row for row in self.rows if (row.what, row.kind) == (what, kind)), None)


class Made(Part):
    """Of n test images so many fooled the classifier; failed ones were changed, and did not."""

    name: str
    about: str
    n: int
    fooled: int
    failed: int


class Bench(Part):
    """What is stored. refused: why a detector could not be judged; unattacked: why one that
    was judged could not be attacked adaptively; main: the attack that the adaptive ones are
    compared with; seconds: of this run, without those before it was resumed.
    """

    schema_version: str = SCHEMA
    about: dict[str, Any]
    settings: dict[str, Any]
    accuracy: float
    looked: int
    fit: int
    calibrate: int
    test: int
    main: str
    attacks: tuple[Made, ...]
    judged: tuple[Judged, ...]
    refused: dict[str, str]
    seconds: float
    unattacked: dict[str, str] = {}

    def of(self, detector: str, trained_on: str | None = None) -> Judged | None:
        """The detector, trained on this attack, or on none if it needs none; by default the first
        of its name.
        """
        found = [one for one in self.judged if one.detector == detector]
        meant = [o for o in found if trained_on is None or o.trained_on in (None, trained_on)]
        return next(iter(meant), None)

    @property
    def detectors(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.detector for one in self.judged))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The stored one of a folder or file; raises FileError."""
        path = path / FILE if path.is_dir() else path
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            remedy = "run `torchproof detect-bench` again"
            raise FileError(f"{path} ({error})", "a comparison of detectors", remedy) from error

    def write(self, out: Path) -> None:
        """out/detect-bench.json, whole or not at all; raises FileError."""
        write(out / FILE, (self.model_dump_json(indent=1) + "\n").encode())


def titled(detector: str, trained_on: str | None) -> str:
    """A detector's name, with the attack that a supervised one has learnt from."""
    return detector if trained_on is None else f"{detector}, trained on {trained_on}"


def numbers(scores: Tensor) -> list[float]:
    """As they can be stored: infinite ones as the largest finite ones, which rank the same."""
    return [float(v) for v in torch.nan_to_num(scores.double()).tolist()]


def tensors(stored: Mapping[str, list[float]]) -> dict[str, Tensor]:
    """Stored scores as float64 tensors, by name."""
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in stored.items()}
