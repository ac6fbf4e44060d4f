"""The survey at its small scale: its networks, stored smoothing logs, trainings for smoothing, and
what is drawn of it.
"""

from torchproof.reproduce.survey.networks import SMALL, small
from torchproof.reproduce.survey.page import publish
from torchproof.reproduce.survey.smoothed import theories, trainings
from torchproof.reproduce.survey.smoothed_here import trained

__all__ = ["SMALL", "publish", "small", "theories", "trained", "trainings"]
