"""Wu, Xia and Wang 2020: perturbing the weights while training narrows the robust generalisation
gap.
"""

from __future__ import annotations

from collections.abc import Mapping

from torchproof.recipes.comparison import Line
from torchproof.reproduce.experiment import Verdict
from torchproof.reproduce.study import Study


def judge(lines: Mapping[str, Line]) -> tuple[Verdict, str]:
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


# Few images for many epochs, judged after the last: where adversarial training overfits.
BASE = {
    "data": "mnist", "model": "small-cnn(widths=(8, 16), hidden=64)", "threat": "linf:0.15",
    "n": 1300,
    "settings": {"epochs": 40, "lr": 2e-3, "optimiser": "adam", "schedule": "piecewise",
                 "batch_size": 100, "weight_decay": 0.0, "held_out": 500},
}  # fmt: skip

awp_study = Study(
    name="awp",
    paper="Wu, Xia and Wang 2020, arXiv 2004.05884",
    claim="adversarial weight perturbation lowers the robust loss on test images and the gap to "
    "the training images",
    rows={
        "AT": {"method": "AT(steps=4, length=1/3, ramp=0.2)", "recipe": "cifar10-at"},
        "AWP": {
            "method": "AWP(AT(steps=4, length=1/3, ramp=0.2), gamma=0.01)",
            "recipe": "cifar10-awp",
        },
    },
    judge=judge,
    base=BASE,
    weights="last",
    published={
        "AT": (0.4856, "PGD-20, last epoch, WRN-34-10, CIFAR-10, authors' log"),
        "AWP": (0.5738, "PGD-20, last epoch, WRN-34-10, CIFAR-10, authors' log"),
    },
)
