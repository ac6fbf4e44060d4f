"""Reports: stored evaluations as one self-contained HTML page."""

from torchproof.report.evaluation import Evaluation
from torchproof.report.page import render
from torchproof.report.training import Training

__all__ = ["Evaluation", "Training", "render"]
