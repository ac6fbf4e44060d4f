"""One small experiment per paper: ours beside the published figures, and a verdict in words."""

from collections.abc import Callable

from torchproof.reproduce.alternating import alternating
from torchproof.reproduce.experiment import Outcome, Request, Row
from torchproof.reproduce.hypocritical import hypocritical_experiment
from torchproof.reproduce.madry import madry
from torchproof.reproduce.regional import regional_experiment

EXPERIMENTS: dict[str, Callable[[Request], Outcome]] = {
    "madry": madry,
    "alternating": alternating,
    "regional": regional_experiment,
    "hypocritical": hypocritical_experiment,
}

__all__ = ["EXPERIMENTS", "Outcome", "Request", "Row"]
