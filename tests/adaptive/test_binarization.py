"""The active test passes what can see and fails what cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.adaptive.binarization import Setting, binarization, posed
from torchproof.adaptive.binary_problem import Problems, build
from torchproof.adaptive.predictor import Beside, DefendedPredictor
from torchproof.adaptive.readout import Readout
from torchproof.attack.catalogue import averaged, chain, pgd, square
from torchproof.attack.combine import EveryTarget
from torchproof.attack.nes import NES
from torchproof.attack.starts import Zero
from torchproof.core.errors import InputError
from torchproof.core.norms import L2
from torchproof.core.objectives import Margin, TargetedMargin
from torchproof.core.threats import Threat
from torchproof.core.unaware import Unaware

SMALL = Setting(inside=300, random=50)


@pytest.mark.parametrize("name", ["net", "hardened"])
def test_pgd_passes_on_undefended_networks(
    name: str, request: Any, images: Any, threat: Any
) -> None:
    model = request.getfixturevalue(name)
    weights = [p.clone() for p in model.parameters()]
    found = binarization(model, images.x[:12], pgd(threat, 200))
    assert found.problems == 12 and found.asr >= 0.95 and found.passes and found.informative
    assert found.random_asr < 0.5 and found.readout == "4"
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_tiny_steps_fail(net: nn.Module, images: Any, threat: Any) -> None:
    found = binarization(net, images.x[:12], pgd(threat, 3, 0.01, start=Zero()))
    assert found.problems == 12 and found.asr < 0.5 and not found.passes


def test_gradients_that_are_cut_fail_and_a_substitute_passes(
    net: nn.Module, images: Any, threat: Any, parts: Any
) -> None:
    model = DefendedPredictor(net, preprocess={"levels": parts["levels"](8)})
    x, attack = images.x[:20], pgd(threat, 60, start=Zero())
    problems = posed(model, x, threat, setting=SMALL)
    blind = problems.tried(attack)
    through = problems.tried(attack, model.substituted("levels"))
    assert blind.problems >= 10 and blind.asr < 0.5 and not blind.passes
    assert through.problems == blind.problems and through.asr > blind.asr + 0.3


class Cut(nn.Module):
    """No way back for autograd, as of a part that works outside torch."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach().clone()


def test_a_model_without_any_gradient_fails_and_is_not_refused(
    net: nn.Module, images: Any, threat: Any
) -> None:
    model = DefendedPredictor(net, preprocess={"cut": Cut()})
    found = binarization(model, images.x[:10], pgd(threat, 10, start=Zero()), setting=SMALL)
    assert found.problems >= 5 and found.asr == 0 and not found.passes


def test_noise_asks_for_averages(net: nn.Module, images: Any, threat: Any, parts: Any) -> None:
    model = DefendedPredictor(net, preprocess={"noise": parts["noise"](0.03)})
    x, setting = images.x[:12], Setting(inside=200, random=10, boundary="corner")
    eot = binarization(model, x, averaged(pgd(threat, 40), 8), random=True, setting=setting)
    assert eot.problems >= 8 and eot.asr > 0.8


def test_a_rejecting_model_is_judged_by_its_rule(
    net: nn.Module, images: Any, held: Any, threat: Any, parts: Any
) -> None:
    detector = parts["distance"](net, held.x)
    model = DefendedPredictor(net, reject=detector).calibrated(images.x, 0.1)
    assert model.rule is not None
    x = images.x[:10]
    aware = pgd(threat, 60, objective=model.rule)
    naive = pgd(threat, 60, objective=Unaware(Margin(), model.rule))
    problems = posed(model, x, threat, model.rule, setting=SMALL)
    found, unaware = problems.tried(aware), problems.tried(naive)
    assert found.problems >= 3 and found.asr >= unaware.asr
    # whatever is rejected everywhere has no problem to solve
    never = DefendedPredictor(net, reject=Beside(_Always())).requires_grad_(False)
    none = binarization(never, x[:2], naive, rule=model.rule, setting=SMALL)
    assert none.problems == 0 and not none.informative and none.solved == (None, None)


def test_an_attack_on_the_model_without_its_detector_is_judged_on_the_whole(
    net: nn.Module, images: Any, held: Any, threat: Any, parts: Any
) -> None:
    detector = parts["distance"](net, held.x)
    model = DefendedPredictor(net, reject=detector).calibrated(images.x, 0.1)
    x, bare = images.x[:8], model.without("reject")
    problems = posed(model, x, threat, model.rule, setting=SMALL)
    found = problems.tried(pgd(threat, 60), bare)
    assert found.problems == len(problems.rows) >= 3
    assert found.found > problems.tried(pgd(threat, 1, 1e-6, start=Zero()), bare).found


class Shared(nn.Module):
    """A detector that asks the network itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        moved: Tensor = (self.network(1 - x) - logits).abs().amax(1)
        return moved


def test_a_network_that_its_detector_asks_again_is_read_once(net: nn.Module, images: Any) -> None:
    model = DefendedPredictor(net, reject=Shared(net))
    x = images.x[:6]
    with torch.no_grad():
        readout = Readout.of(model, x)
        features, score = readout.read(model, x)
        assert readout.name == "networks.0.4"
        torch.testing.assert_close(features, nn.Sequential(*list(net)[:5])(x))
        torch.testing.assert_close(score, model(x)["reject"])


class Optimising(Shared):
    """A detector that differentiates the network at test time."""

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        with torch.enable_grad():
            live = x.detach().clone().requires_grad_()
            (grad,) = torch.autograd.grad(self.network(live).logsumexp(1).sum(), [live])
        return grad.flatten(1).norm(dim=1)


def test_a_detector_that_optimises_is_read_in_inference_mode_too(
    net: nn.Module, images: Any
) -> None:
    model = DefendedPredictor(net, reject=Optimising(net))
    with torch.no_grad():
        readout = Readout.of(model, images.x[:4])
        features, score = readout.read(model, images.x[:4])
    with torch.inference_mode():
        again, twice = readout.read(model, images.x[:4] + 0)
    assert torch.equal(features, again) and score is not None and twice is not None
    assert torch.equal(score, twice) and readout.layers


def test_problems_are_posed_once_for_several_attacks(
    net: nn.Module, hardened: nn.Module, images: Any, threat: Any
) -> None:
    x, strong, weak = images.x[:8], pgd(threat, 60), pgd(threat, 1, 1e-6, start=Zero())
    problems = posed(net, x, threat, setting=SMALL)
    for attack, on in ((strong, hardened), (weak, None)):
        assert problems.tried(attack, on) == binarization(net, x, attack, on=on, setting=SMALL)
    assert problems.tried(strong, hardened).found < problems.tried(strong).found
    assert problems.informative and problems.tried(strong).found > problems.tried(weak).found


class _Always(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1) * 0 + 1e9


def test_a_problem_is_what_it_says(net: nn.Module, images: Any, threat: Any) -> None:
    x, setting = images.x[0], Setting(inside=100)
    with torch.no_grad():
        readout = Readout.of(net, images.x)
    made = build(net, readout, x, 0, threat, None, 1, setting, 7)
    assert made is not None
    problem = Problems(net, readout, x[None], made[0][None], made[1][None])
    ball = threat.set(net, x.expand(100, 1, 8, 8))
    draw = torch.Generator().manual_seed(0)
    inside = 0.95 * threat.eps * (2 * torch.rand(100, 1, 8, 8, generator=draw) - 1)
    inside = inside.clamp(ball.low, ball.high)
    with torch.no_grad():
        z = problem(x[None])
        assert int(z.argmax(1)) == 0
        assert float((problem(x + inside).argmax(1) == 0).float().mean()) > 0.9
    # logits are a linear function of the hidden layer
    body = nn.Sequential(*list(net)[:5])
    with torch.no_grad():
        score = body(x[None]) @ made[0] + made[1]
    torch.testing.assert_close(z, torch.stack([-score, score], 1) / 2)


def test_tight_problems_are_harder_to_hit_by_chance(
    net: nn.Module, images: Any, threat: Any
) -> None:
    x, attack = images.x[:15], pgd(threat, 1, 1e-6, start=Zero())
    loose, tight = (
        binarization(net, x, attack, setting=Setting(inside=300, random=200, logits=logits))
        for logits in ("fixed", "tight")
    )
    assert tight.random <= loose.random


def by_answers(attack: Any) -> Any:
    return replace(attack, wrap=lambda oracle: NES(oracle, 10, 0.01, 64))


def test_the_search_is_that_of_the_attack(net: nn.Module, images: Any) -> None:
    threat, x = Threat(L2(), 0.8), images.x[:6]
    problems = posed(net, x, threat, setting=SMALL)
    targeted = EveryTarget(pgd(threat, 40, objective=TargetedMargin()), 9)
    assert problems.tried(targeted).asr >= 0.8
    blind = pgd(threat, 20, 0.2, objective=Margin())
    es = by_answers(blind)
    assert problems.tried(es).asr >= 0.5
    assert problems.tried(square(threat, 20)).asr <= 1.0
    first, second = (binarization(net, x, blind, seed=3, setting=SMALL) for _ in range(2))
    assert first == second
    with pytest.raises(InputError):
        binarization(net, x, chain(blind, blind))
    with pytest.raises(InputError):
        Setting(gap=0.0)


def test_images_that_are_alike_are_kept_apart(net: nn.Module, images: Any, threat: Any) -> None:
    twice = torch.cat([images.x[:4], images.x[:4] + 0.001]).clamp(0, 1)
    found = binarization(net, twice, pgd(threat, 100), setting=SMALL)
    assert found.problems == 8 and found.asr > 0.8
    assert np.isclose(found.asr, np.mean([s for s in found.solved if s is not None]))
