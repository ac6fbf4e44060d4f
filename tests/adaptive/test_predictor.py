"""The predictor's parts: removed, substituted, declared, and the declaration checked."""

from __future__ import annotations

import cProfile
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.adaptive.declaration import autograd_calls, declaration
from torchproof.adaptive.predictor import (
    Beside,
    Declared,
    DefendedPredictor,
    Inside,
    MeanLogits,
)
from torchproof.core.errors import InputError, UnknownName


def slope(model: nn.Module, x: Tensor) -> Tensor:
    live = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(model(live)[:, 0].sum(), [live], materialize_grads=True)
    return found


def test_a_preprocessor_is_taken_out_and_substituted(net: Any, images: Any, parts: Any) -> None:
    x = images.x
    made = DefendedPredictor(net, preprocess={"levels": parts["levels"]()})
    assert made.parts == ("levels",)
    assert torch.equal(made(x), net((x * 4).round() / 4))
    assert torch.equal(made.without("levels")(x), net(x)) and made.without("levels").parts == ()
    smooth = made.substituted("levels")
    assert torch.equal(smooth(x), made(x))
    assert not bool(slope(made, x).any()) and bool(slope(smooth, x).any())
    torch.testing.assert_close(slope(smooth, x), slope(net, (x * 4).round() / 4))
    doubled = nn.Conv2d(1, 1, 1, bias=False).requires_grad_(False)
    doubled.weight.fill_(2.0)
    steeper = made.substituted("levels", doubled)
    torch.testing.assert_close(slope(steeper, x), 2 * slope(smooth, x))


def test_a_part_inside_the_networks(winners: Any, images: Any, parts: Any) -> None:
    inside = {"k-wta": Inside(parts["winners"], plain=lambda m: nn.ReLU())}
    made = DefendedPredictor(winners, inside=inside)
    bare = made.without("k-wta")
    plain = nn.Sequential(*[nn.ReLU() if i in (1, 4) else m for i, m in enumerate(winners)])
    assert torch.equal(bare(images.x), plain(images.x)) and bare.parts == ()
    assert made.parts == ("k-wta",)  # the original is as it was
    smooth = made.substituted("k-wta", nn.ReLU())
    assert torch.equal(smooth(images.x), winners(images.x))
    assert not torch.equal(slope(smooth, images.x), slope(made, images.x))
    with pytest.raises(InputError):
        DefendedPredictor(winners, inside={"tanh": Inside(nn.Tanh)}).without("tanh")


class Vote(nn.Module):
    """One vote for every network's class."""

    def forward(self, answers: Tensor) -> Tensor:
        return nn.functional.one_hot(answers.argmax(2), answers.shape[2]).float().mean(0)


def test_an_ensemble_and_its_vote(net: Any, hardened: Any, images: Any) -> None:
    made = DefendedPredictor([net, hardened], combine=Vote())
    assert made.parts == ("combine",)
    mean = (net(images.x) + hardened(images.x)) / 2
    torch.testing.assert_close(made.without("combine")(images.x), mean)
    smooth = made.substituted("combine")
    assert torch.equal(smooth(images.x), made(images.x))
    plain = DefendedPredictor([net, hardened], combine=MeanLogits())
    torch.testing.assert_close(slope(smooth, images.x), slope(plain, images.x))


def test_a_detector_is_calibrated_and_taken_out(
    net: Any, images: Any, held: Any, parts: Any
) -> None:
    made = DefendedPredictor(net, reject=parts["distance"](net, held.x)).calibrated(images.x, 0.1)
    out = made(images.x)
    assert set(out) == {"logits", "reject"} and made.parts == ("reject",)
    assert made.rule is not None
    assert int((out["reject"] > made.rule.threshold).sum()) == 6
    bare = made.without("reject")
    assert torch.equal(bare(images.x), net(images.x)) and bare.rule is None
    smooth = made.substituted("reject", Beside(nn.Flatten(0)).requires_grad_(False))
    with pytest.raises(InputError):
        made.substituted("reject")
    assert smooth.parts == ("reject",)


class Telling(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(x), "features": x.flatten(1)}


def test_other_entries_of_a_table_are_handed_on(net: Any, images: Any) -> None:
    out = DefendedPredictor(Telling(net))(images.x)
    assert torch.equal(out["logits"], net(images.x))
    assert torch.equal(out["features"], images.x.flatten(1))


def test_what_cannot_be_meant(net: Any, parts: Any) -> None:
    with pytest.raises(InputError):
        DefendedPredictor([])
    with pytest.raises(InputError):
        inside = {"levels": Inside(nn.ReLU)}
        DefendedPredictor(net, preprocess={"levels": parts["levels"]()}, inside=inside)
    with pytest.raises(UnknownName):
        DefendedPredictor(net).without("levels")


class Climbing(nn.Module):
    """Moves its input a little uphill before it answers: it optimises at test time."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            live = x.detach().requires_grad_()
            (up,) = torch.autograd.grad(self.net(live).amax(1).sum(), [live])
        out: Tensor = self.net(x + 0.01 * up.sign())
        return out


class Constant(nn.Module):
    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        return torch.zeros_like(logits[:, 0])


SORTS = ("plain", "levels", "noise", "climbing", "reject")


def sort(name: str, net: nn.Module, bank: Tensor, parts: Any, declared: Any) -> nn.Module:
    if name in ("levels", "noise"):
        preprocess = {name: parts[name]()}
        return DefendedPredictor(net, preprocess=preprocess, declared=declared)
    if name == "climbing":
        return DefendedPredictor(Climbing(net), declared=declared)
    detector = parts["distance"](net, bank) if name == "reject" else None
    return DefendedPredictor(net, reject=detector, declared=declared)


TRUE = {
    "plain": Declared(),
    "levels": Declared(non_differentiable=True),
    "noise": Declared(random=True),
    "climbing": Declared(optimises_at_test_time=True),
    "reject": Declared(rejects=True),
}
WORD = {
    "levels": "non-differentiable",
    "noise": "random",
    "climbing": "optimising",
    "reject": "rejecting",
}


@pytest.mark.parametrize("name", SORTS)
def test_a_true_declaration_holds(name: str, net: Any, images: Any, held: Any, parts: Any) -> None:
    model = sort(name, net, held.x, parts, TRUE[name])
    state, weights = torch.get_rng_state(), [p.clone() for p in model.parameters()]
    found = declaration(model, images.x, images.y)
    assert found.false == () and found.holds and found.declared == TRUE[name]
    assert found.measured.properties == TRUE[name]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


@pytest.mark.parametrize("name", WORD)
def test_a_hidden_property_is_found(
    name: str, net: Any, images: Any, held: Any, parts: Any
) -> None:
    hidden = declaration(sort(name, net, held.x, parts, Declared()), images.x, images.y)
    assert len(hidden.false) == 1 and hidden.false[0].startswith(f"declared not {WORD[name]}")
    invented = declaration(sort("plain", net, held.x, parts, TRUE[name]), images.x, images.y)
    assert len(invented.false) == 1 and invented.false[0].startswith(f"declared {WORD[name]}")


def test_a_constant_score_is_no_detector(net: Any, images: Any) -> None:
    model = DefendedPredictor(net, reject=Constant(), declared=Declared(rejects=True))
    assert any("the same for all" in text for text in declaration(model, images.x, images.y).false)


def test_a_model_that_declares_nothing_is_measured(net: Any, images: Any) -> None:
    found = declaration(net, images.x, images.y)
    assert found.declared is None and found.holds and found.measured.properties == Declared()


def test_autograd_is_counted_however_it_is_called() -> None:
    from torch.autograd import grad

    x = torch.ones(3, requires_grad=True)
    with autograd_calls() as count:
        grad((x * x).sum(), [x])
        (x * x).sum().backward()
    (x * x).sum().backward()
    assert count() == 2


def test_autograd_is_counted_beside_other_profilers() -> None:
    x, seen = torch.ones(3, requires_grad=True), []

    def other(frame: Any, event: str, arg: Any) -> None:
        seen.append(event)

    before = sys.getprofile()
    sys.setprofile(other)
    try:
        with autograd_calls() as count:
            (x * x).sum().backward()
        assert sys.getprofile() is other
    finally:
        sys.setprofile(before)
    assert count() == 1 and "call" in seen
    grad, profile = torch.autograd.grad, cProfile.Profile()
    profile.enable()
    try:
        with autograd_calls() as count:
            (x * x).sum().backward()
            torch.autograd.grad((x * x).sum(), [x])
    finally:
        profile.disable()
    assert count() == 2 and torch.autograd.grad is grad


def test_a_model_that_optimises_is_evaluated_in_inference_mode(net: Any, images: Any) -> None:
    model = DefendedPredictor(Climbing(net), declared=Declared(optimises_at_test_time=True))
    with torch.inference_mode():
        inside = model(images.x.clone())
    torch.testing.assert_close(inside, model(images.x))
