"""Guo et al. 2021 (Sparta, reconstructed): a gate that looks at the neighbourhood, trained with the
network, beside ReLU, smooth activations and a ReLU network of as many operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchproof.recipes.comparison import Line
from torchproof.recipes.small import SETTINGS
from torchproof.reproduce.experiment import Outcome, Partial, Request, Row, Verdict
from torchproof.reproduce.sparta_transfer import (
    FRESH,
    NAKED,
    RELU,
    SPARTA,
    TAKEN,
    carried_ahead,
    transferred,
)
from torchproof.reproduce.study import MNIST, Study, points

AS_MANY, SUITE = "ReLU, as many operations", "fast"


def judge(lines: Mapping[str, Line], rows: Sequence[Row]) -> tuple[Verdict, str]:
    """By the table, and by the networks that take frozen gates over."""
    return with_transfer(*by_table(lines), rows)


def by_table(lines: Mapping[str, Line]) -> tuple[Verdict, str]:
    """The claim: no clean accuracy lost and more robust accuracy than both ReLU networks, beyond
    the spread of the seeds (95 % interval of the paired differences to ReLU) and beyond chance by
    images (McNemar, 5 %). It is contradicted by 4 points less, and by a network without adversarial
    training that has learned, and withstands PGD-20 on more than 5 % of the images: hidden
    gradients.
    """
    plain, wide, ours = lines[RELU], lines[AS_MANY], lines[SPARTA]
    robust, clean = (ours.mean(n) - plain.mean(n) for n in ("robust", "clean"))
    over_wide = ours.mean("robust") - wide.mean("robust")
    naked, left = lines[NAKED].mean("clean"), lines[NAKED].mean("pgd")
    within = None if ours.difference is None else ours.difference.ci95
    low, high = within or (-1.0, 1.0)
    chance = 1.0 if ours.difference is None else ours.difference.p_images
    text = (
        f"Sparta against ReLU: robust accuracy {points(robust)} ({100 * low:+.1f} to "
        f"{100 * high:+.1f} by seeds), clean {points(clean)}; against ReLU of as many operations "
        f"{points(over_wide)}; without adversarial training {100 * left:.1f} % withstand PGD-20"
    )
    if robust <= -0.04 or (naked > 0.5 and left > 0.05):
        return "contradicts", text
    better = low > 0 and chance < 0.05 and clean >= 0 and over_wide > 0
    return ("shows" if better else "does not show at this scale"), text


def with_transfer(verdict: Verdict, text: str, rows: Sequence[Row]) -> tuple[Verdict, str]:
    """Besides, frozen gates have to be worth no less than ReLU in the networks that take them
    over.
    """
    means = {row.what: row.mean for row in rows}
    for what, value in means.items():
        ending = f", {TAKEN}: {SUITE}"
        if not what.endswith(ending):
            continue
        place = what.removesuffix(ending)
        gain, over = (value - means[f"{place}, {kind}: {SUITE}"] for kind in (RELU, FRESH))
        text += f"; {place}, {TAKEN}: {points(gain)} against ReLU, {points(over)} against {FRESH}"
        if gain < 0 and verdict == "shows":
            verdict = "does not show at this scale"
    return verdict, text


def _row(activation: str, width: int = 8, full: int = 64, **more: str) -> dict[str, object]:
    """A row with its network: `width` of the small one, `full` of the ResNet-18."""
    paper = (
        f"resnet18(activation='{activation}', width={full}, mean=(0.4914, 0.4822, 0.4465), "
        "std=(0.2471, 0.2435, 0.2616))"
    )
    return {
        "model": f"resnet(activation='{activation}', width={width})",
        **more,
        "paper": {"recipe": "cifar10-sparta", "model": paper, **more},
    }


class Carrying(Study):
    """A study whose processes carry the gates of their seeds over before it is concluded."""

    def run(self, request: Request) -> Outcome:
        try:
            return super().run(request)
        except Partial:
            carried_ahead(request, self.table(request))
            raise


sparta_study = Carrying(
    name="sparta",
    paper="Guo et al. 2021, arXiv 2105.08269 (reconstructed)",
    claim="an activation gated by the neighbourhood and trained with the network withstands more "
    "than ReLU, also where it is taken over, frozen, by another network",
    rows={
        RELU: _row("relu"),
        AS_MANY: _row("relu", width=9, full=68),
        "SiLU": _row("silu"),
        "softplus": _row("softplus"),
        "PSiLU": _row("psilu"),
        SPARTA: _row("sparta"),
        NAKED: _row("sparta", method="Standard"),
    },
    judge=judge,
    published={},
    base={
        **MNIST, "n": 2500, "method": "AT(steps=4, length=1/3, ramp=0.3)",
        "settings": {**SETTINGS, "epochs": 5, "lr": 2e-2, "batch_size": 50, "held_out": 200,
                     "held_out_steps": 5},
    },
    n=250,
    more=transferred,
)  # fmt: skip
