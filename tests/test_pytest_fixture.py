"""`assert_robust` in a project's own tests: what passes, what fails, and what it says."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import FileError, InputError
from torchproof.pytest import AssertRobust, assert_robust, check_robust

__all__ = ["assert_robust"]  # the fixture


class Threshold(nn.Module):
    """Two classes, parted by the mean of the image at 1 / 2; smooth, so that no flag is raised."""

    def forward(self, x: Tensor) -> Tensor:
        s = x.flatten(1).mean(1)
        return 10 * torch.stack([s, 1 - s], 1)


def images() -> tuple[Tensor, Tensor]:
    """Ten images, of which linf:0.1 breaks four."""
    levels = torch.tensor([0.1, 0.2, 0.3, 0.45, 0.42, 0.58, 0.55, 0.7, 0.8, 0.9])
    x = levels[:, None, None, None].expand(10, 1, 4, 4).contiguous()
    return x, (levels < 0.5).long()


def test_a_model_that_is_robust_enough_passes(assert_robust: AssertRobust, tmp_path: Path) -> None:
    report = assert_robust(Threshold().eval(), images(), "linf:0.1", at_least=0.6)
    assert report.robust_accuracy == 0.6 and (tmp_path / "torchproof" / "result.json").exists()


def test_one_that_is_not_fails_and_says_by_how_much() -> None:
    with pytest.raises(AssertionError, match=r"60.00% is below 70.00%") as caught:
        check_robust(Threshold().eval(), images(), "linf:0.1", at_least=0.7)
    said = str(caught.value)
    assert "linf:0.1" in said and "95 % interval" in said and "broke 4" in said


def test_a_robustness_that_fell_is_told(tmp_path: Path) -> None:
    x, y = images()
    check = partial(check_robust, Threshold().eval(), suite="quick")
    check((x, y), "linf:0.1", at_least=0, out=tmp_path / "before")
    baseline = tmp_path / "before" / "result.json"
    check((x, y), "linf:0.1", baseline=baseline)
    moved = (x + 0.04 * (x > 0.5)).clamp(0, 1), y
    check(moved, "linf:0.1", baseline=baseline)
    nearer = (x - 0.15 * (x == 0.7)).clamp(0, 1), y
    with pytest.raises(AssertionError, match=r"fell from 60.00% to 50.00%"):
        check(nearer, "linf:0.1", baseline=baseline)
    check(nearer, "linf:0.1", baseline=baseline, may_fall=0.1)
    with pytest.raises(InputError, match="baseline with threat"):
        check((x, y), "linf:0.2", baseline=baseline)
    with pytest.raises(InputError, match="baseline with n = 10"):
        check((x, y), "linf:0.1", baseline=baseline, n=5)


def test_a_number_not_to_be_believed_does_not_pass() -> None:
    class Masked(Threshold):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward((x * 8).round() / 8 + 0 * x)

    with pytest.raises(AssertionError, match="the verdict is 'unreliable'"):
        check_robust(Masked().eval(), images(), "linf:0.1", at_least=0.0)


@pytest.mark.parametrize(
    ("more", "said"),
    [({}, "nothing to compare with"), ({"at_least": 40}, "at_least = 40"),
     ({"at_least": 0.1, "may_fall": -1}, "may_fall")],
)  # fmt: skip
def test_bad_input_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_robust(Threshold().eval(), images(), "linf:0.1", **more)


def test_a_baseline_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    for name in ("a.json", "b.json"):
        with pytest.raises(FileError, match=name):
            check_robust(Threshold(), images(), "linf:0.1", baseline=tmp_path / name)
