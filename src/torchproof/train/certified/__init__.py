"""Training that makes bounds tight: certified training."""

from torchproof.train.certified.cc_ibp import CCIBP
from torchproof.train.certified.colt import COLT
from torchproof.train.certified.convex import ConvexAdversarial
from torchproof.train.certified.crown_ibp import CROWNIBP
from torchproof.train.certified.diffai import DiffAI
from torchproof.train.certified.exp_ibp import ExpIBP
from torchproof.train.certified.gloro import GloRo
from torchproof.train.certified.ibp import IBP
from torchproof.train.certified.l1 import L1
from torchproof.train.certified.mtl_ibp import MTLIBP
from torchproof.train.certified.ramp import Ramp
from torchproof.train.certified.sabr import SABR
from torchproof.train.certified.stability import ReLUStability
from torchproof.train.certified.taps import TAPS
from torchproof.train.certified.warm_up import FastWarmUp, initialise

__all__ = [
    "CCIBP",
    "COLT",
    "CROWNIBP",
    "IBP",
    "L1",
    "MTLIBP",
    "SABR",
    "TAPS",
    "ConvexAdversarial",
    "DiffAI",
    "ExpIBP",
    "FastWarmUp",
    "GloRo",
    "Ramp",
    "ReLUStability",
    "initialise",
]  # fmt: skip
