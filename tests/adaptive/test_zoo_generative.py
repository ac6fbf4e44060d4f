"""Deep Bayes: its weights are ratios of densities, its rejections likelihood and divergence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.distributions import Categorical, Normal

from torchproof.adaptive.zoo.generative import (
    LATENT,
    DeepBayes,
    LabelTerm,
    Unlikely,
)
from torchproof.attack.untouched import forked

CPU = torch.device("cpu")


def bayes() -> DeepBayes:
    with forked(0, CPU):
        made = DeepBayes(4, 6, 3)
        torch.nn.init.normal_(made.log_std, 0.0, 0.3)
        made.mean.normal_()
        made.std.uniform_(0.5, 2.0)
    return made.eval()


@torch.no_grad()
def test_the_weights_are_ratios_of_densities() -> None:
    made = bayes()
    with forked(1, CPU):
        features, noise = torch.randn(5, 6), torch.randn(3, 5, LATENT)
    y = torch.tensor([0, 1, 2, 3, 1])
    found = made.weights(features, y, noise)
    for i in range(5):
        x = (features[i] - made.mean) / made.std
        hot = torch.eye(4)[y[i]]
        mean, log_std = made.encoder(torch.cat([x, hot])).chunk(2)
        q = Normal(mean, log_std.clamp(-5, 2).exp())
        for k in range(3):
            z = mean + q.scale * noise[k, i]
            joint = Normal(0.0, 1.0).log_prob(z).sum()
            joint = joint + Categorical(logits=made.label(z)).log_prob(y[i])
            joint = joint + Normal(made.decoder(z), made.log_std.exp()).log_prob(x).sum()
            assert abs(float(found[k, i] - (joint - q.log_prob(z).sum()))) < 1e-3


@torch.no_grad()
def test_the_answer_is_the_log_of_the_mean_weight_of_each_class() -> None:
    made = bayes()
    with forked(1, CPU):
        features = torch.randn(5, 6)
    with forked(2, CPU):
        found = made(features)
    with forked(2, CPU):
        noise = torch.randn(3, 20, LATENT).view(3, 5, 4, LATENT)
    for k in range(4):
        weights = made.weights(features, torch.full((5,), k), noise[:, :, k])
        torch.testing.assert_close(found[:, k], (weights.exp().sum(0) / 3).log())
    # many samples agree with many others: it is an estimate of one number
    made.samples = 4000
    with forked(3, CPU):
        one = made(features[:1])
    with forked(4, CPU):
        other = made(features[:1])
    assert float((one - other).abs().max()) < 1.0


def test_the_suspicions_are_likelihood_and_divergence() -> None:
    with forked(0, CPU):
        clean, z = 3 * torch.randn(200, 4), 3 * torch.randn(6, 4)
    unlikely = Unlikely(clean)
    found = unlikely.both(z)
    p = clean.softmax(1)
    for i in range(6):
        answer, q = int(z[i].argmax()), z[i].softmax(0)
        assert abs(float(found[i, 0]) + math.log(float(z[i].exp().sum()))) < 1e-4
        usual = p[clean.argmax(1) == answer].mean(0)
        kl = sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(usual, q, strict=True))
        assert abs(float(found[i, 1]) - kl) < 1e-4
    both = unlikely.both(clean)
    score = unlikely(clean, clean)
    units = (both - both.median(0).values) / (both.quantile(0.95, 0) - both.median(0).values)
    torch.testing.assert_close(score, units.amax(1))


@pytest.fixture(scope="module")
def made(made_row: Callable[..., Any]) -> Any:
    return made_row("generative")


@pytest.mark.slow
@torch.no_grad()
def test_the_features_are_those_of_the_base(made: Any) -> None:
    material, defended, base = made
    assert set(defended.parts) == {"bayes", "reject"}
    x = material.test.x
    features = defended.networks[0].features(x)
    torch.testing.assert_close(base.fc2(base.act3(features)), base(x))
    bare = defended.without("reject").without("bayes")(x)["logits"]
    assert torch.equal(bare, LabelTerm(defended.networks[0].bayes)(features))
    assert float((bare.argmax(1) == material.test.y).float().mean()) > 0.5
