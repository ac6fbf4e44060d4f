"""Training: `fit` and the methods it takes."""

from torchproof.train.at import AT
from torchproof.train.awp import AWP
from torchproof.train.catalogue import METHODS, OPTIMISERS, SCHEDULES, method
from torchproof.train.loop import fit
from torchproof.train.mart import MART
from torchproof.train.method import Batch, Method
from torchproof.train.record import Record
from torchproof.train.settings import Settings
from torchproof.train.standard import Standard
from torchproof.train.trades import TRADES

__all__ = [
    "AT", "AWP", "MART", "METHODS", "OPTIMISERS", "SCHEDULES", "TRADES",
    "Batch", "Method", "Record", "Settings", "Standard", "fit", "method",
]  # fmt: skip
