"""The text of a property file, in tokens, and what is wrong with it by line."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from torchproof.core.errors import FileError, InputError

LARGEST = 2**27
"""Bytes that are read of a file, unpacked; the largest properties of competitions have 2**25."""

_TOKEN = re.compile(
    r"""[()]                            # brackets
      | ;[^\n]*                         # a comment, which may hold anything
      | "[^"]*"                         # a name in quotes (2.0)
      | [^\s()\[\]";]+                  # a word,
        (?:\s*\[[^][()]*\])?            #   perhaps with indices or a shape (2.0): X[0, 2]
      | \S                              # whatever else there is
    """,
    re.VERBOSE,
)


class Wrong(Exception):
    """What is wrong at one place of a text, in the three parts of an error of this project.

    `kind` is FileError where the text is no VNN-LIB, InputError where it asks for what cannot be
    done.
    """

    def __init__(
        self,
        given: str,
        expected: str,
        remedy: str,
        kind: type[FileError] | type[InputError] = FileError,
    ) -> None:
        super().__init__(given)
        self.given, self.expected, self.remedy, self.kind = given, expected, remedy, kind

    def about(self, source: str) -> FileError | InputError:
        """The error a user sees, where `source` is a file and perhaps a line."""
        return self.kind(f"{source}: {self.given}", self.expected, self.remedy)


def tokens(text: str) -> Iterator[tuple[str, int]]:
    """Every token of a text with its position; comments are left out."""
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token[0] != ";":
            yield token, match.start()


def line_of(text: str, position: int) -> int:
    """The line of a position, counted from 1."""
    return text.count("\n", 0, position) + 1


def short(word: str) -> str:
    """A word as it may stand in a message."""
    return word if len(word) <= 40 else f"{word[:37]}..."


def read_text(path: Path) -> str:
    """The text of a file, unpacked where its name ends in .gz.

    Raises FileError for a file that is missing, truncated, not gzip, not text, empty or larger than
    LARGEST.
    """
    remedy = "check the path, and fetch or export the file again"
    try:
        with path.open("rb") as file:
            packed = path.suffix == ".gz"
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
            content = stream.read(LARGEST + 1)
            text = content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        given = f"{path} ({type(error).__name__}: {error})"
        raise FileError(given, "a readable text, or one packed by gzip", remedy) from error
    if len(content) > LARGEST:
        given = f"{path} with more than {LARGEST:,} bytes of text"
        raise FileError(given, f"at most {LARGEST:,}", "split the property into several files")
    if not text.strip():
        raise FileError(f"{path}, which is empty", "a text", remedy)
    return text
