"""Measures of complexity against closed forms, brute force and independent noise."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError
from torchproof.diagnose.generalisation import LARGEST, Complexity, complexity, path_norm

CLASSES = 3


def data(n: int = 80) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 1, 2, 2, generator=generator), torch.arange(n) % CLASSES


def linear() -> nn.Sequential:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES, bias=False))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(CLASSES, 4, generator=generator))
    return model


def test_norms_and_margin_have_their_closed_forms() -> None:
    model, (x, _) = linear(), data()
    w = model[1].weight.detach().double()
    z = x.double().flatten(1) @ w.T
    y = z.argmax(1)
    y[:20] = (y[:20] + 1) % CLASSES  # some are wrong
    start = {"1.weight": torch.zeros(CLASSES, 4)}
    found = complexity(model, x, y, initial=start, draws=1)
    assert found.norm == pytest.approx(float(w.square().sum()))
    assert found.distance == pytest.approx(found.norm)
    assert found.frobenius == pytest.approx(math.log(found.norm))
    assert found.spectral == pytest.approx(2 * math.log(float(torch.linalg.svdvals(w)[0])))
    margins = [float(z[i, y[i]] - max(z[i, k] for k in range(CLASSES) if k != y[i]))
               for i in range(len(y))]  # fmt: skip
    assert found.margin == pytest.approx(float(torch.tensor(margins).double().quantile(0.1)))
    assert found.margin < 0 and found.measures["inverse margin"] == -found.margin
    assert found.accuracy == pytest.approx(0.75) and found.parameters == 12
    assert found.loss == pytest.approx(float(F.cross_entropy(z, y)), rel=1e-5)
    assert "distance from initialisation" not in complexity(model, x, y, draws=1).measures


def test_the_path_norm_is_a_sum_over_paths() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, CLASSES))
    a, b = (model[i].weight.detach().double() for i in (1, 3))
    c, d = (model[i].bias.detach().double() for i in (1, 3))
    paths = sum(
        float((a[h, i] * b[k, h]) ** 2)
        for i, h, k in itertools.product(range(4), range(5), range(CLASSES))
    )
    bias = sum(float((c[h] * b[k, h]) ** 2) for h in range(5) for k in range(CLASSES))
    found = path_norm(model, torch.zeros(1, 1, 2, 2))
    assert found == pytest.approx(paths + bias + float(d.square().sum()))


@cache
def of_many_draws() -> tuple[nn.Sequential, Tensor, Tensor, Complexity]:
    """A model, images, labels that it gets right, and the complexity of a hundred draws."""
    model, (x, _) = linear(), data()
    with torch.no_grad():
        y = model(x).argmax(1)
    return model, x, y, complexity(model, x, y, draws=100)


@pytest.mark.slow
@pytest.mark.parametrize("aware", [False, True])
def test_the_noise_has_the_standard_deviation_that_is_told(aware: bool) -> None:
    """At the level found, fresh noise of that deviation costs ten points of accuracy; with the
    variance as the deviation it would not.
    """
    model, x, y, found = of_many_draws()
    sigma = found.relative_sigma if aware else found.sigma
    w = model[1].weight.detach().double()
    generator = torch.Generator().manual_seed(5)

    def left(power: float) -> float:
        variance = (sigma * w).square() + 1e-6 if aware else torch.full_like(w, sigma**2)
        z = torch.randn(4000, *w.shape, generator=generator, dtype=torch.float64)
        logits = torch.einsum("dki,ni->dnk", w + z * variance**power, x.double().flatten(1))
        return float((logits.argmax(2) == y).double().mean())

    assert left(0.5) == pytest.approx(0.9, abs=0.015)
    assert abs(left(1.0) - 0.9) > 0.02
    name = "magnitude-aware sharpness" if aware else "sharpness"
    assert found.measures[name] == pytest.approx(1 / sigma**2)


def test_a_network_that_no_noise_hurts_has_the_largest_level() -> None:
    model, (x, _) = linear(), data()
    y = torch.zeros(len(x), dtype=torch.int64)
    with torch.no_grad():
        model[1].weight.zero_()
        y[:] = model(x).argmax(1)
    model[1].weight.data[0] = 1e6
    found = complexity(model, x, y, draws=2)
    assert found.sigma == LARGEST and found.relative_sigma < LARGEST


def test_batch_normalisation_is_folded_before_weights_are_read() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, CLASSES)
    )
    model.eval()
    nn.init.constant_(model[1].running_var, 4.0)
    x, y = data()
    found, plain = (complexity(model, x, y, draws=1, fold=fold) for fold in (True, False))
    conv, head = model[0].weight.detach(), model[3].weight.detach()
    scale = 1 / (4.0 + model[1].eps)
    assert found.norm == pytest.approx(float(scale * conv.square().sum() + head.square().sum()))
    assert plain.norm == pytest.approx(float(conv.square().sum() + head.square().sum()))


def test_a_start_of_another_network_is_refused() -> None:
    x, y = data()
    with pytest.raises(InputError, match="initial state"):
        complexity(linear(), x, y, initial={"1.weight": torch.zeros(5, 4)})
    with pytest.raises(InputError, match="draws"):
        complexity(linear(), x, y, draws=0)
