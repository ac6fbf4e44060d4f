"""Rice, Wong and Kolter 2020: adversarial training overfits, and held-out images tell when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torchproof.core.threats import parse
from torchproof.data import load
from torchproof.evaluate import evaluate
from torchproof.nn import load_model
from torchproof.recipes import Comparison, Table
from torchproof.recipes.comparison import Line
from torchproof.recipes.small import SETTINGS
from torchproof.reproduce.experiment import Request, Row, Verdict
from torchproof.reproduce.study import Study, points

NAMES = ("chosen on held-out images", "last")


def judge(lines: Mapping[str, Line], rows: Sequence[Row]) -> tuple[Verdict, str]:
    """Held-out robust accuracy falls by at least 2 points from its best to the last epoch, in the
    mean over the seeds, and in every seed the weights chosen by it withstand more on test images.
    """
    cells = lines["AT"].cells.values()
    falls = [cell.overfitting or 0.0 for cell in cells]
    gap = lines["AT"].mean("train_pgd") - lines["AT"].mean("pgd")
    mean = sum(falls) / len(falls)
    text = (
        f"held-out robust accuracy is {100 * mean:.1f} points below its best in the last epoch "
        f"(per seed {', '.join(f'{100 * f:.1f}' for f in falls)}); PGD-20 accuracy of the last "
        f"weights on training images is {points(gap)} against test images"
    )
    held, last = (_shares(rows, name) for name in NAMES)
    text += (
        f"; on test images the weights {NAMES[0]} keep {_listed(held)} %, the last {_listed(last)}"
    )
    better = bool(held) and all(a > b for a, b in zip(held, last, strict=True))
    return ("shows" if mean >= 0.02 and better else "does not show at this scale"), text


def _shares(rows: Sequence[Row], name: str) -> tuple[float, ...]:
    return next((row.ours for row in rows if row.what.startswith(f"AT, weights {name}:")), ())


def _listed(shares: Sequence[float]) -> str:
    return ", ".join(f"{100 * share:.1f}" for share in shares)


def both(request: Request, table: Table, found: Comparison) -> tuple[Row, ...]:
    """Robust accuracy of the weights chosen on held-out images beside that of the last weights."""
    plan, how = table.rows["AT"], table.evaluate
    test = load(plan.data, data_dir=request.data_dir, split="test").take(how.n)
    hits: dict[str, list[int]] = {name: [] for name in NAMES}
    for seed in table.seeds:
        folder = request.out / "runs" / "AT" / f"seed{seed}"
        for name, path in zip(hits, (folder, folder / "last.safetensors"), strict=True):
            report = evaluate(
                load_model(str(path)).model, test, parse(str(plan.threat)), how.suite, seed=seed,
                out=(out := _judged(folder, name)), resume=out.exists(), save_adversarial=False,
            )  # fmt: skip
            hits[name].append(sum(e.status == "robust" for e in report.examples))
    return tuple(
        Row.share(f"AT, weights {name}: {how.suite}", each, [len(test)] * len(each))
        for name, each in hits.items()
    )


def _judged(folder: Path, name: str) -> Path:
    return folder / f"judged-{name.split()[0]}"


overfitting_study = Study(
    name="robust-overfitting",
    paper="Rice, Wong and Kolter 2020, arXiv 2002.11569",
    claim="robust test accuracy of adversarial training peaks and then falls, and a checkpoint "
    "chosen on held-out images keeps the peak",
    rows={"AT": {"method": "AT(steps=7, ramp=0.1)", "paper": "cifar10-at"}},
    judge=judge,
    base={
        "data": "cifar10", "model": "small-cnn(widths=(32, 64), hidden=256)", "n": 2500,
        "threat": "linf:4/255",
        "settings": {**SETTINGS, "epochs": 40, "lr": 1e-3, "schedule": "piecewise"},
    },
    published={},
    weights="last",
    more=both,
)  # fmt: skip
