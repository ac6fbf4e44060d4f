"""The odds are odd: the statistic equals a loop over images, classes and draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from torchproof.adaptive.zoo.odds_are_odd import DEFENCE, Noisy, Odds, adaptive
from torchproof.attack.untouched import forked
from torchproof.core.threats import parse

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(made_row: Callable[..., Any]) -> Any:
    return made_row("odds-are-odd")


def test_the_statistic_is_a_loop(made: Any) -> None:
    material, defended, net = made
    x, odds = material.test.x[:5], defended.reject
    assert isinstance(odds, Odds)
    with torch.no_grad():
        logits = net(x)
        with forked(3, CPU):
            found = odds(x, logits)
        with forked(3, CPU):
            noise = odds.sigma * torch.randn(odds.draws * 5, *x.shape[1:]).view(-1, *x.shape)
        for i in range(5):
            y = int(logits[i].argmax())
            worst = -float("inf")
            for z in range(10):
                if z == y:
                    continue
                moved = 0.0
                for draw in noise:
                    there = net((x[i] + draw[i])[None])[0]
                    moved += float((there[z] - there[y]) - (logits[i, z] - logits[i, y]))
                odd = (moved / odds.draws - float(odds.mean[y, z])) / float(odds.std[y, z])
                worst = max(worst, odd)
            assert abs(float(found[i]) - worst) < 1e-3


def test_what_it_learns_are_means_and_deviations_of_clean_images(made: Any) -> None:
    material, _, net = made
    odds, x = Odds(net, 10, 0.2, 4), material.train.x[:400]
    with forked(5, CPU):
        odds.learn(x)
    with torch.no_grad(), forked(5, CPU):
        y = net(x).argmax(1)
        moved = torch.cat([odds.shifts(part, net(part)) for part in x.split(256)])
    for k in range(10):
        own = moved[y == k]
        torch.testing.assert_close(odds.mean[k], own.mean(0))
        torch.testing.assert_close(odds.std[k], own.std(0).clamp_min(1e-3))
        assert float(odds.mean[k, k]) == 0


def test_it_rejects_few_clean_images(made: Any) -> None:
    material, defended, base = made
    x, held = material.test.x, material.calibration.x
    assert torch.equal(defended.without("reject")(x), base(x))
    with torch.no_grad(), forked(1, CPU):
        away = defended(held)["reject"] > defended.rule.threshold
    assert 0.01 < float(away.float().mean()) < 0.12


def test_matching_sees_the_logits_of_the_noisy_image(made: Any) -> None:
    material, defended, base = made
    x = material.test.x
    noisy = Noisy(defended, 0.3)
    with torch.no_grad():
        with forked(7, CPU):
            table = noisy(x)
        with forked(7, CPU):
            torch.testing.assert_close(table["noisy"], base(x + 0.3 * torch.randn_like(x)))
    assert set(table) == {"logits", "reject", "noisy"}
    attempts = adaptive(defended, parse(DEFENCE.threat), material)
    assert isinstance(attempts[0].on, Noisy)
