"""Wu, Xia and Wang 2020: perturbing the weights while training narrows the robust generalisation
gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from torchproof.core.files import write
from torchproof.core.threats import parse
from torchproof.data import load
from torchproof.diagnose import Landscape, weight_landscape
from torchproof.nn import load_model
from torchproof.recipes import Comparison, Table
from torchproof.recipes.comparison import Line
from torchproof.report.pictures import content
from torchproof.reproduce.experiment import Request, Row, Verdict
from torchproof.reproduce.study import Study

IMAGES = 200  # of the landscape


def judge(lines: Mapping[str, Line], _: Sequence[Row]) -> tuple[Verdict, str]:
    """Thresholds of a small calibration: test robust loss at least 5 % lower and the robust-loss
    gap at least 10 % lower than AT's, in the mean over the seeds.
    """
    plain, ours = lines["AT"], lines["AWP"]
    loss = ours.mean("loss") / plain.mean("loss") - 1
    before, after = (line.mean("loss") - line.mean("train_loss") for line in (plain, ours))
    text = (
        f"test robust loss {plain.mean('loss'):.3f} (AT) and {ours.mean('loss'):.3f} (AWP), "
        f"{100 * loss:+.1f} %; robust-loss gap {before:.3f} and {after:.3f}, "
        f"{100 * (after / before - 1):+.1f} %; robust accuracy "
        f"{100 * plain.mean('robust'):.1f} and {100 * ours.mean('robust'):.1f} %"
    )
    if loss > 0 and after > before:
        return "contradicts", text
    return (
        "shows" if loss <= -0.05 and after <= 0.9 * before else "does not show at this scale"
    ), text


def landscapes(request: Request, table: Table, _: Comparison) -> tuple[Row, ...]:
    """The robust loss along random directions of the weights, images attacked anew at each point;
    draws landscape.png.
    """
    found: dict[str, list[Landscape]] = {}
    for name, plan in table.rows.items():
        threat, test = (
            parse(str(plan.threat)),
            load(plan.data, data_dir=request.data_dir, split="test"),
        )
        x, y = test.x[:IMAGES], test.y[:IMAGES]
        for seed in table.seeds:
            folder = request.out / "runs" / name / f"seed{seed}"
            model = load_model(str(folder / "last.safetensors")).model
            found.setdefault(name, []).append(weight_landscape(model, x, y, threat, seed=seed))
    write(request.out / "landscape.png", _drawn(found))
    return tuple(
        Row(what=f"{name}: rise of the robust loss, weights moved by up to their length, nats",
            ours=tuple(one.rise for one in each), n=IMAGES, unit="")
        for name, each in found.items()
    )  # fmt: skip


def _drawn(found: Mapping[str, list[Landscape]]) -> bytes:
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for (name, each), colour in zip(found.items(), ("#8a8f98", "#1f6feb"), strict=True):
        for number, one in enumerate(each):
            label = name if number == 0 else None
            axes.plot(one.radii, one.mean, color=colour, label=label, linewidth=1.4)
    axes.set_xlabel("a, in lengths of the filters")
    axes.set_ylabel("robust loss at w + a d, nats")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return content(figure)


# Few images for many epochs, judged after the last: where adversarial training overfits.
BASE = {
    "data": "mnist", "model": "small-cnn", "threat": "linf:0.15",
    "n": 1300,
    "settings": {"epochs": 60, "lr": 2e-3, "optimiser": "adam", "schedule": "piecewise",
                 "batch_size": 100, "weight_decay": 0.0, "held_out": 500},
}  # fmt: skip

awp_study = Study(
    name="awp",
    paper="Wu, Xia and Wang 2020, arXiv 2004.05884",
    claim="adversarial weight perturbation lowers the robust loss on test images and the gap to "
    "the training images",
    rows={
        "AT": {"method": "AT(steps=4, length=1/3, ramp=0.1)", "paper": "cifar10-at"},
        "AWP": {
            "method": "AWP(AT(steps=4, length=1/3, ramp=0.1), gamma=0.01)",
            "paper": "cifar10-awp",
        },
    },
    judge=judge,
    base=BASE,
    weights="last",
    more=landscapes,
    published={
        "AT": (0.4856, "PGD-20, last epoch, WRN-34-10, CIFAR-10, authors' log"),
        "AWP": (0.5738, "PGD-20, last epoch, WRN-34-10, CIFAR-10, authors' log"),
    },
)
