"""Looking inside a trained network."""

from torchproof.diagnose.feature_noise import feature_noise
from torchproof.diagnose.jacobian import jacobian, linearised_robustness
from torchproof.diagnose.landscape import Landscape, weight_landscape
from torchproof.diagnose.relevance import ChannelRelevance, channel_relevance
from torchproof.diagnose.saturation import gate_saturation

__all__ = [
    "ChannelRelevance",
    "Landscape",
    "channel_relevance",
    "feature_noise",
    "gate_saturation",
    "jacobian",
    "linearised_robustness",
    "weight_landscape",
]
