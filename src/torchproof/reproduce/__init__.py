"""One small experiment per paper: ours beside the published figures, and a verdict in words."""

from torchproof.reproduce.catalogue import EXPERIMENTS
from torchproof.reproduce.experiment import Outcome, Request, Row

__all__ = ["EXPERIMENTS", "Outcome", "Request", "Row"]
