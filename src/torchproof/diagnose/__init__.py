"""Looking inside a trained network."""

from torchproof.diagnose.diagnosis import Diagnosis, diagnose
from torchproof.diagnose.exit_time import Well, exit_time
from torchproof.diagnose.feature_noise import feature_noise
from torchproof.diagnose.flatness import Flatness, Procedure, flatness
from torchproof.diagnose.jacobian import jacobian, linearised_robustness
from torchproof.diagnose.landscape import Landscape, Plane, weight_landscape, weight_plane
from torchproof.diagnose.lipschitz import LipschitzCurve, layer_chain, local_lipschitz
from torchproof.diagnose.prunability import Prunability, prunability
from torchproof.diagnose.relevance import ChannelRelevance, channel_relevance
from torchproof.diagnose.saturation import gate_saturation
from torchproof.diagnose.subject import Images, Sets, Subject
from torchproof.diagnose.tail_index import (
    TailIndex,
    TailTrack,
    tail_index,
    tail_index_over_training,
)

__all__ = [
    "ChannelRelevance",
    "Diagnosis",
    "Flatness",
    "Images",
    "Landscape",
    "LipschitzCurve",
    "Plane",
    "Procedure",
    "Prunability",
    "Sets",
    "Subject",
    "TailIndex",
    "TailTrack",
    "Well",
    "channel_relevance",
    "diagnose",
    "exit_time",
    "feature_noise",
    "flatness",
    "gate_saturation",
    "jacobian",
    "layer_chain",
    "linearised_robustness",
    "local_lipschitz",
    "prunability",
    "tail_index",
    "tail_index_over_training",
    "weight_landscape",
    "weight_plane",
]
