"""Threats: what is read, what is refused, and which sets they make."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from torchproof.core.errors import InputError, UnknownName
from torchproof.core.norms import L0, L1, L2, Linf, Norm
from torchproof.core.sets import Ball, Each, Product
from torchproof.core.sites import Latent, Universal, Weights
from torchproof.core.threats import Both, Free, Region, Relative, Threat, eps_text, number, parse

LAWS = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.mark.parametrize(
    ("text", "norm", "eps"),
    [
        ("linf:8/255", Linf, 8 / 255),
        ("LINF:8/255", Linf, 8 / 255),
        (" linf:0.3 ", Linf, 0.3),
        ("l2:0.5", L2, 0.5),
        ("l2:128/255", L2, 128 / 255),
        ("l1:12", L1, 12.0),
        ("l0:10", L0, 10.0),
        ("l2:1e-3", L2, 1e-3),
    ],
)
def test_threats_are_read(text: str, norm: type[Norm], eps: float) -> None:
    threat = parse(text)
    assert type(threat.norm) is norm and threat.eps == eps
    assert (threat.low, threat.high) == (0.0, 1.0)
    assert parse(str(threat)) == threat


@pytest.mark.parametrize(
    "text",
    [
        "linf",
        "linf:",
        "",
        "8/255",
        "linf:0",
        "linf:0/255",
        "linf:-8/255",
        "linf:-0.1",
        "linf:nan",
        "linf:inf",
        "linf:-inf",
        "linf:8/0",
        "linf:8/255/2",
        "linf:eight",
        "linf:8,5",
        "linf:8/255:1",
        "linf:1e400",
        "linf:(8)",
        "linf:0x10",
        "linf:__import__('os')",
        "linf:" + "9" * 400 + "/1",
        "linf:1/" + "9" * 400,
        "linf:" + "9" * 5000,
        "l0:0.5",
    ],
    ids=lambda t: t[:20],
)
def test_impossible_threats_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse(text)


@pytest.mark.parametrize("text", ["l3:1", "linff:8/255", "inf:1", "l:1", ":0.5", ":"])
def test_unknown_norms_are_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(UnknownName, match=r"l2|linf"):
        parse(text)


@pytest.mark.parametrize(
    "eps", [0, 0.0, -1.0, math.nan, math.inf, -math.inf, True, "0.3", None, torch.tensor(0.3)]
)
def test_an_eps_that_is_no_positive_number_is_refused(eps: Any) -> None:
    for make in (
        lambda: Threat(Linf(), eps),
        lambda: Relative(eps),
        lambda: Free(Latent("0"), eps),
    ):
        with pytest.raises(InputError):
            make()


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.0), (1.0, 0.0), (math.nan, 1.0), (0.0, math.nan)]
)
def test_an_empty_box_is_refused(low: float, high: float) -> None:
    with pytest.raises(InputError, match="box"):
        Threat(Linf(), 0.1, low=low, high=high)


def test_what_is_no_norm_is_refused() -> None:
    for norm in ("linf", Linf, 2, None):
        with pytest.raises(InputError, match="Norm"):
            Threat(norm, 0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Threat(Linf(), 0.1, site=Weights()),
        lambda: Free(Weights()),
        lambda: Region(Both(Threat(Linf(), 0.1), Relative(0.1)), torch.ones(2, 2)),  # type: ignore[arg-type]
        lambda: Both(Threat(Linf(), 0.1, site=Universal()), Relative(0.1)),
    ],
    ids=["ball at weights", "free weights", "region of both", "both with a universal input"],
)
def test_a_threat_that_does_not_suit_its_site_is_refused_at_construction(make: Any) -> None:
    with pytest.raises(InputError):
        make()


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        (8 / 255, "8/255"),
        (2 / 255, "2/255"),
        (1 / 255, "1/255"),
        (16 / 255, "16/255"),
        (15 / 255, "15/255"),
        (128 / 255, "128/255"),
        (0.3, "0.3"),
        (0.5, "0.5"),
        (0.031, "0.031"),
        (12.0, "12"),
        (1.0, "1"),
        (0.1, "0.1"),
        (1e-9, "1e-09"),
        (255.0, "255"),
    ],
)
def test_radii_are_written_as_the_field_writes_them(eps: float, text: str) -> None:
    assert eps_text(eps) == text
    assert number(text) == eps


@LAWS
@given(top=st.integers(1, 2000), half=st.booleans())
def test_multiples_of_a_grey_level_survive_writing_and_reading(top: int, half: bool) -> None:
    eps = top / (510 if half else 255)
    assert number(eps_text(eps)) == eps


@LAWS
@given(eps=st.floats(1e-9, 1e6))
def test_other_radii_survive_to_six_digits(eps: float) -> None:
    assert number(eps_text(eps)) == pytest.approx(eps, rel=1e-5)


@LAWS
@given(text=st.text(max_size=20))
def test_no_text_gives_another_error_than_ours(text: str) -> None:
    try:
        value = number(text)
    except InputError:
        return
    assert isinstance(value, float)


@LAWS
@given(top=st.integers(-9, 999), bottom=st.integers(0, 999))
def test_fractions_are_read_exactly(top: int, bottom: int) -> None:
    if bottom == 0:
        with pytest.raises(InputError):
            number(f"{top}/{bottom}")
    else:
        assert number(f"{top}/{bottom}") == float(Fraction(top, bottom))


# ---- the sets they make


X = torch.tensor([[0.0, 1.0, 0.5, 0.95], [0.1, 0.2, 0.3, 0.4]]).reshape(2, 1, 2, 2)


def test_a_threat_on_inputs_is_the_ball_cut_with_the_box() -> None:
    ball = Threat(Linf(), 0.1).set(nn.Identity(), X)
    assert isinstance(ball, Ball)
    assert torch.equal(ball.radius, torch.full((2,), 0.1))
    up, down = ball.maximiser(torch.ones_like(X)), ball.maximiser(-torch.ones_like(X))
    assert torch.allclose(up, (X + 0.1).clamp(0, 1) - X, atol=1e-7)
    assert torch.allclose(down, (X - 0.1).clamp(0, 1) - X, atol=1e-7)


def test_the_box_may_be_another() -> None:
    ball = Threat(Linf(), 5.0, low=-1.0, high=2.0).set(nn.Identity(), X)
    assert torch.allclose(X + ball.maximiser(torch.ones_like(X)), torch.full_like(X, 2.0))
    assert torch.allclose(X + ball.maximiser(-torch.ones_like(X)), torch.full_like(X, -1.0))


def test_a_region_opens_only_its_mask() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    ball = Region(Threat(L2(), 0.3), mask).set(nn.Identity(), X)
    point = ball.maximiser(torch.ones_like(X))
    assert bool((point[..., ~mask] == 0).all())
    assert float(point[1].norm()) == pytest.approx(0.3, abs=1e-6)


def test_relative_balls_have_the_size_of_their_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    nn.init.zeros_(model[2].weight)
    product = Relative(0.1).set(model, X)
    assert isinstance(product, Product) and set(product.parts) == {"0.weight", "2.weight"}
    first = product.parts["0.weight"]
    assert isinstance(first, Ball)
    assert float(first.radius) == pytest.approx(0.1 * float(model[0].weight.detach().norm()))
    moved = product.maximiser(
        {n: torch.ones(1, *p.shape) for n, p in model.named_parameters() if p.dim() > 1}
    )
    assert float(moved["0.weight"].norm()) == pytest.approx(float(first.radius), rel=1e-5)
    assert not moved["2.weight"].any(), "a tensor of zeros has no ball"


def test_relative_needs_a_module_with_weights() -> None:
    with pytest.raises(InputError, match=r"nn\.Module"):
        Relative(0.1).set(lambda x: x, X)
    with pytest.raises(InputError, match="keep"):
        Relative(0.1).set(nn.BatchNorm2d(1), X)


def test_a_latent_threat_has_the_shape_of_the_layer_and_no_box() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU())
    ball = Threat(L2(), 0.5, site=Latent("1")).set(model, X)
    assert isinstance(ball, Ball) and ball.low.shape == (2, 3)
    assert bool(ball.low.isinf().all()) and bool(ball.high.isinf().all())


def test_an_unknown_layer_is_refused_with_the_nearest_one() -> None:
    model = nn.Sequential()
    model.add_module("encoder", nn.Flatten())
    with pytest.raises(UnknownName, match="encoder"):
        Threat(L2(), 0.5, site=Latent("encodr")).set(model, X)


def test_a_layer_that_runs_twice_is_refused() -> None:
    layer = nn.Flatten()
    with pytest.raises(InputError, match="once"):
        Threat(L2(), 0.5, site=Latent("0")).set(nn.Sequential(layer, layer), X)


def test_a_universal_threat_has_one_problem() -> None:
    ball = Threat(Linf(), 0.1, site=Universal()).set(nn.Identity(), X)
    assert isinstance(ball, Ball) and ball.low.shape == (1, 1, 2, 2) and len(ball.radius) == 1


def test_free_has_no_bound_but_a_unit() -> None:
    ball = Free(Latent("0"), unit=2.0).set(nn.Sequential(nn.Flatten()), X)
    assert isinstance(ball, Ball)
    far = torch.full((2, 4), 1e6)
    assert torch.equal(ball.project(far), far)
    step = ball.advance(torch.zeros(2, 4), torch.ones(2, 4), 0.5)
    assert torch.allclose(step.norm(dim=1), torch.ones(2))


def test_both_is_one_problem_of_all_inputs_and_the_weights() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    product = Both(Threat(Linf(), 0.1), Relative(0.1)).set(model, X)
    assert set(product.parts) == {"", "1.weight"} and isinstance(product.parts[""], Each)
    assert product.zero()[""].shape == (1, 2, 1, 2, 2)
    assert product.zero()["1.weight"].shape == (1, 3, 4)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 2)])
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="mask"):
        Region(Threat(Linf(), 0.1), torch.ones(shape)).set(nn.Identity(), X)
