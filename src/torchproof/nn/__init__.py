"""Networks for small images, their files, and readers for models made elsewhere."""

from torchproof.nn.fingerprint import fingerprint
from torchproof.nn.insert import insert
from torchproof.nn.loading import Loaded, load_model
from torchproof.nn.networks import MODELS, Network, build, options_of
from torchproof.nn.normalise import Normalise

__all__ = [
    "MODELS",
    "Loaded",
    "Network",
    "Normalise",
    "build",
    "fingerprint",
    "insert",
    "load_model",
    "options_of",
]
