"""One small experiment per paper: ours beside the published figures, and a verdict in words."""

from collections.abc import Callable

from torchproof.reproduce.experiment import Outcome, Request, Row
from torchproof.reproduce.madry import madry

EXPERIMENTS: dict[str, Callable[[Request], Outcome]] = {"madry": madry}

__all__ = ["EXPERIMENTS", "Outcome", "Request", "Row"]
