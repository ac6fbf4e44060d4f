"""Training for randomised smoothing: networks that answer alike under noise."""

from torchproof.train.smoothed.adre import ADRE
from torchproof.train.smoothed.augmentation import NoiseAugmentation
from torchproof.train.smoothed.consistency import Consistency
from torchproof.train.smoothed.macer import MACER
from torchproof.train.smoothed.smoothadv import SmoothAdv
from torchproof.train.smoothed.stability import Stability

__all__ = ["ADRE", "MACER", "Consistency", "NoiseAugmentation", "SmoothAdv", "Stability"]
