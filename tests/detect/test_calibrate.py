"""The promise of the threshold, measured on distributions, with and without ties."""

from __future__ import annotations

import pytest
import torch

from torchproof.core.errors import InputError
from torchproof.detect.calibrate import calibrate


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.2])
def test_false_alarms_on_further_images_stay_below_the_rate(fpr: float, ties: bool) -> None:
    generator = torch.Generator().manual_seed(int(1000 * fpr))
    draws = torch.randn(2000, 200, generator=generator).mul(2).exp()
    draws = draws.round() if ties else draws
    flagged = [calibrate(row[:-1], fpr).flags(row[-1:]).double() for row in draws]
    rate = float(torch.cat(flagged).mean())
    spread = 3 * (fpr * (1 - fpr) / 2000) ** 0.5
    assert rate <= fpr + spread
    if not ties:
        assert rate >= fpr - 1 / 200 - spread


def test_the_interval_holds_the_rate_of_the_threshold() -> None:
    """Uniform scores: the true rate of a threshold is one less it."""
    generator = torch.Generator().manual_seed(1)
    found = [calibrate(torch.rand(199, generator=generator), 0.1) for _ in range(500)]
    held = sum(t.ci95[0] <= 1 - t.value <= t.ci95[1] for t in found)
    assert 0.92 * 500 <= held <= 0.98 * 500


def test_rates_come_with_their_interval() -> None:
    threshold = calibrate(torch.arange(99.0), 0.1)
    assert threshold.value == 89.0 and threshold.n == 99
    rate, (low, high) = threshold.rate(torch.arange(80.0, 100.0))
    assert rate == 0.5 and low < 0.5 < high


def test_what_cannot_be_promised_is_refused() -> None:
    with pytest.raises(InputError, match="at least 99"):
        calibrate(torch.rand(98), 0.01)
    assert calibrate(torch.arange(99.0), 0.01).value == 98.0
    with pytest.raises(InputError, match="between 0 and 1"):
        calibrate(torch.rand(98), 0.0)
    with pytest.raises(InputError, match="NaN"):
        calibrate(torch.tensor([0.1, float("nan")]), 0.5)
