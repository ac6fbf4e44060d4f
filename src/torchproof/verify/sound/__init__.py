"""Certificates in real arithmetic: bounds that pay for the rounding of float64."""

from torchproof.verify.sound.margins import (
    ASSUMPTION,
    METHODS,
    SoundMargins,
    sound_margins,
    uncovered,
)

__all__ = ["ASSUMPTION", "METHODS", "SoundMargins", "sound_margins", "uncovered"]
