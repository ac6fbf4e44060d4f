"""Which versions a result was made with."""

from __future__ import annotations

import platform
from importlib import metadata

import torch


def versions() -> dict[str, str]:
    """Of torchproof, torch and Python."""
    return {
        "torchproof": installed("torchproof"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def installed(package: str) -> str:
    """The version of an installed distribution; "source" for one that runs from its source tree."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "source"
