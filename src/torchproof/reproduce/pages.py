"""Every page that is made of stored experiments: `python -m torchproof.reproduce.pages DOCS`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from torchproof.core.errors import TorchproofError
from torchproof.core.files import write
from torchproof.evaluate.survey import Survey
from torchproof.reproduce import adaptive_page, results
from torchproof.reproduce.collected import collected
from torchproof.reproduce.survey import page as survey_page

COLLECTED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "training.md": (
        "Training methods at small scale",
        ("awp", "fat", "iat", "fgsm-tricks", "spat", "jsigr", "rat", "ladder",
         "robust-overfitting", "baselines", "hat", "thrm", "extra-data"),
    ),
    "architectures.md": (
        "Robust architectures at small scale", ("cifs", "tisode", "sparta", "denoise", "hgd"),
    ),
    "inspection.md": (
        "Looking inside trained networks, at small scale",
        ("flatness", "tail-index", "prunability", "lipschitz", "titration", "weight-backdoor"),
    ),
    "certified.md": (
        "Certified training and smoothing at small scale",
        ("certified-training", "smoothing", "smoothed-training"),
    ),
}  # fmt: skip
"""Title and experiments of the pages in docs/results that hold several."""
SURVEY = "certification"  # the folder of docs/results with the record of `torchproof survey`


def pages(docs: Path) -> dict[Path, str]:
    """Path and text of each; raises FileError for a stored experiment that is missing where a page
    needs it, or damaged.
    """
    folder = docs / "results"
    found = {folder / "README.md": results.page(folder)}
    for name, (title, experiments) in COLLECTED.items():
        found[folder / name] = collected(folder, title, experiments)
    found[docs / adaptive_page.PAGE] = adaptive_page.page(docs)
    found[folder / survey_page.PAGE] = survey_page.page(Survey.read(folder / SURVEY))
    return found


def main(arguments: Sequence[str]) -> int:
    """Writes them all, or none; 2 for bad input."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        for path, text in pages(Path(arguments[0])).items():
            write(path, text.encode())
    except TorchproofError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
