"""Defences that only look robust: each raises its flag and gives way to an attack that knows it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack import Run
from torchproof.attack.bpda import BPDA
from torchproof.attack.cases import Found
from torchproof.attack.catalogue import apgd_dlr, pgd, square
from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.attack.starts import Zero
from torchproof.core.norms import Linf
from torchproof.core.objectives import DLR, Goal, Margin, Objective, margin
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import Threat
from torchproof.evaluate import Member, Report, evaluate


def raised(report: Report) -> dict[str, str]:
    """The severity of every flag, by its name."""
    return {flag.name: flag.severity for flag in report.flags}


class Levels(nn.Module):
    """Rounds to a few grey levels: a defence by fewer bits."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 15).round() / 15


def test_a_quantiser_has_no_gradient(net: nn.Module, blobs: Any, threat: Threat) -> None:
    bare = evaluate(net, blobs, threat, "quick")
    naive = evaluate(nn.Sequential(Levels(), net), blobs, threat, "quick")
    found = raised(naive)
    assert found["zero-gradients"] == "severe" and naive.verdict == "unreliable"
    assert found["unbounded-attack-fails"] == "severe"
    assert "gradient masking suspected" in naive.labels
    # attacks from a random start still win a little by luck
    assert naive.robust_accuracy > bare.robust_accuracy + 0.1
    through = evaluate(nn.Sequential(BPDA(Levels()), net), blobs, threat, "quick")
    assert "zero-gradients" not in raised(through)
    assert through.robust_accuracy < naive.robust_accuracy - 0.1
    assert abs(through.robust_accuracy - bare.robust_accuracy) <= 0.05


class Times(nn.Module):
    """Logits multiplied by a constant, which changes no decision."""

    def __init__(self, inner: nn.Module, by: float) -> None:
        super().__init__()
        self.inner, self.by = inner, by

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.inner(x)
        return z * self.by


def test_huge_logits_saturate_cross_entropy(net: nn.Module, blobs: Any, threat: Threat) -> None:
    single = copy.deepcopy(net).float()
    scaled, data = Times(single, 100.0), (blobs.x.float(), blobs.y)
    entropy = [Member("CE", pgd(threat, 20))]
    plain, naive = (evaluate(model, data, threat, entropy) for model in (single, scaled))
    assert plain.verdict == "ok" and "saturated-softmax" not in raised(plain)
    found = raised(naive)
    assert found["saturated-softmax"] == "severe" and naive.verdict == "unreliable"
    (flag,) = (flag for flag in naive.flags if flag.name == "saturated-softmax")
    flat, asked = [int(word) for word in flag.evidence.split() if word.isdecimal()][:2]
    assert flat > 0.2 * asked
    assert naive.robust_accuracy > plain.robust_accuracy + 0.1
    dlr = [Member("DLR", apgd_dlr(threat, 20))]
    adaptive, bare = (evaluate(model, data, threat, dlr) for model in (scaled, single))
    lost = bare.clean_accuracy - bare.robust_accuracy
    assert adaptive.clean_accuracy - adaptive.robust_accuracy >= 0.95 * lost > 0.2
    # a suite that also asks for margins is right, and only warned
    assert raised(evaluate(scaled, data, threat, "quick")) == {"saturated-softmax": "warning"}
    goal = Goal(data[1], -torch.ones_like(data[1]), torch.zeros(60))
    torch.testing.assert_close(
        DLR().loss(scaled(data[0]), goal), DLR().loss(single(data[0]), goal), rtol=0, atol=1e-5
    )


class Noisy(nn.Module):
    """Adds noise to every image, also when tested."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x + 0.1 * torch.randn_like(x))
        return out


def test_noise_at_test_time_is_random(net: nn.Module, blobs: Any, threat: Threat) -> None:
    naive = evaluate(Noisy(net), blobs, threat, "quick")
    assert raised(naive)["random"] == "severe" and naive.verdict == "unreliable"
    assert naive.probes.examples == 0  # all other answers would be as random
    averaged = evaluate(Noisy(net), blobs, threat, "rand", n=8)
    assert raised(averaged)["random"] == "note"


class Winners(nn.Module):
    """Keeps the largest share of the activations: k-winners-take-all (Xiao et al. 2020)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        least = x.topk(max(1, int(self.share * x.shape[1])), dim=1).values[:, -1:]
        return x * (x >= least)


@pytest.fixture(scope="session")
def winners(blobs: Any) -> nn.Module:
    """A wide network of winners that knows the blobs."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(1)
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(36, 1000), Winners(0.05), nn.Linear(1000, 4)
        ).double()
    for step in range(30):
        loss = F.cross_entropy(net(blobs.x), blobs.y)
        grads = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for p, g in zip(net.parameters(), grads, strict=True):
                p -= (0.5 if step < 20 else 0.2) * g
    return net.eval()


def test_winners_take_all_jump(winners: nn.Module, blobs: Any) -> None:
    threat = Threat(Linf(), 0.15)
    seeing = Member("PGD", pgd(threat, 20, objective=Margin()))
    naive = evaluate(winners, blobs, threat, [seeing])
    assert naive.clean_accuracy > 0.9 and raised(naive)["unstable-predictions"] == "warning"
    both = evaluate(winners, blobs, threat, [seeing, Member("Square", square(threat, 1000))])
    assert raised(both)["gradient-free-wins"] == "severe"
    assert both.robust_accuracy < naive.robust_accuracy


@dataclass(frozen=True)
class LastIterate(Attack):
    """Reports a win only where the last point of the search wins."""

    def __call__(self, model: Any, x: Tensor, y: Tensor, *, run: Run = Run(), **more: Any) -> Found:
        quiet = replace(run, last=True, patience=float("inf"), on_done=None)
        found = super().__call__(model, x, y, run=quiet, **more)
        assert isinstance(found.value, Tensor)
        with torch.no_grad():
            lost = model(x + found.value).argmax(1) != y
        found = replace(found, lost=lost, score=torch.zeros_like(found.score))
        if run.on_done is not None:
            run.on_done(found, list(range(len(x))))
        return found


def test_the_last_iterate_hides_wins(winners: nn.Module, blobs: Any) -> None:
    # from one side of the ball to the other, on a landscape that jumps
    threat, search = Threat(Linf(), 0.15), PGD(20, length=2.0)
    last, worst = (
        evaluate(winners, blobs, threat, [Member("PGD", kind(threat, Margin(), search))], n=40)
        for kind in (LastIterate, Attack)
    )
    assert raised(last)["silent-success"] == "severe" and last.verdict == "unreliable"
    assert "silent-success" not in raised(worst)
    assert worst.robust_accuracy < last.robust_accuracy


@pytest.mark.parametrize("start", [PGD(3).start, Zero()])
def test_tiny_steps_do_not_arrive(net: nn.Module, blobs: Any, threat: Threat, start: Any) -> None:
    naive = evaluate(net, blobs, threat, [Member("tiny", pgd(threat, 3, 0.01, Margin(), start))])
    found = raised(naive)
    assert found["incomplete-optimisation"] == "severe" and naive.verdict == "unreliable"
    assert found["small-budget"] == "warning" and found["single-step-wins"] == "severe"
    adaptive = evaluate(net, blobs, threat, [Member("PGD", pgd(threat, 20, objective=Margin()))])
    assert raised(adaptive) == {}
    assert adaptive.robust_accuracy < naive.robust_accuracy - 0.2


class Density(nn.Module):
    """A network that turns away images whose features lie where few of the predicted class do: log
    of a kernel density estimate (Feinman et al. 2017), the threshold being its 5 % quantile.
    """

    def __init__(self, net: Sequence[nn.Module], blobs: Any, width: float = 0.3) -> None:
        super().__init__()
        self.body, self.head, self.width = nn.Sequential(*list(net)[:3]), net[3], width
        with torch.no_grad():
            self.bank, self.labels = self.body(blobs.x), blobs.y
            self.threshold = float(self.seen(blobs.x)[1].quantile(0.05))

    def seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and log densities (B,)."""
        features = self.body(x)
        z: Tensor = self.head(features)
        kernel = -(torch.cdist(features, self.bank) / self.width).square() / 2
        same = z.argmax(1)[:, None] == self.labels
        return z, kernel.where(same, torch.tensor(-1e9, dtype=z.dtype)).logsumexp(1)

    def forward(self, x: Tensor) -> Tensor:
        """K + 1 logits, the last one for "none of them"."""
        z, density = self.seen(x)
        away = torch.where(density < self.threshold, 1e3, -1e3).to(z)
        return torch.cat([z, away[:, None]], 1)


@dataclass(frozen=True)
class Unaware(Objective):
    """The margin of the bare network; a rejected image is no win, but nothing is done about it."""

    def loss(self, out: Tensor, goal: Goal) -> Tensor:
        return margin(out[:, :-1], goal.y)

    def won(self, out: Tensor, goal: Goal) -> Tensor:
        answer = out.argmax(1)
        return (answer != goal.y) & (answer != out.shape[1] - 1)


class Parts(nn.Module):
    """The same model as a table, for an attack that sees all of it."""

    def __init__(self, inner: Density) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z, density = self.inner.seen(x)
        return {"logits": z, "reject": -density}


def test_a_density_that_rejects_everything(net: Any, blobs: Any) -> None:
    threat, model = Threat(Linf(), 0.3), Density(net, blobs)
    attack = Attack(threat, Unaware(), PGD(20))
    naive = evaluate(model, blobs, threat, [Member("bare", attack)])
    assert raised(naive)["all-rejected"] == "severe" and naive.verdict == "unreliable"
    assert not {"noise-wins", "single-step-wins", "silent-success"} & set(raised(naive))
    aware = Attack(threat, Rejecting(Margin(), -model.threshold, weight=0.1), PGD(100))
    right = model(blobs.x).argmax(1) == blobs.y
    lost = aware(Parts(model), blobs.x[right], blobs.y[right]).lost
    assert int((~lost).sum()) < 60 * naive.robust_accuracy - 10
