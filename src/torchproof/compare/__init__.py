"""The same threat through several attack libraries, judged by one yardstick."""

from torchproof.compare.comparison import compare
from torchproof.compare.libraries import LIBRARIES
from torchproof.compare.library import ATTACKS
from torchproof.compare.record import Comparison

__all__ = ["ATTACKS", "LIBRARIES", "Comparison", "compare"]
