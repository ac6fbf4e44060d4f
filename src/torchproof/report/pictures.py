"""Pictures as files: a look of our own whatever a user's style is, the same bytes each time."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from torchproof.core.errors import InputError
from torchproof.core.files import write

KINDS = ("png", "svg", "pdf")
LOOK: dict[str, Any] = {
    "axes.spines.top": False, "axes.spines.right": False,
    "svg.fonttype": "none", "svg.hashsalt": "torchproof",
}  # fmt: skip

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def plain() -> Iterator[None]:
    """Our look inside the block, the user's again afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        parameters: Any = matplotlib.rcParams
        parameters.update(LOOK)
        yield


def plainly(function: Callable[P, R]) -> Callable[P, R]:
    """A function that draws, in our look."""

    @wraps(function)
    def inside(*args: P.args, **more: P.kwargs) -> R:
        with plain():
            return function(*args, **more)

    return inside


def blank(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def kind_of(path: Path | str, example: str = "picture.png") -> str:
    """png, svg or pdf, by the ending; raises InputError for others."""
    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in KINDS:
        expected = f"a name that ends in {', '.join(KINDS)}"
        raise InputError(f"a picture {Path(path).name}", expected, f"write {example}")
    return kind


@plainly
def content(figure: Figure, kind: str = "png", dpi: float = 150) -> bytes:
    """The bytes of a file of this kind; dates are left out of them."""
    buffer = io.BytesIO()
    dated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    figure.savefig(buffer, format=kind, dpi=dpi, metadata=dated[kind])
    return buffer.getvalue()


def save(figure: Figure, path: Path | str) -> None:
    """Writes the figure; the ending says how: png, svg or pdf. Raises InputError for others,
    FileError where it cannot be written.
    """
    write(Path(path), content(figure, kind_of(path)))
