"""What an experiment has measured, part by part, in files of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from torchproof.core.errors import FileError
from torchproof.core.files import write


class Figures(BaseModel):
    """Figures of one part of an experiment, kept in a file so that no part is measured twice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises FileError for a file that is not whole."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, ValidationError) as error:
            given = f"{path} ({error})"
            raise FileError(given, "figures of this experiment", "remove that file") from error

    def write(self, path: Path) -> None:
        """Whole or not at all; raises FileError."""
        write(path, (self.model_dump_json(indent=1) + "\n").encode())
