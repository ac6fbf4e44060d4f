"""Accuracy against eps from one minimum-norm run, checked by attacks at a few eps."""

from torchproof.evaluate.curve.record import CurveRecord, RobustnessCurve
from torchproof.evaluate.curve.robustness_curve import robustness_curve

__all__ = ["CurveRecord", "RobustnessCurve", "robustness_curve"]
