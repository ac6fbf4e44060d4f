"""VNN-LIB: properties of networks as the verification competitions write them, and witnesses."""

from torchproof.verify.vnnlib.case import Case, Property, violated
from torchproof.verify.vnnlib.read import parse_property, read_property
from torchproof.verify.vnnlib.recheck import Recheck, recheck
from torchproof.verify.vnnlib.witness import (
    Result,
    Witness,
    read_result,
    witness_text,
    write_result,
)

__all__ = [
    "Case",
    "Property",
    "Recheck",
    "Result",
    "Witness",
    "parse_property",
    "read_property",
    "read_result",
    "recheck",
    "violated",
    "witness_text",
    "write_result",
]
