"""What a survey found, as it is stored in result.json."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from torchproof.core.errors import FileError
from torchproof.core.files import write
from torchproof.core.metrics import clopper_pearson

SCHEMA, FILE = "torchproof.survey/1", "result.json"
Wrong = Literal["certified but broken", "above a margin that is reached"]


class Share(BaseModel):
    """hits of n, with the interval of Clopper and Pearson."""

    hits: int
    n: int
    ci95: tuple[float, float]

    @classmethod
    def of(cls, hits: int, n: int) -> Share:
        return cls(hits=hits, n=n, ci95=clopper_pearson(hits, n))

    @property
    def value(self) -> float:
        return self.hits / self.n


class Row(BaseModel):
    """A method on a network at a threat: what it certifies of the images it was asked about, which
    are the first ones. same: the method whose answers these are; median_seconds: of computing where
    an image was answered, of the clock where time ran out; late, enough: images at which it did,
    and those of them for which what there was by then was enough; failed: why it gave up on this
    network; claimed, wrongly: of an estimate, images whose radius it puts at eps or more, and those
    of them that an attack broke.
    """

    method: str
    same: str = ""
    certified: Share | None = None
    median_seconds: float | None = None
    late: int = 0
    enough: int = 0
    failed: str = ""
    claimed: int | None = None
    wrongly: int | None = None


class Cell(BaseModel):
    """A network at a threat. attacked: images that are right and stay so under attack, above which
    no certified accuracy can be; decided: images whose least margin a programme found to 1e-4.
    """

    network: str
    training: str
    data: str
    norm: str
    eps: float
    eps_text: str
    clean: Share
    attacked: Share
    decided: int
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        return f"{self.network}, {self.norm}:{self.eps_text}"


class Violation(BaseModel):
    """What cannot be: told, a bound; reached, what is attained in the set."""

    network: str
    threat: str
    image: int
    method: str
    wrong: Wrong
    told: float
    reached: float


class Smoothed(BaseModel):
    """Certificates of a smoothed classifier, read by one theory: l2 radii and how many images have
    at least that; log: the file they were stored in, "" for a network trained for the survey; acr:
    the average certified radius.
    """

    log: str
    training: str
    data: str
    sigma: float
    theory: str
    acr: float
    radii: tuple[float, ...]
    certified: tuple[Share, ...]


class Survey(BaseModel):
    """seconds: for an image and a method; in_all: for all images of a network at a threat."""

    model_config = ConfigDict(serialize_by_alias=True)

    schema_: str = Field(default=SCHEMA, alias="schema")
    date: str
    n: int
    seconds: float
    in_all: float
    attack: str
    cells: tuple[Cell, ...]
    violations: tuple[Violation, ...]
    theories: tuple[Smoothed, ...] = ()
    trainings: tuple[Smoothed, ...] = ()
    spent: float
    versions: dict[str, str]
    command: str = ""

    def save(self, folder: Path) -> Path:
        """Writes result.json, whole or not at all; raises FileError."""
        path = folder / FILE
        write(path, self.model_dump_json(indent=1).encode() + b"\n")
        return path

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises FileError for a file that is missing, damaged or of another schema."""
        path = folder / FILE
        try:
            found = cls.model_validate_json(path.read_bytes())
            if found.schema_ != SCHEMA:
                raise ValueError(f"schema {found.schema_!r}")
            return found
        except (OSError, ValueError, ValidationError) as error:
            remedy = "run `torchproof survey` into this folder first"
            raise FileError(f"{path} ({error})", f"a record of schema {SCHEMA}", remedy) from error
