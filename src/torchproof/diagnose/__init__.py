"""Looking inside a trained network."""

from torchproof.diagnose.landscape import Landscape, weight_landscape

__all__ = ["Landscape", "weight_landscape"]
