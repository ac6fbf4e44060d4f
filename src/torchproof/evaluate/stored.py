"""Records that are one JSON file each, whole or not at all, for other tools to read."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from torchproof.core.errors import FileError
from torchproof.core.files import write


class Stored(BaseModel):
    """What every record says first, and how it is written and read.

    A record gives `schema_` its default, and names its file and what writes it (`remedy`).
    model_sha256 is null for a plain function; n: examples.
    """

    file: ClassVar[str]
    remedy: ClassVar[str]
    model_config = ConfigDict(protected_namespaces=(), serialize_by_alias=True)

    schema_: str = Field(alias="schema")
    date: str
    model: str
    model_sha256: str | None
    data: str
    data_sha256: str
    n: int

    def save(self, folder: Path | str) -> Path:
        """Writes the file, whole or not at all, and returns its path; raises FileError."""
        path = Path(folder) / self.file
        write(path, self.model_dump_json(indent=2).encode() + b"\n")
        return path

    @classmethod
    def read(cls, folder: Path | str) -> Self:
        """Raises FileError for a file that is missing, damaged or of another schema."""
        path, schema = Path(folder) / cls.file, cls.model_fields["schema_"].default
        expected = f"a record of schema {schema}"
        try:
            found = cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise FileError(f"no {cls.file} in {folder}", expected, cls.remedy) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise FileError(f"{path} ({where}: {first['msg']})", expected, cls.remedy) from error
        except OSError as error:
            raise FileError(f"{path} ({error})", expected, cls.remedy) from error
        if found.schema_ != schema:
            raise FileError(f"{path} of schema {found.schema_!r}", expected, cls.remedy)
        return found
