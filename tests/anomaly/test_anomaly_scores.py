"""Scores, thresholds and figures against naive computations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from torchproof.anomaly.figures import told, told_apart
from torchproof.anomaly.networks import Architecture
from torchproof.anomaly.scores import Rule, Scores, heat_maps, latents, log_prior, rule_from, scores
from torchproof.core.errors import InputError

SHAPE = (2, 4, 4)


def test_scores_are_those_of_single_images() -> None:
    network = Architecture(latent=3, width=8, batch_norm=True).build(SHAPE, 0)
    x = torch.rand(7, *SHAPE)
    network.train()
    found, maps, z = scores(network, x), heat_maps(network, x), latents(network, x)
    assert network.training  # as it was
    network.eval()
    for row in range(7):
        back = network(x[row : row + 1])[0].detach()
        error = float(sum((back - x[row]).flatten() ** 2) / back.numel())
        assert float(found.error[row]) == pytest.approx(error, rel=1e-5)
        assert torch.allclose(maps[row], ((back - x[row]) ** 2).sum(0) / 2, atol=1e-6)
        assert float(maps[row].mean()) == pytest.approx(error, rel=1e-5)
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(z[row]).sum()
        assert float(found.likelihood[row]) == pytest.approx(float(normal), rel=1e-5)


def test_the_prior_at_its_middle() -> None:
    assert float(log_prior(torch.zeros(1, 2))) == pytest.approx(-np.log(2 * np.pi))


def test_thresholds_are_quantiles_of_what_they_are_made_of() -> None:
    g = np.random.default_rng(0)
    error, likelihood = g.random(50).astype("f4"), g.normal(size=50).astype("f4")
    found = Scores(torch.tensor(error), torch.tensor(likelihood))
    both, one = rule_from(found, True), rule_from(found, False)
    assert both.error == pytest.approx(np.quantile(error, 0.9), rel=1e-5)
    assert both.likelihood == pytest.approx(np.quantile(likelihood, 0.1), rel=1e-5)
    expected = (error > both.error) | (likelihood < both.likelihood)
    assert both.flags(found).tolist() == expected.tolist()
    assert 5 <= int(both.flags(found).sum()) <= 10  # 10 to 20 %
    assert one.likelihood is None and one.flags(found).tolist() == (error > one.error).tolist()
    assert both.flags(found).tolist() == (both.suspicion(found) > 0).tolist()


def test_suspicion_is_the_score_that_is_furthest_beyond() -> None:
    rule = Rule(error=1.0, error_spread=0.5, likelihood=-3.0, likelihood_spread=2.0)
    found = Scores(torch.tensor([2.0, 1.0, 0.5]), torch.tensor([-3.0, -9.0, 0.0]))
    assert rule.suspicion(found).tolist() == [2.0, 3.0, -1.0]


def test_figures_against_counting() -> None:
    g = np.random.default_rng(1)
    error = torch.tensor(g.integers(0, 6, 30).astype("f4"))  # with ties
    likelihood, truth = torch.tensor(g.normal(size=30)), torch.tensor(g.random(30) < 0.4)
    rule = Rule(3.5, 1.0)
    found = told_apart(Scores(error, likelihood), truth, rule)
    bad, good = error[truth].tolist(), error[~truth].tolist()
    assert found.found == pytest.approx(sum(e > 3.5 for e in bad) / len(bad))
    assert found.left_alone == pytest.approx(sum(e <= 3.5 for e in good) / len(good))
    assert found.balanced == pytest.approx((found.found + found.left_alone) / 2)
    wins = [(b > n) + 0.5 * (b == n) for b, n in itertools.product(bad, good)]
    assert found.auroc_error == found.auroc == pytest.approx(sum(wins) / len(wins))
    assert 0 < found.ci95[0] < found.auroc < found.ci95[1] < 1
    rare = [(b < n) for b, n in itertools.product(likelihood[truth], likelihood[~truth])]
    assert found.auroc_likelihood == pytest.approx(sum(map(int, rare)) / len(rare))


def test_what_cannot_be_meant() -> None:
    some = Scores(torch.rand(4), torch.rand(4))
    with pytest.raises(InputError, match="both kinds"):
        told(some.error, torch.ones(4, dtype=torch.bool))
    with pytest.raises(InputError, match="0 anomalies"):
        told_apart(some, torch.zeros(4, dtype=torch.bool), Rule(1.0, 1.0))
    with pytest.raises(InputError, match="thresholds"):
        rule_from(some.take(torch.tensor([0])), False)
    with pytest.raises(InputError, match="share"):
        rule_from(some, False, share=1.0)
