"""Gradient noise and its tail index: gradients against plain autograd, readings and verdicts on
noise of known law, networks nobody can read, and networks that were trained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core import keys
from torchproof.core.errors import InputError, ModelError, UnknownName
from torchproof.data import load
from torchproof.diagnose import gradient_noise as noise_module
from torchproof.diagnose.gradient_noise import gradient_noise, linear_hinge
from torchproof.diagnose.readings import read_tails
from torchproof.diagnose.stable import gaussian_reading, group_size, mohammadi, stable
from torchproof.diagnose.tail_checks import gaussian_share, level
from torchproof.diagnose.tail_index import (
    TailIndex,
    _mixed,
    tail_index,
    tail_index_over_training,
    tails,
)
from torchproof.nn.cnn import SmallCNN

P, M = 100, 1500


def images(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    key = keys.mix("images", seed, torch.arange(n))
    return keys.uniform(key, 0, (1, 3, 3)), keys.integers(key, 1, 4, (1,))[:, 0]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 4, bias=False))


@pytest.mark.parametrize("loss", ["nll", "hinge"])
def test_the_noise_against_plain_autograd(loss: str) -> None:
    (x, y), model = images(205), small()
    found = gradient_noise(model, x, y, 4, loss=loss, seed=None)
    rows = []
    for start in range(0, 204, 4):
        logits = model(x[start : start + 4])
        if loss == "nll":
            value = F.cross_entropy(logits, y[start : start + 4])
        else:
            terms = [
                max(0.0, 1 - (1 if k == y[start + i] else -1) * logits[i, k])
                for i in range(4) for k in range(4)
            ]  # fmt: skip
            value = torch.as_tensor(sum(terms)) / 16
        gradients = torch.autograd.grad(value, list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradients]))
    wanted = torch.stack(rows)
    assert found.values.shape == (51, 9 * 12 + 12 + 48)
    torch.testing.assert_close(found.values, wanted - wanted.mean(0), atol=1e-6, rtol=1e-4)
    assert found.names == ("1.weight", "1.bias", "3.weight") and found.sizes == (108, 12, 48)
    torch.testing.assert_close(found.layer("1.bias"), found.values[:, 108:120])
    with pytest.raises(UnknownName, match="did you mean 1"):
        found.layer("1.wait")


def test_nothing_is_left_behind_and_seeds_order_the_images() -> None:
    x, y = images(200)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.BatchNorm1d(8), nn.Dropout(0.5),
                          nn.Linear(8, 4))  # fmt: skip
    model.requires_grad_(False).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    calm = gradient_noise(model, x, y, 4).values
    assert torch.equal(calm, gradient_noise(model, x, y, 4).values)
    assert not torch.equal(calm, gradient_noise(model, x, y, 4, seed=1).values)
    lively = gradient_noise(model, x, y, 4, mode="train").values
    assert not torch.allclose(calm, lively) and bool(calm.isfinite().all())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    part = gradient_noise(model, x, y, 4, limit=10)
    assert part.sizes == (10, 8, 8, 8, 10, 4)
    torch.testing.assert_close(part.layer("1.weight"), calm[:, 31:41])  # the middle of 72


def test_tied_and_unused_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = images(200)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.once = nn.Linear(9, 9, bias=False)
            self.again, self.idle = self.once, nn.Linear(3, 3)
            self.last = nn.Linear(9, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.again(self.once(x.flatten(1)).relu()))
            return out

    found = gradient_noise(Tied(), x, y, 4)
    assert found.names == ("once.weight", "idle.weight", "idle.bias", "last.weight", "last.bias")
    assert not bool(found.layer("idle.weight").any()) and bool(found.layer("once.weight").any())
    monkeypatch.setattr(noise_module, "MOST", 50 * 60)
    assert sum(gradient_noise(Tied(), x, y, 4).sizes) <= 60


def test_networks_and_data_that_are_refused() -> None:
    x, y = images(200)
    with pytest.raises(InputError, match="50 batches, 250 images"):
        gradient_noise(small(), x, y, 5)
    with pytest.raises(UnknownName, match="hinge"):
        gradient_noise(small(), x, y, 4, loss="hing")
    with pytest.raises(InputError, match="mean loss of a batch"):
        gradient_noise(small(), x, y, 4, loss=lambda z, y: F.cross_entropy(z, y, reduction="none"))
    with pytest.raises(ModelError, match="without parameters"):
        gradient_noise(nn.Flatten(), x, y, 4)

    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).detach()

    with pytest.raises(ModelError, match="without gradient"):
        gradient_noise(Detached(), x, y, 4)
    broken = small()
    with torch.no_grad():
        broken[1].weight[0, 0] = math.nan
    with pytest.raises(ModelError, match="NaN"):
        gradient_noise(broken, x, y, 4)


def test_too_few_numbers_name_how_many_images_it_takes() -> None:
    x, y = images(200)
    with pytest.raises(InputError) as caught:
        tail_index(small(), x, y, 4)
    count = 50 * (9 * 12 + 12 + 48)  # some of them zero, as units may be dead
    assert int(caught.value.given.split()[0]) <= count
    needed = int(caught.value.remedy.split()[3])
    assert needed >= 10_000 / count * 200 and needed % 4 == 0
    again = tail_index(small(), *images(needed + 80), 4)
    assert again.overall.batches >= needed // 4
    assert {e.name for e in again.layers if e.tails is None} == {"1.weight", "1.bias", "3.weight"}
    assert "images" in again.layers[0].refused


def test_exact_zeros_alone_are_refused() -> None:
    sure = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    with torch.no_grad():
        sure[1].weight.zero_()
        sure[1].bias.copy_(torch.tensor([2.0, -2, -2, -2]))
    x, y = images(200)
    assert linear_hinge(sure(x), torch.zeros_like(y)).item() == 0
    with pytest.raises(InputError, match="the same in all batches"):
        tail_index(sure, x, torch.zeros_like(y), 4, loss="hinge")
    track = tail_index_over_training([(7, sure)], x, torch.zeros_like(y), 4, loss="hinge")
    assert track.silent == (7,) and track.steps == track.tails == ()


# ---- noise of known law


def gaussian(seed: int = 0) -> Tensor:
    return keys.normal(keys.mix("noise", seed, torch.arange(P)), 0, (M,))


def centred(noise: Tensor) -> Tensor:
    return (noise - noise.mean(0)).float()


def test_gaussian_noise_reads_2_everywhere_and_is_not_called_heavy() -> None:
    found = tails(centred(gaussian()))
    for name in ("pooled", "filtered", "standardised", "gaussian", "correlated", "quantile",
                 "characteristic", "per_coordinate", "gaussian_per_coordinate"):  # fmt: skip
        assert getattr(found, name).alpha == pytest.approx(2, abs=0.12), name
    assert found.hill.alpha > 4 and found.zeros == 0
    assert found.gaussian_share == pytest.approx(0.95, abs=0.02)
    assert not found.heavy_tailed and any("does not exclude 2" in t for t in found.because)
    assert json.loads(json.dumps(asdict(found)))["batches"] == P


def test_unequal_scales_are_told_from_heavy_tails() -> None:
    scales = (1.5 * keys.normal(keys.mix("scales"), 0, (M,))[0]).exp()
    noise = centred(gaussian() * scales)
    found = tails(noise)
    assert found.pooled.alpha < 1.4 and found.quantile.alpha < 1.2
    # what the surrogate reads is known in closed form, up to the subtracted mean
    wanted = gaussian_reading(noise.std(0).repeat(P), group_size(P * M))
    assert found.gaussian.alpha == pytest.approx(wanted, abs=0.06)
    assert found.pooled.alpha == pytest.approx(found.gaussian.alpha, abs=0.08)
    assert found.standardised.alpha == pytest.approx(2, abs=0.12)
    assert found.per_coordinate.alpha == pytest.approx(2, abs=0.15)
    assert not found.heavy_tailed
    said = "; ".join(found.because)
    assert found.filtered.high < 2 and "does not exclude 2" not in said  # the reading alone would
    for objection in ("divided by its standard deviation", "coordinate by coordinate",
                      "fits the levelled noise no better than the Gaussian one"):  # fmt: skip
        assert objection in said
    assert "a heavy tail is not supported (" in read_tails(TailIndex(found, (), 1))


def test_coordinates_that_move_together_are_told_from_heavy_tails() -> None:
    strength = keys.uniform(keys.mix("strength"), 0, (M,))[0]
    found = tails(centred(gaussian()[:, :1] * strength + 0.01 * gaussian(1)))
    assert found.pooled.alpha < 1.1 and found.standardised.alpha < 1.1
    assert found.gaussian.alpha > 1.6  # deviations alone do not explain it,
    assert found.correlated.alpha == pytest.approx(found.pooled.alpha, abs=0.05)  # moving does
    assert found.scaling[0].alpha == pytest.approx(2, abs=0.1)
    assert not found.heavy_tailed


def test_zeros_are_counted_and_left_out() -> None:
    live = keys.uniform(keys.mix("live"), 0, (M,))[0] > 0.5
    noise = centred(gaussian()) * live
    found = tails(noise)
    assert found.zeros == pytest.approx(1 - float(live.float().mean()), abs=1e-6)
    assert found.pooled.alpha < 0.4
    assert found.filtered.alpha == pytest.approx(2, abs=0.15) and not found.heavy_tailed


@pytest.mark.parametrize("alpha", [1.3, 1.6])
def test_stable_noise_is_called_heavy(alpha: float) -> None:
    found = tails(centred(stable(alpha, keys.mix("stable", torch.arange(P)), M)))
    assert found.heavy_tailed and found.because == ()
    assert found.curve.alpha == pytest.approx(alpha, abs=0.05)
    assert [e.alpha for e in found.scaling] == pytest.approx([alpha] * 3, abs=0.15)
    assert found.gaussian_share < 0.2
    # deviations of stable numbers are heavy-tailed themselves: this control cannot tell
    assert found.gaussian.alpha < alpha + 0.1


def test_finite_variance_is_told_from_a_stable_law() -> None:
    chi = torch.stack([gaussian(s) for s in (2, 3, 4)]).square().sum(0)
    found = tails(centred(gaussian() * (3 / chi).sqrt()))
    assert found.filtered.alpha < 1.9 and found.per_coordinate.alpha < 1.85
    assert not found.heavy_tailed and any("keeps its index" in text for text in found.because)


def test_gaussian_noise_of_the_same_covariance() -> None:
    noise = centred(gaussian()[:, :3] @ torch.tensor([[1.0, 2, 0], [0, 1, 0], [0, 0, 3]]))
    made = torch.Generator().manual_seed(1)
    drawn = torch.cat([_mixed(noise, made) for _ in range(200)])
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(noise.T), rtol=0.06, atol=0.06)


def test_levelling_undoes_scales_and_moving_together() -> None:
    noise = gaussian()[:, :1] * torch.logspace(-3, 3, 400) * (1 + 0 * gaussian()[:, :400])
    found = level(noise, torch.Generator().manual_seed(0))
    assert float(found.abs().median()) == pytest.approx(1, abs=0.05)
    assert mohammadi(found, group=100).alpha == pytest.approx(2, abs=0.25)
    assert mohammadi(noise.flatten(), group=100).alpha < 1.3
    few = noise.clone()
    few[:-10, 7] = 0  # moves in ten batches only
    assert len(level(few, torch.Generator().manual_seed(0))) == 399 * (P // 2)


def test_the_test_of_anderson_and_darling_by_a_plain_loop() -> None:
    columns = torch.cat([gaussian()[:, :12], gaussian(5)[:, :12] ** 3], 1).double()
    kept = 0
    for column in columns.T.numpy():
        z = sorted((column - column.mean()) / column.std(ddof=1))
        n = len(z)
        below, above = stats.norm.logcdf(z), stats.norm.logsf(z)
        total = sum((2 * i + 1) * (below[i] + above[n - 1 - i]) for i in range(n))
        kept += (-n - total / n) * (1 + 0.75 / n + 2.25 / n**2) <= 0.752
    assert gaussian_share(columns) == pytest.approx(kept / 24)
    assert 9 <= kept <= 12


# ---- trained networks


@pytest.mark.slow
def test_a_trained_network_over_its_training() -> None:
    data = load("digits", split="train")
    torch.manual_seed(0)
    model = SmallCNN(1, 8, 10, widths=(8, 12), hidden=32)

    def passed() -> Iterator[tuple[int, nn.Module]]:
        optimiser = torch.optim.SGD(model.parameters(), 0.3)
        for step in range(201):
            if step in (60, 200):
                yield step, model
            if step == 200:
                return
            rows = keys.permutation(len(data), "train", step)[:32]
            optimiser.zero_grad()
            F.cross_entropy(model(data.x[rows]), data.y[rows]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    track = tail_index_over_training(passed(), data.x, data.y, 20)
    assert track.steps == (60, 200) and track.silent == ()
    for found in track.tails:
        assert found.pooled.alpha < 1.9
        assert abs(found.standardised.alpha - 2) < abs(found.pooled.alpha - 2)
        assert found.gaussian.alpha < 1.9  # unequal scales explain much of it
    whole = tail_index(model, data.x, data.y, 20)
    assert whole.overall == track.tails[-1] and whole.batch_size == 20
    assert [e.name for e in whole.layers] == [n for n, _ in model.named_parameters()]
    read = [e for e in whole.layers if e.tails is not None]
    assert read and all(e.refused for e in whole.layers if e.tails is None)
