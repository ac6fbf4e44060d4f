"""Carmon et al. 2019: images without labels, labelled by a network trained on the few that have
one, as a second stream of adversarial training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchproof import data as sets
from torchproof.core.files import replacing
from torchproof.data.dataset import Dataset
from torchproof.recipes import Comparison, Plan, Table
from torchproof.recipes.comparison import Line
from torchproof.recipes.small import SETTINGS
from torchproof.reproduce.ahead import alone
from torchproof.reproduce.experiment import Outcome, Request, Row, Verdict
from torchproof.reproduce.study import DIGITS, MNIST, Study, points
from torchproof.reproduce.subjects import seeded, trained

FEW, PSEUDO, TRUE = "labelled alone", "pseudo-labelled stream", "stream with true labels"
SHARE = 0.7
_METHOD = "AT(steps=5, length=0.25, ramp=0.2)"
# data set -> labelled images, images of the stream
SIZES = {"mnist": (1000, 10_000), "digits": (300, 1000)}


def judge(lines: Mapping[str, Line], _: Sequence[Row]) -> tuple[Verdict, str]:
    """By the t interval over seeds of what the pseudo-labelled stream adds to robust accuracy:
    shows above 0, contradicts below.
    """
    gains = {name: lines[name].difference for name in (PSEUDO, TRUE)}
    parts = []
    for name, gain in gains.items():
        assert gain is not None  # the reference is another row
        clean = lines[name].mean("clean") - lines[FEW].mean("clean")
        parts.append(f"{name}: robust {points(gain.mean)}, clean {points(clean)}")
    text = f"against the few labelled images alone, {'; '.join(parts)}"
    ours = gains[PSEUDO]
    low, high = (-1.0, 1.0) if ours is None or ours.ci95 is None else ours.ci95
    if high < 0:
        return "contradicts", text
    return ("shows" if low > 0 else "does not show at this scale"), text


STUDY = Study(
    name="extra-data",
    paper="Carmon et al. 2019, arXiv 1905.13736; Gowal et al. 2021, arXiv 2110.09468 (generated "
    "images)",
    claim="a second stream of images, labelled by a network that was trained on few labelled ones, "
    "makes adversarial training on these few more robust",
    rows={FEW: {}, PSEUDO: {}, TRUE: {}},
    judge=judge,
    base={**MNIST, "threat": "linf:0.1", "settings": {**SETTINGS, "epochs": 24}},
    published={},
    n=400,
)  # fmt: skip


def extra_data_experiment(request: Request) -> Outcome:
    """AT on few labelled images, with and without a stream of others (Carmon et al. 2019). One
    network, of seed 0, labels the stream of all seeds: they do not tell how much labellers differ.
    """
    STUDY.table(request)  # refuses a scale that there are no settings for
    plan = _labeller(request)
    stream, others = _stream(request, plan)
    table = stream.study.table(request)
    request.claim(
        {
            "table": _portable(table).model_dump_json(),
            "labeller": plan.model_dump_json(),
            "stream": _sha256(others),
        }
    )
    with alone(request, "labeller"):
        right = _labelled(request, plan, stream, others)
    return replace(stream, right=right).study.run(request)


@dataclass(frozen=True)
class Stream:
    """The files of the stream by row, and how many of its pseudo-labels are right."""

    files: Mapping[str, Path]
    few: int
    right: int
    n: int

    @property
    def study(self) -> Study:
        """The study with its rows: as many steps with the stream as without."""
        usual = STUDY.base if self.few == SIZES["mnist"][0] else DIGITS
        settings = usual["settings"]
        assert isinstance(settings, Mapping)
        common = {"method": _METHOD, "n": self.few}
        alone = {"held_out": self.few // 10}
        epochs = round(settings["epochs"] * (1 - SHARE))
        beside = {**alone, "epochs": epochs, "extra_share": SHARE}
        rows: dict[str, dict[str, object]] = {FEW: {**common, "settings": alone}}
        for name, file in self.files.items():
            rows[name] = {**common, "settings": beside, "extra": f"npz:{file.resolve()}"}
        return replace(STUDY, rows=rows, more=self.counted)

    def counted(self, request: Request, table: Table, found: Comparison) -> tuple[Row, ...]:
        """The share of right pseudo-labels."""
        what = f"{PSEUDO}: right labels of the one network that labels for all seeds"
        return (Row.share(what, [self.right], [self.n]),)


def _labeller(request: Request) -> Plan:
    """Plain training on the few images."""
    plan = replace(STUDY, rows={FEW: {"method": "Standard"}}).table(request).rows[FEW]
    few = SIZES[plan.data][0]
    settings = plan.settings.model_copy(update={"held_out": few // 10})
    return plan.model_copy(update={"n": few, "settings": settings})


def _stream(request: Request, plan: Plan) -> tuple[Stream, Dataset]:
    """Where the stream will be, and its images with their true labels."""
    few, rest = SIZES[plan.data]
    train = sets.load(plan.data, data_dir=request.data_dir, split="train")
    others = train.subset(torch.arange(few, min(few + rest, len(train))))
    files = {name: request.out / f"{key}.npz" for name, key in ((PSEUDO, "pseudo"), (TRUE, "true"))}
    return Stream(files, few, 0, len(others)), others


def _labelled(request: Request, plan: Plan, stream: Stream, others: Dataset) -> int:
    """Trains the network that labels (seed 0), and writes the stream with its labels and with the
    true ones; how many are right.
    """
    model = trained(request, seeded(request, plan, 0), request.out / "labeller").eval()
    with torch.no_grad():
        answers = torch.cat([model(x).argmax(1) for x in torch.split(others.x, 500)])
    for file, y in zip(stream.files.values(), (answers, others.y), strict=True):
        _write(file, others, y)
    return int((answers == others.y).sum())


def _portable(table: Table) -> Table:
    """The table with the names of the stream's files in place of their paths."""
    rows = {
        name: plan
        if plan.extra is None
        else plan.model_copy(update={"extra": Path(plan.extra).name})
        for name, plan in table.rows.items()
    }
    return table.model_copy(update={"rows": rows})


def _sha256(images: Dataset) -> str:
    """Of the images of the stream and their true labels; the labeller's come from its plan."""
    found = hashlib.sha256()
    for part in (images.x, images.y):
        found.update(part.contiguous().numpy().tobytes())
    return found.hexdigest()


def _write(file: Path, images: Dataset, y: Tensor) -> None:
    with replacing(file) as whole:
        np.savez(whole, allow_pickle=False, x_train=images.x.numpy(), y_train=y.numpy())
