"""A page of sections, each of sentences, tables and pictures, that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from torchproof.core.files import write
from torchproof.report.pictures import content

KINDS = ("png", "svg")


@dataclass(frozen=True)
class Table:
    """Rows of cells as text, the first of each its name."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False)
class Picture:
    """file: its name without an ending; caption: what is to be seen."""

    file: str
    caption: str
    figure: Figure


@dataclass(frozen=True, eq=False)
class Section:
    """A heading with its paragraphs, then its tables, then its pictures."""

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, eq=False)
class Sheet:
    """kind: of page, in a word; about: a line under the title; record: the file that holds all
    numbers.
    """

    kind: str
    title: str
    about: str
    sections: tuple[Section, ...]
    record: str
    cautions: tuple[str, ...] = ()
    command: str = ""
    versions: Mapping[str, str] | None = None


def write_sheet(sheet: Sheet, path: Path) -> Path:
    """Writes the page, and every picture beside it as PNG and SVG; its path. Raises FileError."""
    pictures = {
        picture.file: _drawn(picture, path.parent)
        for section in sheet.sections
        for picture in section.pictures
    }
    environment = Environment(
        loader=PackageLoader("torchproof.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    html = environment.get_template("sheet.html.j2").render(sheet=sheet, pictures=pictures)
    write(path, html.encode())
    return path


def _drawn(picture: Picture, folder: Path) -> str:
    """The picture as a data URI."""
    both = {kind: content(picture.figure, kind) for kind in KINDS}
    for kind, drawn in both.items():
        write(folder / f"{picture.file}.{kind}", drawn)
    return "data:image/png;base64," + base64.b64encode(both["png"]).decode()
