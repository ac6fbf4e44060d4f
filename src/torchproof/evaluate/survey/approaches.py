"""The 26 approaches that the survey of Li, Xie and Li (2023, "SoK: Certified Robustness for Deep
Neural Networks") evaluates, and those beyond it that stand beside them here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["verifier", "theory", "training"]


@dataclass(frozen=True)
class Approach:
    """number: in the survey's list, 0 for one beyond it; key: a name of `verify.methods.METHODS` or
    ESTIMATES (verifier), of `verify.smoothing.theories.THEORIES` (theory), of `train.METHODS`
    (training); family: where the survey puts it; note: what has to be known about the comparison.
    """

    number: int
    name: str
    key: str
    family: str
    kind: Kind = "verifier"
    note: str = ""

    @property
    def anchor(self) -> str:
        """Where docs/certification/taxonomy.md defines it."""
        return f"taxonomy.md#{self.key.lower()}"


APPROACHES: tuple[Approach, ...] = (
    Approach(1, "Bounded MILP", "milp-ibp", "complete: solver"),
    Approach(2, "AI2", "ai2", "complete: solver",
             note="as the survey's platform runs it: DeepPoly, then integers"),
    Approach(3, "LP-Full", "lp-full", "linear: LP"),
    Approach(4, "IBP", "ibp", "linear: interval"),
    Approach(5, "Fast-Lin", "fast-lin", "linear: polyhedra"),
    Approach(6, "CROWN", "crown", "linear: polyhedra"),
    Approach(7, "CNN-Cert", "cnn-cert", "linear: polyhedra"),
    Approach(8, "CROWN-IBP", "crown-ibp", "linear: polyhedra"),
    Approach(9, "DeepPoly", "deeppoly", "linear: polyhedra"),
    Approach(10, "RefineZono", "refine-zono", "linear: zonotope and solver"),
    Approach(11, "WK", "wk", "linear: duality"),
    Approach(12, "k-ReLU", "k-relu", "multi-neuron"),
    Approach(13, "SDPVerify", "sdp", "semidefinite"),
    Approach(14, "LMIVerify", "lmi", "semidefinite"),
    Approach(15, "Op-Norm", "op-norm", "Lipschitz"),
    Approach(16, "FastLip", "fast-lip", "Lipschitz"),
    Approach(17, "RecurJac", "recur-jac", "Lipschitz"),
    Approach(18, "Differential privacy", "differential-privacy", "smoothing", "theory"),
    Approach(19, "Neyman-Pearson", "neyman-pearson", "smoothing", "theory"),
    Approach(20, "f-divergence", "f-divergence", "smoothing", "theory"),
    Approach(21, "Renyi divergence", "renyi", "smoothing", "theory"),
    Approach(22, "Data augmentation", "NoiseAugmentation", "smoothing", "training"),
    Approach(23, "SmoothAdv", "SmoothAdv", "smoothing", "training"),
    Approach(24, "SmoothAdv + pre-training", "SmoothAdv", "smoothing", "training"),
    Approach(25, "MACER", "MACER", "smoothing", "training"),
    Approach(26, "ADRE", "ADRE", "smoothing", "training"),
    Approach(0, "DeepZ", "deepz", "linear: zonotope"),
    Approach(0, "alpha-CROWN", "alpha-crown-full", "linear: polyhedra, optimised"),
    Approach(0, "best", "best", "linear: polyhedra",
             note="the default: all members of the family, intersected"),
    Approach(0, "beta-CROWN", "bab", "complete: branch and bound"),
    Approach(0, "SDP-FO", "sdp-fo", "semidefinite"),
    Approach(0, "MILP, alpha-CROWN boxes", "milp-alpha", "complete: solver",
             note="every margin is minimised to the end"),
    Approach(0, "CLEVER", "clever", "Lipschitz",
             note="an estimate: what it says is no certificate, and is not counted as one"),
)  # fmt: skip
"""In the survey's order, then those beyond it."""


def of_kind(kind: Kind) -> tuple[Approach, ...]:
    return tuple(a for a in APPROACHES if a.kind == kind)
