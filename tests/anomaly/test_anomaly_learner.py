"""An epoch against the same steps written out; weights; the state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from torchproof.anomaly.learner import Learner, Setting
from torchproof.anomaly.networks import Architecture
from torchproof.anomaly.scores import scores
from torchproof.core.errors import InputError, ModelError
from torchproof.core.keys import mix, normal, permutation

SHAPE = (1, 4, 4)
SMALL = Architecture(latent=2, width=8)
WEIGHTS = torch.tensor([1.0, 1, -0.1, 0, 1, 1, 0, 1])


def images(n: int = 8) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0))


def same(one: Learner, other: Learner) -> bool:
    states = one.state(), other.state()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][k], states[1][k]) for k in states[0]
    )


def test_an_epoch_is_adam_on_the_weighted_error() -> None:
    setting, x = Setting(SMALL, batch_size=3, lr=0.01, seed=5), images()
    learner = Learner(setting, SHAPE)
    network = copy.deepcopy(learner.network)
    adam = torch.optim.Adam(network.parameters(), 0.01)
    learner.epoch(x, WEIGHTS)
    kept = [0, 1, 2, 4, 5, 7]
    order = [kept[i] for i in permutation(6, 5, "order", 0).tolist()]
    for rows in (order[:3], order[3:]):
        adam.zero_grad()
        loss = sum(WEIGHTS[r] * ((network(x[r : r + 1]) - x[r]) ** 2).mean() for r in rows) / 3
        assert isinstance(loss, Tensor)
        loss.backward()
        adam.step()
    for mine, theirs in zip(learner.network.parameters(), network.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert learner.epochs == 1


def test_the_adversarial_part_is_that_of_a_gan_on_latents() -> None:
    """One batch, so one step of each of the three optimisers, written out in their order."""
    setting, x = Setting(SMALL, adversarial=True, batch_size=8, lr=0.01), images()
    learner = Learner(setting, SHAPE)
    network, critic = copy.deepcopy(learner.network), copy.deepcopy(learner.critic)
    assert critic is not None
    learner.epoch(x, WEIGHTS)
    rows = torch.tensor([0, 1, 2, 4, 5, 7])[permutation(6, 0, "order", 0)]
    part, weights, ones = x[rows], WEIGHTS[rows], torch.ones(6)
    clipped = weights.clamp(min=0)

    def step(module: torch.nn.Module, loss: Tensor) -> None:
        adam = torch.optim.Adam(module.parameters(), 0.01)
        adam.zero_grad()
        loss.backward()
        adam.step()

    step(network, (weights * (network(part) - part).square().mean((1, 2, 3))).mean())
    prior = normal(mix(0, "prior", rows), 0, (2,))
    bce = binary_cross_entropy_with_logits
    z = network.encode(part).detach()
    step(critic, bce(critic(prior), ones, clipped) + bce(critic(z), 0 * ones, clipped))
    step(network.encoder, bce(critic(network.encode(part)), ones, clipped))
    assert learner.critic is not None
    for mine, theirs in ((learner.network, network), (learner.critic, critic)):
        for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(one, other, atol=1e-5)


def test_rejected_rows_leave_no_trace_not_even_in_batch_norm() -> None:
    how = Architecture(latent=2, width=8, batch_norm=True)
    x, learners = images(), [Learner(Setting(how, batch_size=4), SHAPE) for _ in range(2)]
    changed = x.clone()
    changed[WEIGHTS == 0] = 1 - changed[WEIGHTS == 0]
    for learner, shown in zip(learners, (x, changed), strict=True):
        learner.epoch(shown, WEIGHTS)
    assert same(*learners)


def test_a_negative_weight_makes_worse() -> None:
    x, errors = images(), []
    for weight in (0.0, -0.5):
        learner = Learner(Setting(SMALL, batch_size=8, lr=0.01), SHAPE)
        weights = torch.ones(8).index_fill(0, torch.tensor([2]), weight)
        for _ in range(40):
            learner.epoch(x, weights)
        errors.append(float(scores(learner.network, x).error[2]))
    assert errors[1] > 1.5 * errors[0]


@pytest.mark.parametrize("adversarial", [False, True])
def test_the_state_is_all_there_is(adversarial: bool) -> None:
    how = Architecture(latent=2, width=8, batch_norm=adversarial)
    setting, x = Setting(how, adversarial, batch_size=4), images()
    whole, first, second = (Learner(setting, SHAPE) for _ in range(3))
    for _ in range(4):
        whole.epoch(x, WEIGHTS)
    for _ in range(2):
        first.epoch(x, WEIGHTS)
    second.restore(first.state())
    for _ in range(2):
        second.epoch(x, WEIGHTS)
    assert second.epochs == 4 and same(whole, second)


def test_no_batch_of_one() -> None:
    how = Architecture(latent=2, width=4, batch_norm=True)
    learner = Learner(Setting(how, batch_size=4), SHAPE)
    learner.epoch(images(9), torch.ones(9))  # 5 and 4, not 4, 4 and 1
    assert learner.epochs == 1
    pairs = Learner(Setting(how, batch_size=2), SHAPE)
    for count, sizes in ((7, [3, 2, 2]), (3, [3]), (2, [2]), (8, [2, 2, 2, 2])):
        assert [len(rows) for rows in pairs._batches(torch.ones(count))] == sizes
    pairs.epoch(images(7), torch.ones(7))


def test_what_cannot_be_meant() -> None:
    with pytest.raises(InputError, match="batch_size 1"):
        Setting(SMALL, batch_size=1)
    for lr in (float("nan"), float("inf"), 0.0):
        with pytest.raises(InputError, match="lr"):
            Setting(SMALL, lr=lr)
    with pytest.raises(InputError, match="1 images"):
        Learner(Setting(SMALL), SHAPE).epoch(images(), torch.eye(8)[0])
    with pytest.raises(ModelError, match="finite"):
        Learner(Setting(SMALL), SHAPE).epoch(images() * float("inf"), torch.ones(8))
