"""Networks for small images, their files, and readers for models made elsewhere."""

from torchproof.core.fingerprints import fingerprint
from torchproof.nn.activation_transfer import (
    activations_of,
    load_activations,
    save_activations,
    with_activations,
)
from torchproof.nn.insert import insert
from torchproof.nn.loading import Loaded, load_model
from torchproof.nn.networks import MODELS, Network, build, options_of
from torchproof.nn.normalise import Normalise
from torchproof.nn.purified import Purified, in_front_of

__all__ = [
    "MODELS",
    "Loaded",
    "Network",
    "Normalise",
    "Purified",
    "activations_of",
    "build",
    "fingerprint",
    "in_front_of",
    "insert",
    "load_activations",
    "load_model",
    "options_of",
    "save_activations",
    "with_activations",
]
