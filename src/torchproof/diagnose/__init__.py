"""Looking inside a trained network."""

from torchproof.diagnose.jacobian import jacobian, linearised_robustness
from torchproof.diagnose.landscape import Landscape, weight_landscape

__all__ = ["Landscape", "jacobian", "linearised_robustness", "weight_landscape"]
