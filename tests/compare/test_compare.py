"""Several libraries side by side: the verdicts, the reasons, the counts, and what is left alone.

Stand-ins for libraries do what libraries do wrong; the real ones are asked where they load.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from torchproof.compare import Comparison, compare
from torchproof.compare.differences import REASONS
from torchproof.compare.library import Library, Offer, Plan
from torchproof.core.errors import InputError, UnknownName
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat, parse

EPS = 0.04
THREAT = parse(f"linf:{EPS}")
Call = Callable[[Plan, Offer, nn.Module, Tensor, Tensor], Tensor]


def step(model: nn.Module, x: Tensor, y: Tensor, length: float) -> Tensor:
    """The steepest Linf step, which for a linear model is the worst point of the ball."""
    x = x.clone().requires_grad_()
    top = model(x).gather(1, y[:, None]).sum()
    return (x - length * torch.autograd.grad(top, [x])[0].sign()).detach()


def best(plan: Plan, offer: Offer, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return step(model, x, y, plan.eps)


def far(plan: Plan, offer: Offer, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return step(model, x, y, 2 * plan.eps)


def beyond(plan: Plan, offer: Offer, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return x + 2


def broken(plan: Plan, offer: Offer, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return torch.full_like(x, torch.nan)


def forgetful(plan: Plan, offer: Offer, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    model(step(model, x, y, plan.eps))
    return x


def lazy(plan: Plan, offer: Offer, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    model(x)
    return x


def hopeless(plan: Plan, offer: Offer, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    points = step(model, x, y, -plan.eps / 10)
    model(points)
    return points


def fails(plan: Plan, offer: Offer, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    raise RuntimeError("no such operator")


def shrinks(plan: Plan, offer: Offer, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return x[..., :2]


CALLS = (best, far, beyond, broken, forgetful, lazy, hopeless, fails, shrinks)


def attack(model: object, eps: float = 0.3, steps: int = 7, verbose: bool = True) -> None:
    """Stands for a library's function: only its signature is looked at."""


def library(call: Call) -> Library:
    offer = Offer(attack, {"eps": EPS}, {"steps": 20})
    return Library(call.__name__, "torch", "mend it", lambda plan: {"pgd": offer}, call)


def _absent(plan: Plan) -> dict[str, Offer]:
    raise OSError("libsomething.so is missing")  # not an ImportError, as it happens


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The table of libraries replaced by those above."""
    made = {call.__name__: library(call) for call in CALLS}
    made["absent"] = Library("absent", "nothing-of-that-name", "install it", _absent, best)
    made["poor"] = Library("poor", "torch", "", lambda plan: {}, best)
    monkeypatch.setattr("torchproof.compare.comparison.LIBRARIES", made)
    yield list(made)


@pytest.fixture
def result(model: nn.Module, data: Any, stand_ins: list[str]) -> Comparison:
    return compare(model, data, THREAT, "pgd", stand_ins, slots=8)


def lost(model: Any, x: Tensor, y: Tensor) -> np.ndarray:
    """In closed form: which correctly classified examples Linf EPS breaks (no box is in reach)."""
    weight = model.weight.detach().numpy() / np.sqrt(1 + model.norm.eps)
    top = x.flatten(1).numpy() @ weight * np.where(y.numpy() == 1, 1, -1)
    return (top > 0) & (top - EPS * np.abs(weight).sum() < 0)


def test_verdicts_are_those_of_the_closed_form(
    result: Comparison, model: Any, data: tuple[Tensor, Tensor]
) -> None:
    expected = lost(model, *data)
    assert 3 < expected.sum() < 27
    found = {r.name: r for r in result.libraries}
    robust = 29 - expected.sum()
    assert found["best"].robust_accuracy == robust / 30
    assert found["best"].broken == expected.sum() and result.clean_accuracy == 29 / 30
    test = stats.binomtest(int(robust), 30).proportion_ci(method="exact")
    assert found["best"].robust_accuracy_ci95 == pytest.approx((test.low, test.high), abs=1e-6)
    assert result.union_robust_accuracy == robust / 30
    assert sorted(result.standing["best"]) == [i for i in range(1, 30) if not expected[i]]
    for name in ("far", "beyond", "broken", "forgetful", "lazy", "hopeless"):
        assert found[name].broken == 0 and found[name].robust_accuracy == 29 / 30


def test_every_miss_has_its_reason(result: Comparison, model: Any, data: Any) -> None:
    expected = lost(model, *data)
    reasons = {
        "far": "outside the ball",
        "beyond": "outside the box",
        "broken": "not finite",
        "forgetful": "found and dropped",
        "lazy": "never moved",
        "hopeless": "found nothing",
    }
    assert set(reasons.values()) < set(REASONS)
    found = {r.name: r for r in result.libraries}
    for name, why in reasons.items():
        assert found[name].missed == {why: expected.sum()}
    assert found["best"].missed == {}
    assert [d.id for d in result.differences] == expected.nonzero()[0].tolist()
    for d in result.differences:
        assert d.broken_by == ["best"] and set(d.missed_by) == set(reasons)
        miss = d.missed_by["forgetful"]
        assert miss.length == 0 and miss.asked == 2
        assert miss.best is not None and miss.margin is not None and miss.best > 0 > miss.margin
        assert d.missed_by["broken"].margin is None and d.missed_by["beyond"].best is None
        assert d.missed_by["far"].length == pytest.approx(2 * EPS, rel=1e-4)


def test_a_tie_is_told_apart_from_a_failure(
    monkeypatch: pytest.MonkeyPatch, model: Any, data: Any
) -> None:
    def tied(plan: Plan, offer: Offer, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        weight = model.weight.detach() / (1 + model.norm.eps) ** 0.5
        top = x.flatten(1) @ weight
        back = (top / weight.abs().sum() * (1 - 1e-7))[:, None] * weight.sign()
        points = (x.flatten(1) - back).reshape(x.shape)
        net(points)
        return points

    made = {"best": library(best), "tied": library(tied)}
    monkeypatch.setattr("torchproof.compare.comparison.LIBRARIES", made)
    found = compare(model, data, THREAT, "pgd", list(made))
    reasons = {m.reason for d in found.differences for m in d.missed_by.values()}
    # float32 may put a point that is so near on the right side, which the processor decides
    assert reasons <= {"on the boundary", "found and dropped", "found nothing"}
    assert "on the boundary" in reasons


def test_what_gives_no_result_says_why(result: Comparison) -> None:
    found = {r.name: r for r in result.libraries}
    assert found["absent"].status == "not loaded"
    assert "libsomething.so" in found["absent"].reason and "install it" in found["absent"].reason
    assert found["poor"].status == "not offered" and "no pgd for linf" in found["poor"].reason
    assert found["fails"].status == "failed" and "no such operator" in found["fails"].reason
    assert found["shrinks"].status == "failed" and "(29, 1, 4, 2)" in found["shrinks"].reason
    assert found["fails"].robust_accuracy is None and "fails" not in result.standing


def test_evaluations_are_counted_at_the_model(result: Comparison) -> None:
    found = {r.name: r for r in result.libraries}
    assert (found["best"].forward, found["best"].backward) == (29, 29)
    assert (found["forgetful"].forward, found["forgetful"].backward) == (58, 29)
    assert (found["lazy"].forward, found["lazy"].backward) == (29, 0)


def test_settings_are_told_with_the_librarys_own(
    model: nn.Module, data: Any, stand_ins: Any
) -> None:
    (same,) = compare(model, data, THREAT, "pgd", ["lazy"]).libraries
    (own,) = compare(model, data, THREAT, "pgd", ["lazy"], matched=False).libraries
    assert same.settings == "attack(eps=0.04, steps=20)"
    assert own.settings == "attack(eps=0.04, steps=7)"
    assert same.version == torch.__version__


def test_nothing_outside_is_changed(
    model: nn.Module, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net: Any = model.train()
    net.norm.eval()  # frozen by its owner
    net(data[0]).sum().backward()
    grads = [p.grad for p in net.parameters()]
    kept = [g.clone() for g in grads if g is not None]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = data[0].clone()

    def vandal(plan: Plan, offer: Offer, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        model.train()
        x.requires_grad_()
        model(x).sum().backward()  # moves batch norm, adds to gradients
        for p in model.parameters():
            p.requires_grad_(False)
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)
        np.random.rand(), random.random(), torch.rand(1)
        x.data.add_(9)
        return x.detach() - 9

    states = [torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()]  # type: ignore[union-attr]
    monkeypatch.setattr("torchproof.compare.comparison.LIBRARIES", {"vandal": library(vandal)})
    with torch.no_grad():
        (record,) = compare(net, data, THREAT, "pgd", ["vandal"]).libraries
    assert record.status == "ok", record.reason
    assert net.training and not net.norm.training
    assert all(p.requires_grad for p in net.parameters())
    assert all(p.grad is g for p, g in zip(net.parameters(), grads, strict=True))
    after = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(after, kept, strict=True))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(data[0], x) and not data[0].requires_grad
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all() and random.getstate() == states[2]


def test_random_states_are_seeded_inside(
    model: nn.Module, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[float, float, float]] = []

    def draws(plan: Plan, offer: Offer, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        drawn.append((float(torch.rand(1)), float(np.random.rand()), random.random()))
        return x

    monkeypatch.setattr("torchproof.compare.comparison.LIBRARIES", {"draws": library(draws)})
    for seed in (3, 3, 2**62):
        compare(model, data, THREAT, "pgd", ["draws"], seed=seed)
    # each library is warmed up first, with the same seed
    first, again, other = drawn[1::2]
    assert len(drawn) == 6 and first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_the_file_holds_all_of_it(result: Comparison, tmp_path: Path) -> None:
    path = result.save(tmp_path / "out")
    content = json.loads(path.read_text())
    assert content["schema"] == "torchproof.comparison/1" and content["attack"] == "pgd"
    assert content["eps"] == EPS and content["n"] == 30 and len(content["libraries"]) == 11
    assert Comparison.model_validate_json(path.read_text()) == result


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"attack": "pdg"}, "did you mean pgd"),
        ({"libraries": ["folbox"]}, "did you mean foolbox"),
        ({"libraries": []}, "at least one"),
        ({"libraries": ["foolbox", "foolbox"]}, "none twice"),
        ({"threat": parse("l0:3")}, "linf, l2 or l1"),
        ({"threat": Threat(Linf(), 0.1, low=-1.0)}, "images in [0, 1]"),
        ({"steps": 1}, "at least 2"),
        ({"n": 0}, "from 1 to 30"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    change: dict[str, Any], said: str, model: nn.Module, data: Any
) -> None:
    asked = {"threat": THREAT, "attack": "pgd", "libraries": ["torchproof"]} | change
    with pytest.raises((InputError, UnknownName)) as caught:
        compare(model, data, **asked)
    assert said in str(caught.value)


def test_a_model_that_is_always_wrong_is_refused(model: nn.Module, data: Any) -> None:
    x, y = data[0][1:], 1 - data[1][1:]
    with pytest.raises(InputError, match="none of 29 images"):
        compare(model, (x, y), THREAT, "pgd", ["torchproof"])
