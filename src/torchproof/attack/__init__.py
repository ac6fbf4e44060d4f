"""Attacks: searches driven by one loop against a threat and an objective."""

from torchproof.attack.adam import Adam
from torchproof.attack.apgd import APGD
from torchproof.attack.ascend import ascend
from torchproof.attack.bpda import BPDA
from torchproof.attack.carlini_wagner import CarliniWagner
from torchproof.attack.cases import Cases, Found, Jobs, Point
from torchproof.attack.catalogue import ATTACKS
from torchproof.attack.combine import Attack, Chain, EveryTarget, Restarts
from torchproof.attack.ddn import DDN
from torchproof.attack.deepfool import DeepFool
from torchproof.attack.fab import FAB
from torchproof.attack.fgsm import FGSM
from torchproof.attack.fmn import FMN
from torchproof.attack.hop_skip_jump import HopSkipJump
from torchproof.attack.input_diversity import InputDiversity
from torchproof.attack.l1_apgd import L1APGD
from torchproof.attack.minimum import Distances, MinimumNorm, Unlimited
from torchproof.attack.nes import NES, SPSA
from torchproof.attack.oracle import EOT, Oracle, Plain, Quantised
from torchproof.attack.pgd import PGD, MomentumPGD, NesterovPGD
from torchproof.attack.run import Run
from torchproof.attack.search import Search, State
from torchproof.attack.square import Square
from torchproof.attack.starts import Gaussian, Sphere, Start, Uniform, Zero
from torchproof.attack.translation_invariant import TranslationInvariant
from torchproof.attack.untouched import untouched
from torchproof.attack.variance_tuning import VarianceTuning

__all__ = [
    "APGD",
    "ATTACKS",
    "BPDA",
    "DDN",
    "EOT",
    "FAB",
    "FGSM",
    "FMN",
    "L1APGD",
    "NES",
    "PGD",
    "SPSA",
    "Adam",
    "Attack",
    "CarliniWagner",
    "Cases",
    "Chain",
    "DeepFool",
    "Distances",
    "EveryTarget",
    "Found",
    "Gaussian",
    "HopSkipJump",
    "InputDiversity",
    "Jobs",
    "MinimumNorm",
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
    "TranslationInvariant",
    "Uniform",
    "Unlimited",
    "VarianceTuning",
    "Zero",
    "ascend",
    "untouched",
]
