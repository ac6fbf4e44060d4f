"""The table of what training can be asked for by name, and what stands as an argument in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchproof.attack.starts import Gaussian, Sphere, Uniform, Zero
from torchproof.core.errors import InputError
from torchproof.core.expression import parse
from torchproof.core.threats import AnyThreat
from torchproof.train.alp import ALP
from torchproof.train.at import AT
from torchproof.train.awp import AWP
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
from torchproof.train.mart import MART
from torchproof.train.method import Method
from torchproof.train.mma import MMA
from torchproof.train.n_fgsm import NFGSM
from torchproof.train.parseval import Parseval
from torchproof.train.rat import RAT
from torchproof.train.score import SCORE
from torchproof.train.selfpaced import SPAT
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

METHODS: dict[str, type[Method]] = {
    "Standard": Standard,
    "AT": AT,
    "TRADES": TRADES,
    "MART": MART,
    "IAT": IAT,
    "SPAT": SPAT,
    "THRM": THRM,
    "ALP": ALP,
    "SCORE": SCORE,
    "HAT": HAT,
    "HE": HE,
    "CIFSAT": CIFSAT,
    "EnsembleAT": EnsembleAT,
    "PixelGuided": PixelGuided,
    "FGD": FGD,
    "LGD": LGD,
    "CGD": CGD,
    "AWP": AWP,
    "FAT": FAT,
    "FGSMAT": FGSMAT,
    "FastAT": FastAT,
    "NFGSM": NFGSM,
    "FreeAT": FreeAT,
    "MMA": MMA,
    "GradAlign": GradAlign,
    "FirstLayer": FirstLayer,
    "JSIGR": JSIGR,
    "Parseval": Parseval,
    "LaplacianSmoothness": LaplacianSmoothness,
    "RAT": RAT,
    "BoundaryGuided": BoundaryGuided,
    "TisODE": TisODE,
    "IBP": IBP,
    "CROWNIBP": CROWNIBP,
    "SABR": SABR,
    "CCIBP": CCIBP,
    "MTLIBP": MTLIBP,
    "ExpIBP": ExpIBP,
    "ConvexAdversarial": ConvexAdversarial,
    "DiffAI": DiffAI,
    "COLT": COLT,
    "TAPS": TAPS,
    "GloRo": GloRo,
    "FastWarmUp": FastWarmUp,
    "ReLUStability": ReLUStability,
    "L1": L1,
    "NoiseAugmentation": NoiseAugmentation,
    "Stability": Stability,
    "SmoothAdv": SmoothAdv,
    "MACER": MACER,
    "Consistency": Consistency,
    "ADRE": ADRE,
    "Sum": Sum,
    "LabelSmoothing": LabelSmoothing,
    "EMA": EMA,
    "SWA": SWA,
}

# What an expression may use as an argument of a method.
PARTS: dict[str, Callable[..., Any]] = {
    "Uniform": Uniform,
    "Gaussian": Gaussian,
    "Sphere": Sphere,
    "Zero": Zero,
    "RandomMask": RandomMask,
    "FixedMask": FixedMask,
    "Ramp": Ramp,
}


def method(text: str, threat: AnyThreat | None = None, **networks: Any) -> Method:
    """The method that an expression such as `AWP(TRADES(beta=6), gamma=0.005)` describes, for
    `threat`, with `networks` as the arguments of their names: the `standard` of HAT, a module, the
    `sources` of LGD, modules by name, and the maker of a `decoder` for BoundaryGuided.

    Raises InputError for an expression that is no method, UnknownName for a name in no table.
    """
    bound: dict[str, Any] = {} if threat is None else {"threat": threat}
    made = parse(text, {**METHODS, **PARTS}, **bound, **networks)
    if not isinstance(made, Method):
        raise InputError(f"{text!r}", "a training method", f"choose one of {', '.join(METHODS)}")
    return made
