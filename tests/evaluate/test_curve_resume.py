"""A curve that is killed goes on to the same distances; neither slots nor order matter."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from torchproof.attack.combine import EveryTarget
from torchproof.attack.fmn import fmn
from torchproof.attack.minimum import Unlimited
from torchproof.core.errors import FileError, ResumeError
from torchproof.core.fingerprints import model_sha256
from torchproof.core.norms import L2, Linf
from torchproof.core.objectives import TargetedMargin
from torchproof.evaluate import RobustnessCurve, robustness_curve
from torchproof.evaluate.curve.distances import NEAREST
from torchproof.evaluate.ledger import read_records

CHECK = [0.05, 0.1]
ATTACK = EveryTarget(fmn(Unlimited(Linf()), 8, TargetedMargin()), 2)


def content(found: RobustnessCurve) -> dict[str, Any]:
    """All but the clock's and the date's."""
    text = found.record.model_dump(exclude={"seconds", "date", "command"})
    for check in text["checks"]:
        del check["seconds"]
    return text | {"rows": found.rows}


@pytest.fixture(scope="module")
def go(_fitted: nn.Module, blobs: Any) -> Any:
    net = _fitted.eval().requires_grad_(True)

    def run(model: nn.Module | None = None, **more: Any) -> RobustnessCurve:
        more = {
            "norm": Linf(),
            "attack": ATTACK,
            "check": CHECK,
            "suite": "quick",
            "slots": 16,
            "seed": 1,
        } | more
        more = {"name": "net", "model_sha256": model_sha256(net)} | more
        return robustness_curve(model or net, blobs, **more)

    return run


@pytest.fixture(scope="module")
def once(
    go: Any, _fitted: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, RobustnessCurve, int]:
    """An undisturbed run: its folder, its curve, and how often it asked the model."""
    calls, folder = 0, tmp_path_factory.mktemp("curve") / "whole"

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    handle = _fitted.register_forward_hook(count)
    found: RobustnessCurve = go(out=folder)
    handle.remove()
    assert 0 < found.accuracy(0.1) < found.accuracy(0.05) < found.accuracy(0) < 1
    return folder, found, calls


@pytest.fixture
def whole(once: tuple[Path, RobustnessCurve, int], tmp_path: Path) -> RobustnessCurve:
    """Its curve, and a copy of its folder, `whole`."""
    shutil.copytree(once[0], tmp_path / "whole")
    return once[1]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_killed_anywhere(
    go: Any, net: nn.Module, whole: RobustnessCurve, interrupted: Any, killed: Any,
    once: tuple[Path, RobustnessCurve, int], tmp_path: Path, share: float,
) -> None:  # fmt: skip
    cut = tmp_path / "cut"
    with pytest.raises(killed):
        go(interrupted(net, int(share * once[2])), out=cut)
    assert not (cut / "curve.json").exists()
    with pytest.raises(FileError):
        go(out=cut)
    ended = go(out=cut, resume=True)
    assert content(ended) == content(whole)
    before, after = (tmp_path / name / "distances.csv" for name in ("whole", "cut"))
    assert before.read_bytes() == after.read_bytes()


@pytest.mark.parametrize("slots", [11, 60])
def test_slots_do_not_matter(go: Any, whole: RobustnessCurve, tmp_path: Path, slots: int) -> None:
    other = go(slots=slots, out=tmp_path / "other")
    assert content(other) == content(whole)
    before, after = (tmp_path / name / "distances.csv" for name in ("whole", "other"))
    assert before.read_bytes() == after.read_bytes()


def test_out_of_time_is_said_and_mended(go: Any, whole: RobustnessCurve, tmp_path: Path) -> None:
    cut = go(out=tmp_path / "cut", max_seconds=1e-6)
    assert cut.record.verdict == "unreliable" and cut.record.flags[0].name == "unfinished"
    assert cut.record.unfinished == 60 and cut.record.checks == []
    assert cut.accuracy(1.0) == 1.0  # what is unfinished counts as standing
    assert content(go(out=tmp_path / "cut", resume=True)) == content(whole)


def test_time_that_ends_before_the_checks(go: Any, tmp_path: Path, net: nn.Module) -> None:
    """Once the distances are there, a resumed run has time for the rest alone."""
    go(out=tmp_path / "run", check=[])
    found = go(out=tmp_path / "run", check=CHECK, max_seconds=1e-6, resume=True)
    assert found.record.unfinished == 0 and found.record.verdict == "unreliable"
    assert "no check at eps 0.05, 0.1" in found.record.flags[0].evidence


def test_checks_may_be_added_later(go: Any, whole: RobustnessCurve, tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(out=run, check=[])
    records = read_records(run / "records.jsonl")[0]
    assert content(go(out=run, resume=True)) == content(whole)
    assert read_records(run / "records.jsonl")[0] == records
    assert sum(record["attack"] == NEAREST for record in records) == sum(
        row.distance > 0 for row in whole.rows
    )


def test_other_settings_are_not_resumed(go: Any, whole: RobustnessCurve, tmp_path: Path) -> None:
    for more, said in (
        ({"seed": 2}, "seed"),
        ({"norm": L2(), "attack": None, "check": []}, "threat"),
    ):
        with pytest.raises(ResumeError, match=said):
            go(out=tmp_path / "whole", resume=True, **more)


def test_another_model_is_not_resumed(
    go: Any, net: nn.Module, whole: RobustnessCurve, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "whole" / "checks")

    class Doubled(nn.Module):
        def forward(self, x: Any) -> Any:
            return 2 * net(x)

    with pytest.raises(ResumeError, match="answers otherwise"):
        go(Doubled(), out=tmp_path / "whole", resume=True)
