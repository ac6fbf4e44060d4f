"""Measuring robustness: `evaluate`, its suites, its record, and `merge` for shards."""

from torchproof.evaluate.course import Progress
from torchproof.evaluate.evaluation import evaluate
from torchproof.evaluate.flags import Flag
from torchproof.evaluate.merge import merge
from torchproof.evaluate.outcome import Example
from torchproof.evaluate.record import Result
from torchproof.evaluate.report import Report
from torchproof.evaluate.suites import SUITES, Member

__all__ = [
    "SUITES",
    "Example",
    "Flag",
    "Member",
    "Progress",
    "Report",
    "Result",
    "evaluate",
    "merge",
]
