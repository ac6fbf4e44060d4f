"""The decision rule of a titration scan: how unlike clean networks trained alike a network answers
noise, class by class.

Where noise leads a network with confidence depends on data and architecture: clean networks too
have a class that noise is taken for. So a network is compared with clean ones trained alike,

    T_k = share of answers that noise turned into class k with confidence, mean over a band of noise
    score = max_k (sqrt(T_k) - mean of clean networks) / spread of clean networks,

and the class of the maximum is the suspected target. The signal is that of Erichson, Taylor, Wu and
Mahoney 2021 (see `titrate`). Reading it class by class against a bank is ours: they tell clean from
trojaned networks by features of curves, and no constants of it are published. The square root makes
the error of counting the same for rare and frequent classes.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from torchproof.backdoor.titrate import MODERATE, Setting, Titration
from torchproof.core.errors import FileError, InputError
from torchproof.core.files import write
from torchproof.core.ranking import Roc

SCHEMA = "torchproof.scan_rule/1"
LEAST_CLEAN = 4
Band = tuple[float, float]


@dataclass(frozen=True)
class Origin:
    """What the networks of a bank are: the data set of their training, and their architecture, ""
    where its name is not known.
    """

    data: str
    network: str


@dataclass(frozen=True)
class Rule:
    """A decision rule, calibrated on a bank. reference: mean and spread of sqrt(T_k) over clean
    networks, by class; clean, trojaned: the scores of the bank's own networks, each clean one
    judged with the others alone; threshold: from these scores; what scores more is suspected.
    """

    sigmas: tuple[float, ...]
    setting: Setting
    band: tuple[float, float]
    reference: tuple[tuple[float, float], ...]
    threshold: float
    clean: tuple[float, ...]
    trojaned: tuple[float, ...]
    origin: Origin

    @property
    def roc(self) -> Roc:
        """Of the bank's own networks; those of another bank are the test of it."""
        return Roc.of(self.clean, self.trojaned)

    def score(self, titration: Titration) -> tuple[float, int]:
        """The score of a curve, and the class that it is about.

        Raises InputError for a curve of other noise, other images or another number of classes.
        """
        wanted = (self.sigmas, self.setting, len(self.reference))
        _alike(titration, *wanted)
        return _score(titration, self.reference, self.band)

    def write(self, path: Path | str) -> None:
        """As JSON; raises FileError."""
        text = json.dumps({"schema": SCHEMA, "rule": asdict(self)}, indent=1, allow_nan=False)
        write(Path(path), (text + "\n").encode())

    @classmethod
    def read(cls, path: Path | str) -> Rule:
        """What `write` wrote; raises FileError for anything else."""
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(stored, dict) or stored.get("schema") != SCHEMA:
                raise ValueError(f"not of schema {SCHEMA}")
            return TypeAdapter(cls).validate_python(stored["rule"])
        except (OSError, ValueError, KeyError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            remedy = "give a file that Rule.write or `torchproof scan` wrote"
            raise FileError(f"{path} ({reason})", "a rule of a scan", remedy) from error


def class_shares(titration: Titration, band: tuple[float, float] = MODERATE) -> tuple[float, ...]:
    """T_k by class: the share of answers that noise turned into class k with confidence, mean over
    the sigmas in the band. Their sum is the mean of T.
    """
    rows = titration.within(*band)
    asked = titration.setting.n * titration.setting.draws * len(rows)
    columns = range(titration.classes)
    return tuple(sum(titration.flips[i][k] for i in rows) / asked for k in columns)


def calibrate(
    clean: Sequence[Titration],
    trojaned: Sequence[Titration],
    origin: Origin,
    band: tuple[float, float] = MODERATE,
) -> Rule:
    """The rule of a bank from the curves of its networks.

    Raises InputError for fewer than four clean networks, no trojaned one, and curves that differ in
    noise, images or number of classes.
    """
    if len(clean) < LEAST_CLEAN or not trojaned:
        given = f"a bank of {len(clean)} clean and {len(trojaned)} trojaned networks"
        expected = f"at least {LEAST_CLEAN} clean ones and one trojaned"
        raise InputError(given, expected, "train more; 12 and 12 are usual")
    first = clean[0]
    for one in (*clean, *trojaned):
        _alike(one, first.sigmas, first.setting, first.classes)
    shares = [class_shares(one, band) for one in clean]
    asked = first.setting.n * first.setting.draws
    whole = _reference(shares, asked)
    alone = []
    for number, one in enumerate(clean):
        others = [s for i, s in enumerate(shares) if i != number]
        alone.append(_score(one, _reference(others, asked), band)[0])
    theirs = [_score(one, whole, band)[0] for one in trojaned]
    return Rule(
        first.sigmas, first.setting, band, whole, threshold(alone, theirs), tuple(alone),
        tuple(theirs), origin,
    )  # fmt: skip


def threshold(clean: Sequence[float], trojaned: Sequence[float]) -> float:
    """Where found minus false alarms (Youden 1950) is largest, half-way to the score below; of
    equals the highest. Raises InputError for an empty group or a score that is NaN.
    """
    curve = Roc.of(clean, trojaned)
    gain = [f - a for f, a in zip(curve.found, curve.false_alarms, strict=True)]
    best = max(range(1, len(gain)), key=lambda i: (gain[i], -i))
    below = curve.thresholds[best + 1] if best + 1 < len(gain) else curve.thresholds[best]
    return (curve.thresholds[best] + below) / 2


def _reference(shares: Sequence[Sequence[float]], asked: int) -> tuple[tuple[float, float], ...]:
    """Mean and spread of sqrt(T_k) over clean networks, for each class k.

    The variance of a class is taken half from itself and half from all classes together: a dozen
    networks say little about one class. Added is the error of counting, 1 / (4 asked), so that no
    spread is 0.
    """
    columns = [[math.sqrt(share) for share in column] for column in zip(*shares, strict=True)]
    own = [statistics.variance(column) for column in columns]
    common = statistics.fmean(own)
    spread = [math.sqrt((v + common) / 2 + 1 / (4 * asked)) for v in own]
    return tuple(zip(map(statistics.fmean, columns), spread, strict=True))


def _score(
    titration: Titration, reference: Sequence[tuple[float, float]], band: Band
) -> tuple[float, int]:
    shares = class_shares(titration, band)
    excess = [(math.sqrt(t) - mean) / s for t, (mean, s) in zip(shares, reference, strict=True)]
    return max(excess), excess.index(max(excess))


def _alike(one: Titration, sigmas: tuple[float, ...], setting: Setting, classes: int) -> None:
    """Curves are compared only with those of the same noise on as many images."""
    if one.classes != classes:
        given = f"a network of {one.classes} classes beside those of {classes}"
        raise InputError(given, "as many classes", "calibrate a rule for this data set")
    if (one.sigmas, one.setting) != (sigmas, setting):
        given = f"a curve at {one.sigmas} with {one.setting}"
        raise InputError(given, f"{sigmas} with {setting}", "titrate all networks alike")
