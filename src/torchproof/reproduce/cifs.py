"""Yan et al. 2021 (CIFS): channels weighed by their relevance, judged by attacks that see the
masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torchproof.core.threats import parse
from torchproof.data import load
from torchproof.nn import load_model
from torchproof.recipes import Comparison, Table
from torchproof.recipes.comparison import Line
from torchproof.recipes.small import SETTINGS
from torchproof.reproduce.cifs_measures import BETAS, SQUARE, UNION, Measured, group, measured
from torchproof.reproduce.experiment import Request, Row, Verdict
from torchproof.reproduce.study import MNIST, Study, points

IMAGES = 300
AT, PROBES, LABEL, PREDICTED = "AT", "probes alone", "CIFS", "CIFS, predicted masks"


def judge(lines: Mapping[str, Line], rows: Sequence[Row]) -> tuple[Verdict, str]:
    """By the union of the attacks on last head and probes: half a point more than AT shows the
    claim, 2 less contradict it. The suite, which does not know of the probes, is told beside it.
    """
    verdict, text = by_union(rows)
    gains = {n: lines[n].mean("robust") - lines[AT].mean("robust") for n in (LABEL, PREDICTED)}
    over = lines[LABEL].mean("pgd") - lines[LABEL].mean("robust")
    return verdict, (
        f"{text}; under the suite CIFS {points(gains[LABEL])} against AT, "
        f"{points(gains[PREDICTED])} with predicted masks; PGD-20 over-reports CIFS by "
        f"{100 * over:.1f} points"
    )


def _verdict(gain: float) -> Verdict:
    if gain < -0.02:
        return "contradicts"
    return "shows" if gain >= 0.005 else "does not show at this scale"


def by_union(rows: Sequence[Row]) -> tuple[Verdict, str]:
    """The union of the attacks on last head and probes, and what the label leak is worth."""
    means = {row.what: row.mean for row in rows}
    left = {name: means[f"{name}: {UNION}"] for name in (AT, PROBES, LABEL, PREDICTED)}
    leak = means[_leak(LABEL, attacked=False)]
    text = (
        f"under the union of attacks on the last head and the probes CIFS keeps "
        f"{100 * left[LABEL]:.1f} %, AT {100 * left[AT]:.1f} % ({points(left[LABEL] - left[AT])}), "
        f"CIFS with predicted masks {100 * left[PREDICTED]:.1f} %, the probes without masks "
        f"{100 * left[PROBES]:.1f} %; masks made of the true label are worth {points(leak)} on "
        "clean images"
    )
    return _verdict(left[LABEL] - left[AT]), text


def adaptive(request: Request, table: Table, found: Comparison) -> tuple[Row, ...]:
    """Label leak, attacks on all heads and their union, activation and relevance of channels."""
    rows: list[Row] = []
    for name, plan in table.rows.items():
        test = load(plan.data, data_dir=request.data_dir, split="test")
        test = test.take(min(IMAGES, len(test)))
        threat = parse(str(plan.threat))
        each: list[Measured] = []
        for seed in table.seeds:
            path = request.out / "runs" / name / f"seed{seed}" / "cifs.json"
            if not path.exists():
                model = load_model(str(_weights(path.parent, table))).model.requires_grad_(False)
                measured(model, test.x, test.y, threat, seed).write(path)
                request.say(f"{name}, seed {seed}: attacked with its probes")
            each.append(Measured.read(path))
        rows += _rows(name, each)
    return tuple(rows)


def _weights(folder: Path, table: Table) -> Path:
    return folder if table.evaluate.weights == "best" else folder / "last.safetensors"


def _leak(name: str, attacked: bool) -> str:
    images = "images of PGD-20" if attacked else "clean images"
    return f"{name}: label leak, {images}"


def _rows(name: str, each: Sequence[Measured]) -> list[Row]:
    of = [one.n for one in each]
    rows = [
        Row.share(f"{name}: {what}", [one.left[what] for one in each], of)
        for what in (*map(group, BETAS), SQUARE, UNION)
    ]
    for number in range(len(each[0].probes)):
        hits = [one.probes[number] for one in each]
        rows.append(Row.share(f"{name}: probe {number + 1} alone, clean images", hits, of))
    if each[0].probes:
        for at in (0, 1):
            gaps = [(one.fed[at] - one.alone[at]) / one.n for one in each]
            rows.append(Row.per_seed(_leak(name, bool(at)), gaps, sum(of), least=-1.0))
    for at, images in enumerate(("clean images", "images of PGD-20")):
        what = f"{name}: correlation of activation and relevance, {images}"
        rows.append(Row.per_seed(what, [one.correlation[at] for one in each], sum(of), ""))
        what = f"{name}: activation in channels against the class, {images}"
        rows.append(Row.per_seed(what, [one.against[at] for one in each], sum(of)))
    return rows


def _model(options: str = "") -> str:
    """Probes behind both blocks of the last stage, the deeper one linear, as published."""
    return (
        f"resnet(blocks=(1, 2), stem_stride=4, insert={{'layer2.0': \"CIFS(probe='mlp'{options})\","
        f" 'layer2.1': \"CIFS(probe='linear'{options})\"}})"
    )


_PLAIN = "resnet(blocks=(1, 2), stem_stride=4)"
_PGD = "steps=5, length=0.3, ramp=0.2"
# A softmax mask divides maps by their number of channels, which few epochs do not make up for.
_RESCALED = ", rescale=True"
_ONES = ", imgf='ones'"

cifs_study = Study(
    name="cifs",
    paper="Yan et al. 2021, arXiv 2102.05311",
    claim="weighing channels by their relevance to the likeliest classes improves adversarial "
    "training",
    rows={
        AT: {
            "model": _PLAIN,
            "method": f"AT({_PGD})",
            "paper": {"recipe": "cifar10-cifs", "model": "resnet18", "method": "AT(steps=10)"},
        },
        PROBES: {
            "model": _model(_ONES),
            "method": f"CIFSAT({_PGD}, beta=2)",
            "paper": {
                "recipe": "cifar10-cifs",
                "model": "resnet18(insert={'layer4.0': \"CIFS(probe='mlp', imgf='ones')\", "
                "'layer4.1': \"CIFS(imgf='ones')\"})",
            },
        },
        LABEL: {
            "model": _model(_RESCALED),
            "method": f"CIFSAT({_PGD}, beta=2)",
            "paper": "cifar10-cifs",
        },
        PREDICTED: {
            "model": _model(_RESCALED),
            "method": f"CIFSAT({_PGD}, beta=2, masks='predicted')",
            "paper": {
                "recipe": "cifar10-cifs",
                "method": "CIFSAT(steps=10, beta=2, masks='predicted')",
            },
        },
    },
    judge=judge,
    base={**MNIST, "settings": {**SETTINGS, "epochs": 7}},
    published={
        LABEL: (0.5158, "PGD-20 on the joint loss, ResNet-18, CIFAR-10, best epoch, authors' log"),
    },
    more=adaptive,
    n=400,
)
