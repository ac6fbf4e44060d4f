"""Noise and counts: their laws, what they depend on, what is left untouched."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from torch import Tensor, nn

from torchproof.core import keys
from torchproof.core.errors import InputError, ModelError
from torchproof.verify.smoothing import (
    Ablation,
    Gaussian,
    Laplace,
    Noise,
    Smoothing,
    Uniform,
    class_counts,
)

X = torch.linspace(0, 1, 3 * 2 * 3 * 3).view(3, 2, 3, 3)


class Half(nn.Module):
    """Class 1 where <w, x> > b, in float64 with w along the first pixel or all of them."""

    def __init__(self, along: str, b: float) -> None:
        super().__init__()
        w = torch.zeros(4, 4, dtype=torch.float64)
        if along == "axis":
            w[0, 0] = 1
        else:
            w += 0.25
        self.w, self.b = nn.Parameter(w), b

    def forward(self, x: Tensor) -> Tensor:
        z = (x * self.w).sum((1, 2, 3)) - self.b
        return torch.stack([-z, z], 1)


def linear(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(18, 4)).double().eval()


@pytest.mark.parametrize(
    ("noise", "law"),
    [
        (Gaussian(0.5), ("norm", (0, 0.5))),
        (Laplace(0.5), ("laplace", (0, 0.5 / math.sqrt(2)))),
        (Uniform(0.5), ("uniform", (-0.5 * math.sqrt(3), math.sqrt(3)))),
    ],
    ids=lambda v: v.kind if isinstance(v, Noise) else "",
)
def test_noise_has_its_law_and_sigma_is_its_deviation(noise: Noise, law: Any) -> None:
    x = torch.full((1, 1, 5, 8), 0.3, dtype=torch.float64)
    drawn = noise.noisy(x, keys.mix(1, "law"), torch.arange(1000)) - x
    assert drawn.shape == (1000, 1, 5, 8)
    flat = drawn.flatten().numpy()
    assert flat.std() == pytest.approx(0.5, rel=0.02)
    assert kstest(flat, *law).pvalue > 0.01
    across = np.corrcoef(drawn.flatten(1).numpy().T)
    assert np.abs(across - np.eye(40)).max() < 0.15  # five deviations of a correlation of 1000


def test_ablation_keeps_every_subset_equally_often() -> None:
    x = torch.arange(1.0, 13).view(1, 2, 2, 3) / 12
    seen = Ablation(2, 6, fill=0.0).noisy(x, keys.mix(0, "law"), torch.arange(6000))
    kept = seen != 0
    assert (kept[:, 0] == kept[:, 1]).all() and (kept[:, 0].flatten(1).sum(1) == 2).all()
    assert torch.equal(torch.where(kept, x, 0.0), seen)
    chances = []
    for seed in range(30):
        seen = Ablation(2, 6).noisy(x[:, :1], keys.mix(seed, "law"), torch.arange(3000))
        subsets = (seen != 0).flatten(1).numpy() @ 2 ** np.arange(6)
        names, often = np.unique(subsets, return_counts=True)
        assert len(names) == 15
        chances.append(chisquare(often).pvalue)
    assert kstest(chances, "uniform").pvalue > 0.01
    with pytest.raises(InputError, match="2 x 3 pixels"):
        Ablation(2, 9).noisy(x, keys.mix(0), torch.arange(2))


@pytest.mark.parametrize("noise", [Gaussian(0.4), Laplace(0.4), Uniform(0.4), Ablation(4, 9)])
def test_counts_are_those_of_single_draws(noise: Noise) -> None:
    model, ids = linear(), torch.tensor([7, 0, 3])
    found = class_counts(model, X, noise, 40, ids, seed=5, purpose="estimation", slots=64)
    for row, i in enumerate(ids.tolist()):
        naive = torch.zeros(4, dtype=torch.int64)
        key = keys.mix(5, "smoothing", "estimation", torch.tensor([i]))
        for draw in range(40):
            seen = noise.noisy(X[row : row + 1].double(), key, torch.tensor([draw]))
            naive[model(seen).argmax()] += 1
        assert torch.equal(found[row], naive)
    assert len({tuple(row.tolist()) for row in found}) > 1


def test_counts_depend_on_seed_purpose_and_id_alone() -> None:
    model, noise = linear(), Gaussian(0.4)
    whole = class_counts(model, X, noise, 300, slots=256)
    assert whole.shape == (3, 4) and (whole.sum(1) == 300).all()
    for slots in (1, 7, 300, 1000):
        assert torch.equal(class_counts(model, X, noise, 300, slots=slots), whole)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(class_counts(model, X[order], noise, 300, order), whole[order])
    assert torch.equal(class_counts(model, X[1:2], noise, 300, torch.tensor([1])), whole[1:2])
    # the first draws of a longer sample are those of a shorter one
    more = class_counts(model, X, noise, 400)
    assert ((more - whole) >= 0).all()
    for other in ({"seed": 1}, {"purpose": "selection"}, {"ids": torch.tensor([3, 4, 5])}):
        assert not torch.equal(class_counts(model, X, noise, 300, **other), whole)


def test_memory_that_runs_out_only_shrinks_the_batches() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def forward(self, x: Tensor) -> Any:
            if len(x) > 20:
                raise torch.OutOfMemoryError("out of memory")
            return self.inner(x)

    found = class_counts(Small(), X, Gaussian(0.4), 100, slots=64)
    assert torch.equal(found, class_counts(linear(), X, Gaussian(0.4), 100))


def test_the_model_answers_in_eval_mode_and_stays_as_it_was() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(), nn.Linear(4, 3)
        )
        model(torch.rand(8, 2, 3, 3))
    model[3].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    found = class_counts(model, X, Gaussian(0.5), 200, slots=64)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(found, class_counts(model.eval(), X, Gaussian(0.5), 200, slots=64))


def test_a_model_that_draws_and_writes_buffers_is_repeatable() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return torch.rand(len(x), 3)

    model = Odd()
    one, two = (class_counts(model, X, Gaussian(0.5), 50) for _ in range(2))
    assert torch.equal(one, two) and model.calls.item() == 0


def test_noise_is_in_units_of_pixels_whatever_the_model_normalises() -> None:
    seen: list[Tensor] = []

    class Normalised(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return ((x - 0.5) / 0.01).flatten(1)[:, :2]

    class_counts(Normalised(), torch.full((1, 1, 10, 10), 0.5), Gaussian(0.25), 100)
    noise = torch.cat(seen) - 0.5
    assert noise.std().item() == pytest.approx(0.25, rel=0.05)
    assert torch.cat(seen).min() < -0.3  # not cut to [0, 1]


def test_low_precision_models_get_their_own_type() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 3)).bfloat16()
    assert class_counts(model, X, Gaussian(0.5), 10).sum() == 30


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x: torch.full((len(x), 3), math.nan), "NaN"),
        (lambda x: x.flatten(1)[:, :1], "shape"),
        (lambda x: x.flatten(1).argmax(1), "int64"),
        (lambda x: x[:1].flatten(1), "shape"),
    ],
)
def test_answers_that_cannot_be_counted_are_refused(answer: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        class_counts(answer, X, Gaussian(0.5), 10)


@pytest.mark.parametrize("n", [0, -1, 2.5, True])
def test_sample_sizes_nobody_can_mean(n: Any) -> None:
    with pytest.raises(InputError, match="n = "):
        class_counts(linear(), X, Gaussian(0.5), n)


@pytest.mark.parametrize(
    ("noise", "along"), [("gaussian", "all"), ("laplace", "axis"), ("uniform", "axis")]
)
def test_no_certificate_reaches_beyond_the_boundary_of_a_linear_model(
    noise: str, along: str
) -> None:
    """Smoothing leaves this boundary where it is, at a distance |<w, x> - b| in the norm of the
    noise; certificates hold with probability 1 - alpha each, and these are 60.
    """
    x = torch.rand(60, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    model = Half(along, 0.5 if along == "axis" else 2.0)
    values = (x * model.w).sum((1, 2, 3)).detach() - model.b
    smoothing = Smoothing(0.3, noise, n0=50, n=2000, alpha=0.001)
    y = (values > 0).long()
    log = smoothing(model, x, y, seed=1).log()
    distance = values.abs().numpy()
    assert (log.radii[log.correct] <= distance[log.correct]).all() and log.correct.sum() > 30
    assert (log.radii[~log.correct] == 0).all()
    near = log.correct & (distance < 0.9 * smoothing.largest)
    assert (log.radii[near] > distance[near] - 0.1).all() and near.sum() > 20
