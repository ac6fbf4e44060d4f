"""Training: `fit` and the methods it takes."""

from torchproof.train.alp import ALP
from torchproof.train.at import AT
from torchproof.train.awp import AWP
from torchproof.train.catalogue import METHODS, method
from torchproof.train.certified import (
    CCIBP,
    COLT,
    CROWNIBP,
    IBP,
    L1,
    MTLIBP,
    SABR,
    TAPS,
    ConvexAdversarial,
    DiffAI,
    ExpIBP,
    FastWarmUp,
    GloRo,
    Ramp,
    ReLUStability,
)
from torchproof.train.cifs import CIFSAT
from torchproof.train.denoiser import CGD, FGD, LGD, PixelGuided
from torchproof.train.ema import EMA
from torchproof.train.ensemble import EnsembleAT
from torchproof.train.fast import FGSMAT, FastAT, FixedMask, RandomMask
from torchproof.train.first_layer import FirstLayer
from torchproof.train.free import FreeAT
from torchproof.train.friendly import FAT
from torchproof.train.grad_align import GradAlign
from torchproof.train.hat import HAT
from torchproof.train.hypersphere import HE
from torchproof.train.interpolated import IAT
from torchproof.train.jsigr import JSIGR
from torchproof.train.ladder import BoundaryGuided
from torchproof.train.laplacian import LaplacianSmoothness
from torchproof.train.loop import fit
from torchproof.train.mart import MART
from torchproof.train.method import Batch, Method
from torchproof.train.mma import MMA
from torchproof.train.n_fgsm import NFGSM
from torchproof.train.optimisers import OPTIMISERS, SCHEDULES
from torchproof.train.parseval import Parseval
from torchproof.train.rat import RAT
from torchproof.train.record import Record
from torchproof.train.score import SCORE
from torchproof.train.selfpaced import SPAT
from torchproof.train.settings import Settings
from torchproof.train.smoothed import (
    ADRE,
    MACER,
    Consistency,
    NoiseAugmentation,
    SmoothAdv,
    Stability,
)
from torchproof.train.smoothing import LabelSmoothing
from torchproof.train.standard import Standard
from torchproof.train.sum import Sum
from torchproof.train.swa import SWA
from torchproof.train.thrm import THRM
from torchproof.train.tisode import TisODE
from torchproof.train.trades import TRADES

__all__ = [
    "ADRE",
    "ALP",
    "AT",
    "AWP",
    "CCIBP",
    "CGD",
    "CIFSAT",
    "COLT",
    "CROWNIBP",
    "EMA",
    "FAT",
    "FGD",
    "FGSMAT",
    "HAT",
    "HE",
    "IAT",
    "IBP",
    "JSIGR",
    "L1",
    "LGD",
    "MACER",
    "MART",
    "METHODS",
    "MMA",
    "MTLIBP",
    "NFGSM",
    "OPTIMISERS",
    "RAT",
    "SABR",
    "SCHEDULES",
    "SCORE",
    "SPAT",
    "SWA",
    "TAPS",
    "THRM",
    "TRADES",
    "Batch",
    "BoundaryGuided",
    "Consistency",
    "ConvexAdversarial",
    "DiffAI",
    "EnsembleAT",
    "ExpIBP",
    "FastAT",
    "FastWarmUp",
    "FirstLayer",
    "FixedMask",
    "FreeAT",
    "GloRo",
    "GradAlign",
    "LabelSmoothing",
    "LaplacianSmoothness",
    "Method",
    "NoiseAugmentation",
    "Parseval",
    "PixelGuided",
    "Ramp",
    "RandomMask",
    "ReLUStability",
    "Record",
    "Settings",
    "SmoothAdv",
    "Stability",
    "Standard",
    "Sum",
    "TisODE",
    "fit",
    "method",
]  # fmt: skip
