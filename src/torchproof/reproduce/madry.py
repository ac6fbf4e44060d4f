"""Madry et al. 2018: adversarial training with PGD gives networks that PGD cannot break."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from torchproof.attack.catalogue import fgsm, pgd
from torchproof.attack.combine import Attack, Restarts
from torchproof.core.objectives import Margin
from torchproof.core.threats import Threat, parse
from torchproof.data.dataset import Dataset
from torchproof.evaluate import Member, evaluate
from torchproof.recipes import Plan, recipe
from torchproof.report.pictures import content
from torchproof.reproduce.experiment import (
    Outcome,
    Request,
    Row,
    Verdict,
    available,
    conclude,
)
from torchproof.reproduce.subjects import seeded, tested_on, trained
from torchproof.train import Settings

PAPER = "Madry, Makelov, Schmidt, Tsipras and Vladu 2018, arXiv 1706.06083"
CLAIM = (
    "training on PGD examples gives networks that PGD does not break, while standard training "
    "leaves no robustness, and a longer or restarted PGD lowers the accuracy only a little"
)
CHALLENGE = "authors' MNIST challenge, eps 0.3, 10,000 images"
# Read in the README of the authors' challenge; the figures of the paper's tables are not repeated.
PUBLISHED = {"PGD-100": (0.9252, CHALLENGE), "worst of all": (0.8800, f"{CHALLENGE}, best attack")}


def attacks(threat: Threat) -> dict[str, Attack]:
    """The attacks of the paper's tables, by name."""
    return {
        "FGSM": fgsm(threat),
        "PGD-40": pgd(threat, 40, 0.1),
        "PGD-100": pgd(threat, 100, 0.1),
        "PGD-40, 10 restarts": Restarts(pgd(threat, 40, 0.1), 10),
        "PGD-40 on the margin": pgd(threat, 40, 0.1, Margin()),
    }


def plans(request: Request) -> tuple[dict[str, Plan], int]:
    """The two networks of one seed, and the number of test images."""
    if request.scale == "paper":
        robust = recipe("mnist-at")
        return {
            "standard": robust.model_copy(update={"method": "Standard"}),
            "PGD-AT": robust,
        }, 10000
    settings = Settings.of(epochs=8, batch_size=100, lr=2e-3, optimiser="adam", schedule="cyclic",
                           weight_decay=0.0)  # fmt: skip
    robust = Plan(
        data="mnist", model="small-cnn", method="AT(steps=7, ramp=0.2)", threat="linf:0.2",
        settings=settings, n=8000,
    )  # fmt: skip
    if not available("mnist", request):
        robust = recipe("digits-at")
    return {"standard": robust.model_copy(update={"method": "Standard"}), "PGD-AT": robust}, 500


def madry(request: Request) -> Outcome:
    """PGD adversarial training against standard training, five attacks (Madry et al. 2018)."""
    pair, n = plans(request)
    about = {name: plan.model_dump_json() for name, plan in pair.items()}
    request.claim(about)
    robust = pair["PGD-AT"]
    test = tested_on(request, robust.data, n)
    table = {
        name: [_measure(request, name, plan, seed, test) for seed in request.all_seeds]
        for name, plan in pair.items()
    }
    return conclude(
        request,
        name="madry",
        paper=PAPER,
        claim=CLAIM,
        settings={
            "data": robust.data,
            "threat": str(robust.threat),
            "model": robust.model,
            "training": f"{robust.method}, {robust.settings.epochs} epochs, "
            f"{robust.n or 'all'} training images",
        },
        rows=_rows(table, len(test)),
        judged=judge(table),
        picture=_picture(table, str(robust.threat)),
    )


def _measure(request: Request, name: str, plan: Plan, seed: int, test: Dataset) -> dict[str, float]:
    """Trains and attacks one network; finished parts are read back when resuming."""
    folder = request.out / f"{name}-seed{seed}"
    model = trained(request, seeded(request, plan, seed), folder)
    threat = parse(str(plan.threat))
    found: dict[str, float] = {}
    survivors = torch.ones(len(test), dtype=torch.bool)
    for label, attack in attacks(threat).items():
        out = folder / label.replace(" ", "-").replace(",", "")
        report = evaluate(
            model, test, threat, [Member(label, attack)], seed=seed, out=out,
            resume=request.resume and out.exists(), save_adversarial=False, name=f"{name} {seed}",
        )  # fmt: skip
        found["clean"], found[label] = report.clean_accuracy, report.robust_accuracy
        survivors &= torch.tensor([e.status == "robust" for e in report.examples])
    found["worst of all"] = int(survivors.sum()) / len(test)
    request.say(f"{name}, seed {seed}: " + ", ".join(f"{k} {v:.3f}" for k, v in found.items()))
    return found


def _rows(table: dict[str, list[dict[str, float]]], n: int) -> tuple[Row, ...]:
    rows = []
    for name, runs in table.items():
        for label in runs[0]:
            published, setting = (
                PUBLISHED.get(label, (None, "")) if name == "PGD-AT" else (None, "")
            )
            ours = tuple(found[label] for found in runs)
            what = f"{name}: {label}"
            rows.append(Row(what=what, ours=ours, n=n, published=published, setting=setting))
    return tuple(rows)


def judge(table: dict[str, list[dict[str, float]]]) -> tuple[Verdict, str]:
    """Does every seed show the claim? Thresholds: standard <= 10 %, gain >= 40 points, and the
    worst case within 10 points of PGD-40.
    """
    pairs = list(zip(table["standard"], table["PGD-AT"], strict=True))
    gains = [robust["worst of all"] - plain["worst of all"] for plain, robust in pairs]
    drops = [robust["PGD-40"] - robust["worst of all"] for _, robust in pairs]
    plain = max(p["worst of all"] for p, _ in pairs)
    text = (
        f"over {len(pairs)} seeds the standard networks keep at most {100 * plain:.1f} %, "
        f"adversarial training gains {100 * min(gains):.1f} to {100 * max(gains):.1f} points in "
        f"the worst case, and the worst case of all attacks is at most {100 * max(drops):.1f} "
        "points below PGD-40"
    )
    if max(gains) <= 0:
        return "contradicts", text
    if plain <= 0.10 and min(gains) >= 0.40 and max(drops) <= 0.10:
        return "shows", text
    return "does not show at this scale", text


def _picture(table: dict[str, list[dict[str, float]]], threat: str) -> bytes:
    """Accuracy under each attack, a line per network, a dot per seed, as PNG."""
    labels = list(next(iter(table.values()))[0])
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for (name, runs), colour in zip(table.items(), ("#8a8f98", "#1f6feb"), strict=True):
        means = [sum(f[label] for f in runs) / len(runs) for label in labels]
        axes.plot(range(len(labels)), [100 * m for m in means], color=colour, label=name)
        for found in runs:
            axes.scatter(range(len(labels)), [100 * found[k] for k in labels], color=colour, s=12)
    axes.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(-2, 102)
    axes.set_title(f"PGD adversarial training, threat {threat}")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    return content(figure)
