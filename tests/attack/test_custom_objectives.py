"""Targeted, regression and segmentation objectives, those of the documentation, against closed
forms and linear programmes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from torchproof.attack import APGD, PGD, Attack, Restarts
from torchproof.core.objectives import Targeted
from torchproof.core.threats import parse

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"
EPS = 0.1


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The names that the page on objectives defines."""
    parts = re.split(r"^```", PAGE.read_text(encoding="utf-8"), flags=re.M)[1::2]
    code = "".join(part.split("\n", 1)[1] for part in parts if part.startswith("python"))
    space: dict[str, Any] = {}
    with torch.random.fork_rng():
        exec(compile(code, PAGE.name, "exec", dont_inherit=True), space)
    return space


class Linear(nn.Module):
    """z = W x + b, in float64."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


def test_a_targeted_attack_reaches_the_class_where_a_linear_programme_does() -> None:
    g = torch.Generator().manual_seed(0)
    model = Linear(torch.randn(4, 16, generator=g).double(), torch.zeros(4).double())
    x = torch.rand(24, 1, 4, 4, generator=g).double()
    y = model(x).argmax(1)
    target = (y + 1 + torch.arange(24) % 3) % 4
    slack = [reach(model, image, int(t)) for image, t in zip(x, target, strict=True)]
    clear = torch.tensor([abs(s) > 0.03 for s in slack])
    possible = torch.tensor([s > 0 for s in slack])
    assert 3 < int(possible.sum()) < 20 and int(clear.sum()) > 20
    attack = Attack(parse(f"linf:{EPS}"), Targeted(), APGD(100))
    found = Restarts(attack, 2)(model, x, y, target=target)
    assert torch.equal(found.lost[clear], possible[clear])
    reached = model(x + found.value).argmax(1) == target
    assert torch.equal(reached, found.lost)  # success is the target class and nothing else


def reach(model: Linear, x: Tensor, target: int) -> float:
    """By how much the target's logit can exceed all others inside ball and box."""
    w, flat = model.weight.detach().numpy(), x.flatten().numpy()
    others = [k for k in range(len(w)) if k != target]
    rows = np.array([np.append(w[k] - w[target], 1.0) for k in others])
    limits = np.array([(w[target] - w[k]) @ flat for k in others])
    bounds = [(max(-EPS, -v), min(EPS, 1 - v)) for v in flat] + [(None, None)]
    return float(-linprog(np.append(np.zeros(16), -1.0), rows, limits, bounds=bounds).fun)


def test_the_worst_error_of_a_regression_is_that_of_the_closed_form(page: dict[str, Any]) -> None:
    g = torch.Generator().manual_seed(1)
    model = Linear(torch.randn(1, 16, generator=g).double(), torch.zeros(1).double())
    x = torch.rand(12, 1, 4, 4, generator=g).double()
    truth = model(x).detach()[:, 0] + 0.3 * torch.randn(12, generator=g).double()
    w, flat = model.weight.detach().numpy()[0], x.flatten(1).numpy()
    up, down = np.minimum(EPS, 1 - flat), np.minimum(EPS, flat)
    high = (np.where(w > 0, w * up, -w * down)).sum(1)
    low = (np.where(w > 0, -w * down, w * up)).sum(1)
    off = (model(x)[:, 0] - truth).detach().numpy()
    worst = np.maximum(np.abs(off + high), np.abs(off + low))
    tolerance = float(np.median(worst))
    objective = page["Error"](tolerance=tolerance)
    attack = Attack(parse(f"linf:{EPS}"), objective, PGD(40))
    found = Restarts(attack, 4)(model, x, truth)
    assert torch.equal(found.lost, torch.from_numpy(worst > tolerance))
    best = found.score.numpy()
    assert best[~found.lost.numpy()] == pytest.approx(worst[~found.lost.numpy()], abs=1e-9)


def test_the_share_of_pixels_is_that_of_trying_every_corner(page: dict[str, Any]) -> None:
    """A network that looks at one pixel at a time: each can be tried by itself."""
    net = nn.Conv2d(1, 2, 1).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([1.0, -1.0])[:, None, None, None])
        net.bias.copy_(torch.tensor([-0.5, 0.5]))
    x = torch.rand(10, 1, 6, 6, generator=torch.Generator().manual_seed(2)).double()
    labels = net(x).argmax(1)
    ends = [(x + sign * EPS).clamp(0, 1) for sign in (-1, 1)]
    wrong = torch.stack([net(end).argmax(1) != labels for end in ends]).any(0)
    share = wrong.flatten(1).double().mean(1)
    limit = float(share.median()) - 1e-9
    found = Attack(parse(f"linf:{EPS}"), page["Pixels"](limit), PGD(40))(net, x, labels)
    assert torch.equal(found.lost, share > limit) and found.lost.any() and not found.lost.all()
    torch.testing.assert_close(found.score[~found.lost].double(), share[~found.lost])
