"""Attacks: searches driven by one loop against a threat and an objective."""

from torchproof.attack.apgd import APGD
from torchproof.attack.ascend import Run, ascend
from torchproof.attack.bpda import BPDA
from torchproof.attack.cases import Cases, Found, Jobs, Point
from torchproof.attack.catalogue import ATTACKS
from torchproof.attack.combine import Attack, Chain, EveryTarget, Restarts
from torchproof.attack.fab import FAB
from torchproof.attack.fgsm import FGSM
from torchproof.attack.oracle import EOT, Oracle, Plain, Quantised
from torchproof.attack.pgd import PGD, MomentumPGD, NesterovPGD
from torchproof.attack.search import Search, State
from torchproof.attack.square import Square
from torchproof.attack.starts import Gaussian, Sphere, Start, Uniform, Zero
from torchproof.attack.untouched import untouched

__all__ = [
    "APGD",
    "ATTACKS",
    "BPDA",
    "EOT",
    "FAB",
    "FGSM",
    "PGD",
    "Attack",
    "Cases",
    "Chain",
    "EveryTarget",
    "Found",
    "Gaussian",
    "Jobs",
    "MomentumPGD",
    "NesterovPGD",
    "Oracle",
    "Plain",
    "Point",
    "Quantised",
    "Restarts",
    "Run",
    "Search",
    "Sphere",
    "Square",
    "Start",
    "State",
    "Uniform",
    "Zero",
    "ascend",
    "untouched",
]
