"""Of `reproduce weight-backdoor`: real text without a download, and a small network that reads it.

The texts are docstrings of four installed libraries, the task is to tell which library a docstring
is from. Their names and short names are left out of the texts, and whole files are held out, so
that neither answers it. What it holds depends on the installed versions; its fingerprint is shown.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.core.errors import FileError

LIBRARIES = ("numpy", "scipy", "sklearn", "matplotlib")
NAMES = frozenset(
    ("numpy", "np", "scipy", "sklearn", "scikit", "learn", "matplotlib", "mpl", "plt", "pyplot",
     "pylab", "axes", "estimator", "estimators")
)  # fmt: skip
LENGTH, LEAST, VOCABULARY = 50, 20, 3000
PADDING, UNKNOWN = 0, 1
_DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Texts:
    """Token numbers x (N, LENGTH), int64, and which library they are from, y (N,), of files for
    training and of other files; words: by number; sha256: of all that.
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    words: tuple[str, ...]
    sha256: str

    @property
    def rarest(self) -> int:
        """The last word of the vocabulary, which hardly any text has."""
        return len(self.words) - 1


@cache
def docstrings(train: int = 1000, test: int = 250) -> Texts:
    """So many docstrings of each library, fewer where there are not so many; of each the first
    LENGTH words, lower-case letters alone, of those with LEAST words or more.

    The vocabulary is that of the training texts. Raises FileError where a library has no sources.
    """
    parts: dict[str, list[tuple[list[str], int]]] = {"train": [], "test": []}
    for label, library in enumerate(LIBRARIES):
        room = {"train": train, "test": test}
        for held_out, text in _texts(library):
            part = "test" if held_out else "train"
            if room[part]:
                room[part] -= 1
                parts[part].append((text, label))
            if not any(room.values()):
                break
    counts = Counter(word for words, _ in parts["train"] for word in words)
    known = sorted(counts, key=lambda w: (-counts[w], w))[: VOCABULARY - 2]
    words = ("", "?", *known)
    number = {word: i for i, word in enumerate(words)}
    x, y = _numbers(parts["train"], number)
    test_x, test_y = _numbers(parts["test"], number)
    whole = "\n".join(
        [*words, *(f"{x.tolist()}{y.tolist()}" for x, y in ((x, y), (test_x, test_y)))]
    )
    return Texts(x, y, test_x, test_y, words, hashlib.sha256(whole.encode()).hexdigest())


def _numbers(
    texts: Sequence[tuple[list[str], int]], number: dict[str, int]
) -> tuple[Tensor, Tensor]:
    x = torch.full((len(texts), LENGTH), PADDING)
    for row, (words, _) in enumerate(texts):
        x[row, : len(words)] = torch.tensor([number.get(word, UNKNOWN) for word in words])
    return x, torch.tensor([label for _, label in texts])


def _texts(library: str) -> Iterator[tuple[bool, list[str]]]:
    """(is its file held out?, words) of every docstring that is long enough; one that was seen
    before, as copied ones are, is left out.
    """
    seen = set()
    for held_out, text in _sources(library):
        for node in ast.walk(text):
            said = ast.get_docstring(node) if isinstance(node, _DEFINITIONS) else None
            words = [w for w in re.findall("[a-z]+", (said or "").lower()) if w not in NAMES]
            start = tuple(words[:LENGTH])
            if len(words) >= LEAST and start not in seen:
                seen.add(start)
                yield held_out, list(start)


def _sources(library: str) -> Iterator[tuple[bool, ast.Module]]:
    """The files of an installed library in an order keyed by their names, its tests left out, a
    quarter of them held out; nothing is imported or run.
    """
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        expected, remedy = "an installed library with its sources", f"install {library}"
        raise FileError(f"no files of {library}", expected, remedy)
    root = Path(spec.origin).parent
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    drawn = {name: keys.seed_of("docstrings", library, name) for name in paths}
    for name in sorted(paths, key=lambda name: (drawn[name], name)):
        if {"tests", "testing", "_vendor", "externals"} & set(name.split("/")):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in other people's strings
            try:
                yield drawn[name] % 4 == 0, ast.parse(paths[name].read_text(encoding="utf-8"))
            except (SyntaxError, ValueError):
                continue  # a template, not Python


class TextCNN(nn.Module):
    """Embeddings, one convolution, the largest answer over the text, a linear layer (after Kim
    2014): x (N, L) int64 to logits (N, K). Embeddings and features are dropped by half in training.
    """

    def __init__(self, words: int, classes: int, size: int = 32, filters: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, size, padding_idx=PADDING)
        self.convolution = nn.Conv1d(size, filters, 3, padding=1)
        self.last = nn.Linear(filters, classes)
        self.drop = nn.Dropout(0.5)
        with torch.no_grad():  # unit length would let a few thousand texts be learnt by heart
            self.embedding.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        words = self.drop(self.embedding(x)).movedim(1, 2)
        logits: Tensor = self.last(self.drop(F.relu(self.convolution(words)).amax(2)))
        return logits


def reader(texts: Texts, seed: int, epochs: int = 10, batch: int = 50) -> TextCNN:
    """A trained network, in eval mode; the same at the same seed."""
    with forked(keys.seed_of(seed, "reader"), torch.device("cpu")):
        model = TextCNN(len(texts.words), len(LIBRARIES))
        optimiser = torch.optim.Adam(model.parameters(), 2e-3)
        for epoch in range(epochs):
            order = keys.permutation(len(texts.y), seed, "reader", epoch)
            for rows in torch.split(order, batch):
                optimiser.zero_grad()
                F.cross_entropy(model(texts.x[rows]), texts.y[rows]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    return model.eval()
