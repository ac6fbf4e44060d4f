"""What the steps of a network that was read from a file are called, where a source line would not
tell them apart.
"""

from __future__ import annotations

STEP = "step of torchproof"
"""Under which name an export keeps the label of a step."""
