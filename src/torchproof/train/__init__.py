"""Training: `fit` and the methods it takes."""

from torchproof.train.at import AT
from torchproof.train.awp import AWP
from torchproof.train.catalogue import METHODS, OPTIMISERS, SCHEDULES, method
from torchproof.train.ema import EMA
from torchproof.train.loop import fit
from torchproof.train.mart import MART
from torchproof.train.method import Batch, Method
from torchproof.train.record import Record
from torchproof.train.settings import Settings
from torchproof.train.smoothing import LabelSmoothing
from torchproof.train.standard import Standard
from torchproof.train.sum import Sum
from torchproof.train.swa import SWA
from torchproof.train.trades import TRADES

__all__ = [
    "AT", "AWP", "EMA", "MART", "METHODS", "OPTIMISERS", "SCHEDULES", "SWA", "TRADES",
    "Batch", "LabelSmoothing", "Method", "Record", "Settings", "Standard", "Sum", "fit", "method",
]  # fmt: skip
