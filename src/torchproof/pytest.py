"""A robustness that a project's own tests hold: `assert_robust`, for pytest.

Put `from torchproof.pytest import assert_robust` into a test file or a conftest.py; a test that
takes the fixture then fails where a model is less robust than it should be, or was::

    def test_robust(assert_robust):
        assert_robust(model, (x, y), "linf:8/255", at_least=0.4)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import pytest

from torchproof.core.errors import FileError, InputError
from torchproof.core.sites import Model
from torchproof.core.threats import AnyThreat, parse
from torchproof.evaluate.entries import Chosen
from torchproof.evaluate.evaluation import evaluate
from torchproof.evaluate.report import Report


class AssertRobust(Protocol):
    """What the fixture is; see `check_robust`."""

    def __call__(
        self, model: Model, data: Any, threat: AnyThreat | str, at_least: float | None = None, *,
        baseline: Path | str | None = None, may_fall: float = 0.0, suite: Chosen = "fast",
        **settings: Any,
    ) -> Report: ...  # fmt: skip


@pytest.fixture
def assert_robust(tmp_path: Path) -> AssertRobust:
    """`check_robust`, whose records go into the test's temporary folder where no `out` is given."""

    def check(model: Model, data: Any, threat: AnyThreat | str, at_least: float | None = None,
              **settings: Any) -> Report:  # fmt: skip
        settings.setdefault("out", tmp_path / "torchproof")
        return check_robust(model, data, threat, at_least, **settings)

    return check


def check_robust(
    model: Model, data: Any, threat: AnyThreat | str, at_least: float | None = None, *,
    baseline: Path | str | None = None, may_fall: float = 0.0, suite: Chosen = "fast",
    **settings: Any,
) -> Report:  # fmt: skip
    """The report of `torchproof.evaluate`, or an AssertionError that says what fell short.

    model, data, suite, settings: as for `evaluate`, threat: also as text, "linf:8/255". The robust
    accuracy has to be at least `at_least`, and at least that of `baseline`, the result.json of an
    earlier evaluation of the same threat, suite and number of examples, less `may_fall`; and the
    verdict has to be "ok": a number that red flags say not to believe proves nothing. Raises
    InputError where neither is given, FileError for a baseline that cannot be read, and what
    `evaluate` raises.
    """
    if at_least is None and baseline is None:
        remedy = "write at_least=0.4, or baseline='robust/result.json'"
        raise InputError("nothing to compare with", "at_least, baseline or both", remedy)
    for name, share in (("at_least", at_least or 0.0), ("may_fall", may_fall)):
        if not 0 <= share <= 1:
            raise InputError(f"{name} = {share!r}", "a share from 0 to 1", "write 0.4 for 40 %")
    stored = None if baseline is None else _read(Path(baseline))
    threat = parse(threat) if isinstance(threat, str) else threat
    report = evaluate(model, data, threat, suite, **settings)
    short = [] if report.verdict == "ok" else [f"the verdict is {report.verdict!r}: {_why(report)}"]
    if at_least is not None and report.robust_accuracy < at_least:
        short.append(f"robust accuracy {report.robust_accuracy:.2%} is below {at_least:.2%}")
    if stored is not None:
        short += _fallen(report, stored, may_fall)
    if short:
        raise AssertionError("\n".join([*short, _told(report)]))
    return report


def _read(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        float(stored["robust_accuracy"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "write one with `torchproof evaluate`, or report.save(folder)"
        raise FileError(f"{path} ({error})", "the result.json of an evaluation", remedy) from error
    return dict(stored)


def _fallen(report: Report, stored: dict[str, Any], may_fall: float) -> list[str]:
    now = json.loads(report.result.model_dump_json(by_alias=True))
    for name in ("threat", "suite", "n"):
        if now[name] != stored.get(name):
            given = f"a baseline with {name} = {stored.get(name)!r}"
            raise InputError(
                given, f"{now[name]!r}, as it is evaluated here", "make a new baseline"
            )
    before = float(stored["robust_accuracy"])
    if report.robust_accuracy >= before - may_fall:
        return []
    allowed = f", more than {may_fall:.2%}" if may_fall else ""
    return [f"robust accuracy fell from {before:.2%} to {report.robust_accuracy:.2%}{allowed}"]


def _why(report: Report) -> str:
    severe = [flag.name for flag in report.flags if flag.severity == "severe"]
    return ", ".join(severe) or "not all examples were dealt with"


def _told(report: Report) -> str:
    low, high = report.robust_accuracy_ci95
    broken = ", ".join(f"{a.name} broke {a.broken}" for a in report.attacks if a.broken)
    threat = f"{report.threat.norm}:{report.threat.eps_text}"
    return (
        f"{report.model} on {report.n} examples, {threat}, suite {report.suite}: clean "
        f"{report.clean_accuracy:.2%}, robust {report.robust_accuracy:.2%} (95 % interval "
        f"{low:.2%} to {high:.2%}); {broken or 'nothing was broken'}"
    )
