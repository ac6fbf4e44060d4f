"""Common corruptions: noise, blur, weather and digital faults (Hendrycks and Dietterich 2019)."""

from torchproof.corrupt.catalogue import CORRUPTIONS, STRENGTHS, corrupt

__all__ = ["CORRUPTIONS", "STRENGTHS", "corrupt"]
