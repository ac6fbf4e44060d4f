"""Hou, Han and Li 2023: self-paced reweighting of hard class pairs, on a cosine head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchproof.recipes.comparison import Line
from torchproof.reproduce.experiment import Row, Verdict
from torchproof.reproduce.spat_measures import OVER, measured
from torchproof.reproduce.study import MNIST, Study, points


def judge(lines: Mapping[str, Line], rows: Sequence[Row]) -> tuple[Verdict, str]:
    """Half a point of robust accuracy more than TRADES shows the claim, 2 less contradict it."""
    plain, ours = lines["TRADES"], lines["SPAT"]
    gain = ours.mean("robust") - plain.mean("robust")
    head = lines["TRADES, cosine head"].mean("robust") - plain.mean("robust")
    weak = ours.mean("pgd") - ours.mean("robust")
    text = (
        f"SPAT {points(gain)} of robust accuracy against TRADES, of which the cosine head alone "
        f"makes {points(head)}; the suite finds {100 * weak:.1f} points that PGD-20 on "
        "cross-entropy misses"
    )
    over = [row.mean for row in rows if row.what == f"SPAT: {OVER}"]
    if over:
        text += f", and {100 * over[0]:.1f} points that PGD-20 on unscaled cosines misses"
    if gain < -0.02:
        return "contradicts", text
    return ("shows" if gain >= 0.005 else "does not show at this scale"), text


_ARGUMENTS = "beta=6, steps=7, length=0.25, ramp=0.2"


def _spat(**switches: bool) -> dict[str, object]:
    """SPAT with some of its terms replaced by those of TRADES, small and at the paper's scale."""
    more = "".join(f", {name}={on}" for name, on in switches.items())
    paper = {"recipe": "cifar10-spat", "method": f"SPAT(beta=6{more})"}
    return {
        "method": f"SPAT({_ARGUMENTS}{more})",
        "model": "small-cnn(head='cosine', scale=8)",
        "paper": paper,
    }


spat_study = Study(
    name="spat",
    paper="Hou, Han and Li 2023, arXiv 2210.15068",
    claim="reweighting hard class pairs by the logits themselves improves adversarial robustness",
    rows={
        "TRADES": {"method": f"TRADES({_ARGUMENTS})", "paper": "cifar10-trades"},
        "TRADES, cosine head": _spat(accuracy=False, consistency=False),
        "accuracy term": _spat(consistency=False),
        "consistency term": _spat(accuracy=False),
        "SPAT": _spat(),
        "plain training": {"method": "Standard"},
    },
    judge=judge,
    base=MNIST,
    published={},
    more=measured,
)  # fmt: skip
