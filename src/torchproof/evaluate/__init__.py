"""Measuring robustness: `evaluate`, its suites, its record, and `merge` for shards."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from torchproof.evaluate.course import Progress
from torchproof.evaluate.evaluation import evaluate
from torchproof.evaluate.flags import Flag
from torchproof.evaluate.hypocrisy import Hypocrisy, hypocrisy
from torchproof.evaluate.member import Everyone, Member, Nearest, Suite
from torchproof.evaluate.merge import merge
from torchproof.evaluate.outcome import Example
from torchproof.evaluate.report import Report
from torchproof.evaluate.suites import SUITES
from torchproof.evaluate.transfer import Transfer, transfer

if TYPE_CHECKING:
    from torchproof.evaluate.certified import Certificates, certify
    from torchproof.evaluate.curve.record import RobustnessCurve
    from torchproof.evaluate.curve.robustness_curve import robustness_curve
    from torchproof.evaluate.propagation import Propagation
    from torchproof.evaluate.queries import QueryCurve, QueryLedger, query_curve, query_ledger
    from torchproof.evaluate.record import Result

__all__ = [
    "SUITES",
    "Certificates",
    "Everyone",
    "Example",
    "Flag",
    "Hypocrisy",
    "Member",
    "Nearest",
    "Progress",
    "Propagation",
    "QueryCurve",
    "QueryLedger",
    "Report",
    "Result",
    "RobustnessCurve",
    "Suite",
    "Transfer",
    "certify",
    "evaluate",
    "hypocrisy",
    "merge",
    "query_curve",
    "query_ledger",
    "robustness_curve",
    "transfer",
]

_LATER = {
    "Certificates": "certified",
    "Propagation": "propagation",
    "QueryCurve": "queries",
    "QueryLedger": "queries",
    "Result": "record",
    "RobustnessCurve": "curve",
    "certify": "certified",
    "query_curve": "queries",
    "query_ledger": "queries",
    "robustness_curve": "curve",
}
"""Names that an evaluation does without, and what would bring pydantic or the verifiers with it:
imported when they are asked for. None is a module's.
"""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
