"""CAV, A-CAV, Gram-Schmidt random concepts, their quality: exact laws and independent solutions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression, SGDClassifier
from torch import Tensor, nn

from torchproof.concept import (
    Cav,
    Margin,
    a_cav,
    average,
    cav,
    margin_of,
    pattern_cav,
    quality,
    random_concepts,
    residuals,
    span,
    spread,
    tcav,
    unit_of,
)
from torchproof.concept.a_cav import loss, worst
from torchproof.concept.quality import Quality, Spread, cautions
from torchproof.concept.tcav import welch
from torchproof.core.errors import InputError
from torchproof.core.keys import seed_of


def clouds(n: int = 12, d: int = 5, apart: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two overlapping clouds of activations, the first around `apart` in every entry."""
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(2 * n, d, generator=g, dtype=torch.float64)
    return a[:n] + apart, a[n:]


def test_the_plain_vector_is_that_of_scikit_learn() -> None:
    up, down = clouds()
    found = cav(up, down, seed=3)
    a, y = torch.cat([up, down]).numpy(), np.repeat(["concept", "another"], 12)
    state = seed_of(3, "cav") % 2**32
    made = SGDClassifier(alpha=0.01, max_iter=1000, tol=1e-3, random_state=state).fit(a, y)
    assert found.vector.numpy() == pytest.approx(made.coef_[0] / np.linalg.norm(made.coef_))
    assert [bool(s > 0) for s in found.score(torch.cat([up, down]))] == [
        bool(p == "concept") for p in made.predict(a)
    ]
    assert float(found.vector.norm()) == pytest.approx(1)
    assert torch.equal(found.vector, cav(up, down, seed=3).vector)
    assert not torch.equal(found.vector, cav(up, down, seed=4).vector)


def test_without_a_margin_it_is_logistic_regression() -> None:
    up, down = clouds()
    a, y = torch.cat([up, down]).numpy(), np.repeat([1, -1], 12)
    other = LogisticRegression(C=1 / (0.05 * 24), tol=1e-10, max_iter=10000).fit(a, y)
    length = np.linalg.norm(other.coef_[0])
    for norm in ("linf", "l2"):
        found = a_cav(up, down, Margin(0.0, norm=norm), decay=0.05)
        assert np.allclose(found.vector.numpy(), other.coef_[0] / length, atol=1e-3)
        assert found.bias == pytest.approx(other.intercept_[0] / length, abs=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("side", ["concept", "random", "both"])
def test_the_closed_form_is_the_loss_at_the_worst_points(norm: str, side: str) -> None:
    up, down = clouds()
    a, y = torch.cat([up, down]).numpy(), np.repeat([1.0, -1.0], 12)
    g = np.random.default_rng(0)
    w, b, margin = g.normal(size=5), 0.3, Margin(0.2, side, norm)  # type: ignore[arg-type]
    moved = worst(a, y, w, margin)
    explicit = np.mean(
        [math.log1p(math.exp(-s * (w @ p + b))) for s, p in zip(y, moved, strict=True)]
    )
    assert loss(a, y, w, b, margin) == pytest.approx(explicit, abs=1e-12)
    hit = {"concept": y > 0, "random": y < 0, "both": y != 0}[side]
    away = np.linalg.norm(moved - a, ord=np.inf if norm == "linf" else 2, axis=1)
    assert away == pytest.approx(np.where(hit, 0.2, 0))
    for _ in range(200):  # no other point of the balls is worse
        step = g.normal(size=a.shape) if norm == "l2" else g.uniform(-1, 1, a.shape)
        size = np.linalg.norm(step, axis=1, keepdims=True) if norm == "l2" else 1.0
        other = a + np.where(hit, 0.2, 0)[:, None] * step / size
        assert np.logaddexp(0, -y * (other @ w + b)).mean() <= explicit


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("side", ["concept", "both"])
def test_the_minimum_against_another_solver(norm: str, side: str) -> None:
    up, down = clouds(apart=1.5)
    a, y = torch.cat([up, down]).numpy(), np.repeat([1.0, -1.0], 12)
    margin = Margin(0.15, side, norm)  # type: ignore[arg-type]
    found = a_cav(up, down, margin, decay=0.05)

    def of(at: np.ndarray) -> float:  # type: ignore[type-arg]
        return loss(a, y, at[:-1], at[-1], margin, 0.05)

    options = {"maxiter": 20000, "maxfev": 20000, "xatol": 1e-9, "fatol": 1e-12, "adaptive": True}
    best = minimize(of, np.append(found.vector.numpy(), found.bias), method="Nelder-Mead",
                    options=options).x  # fmt: skip
    scale = np.linalg.norm(best[:-1])
    assert of(best) <= of(np.append(found.vector, found.bias) * scale) <= of(best) + 1e-4
    assert found.vector.numpy() @ best[:-1] / scale > 0.999


def test_the_margin_of_the_concept_grows_with_eps() -> None:
    up, down = clouds(n=30, d=20, apart=0.8)
    each = [a_cav(up, down, Margin(eps), decay=0.01) for eps in (0.0, 0.1, 0.3)]
    margins = [margin_of(one, up) for one in each]
    assert margins[0] < margins[1] < margins[2]
    held, others = clouds(n=300, d=20, apart=0.8, seed=5)
    qualities = [quality(one, held, others) for one in each]
    recalls, false = zip(*((q.recall, q.false_positives) for q in qualities), strict=True)
    assert recalls[0] < recalls[2] and false[0] < false[2], "recall is bought with false positives"
    other = a_cav(up, down, Margin(0.3, "random"), decay=0.01)
    assert quality(other, held, others).recall < recalls[0]


def test_the_unit_makes_the_vector_independent_of_the_scale() -> None:
    up, down = clouds()
    small, large = unit_of(up, down), unit_of(50 * up, 50 * down)
    assert small == pytest.approx(float(torch.cat([up, down]).square().mean().sqrt()))
    one = a_cav(up / small, down / small)
    other = a_cav(50 * up / large, 50 * down / large)
    assert torch.allclose(one.vector, other.vector, atol=1e-6)
    assert unit_of(torch.zeros(2, 3)) == 1.0


def test_the_pattern_and_the_average() -> None:
    up, down = torch.tensor([[3.0, 0], [5, 0]]), torch.tensor([[0.0, 0], [0, 0]])
    found = pattern_cav(up, down)
    assert found.vector.tolist() == [1, 0] and found.bias == -2
    other = Cav.of(np.array([0.0, 2.0]), 4.0)
    middle = average([found, other])
    assert middle.vector.tolist() == pytest.approx([0.5**0.5] * 2)
    assert middle.bias == pytest.approx(0 / 2 / 0.5**0.5)  # (-2 + 2) / 2


def test_random_concepts_are_orthogonal_to_the_concept_and_each_other() -> None:
    concept = clouds(n=6, d=40)[0]
    concept = torch.cat([concept, concept[:1] + concept[1:2]])  # one that depends on others
    q, noise = span(concept), random_concepts(concept, 10, seed=1)
    assert q.shape == (40, 6) and torch.allclose(q.T @ q, torch.eye(6, dtype=q.dtype), atol=1e-12)
    gram = noise @ noise.T
    length = float(concept.norm(dim=1).mean())
    assert torch.allclose(gram, length**2 * torch.eye(10, dtype=gram.dtype), atol=1e-9)
    assert float((noise @ concept.T).abs().max()) < 1e-10
    few = random_concepts(concept, 4, seed=1)  # products of other sizes round otherwise
    assert torch.allclose(noise[:4], few, atol=1e-12)
    assert not torch.allclose(noise, random_concepts(concept, 10, seed=2))
    other = clouds(n=5, d=40, seed=9)[1]
    rest = residuals(other, concept)
    assert float((rest @ q).abs().max()) < 1e-12
    assert torch.linalg.matrix_rank(torch.cat([concept, other - rest])) == 6
    with pytest.raises(InputError, match="1 to 34"):
        random_concepts(concept, 35)


def test_noise_as_the_only_negatives_marks_everything() -> None:
    g = torch.Generator().manual_seed(0)
    rest = torch.rand(80, 300, generator=g, dtype=torch.float64)  # never negative
    up = torch.rand(80, 300, generator=g, dtype=torch.float64) + 0.3 * (torch.arange(300) < 30)
    noise = random_concepts(up[:40], 40)
    found = quality(a_cav(up[:40], noise, Margin(0.0)), up[40:], rest[40:])
    assert found.recall == found.false_positives == 1
    proper = quality(a_cav(up[:40], rest[:40], Margin(0.0)), up[40:], rest[40:])
    assert proper.recall > 0.8 and proper.false_positives < 0.2
    assert cautions("noise", spread([found])) and not cautions("proper", spread([proper]))


def test_quality_against_a_count() -> None:
    one = Cav.of(np.array([0.0, 3.0]), 1.5)  # boundary at -0.5
    up = torch.tensor([[9.0, -1], [9, 0], [9, 2]])
    down = torch.tensor([[0.0, -3], [0, 0]])
    found = quality(one, up, down)
    assert (found.recall, found.false_positives) == pytest.approx((2 / 3, 1 / 2))
    wins = [(u > d) + (u == d) / 2 for u in (-1, 0, 2) for d in (-3, 0)]
    assert found.auroc == pytest.approx(sum(wins) / 6)
    assert margin_of(one, up) == pytest.approx(-0.5)
    each = [found, Quality(1.0, 0.0, 1.0)]
    expected = Spread(2, 5 / 6, (1 / 3) / 2**0.5, 0.25, 0.5 / 2**0.5, (1 + found.auroc) / 2,
                      (1 - found.auroc) / 2**0.5)  # fmt: skip
    got = spread(each)
    assert [getattr(got, f) for f in vars(expected)] == pytest.approx(list(vars(expected).values()))
    assert math.isnan(spread([found]).recall_std)


class Bilinear(nn.Module):
    """Two logits of a layer's answer: its first entry, and the product of the first two."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        a = self.layer(x)
        return torch.stack([a[:, 0], (a[:, 0] - 0.5) * (a[:, 1] - 0.5)], 1)


def test_tcav_against_a_count() -> None:
    x = torch.rand(50, 1, 1, 3, generator=torch.Generator().manual_seed(0))
    concept = [Cav.of(np.array([1.0, s, 0.0]), 0.0) for s in (0.0, 0.1, -0.1)]
    random = [Cav.of(np.array([s, 0.3, 1.0]), 0.0) for s in (1.0, -1.0, 1.0, -1.0)]
    found = tcav(Bilinear(), x, 0, "layer", concept, random, tests=3)
    assert found.scores == (1, 1, 1) and found.random == (1, 0, 1, 0)
    assert found.magnitude == pytest.approx([float(c.vector[0]) for c in concept])
    expected = stats.ttest_ind([1.0, 1.001, 0.999], found.random, equal_var=False).pvalue
    assert found.p == pytest.approx(3 * expected, rel=0.05) and not found.significant
    other = tcav(Bilinear(), x, 1, "layer", concept[:2], random)
    a = x.flatten(1)
    for cav_, score in zip(concept, other.scores, strict=False):
        u, v = float(cav_.vector[0]), float(cav_.vector[1])
        counted = sum(float(u * (r[1] - 0.5) + v * (r[0] - 0.5)) > 0 for r in a) / 50
        assert score == pytest.approx(counted)


def test_the_test_is_that_of_welch() -> None:
    one, other = [0.1, 0.4, 0.2, 0.35], [0.5, 0.8, 0.75]
    expected = stats.ttest_ind(one, other, equal_var=False).pvalue
    assert welch(one, other) == pytest.approx(expected)
    assert welch([0.5, 0.5], [0.5, 0.5]) == 1 and welch([1, 1], [0, 0]) == 0


def test_what_cannot_be_meant_is_refused() -> None:
    up, down = clouds()
    for bad in (up[:1], up[0], torch.full_like(up, math.nan), up[:, :2]):
        with pytest.raises(InputError):
            cav(bad, down)
    for wrong in ({"eps": -1}, {"eps": math.inf}, {"side": "left"}, {"norm": "l1"}):
        with pytest.raises(InputError):
            Margin(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="decay"):
        a_cav(up, down, decay=0.0)
    with pytest.raises(InputError, match="smaller eps"):
        a_cav(up, down, Margin(100.0, "both"))
    with pytest.raises(InputError, match="at least one"):
        average([])
    with pytest.raises(InputError, match="two"):
        tcav(Bilinear(), torch.rand(3, 1, 1, 3), 0, "layer", [cav(up, down)], [cav(up, down)])
