"""Feature denoising: filters against naive loops in float64, and how a fresh block learns."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, UnknownName
from torchproof.core.expression import parse
from torchproof.core.keys import normal
from torchproof.nn.blocks import BLOCKS
from torchproof.nn.denoise import Bilateral, Denoise, MeanFilter, MedianFilter, NonLocal, NullFilter

# The seven variants of the paper.
VARIANTS = (
    "NonLocal(form='softmax')",
    "NonLocal(form='dot')",
    "Bilateral(form='softmax')",
    "Bilateral(form='dot')",
    "MeanFilter",
    "MedianFilter",
    "NullFilter",
)
FORMS = ("softmax", "dot")


def maps(*shape: int, step: int = 0) -> Tensor:
    """Normal values (B, C, H, W) in float64."""
    return normal(torch.arange(shape[0]), step, shape[1:], dtype=torch.float64)


def block(text: str, channels: int) -> Denoise:
    torch.manual_seed(0)
    made = parse(text, BLOCKS, channels=channels)
    assert isinstance(made, Denoise)
    return made.double()


def sharpened(made: Denoise) -> Denoise:
    """Embeddings so large that the softmax is far from uniform."""
    with torch.no_grad():
        for p in made.weighting.parameters():
            p.mul_(100.0)
    return made


def with_identity(made: Denoise, channels: int) -> Denoise:
    """The convolution passes every channel on."""
    with torch.no_grad():
        made.conv.weight.copy_(torch.eye(channels).view(channels, channels, 1, 1))
    return made


def near(i: int, j: int, height: int, width: int, window: int) -> Iterator[tuple[int, int]]:
    """Pixels of the window around (i, j) that lie within the map, in reading order."""
    half = window // 2
    for a in range(max(0, i - half), min(height, i + half + 1)):
        for b in range(max(0, j - half), min(width, j + half + 1)):
            yield a, b


def naive_weights(made: Denoise, x: Tensor, form: str, window: int) -> Tensor:
    """(B, N, N) by a loop over pairs of pixels; 0 outside the window."""
    count, channels, height, width = x.shape
    out = torch.zeros(count, height * width, height * width, dtype=torch.float64)
    for n in range(count):
        for i in range(height):
            for j in range(width):
                found = {}
                for a, b in near(i, j, height, width, window):
                    one, other = x[n, :, i, j], x[n, :, a, b]
                    if form == "softmax":
                        one = made.weighting.theta.weight.detach()[:, :, 0, 0] @ one
                        other = made.weighting.phi.weight.detach()[:, :, 0, 0] @ other
                        found[a, b] = math.exp(float(one @ other) / math.sqrt(channels / 2))
                    else:
                        found[a, b] = float(one @ other)
                whole = sum(found.values()) if form == "softmax" else len(found)
                for (a, b), value in found.items():
                    out[n, i * width + j, a * width + b] = value / whole
    return out


def weighted(weights: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("bij,bcj->bci", weights, x.flatten(2)).view_as(x)


@pytest.mark.parametrize("text", VARIANTS)
def test_a_fresh_block_is_the_identity_and_learns_its_scale_first(text: str) -> None:
    made, x = block(text, 4), maps(5, 4, 6, 6)
    assert torch.equal(made.eval()(x), x)
    assert torch.equal(made.train()(x), x)
    target = maps(5, 4, 6, 6, step=1)

    def gradients() -> dict[str, float]:
        made.zero_grad()
        (made(x) - target).square().mean().backward()
        return {n: float(p.grad.abs().max()) for n, p in made.named_parameters()}

    first = gradients()
    assert first.pop("norm.weight") > 0 and first.pop("norm.bias") > 0
    assert set(first.values()) == {0.0}  # the convolution and D
    torch.optim.SGD(made.parameters(), lr=0.1).step()
    assert all(value > 0 for value in gradients().values())


@pytest.mark.parametrize("form", FORMS)
def test_non_local_means_equal_a_double_loop(form: str) -> None:
    made, x = sharpened(block(f"NonLocal(form='{form}')", 4)), maps(2, 4, 3, 4)
    wanted = naive_weights(made, x, form, window=99)
    torch.testing.assert_close(made.weights(x), wanted, rtol=0, atol=1e-10)
    torch.testing.assert_close(made.filtered(x), weighted(wanted, x), rtol=0, atol=1e-10)
    if form == "softmax":
        sums = made.weights(x).sum(2)
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-12)
        assert (made.weights(x).amax(2) > 0.2).any()  # not just the mean


@pytest.mark.parametrize("form", FORMS)
def test_bilateral_filters_equal_a_double_loop(form: str) -> None:
    made, x = sharpened(block(f"Bilateral(form='{form}')", 4)), maps(2, 4, 4, 5)
    wanted = naive_weights(made, x, form, window=3)
    torch.testing.assert_close(made.filtered(x), weighted(wanted, x), rtol=0, atol=1e-10)
    weights = made.weights(x)
    assert weights.shape == (2, 20, 9)
    torch.testing.assert_close(weights.sum(2), wanted.sum(2), rtol=0, atol=1e-10)
    assert weights[:, 0].count_nonzero() == 2 * 4  # a corner has four pixels


@pytest.mark.parametrize("form", FORMS)
def test_a_window_over_the_whole_map_looks_at_all_pixels(form: str) -> None:
    local = sharpened(block(f"Bilateral(form='{form}', window=7)", 4))
    everywhere = sharpened(block(f"NonLocal(form='{form}')", 4))
    everywhere.load_state_dict(local.state_dict())
    x = maps(2, 4, 4, 4)
    torch.testing.assert_close(local.filtered(x), everywhere.filtered(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (2, 40, 4, 4)], ids=["CxC", "NxN"])
def test_both_orders_of_the_dot_product_agree(shape: tuple[int, ...]) -> None:
    """C x C where there are more pixels than channels, N x N otherwise."""
    x = maps(*shape)
    made, flat, pixels = block("NonLocal(form='dot')", shape[1]), x.flatten(2), shape[2] * shape[3]
    channels_first = (flat @ flat.transpose(1, 2) @ flat / pixels).view_as(x)
    pixels_first = (flat @ (flat.transpose(1, 2) @ flat) / pixels).view_as(x)
    torch.testing.assert_close(channels_first, pixels_first, rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(made.filtered(x), pixels_first, rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(weighted(made.weights(x), x), pixels_first, rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_pooled_pixels_are_the_ones_looked_at(form: str) -> None:
    """5 x 5 in squares of 2: those at the border have fewer pixels."""
    made, x = sharpened(block(f"NonLocal(form='{form}', pool=2)", 4)), maps(2, 4, 5, 5)
    seen = torch.stack(
        [x[:, :, i : i + 2, j : j + 2].amax((2, 3)) for i in (0, 2, 4) for j in (0, 2, 4)], 2
    )
    weights = made.weights(x)
    assert weights.shape == (2, 25, 9)
    wanted = torch.einsum("bij,bcj->bci", weights, seen).view_as(x)
    torch.testing.assert_close(made.filtered(x), wanted, rtol=0, atol=1e-12)
    if form == "dot":
        scores = torch.einsum("bci,bcj->bij", x.flatten(2), seen) / 9
        torch.testing.assert_close(weights, scores, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [3, 5])
def test_mean_and_median_equal_a_loop(window: int) -> None:
    x = maps(2, 3, 4, 5)
    means, medians = torch.empty_like(x), torch.empty_like(x)
    for i in range(4):
        for j in range(5):
            around = torch.stack([x[:, :, a, b] for a, b in near(i, j, 4, 5, window)])
            means[:, :, i, j] = around.mean(0)
            medians[:, :, i, j] = around.median(0).values  # the lower of two in the middle
    mean, median = MeanFilter(3, window).double(), MedianFilter(3, window).double()
    torch.testing.assert_close(mean.filtered(x), means, rtol=0, atol=1e-12)
    assert torch.equal(median.filtered(x), medians)


def test_the_gradient_of_a_median_goes_to_the_selected_pixel() -> None:
    x = torch.tensor([[9.0, 1.0, 8.0], [2.0, 7.0, 3.0], [6.0, 4.0, 5.0]]).view(1, 1, 3, 3)
    x.requires_grad_()
    made = MedianFilter(1)
    centre = made.filtered(x)[0, 0, 1, 1]
    assert centre == 5.0
    (slope,) = torch.autograd.grad(centre, x)
    assert slope.flatten().tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 1]
    flat = torch.zeros(1, 1, 3, 3, requires_grad=True)  # equal pixels rank in reading order
    (slope,) = torch.autograd.grad(made.filtered(flat)[0, 0, 1, 1], flat)
    assert slope.flatten().tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_a_median_among_nan_is_no_accident() -> None:
    x = torch.full((1, 2, 4, 4), math.nan)
    assert MedianFilter(2).filtered(x).isnan().all()


@pytest.mark.parametrize("text", [t for t in VARIANTS if "dot" not in t and t != "NullFilter"])
def test_filters_remove_noise_from_smooth_features(text: str) -> None:
    """Mean squared error to the clean feature, with the identity as convolution."""
    rows, columns = torch.meshgrid(*[torch.arange(8.0, dtype=torch.float64)] * 2, indexing="ij")
    clean = 1 + 0.1 * torch.stack([torch.sin(rows / 4), torch.cos(columns / 4)]).expand(4, 2, 8, 8)
    noisy = clean + maps(4, 2, 8, 8)
    made = with_identity(block(text, 2), 2)
    before, after = ((t - clean).square().mean() for t in (noisy, made.conv(made.filtered(noisy))))
    assert after < 0.5 * before
    control = with_identity(block("NullFilter", 2), 2)
    assert torch.equal(control.conv(control.filtered(noisy)), noisy)


@pytest.mark.parametrize("text", [*VARIANTS, "NonLocal(pool=2)"])
def test_gradients_are_those_of_differences(text: str) -> None:
    made, x = block(text, 3), maps(2, 3, 3, 4).requires_grad_()
    nn.init.constant_(made.norm.weight, 0.7)
    weights = [p for name, p in made.named_parameters() if not name.startswith("norm")]

    def answer(x: Tensor, *weights: Tensor) -> Tensor:
        return made(x)

    made.eval()
    assert torch.autograd.gradcheck(answer, (x, *weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(made.filtered, (x,), fast_mode=True)


def test_options_that_are_none() -> None:
    for form in ("gaussian", "dott"):
        with pytest.raises(UnknownName):
            NonLocal(4, form=form)
        with pytest.raises(UnknownName):
            Bilateral(4, form=form)
    for window in (2, 0, -1, 3.0, True):
        for made in (MeanFilter, MedianFilter, Bilateral):
            with pytest.raises(InputError, match="odd"):
                made(4, window=window)
    for pool in (0, 1.5, True):
        with pytest.raises(InputError, match="pool"):
            NonLocal(4, pool=pool)
    assert NullFilter(1)(torch.ones(2, 1, 1, 1)).shape == (2, 1, 1, 1)
