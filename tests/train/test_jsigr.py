"""J-SIGR against exact Jacobians and its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.train import AT, AWP, JSIGR, Batch, Standard, Sum, fit
from torchproof.train.saliency import saliency

Make = Callable[..., Any]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.Softplus(beta=10), nn.Flatten(), nn.Linear(192, 4)
        ).double()


def batch(n: int = 5) -> Batch:
    g = torch.Generator().manual_seed(1)
    x = torch.rand(n, 1, 8, 8, generator=g, dtype=torch.float64)
    return Batch(x, torch.randint(4, (n,), generator=g), torch.arange(n), 0.0, 3)


def jacobians(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([
        torch.autograd.functional.jacobian(lambda one: net(one[None])[0], row).flatten(1)
        for row in x
    ])  # fmt: skip


def test_all_projections_give_the_exact_norm() -> None:
    net, b = network(), batch()
    how = JSIGR(jacobian=0.3, selective=0, projections=0)
    wanted = 0.15 * jacobians(net, b.x).square().sum((1, 2))
    torch.testing.assert_close(how.losses(net, how.prepare(net, b)), wanted)


def test_random_projections_are_unbiased() -> None:
    net, b = network(), batch(2)
    how = JSIGR(jacobian=2.0, selective=0, projections=2000)
    exact = jacobians(net, b.x).square().sum((1, 2))
    found = how.losses(net, how.prepare(net, b))
    assert ((found / exact - 1).abs() < 0.03).all()


def test_linear_models_have_the_norm_of_their_weight() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).double()
    how = JSIGR(jacobian=2.0, selective=0, projections=0)
    wanted = net[1].weight.detach().square().sum().expand(5)
    torch.testing.assert_close(how.losses(net, batch()).detach(), wanted)


def test_the_selective_term_is_the_gradient_outside_the_salient_pixels() -> None:
    net, b = network(), batch()
    how = JSIGR(jacobian=0, selective=0.7)
    slopes = jacobians(net, b.x)[torch.arange(5), b.y].reshape(5, 8, 8).square()
    for salient in (
        torch.zeros(5, 8, 8, dtype=torch.bool), torch.ones(5, 8, 8, dtype=torch.bool),
        b.x[:, 0] > 0.5,
    ):  # fmt: skip
        given = replace(b, drawn={"salient": salient})
        wanted = 0.7 * (slopes * ~salient).sum((1, 2))
        torch.testing.assert_close(how.losses(net, given), wanted)
    made = how.prepare(net, b).drawn["salient"]
    assert torch.equal(made, saliency(net, b.x) >= 0.2) and made.any() and not made.all()


@pytest.mark.parametrize(("stride", "blur"), [(2, 3), (4, 5)])
def test_saliency_is_as_written_out_place_by_place(stride: int, blur: int) -> None:
    """Blurring and interpolation by scipy, one blended image at a time."""
    net, x = network(), batch(2).x

    def p(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(image)[None, None]).softmax(1)[0].numpy()

    centres = np.arange((stride - 1) / 2, 8, stride)
    rows, columns = np.mgrid[:8, :8]
    for image, found in zip(x[:, 0].numpy(), saliency(net, x, stride, blur), strict=True):
        smooth = ndimage.gaussian_filter(image, blur / 4, radius=blur // 2, mode="nearest")
        grid = np.zeros((len(centres), len(centres)))
        for i, row in enumerate(centres):
            for j, column in enumerate(centres):
                away = (rows - row) ** 2 + (columns - column) ** 2
                bump = np.exp(-away / (2 * (stride / 2) ** 2))
                moved = p(image * (1 - bump) + smooth * bump)
                grid[i, j] = 0.5 * ((moved - p(image)) ** 2).sum()
        places = (np.stack([rows, columns]) - centres[0]) / stride
        full = ndimage.map_coordinates(grid, places, order=1, mode="nearest")
        np.testing.assert_allclose(found.numpy(), full / full.max(), rtol=1e-6, atol=1e-9)


def test_the_gradient_in_the_weights_is_that_of_finite_differences() -> None:
    net = network()
    how, b = JSIGR(jacobian=0.5, selective=0.5), batch(2)
    ready = how.prepare(net, b)
    how.losses(net, ready).sum().backward()
    weight = net[3].weight
    for row, column in ((0, 3), (2, 100)):
        step, values = 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                weight[row, column] += sign * step
            values.append(float(how.losses(net, ready).sum().detach()))
            with torch.no_grad():
                weight[row, column] -= sign * step
        slope = (values[0] - values[1]) / (2 * step)
        assert float(weight.grad[row, column]) == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_saliency_is_where_the_answer_hangs_on() -> None:
    """A network that reads one pixel: the map peaks in its cell, and is zero far away."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(256, 2)).double()
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].weight[0, 16 * 5 + 9] = 4.0
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 16, 16, generator=g, dtype=torch.float64).round()
    found = saliency(net, x, stride=4)
    assert found.shape == (3, 16, 16) and found.amin() >= 0
    torch.testing.assert_close(found.flatten(1).amax(1), torch.ones(3, dtype=torch.float64))
    for row in found:
        at = divmod(int(row.argmax()), 16)
        assert abs(at[0] - 5) <= 3 and abs(at[1] - 9) <= 3
        assert row[13:, :4].max() < 0.05
    assert torch.equal(found, saliency(net, x, stride=4, slots=2))


def test_maps_are_renewed_before_epochs_and_survive_a_kill(
    tmp_path: Path, network: Make, data: Make, settings: Make
) -> None:
    def run(out: Path, stop_after: int | None = None) -> tuple[JSIGR, torch.Tensor]:
        term = JSIGR(jacobian=0.1, selective=0.1, renew=2, stride=1, blur=3)
        how = Sum(Standard(), term)
        net, left = network(), [stop_after or 10**9]

        def stop() -> bool:
            left[0] -= 1
            return left[0] < 0

        list(fit(net, data(), how, settings(epochs=3), out=out, resume=True, stop=stop))
        return term, torch.cat([p.detach().flatten() for p in net.parameters()])

    run(tmp_path / "a", stop_after=4)
    cut, weights = run(tmp_path / "a")
    whole, wanted = run(tmp_path / "b")
    assert torch.equal(weights, wanted)
    assert whole.age == cut.age == 3 and torch.equal(whole.maps, cut.maps)


def test_a_new_run_makes_its_own_maps(network: Make, data: Make, settings: Make) -> None:
    """Even where the method was used before and no renewal would be due."""
    term = JSIGR(jacobian=0.1, selective=0.1, renew=2, stride=1, blur=3)
    for n in (60, 40):
        list(fit(network(), data(n), Sum(Standard(), term), settings(epochs=1)))
        assert term.age == 1 and len(term.maps) == n


def test_kept_maps_go_with_images_as_they_are_only(
    network: Make, data: Make, settings: Make
) -> None:
    """What the maps would be about has been moved; refused before anything is trained."""
    kept, asked = JSIGR(renew=2, stride=1, blur=3), []

    def shifted(x: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        asked.append(x.roll(1, 3))
        return asked[-1]

    for how in (Sum(Standard(), kept), AWP(Sum(Standard(), kept))):
        with pytest.raises(InputError, match=r"JSIGR\(renew=2\) with an augmentation.*renew=0"):
            fit(network(), data(), how, settings(), augment=shifted)
    assert not asked and kept.maps is None
    chosen = settings(epochs=1)
    for fine in (JSIGR(stride=3, blur=3), JSIGR(selective=0, renew=2)):
        list(fit(network(), data(), Sum(Standard(), fine), chosen, augment=shifted))
    assert asked


def test_it_stands_in_sums_and_refuses_nonsense() -> None:
    net, b = network(), batch()
    threat = Threat(Linf(), 0.1)
    both = Sum(AT(threat, steps=2), JSIGR(jacobian=0.1))
    ready = both.prepare(net, b)
    alone = AT(threat, steps=2).losses(net, ready.parts[0]) + JSIGR().losses(net, ready.parts[1])
    torch.testing.assert_close(both.losses(net, ready), alone)
    for wrong in (
        {"jacobian": -1}, {"jacobian": 0, "selective": 0}, {"blur": 4}, {"stride": 0},
        {"projections": -1}, {"threshold": 2}, {"renew": -1},
    ):  # fmt: skip
        with pytest.raises(InputError):
            JSIGR(**wrong)
