"""Region adversarial training: patterns and rounds against naive loops, resumption, refusals."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.universal import Semantic
from torchproof.core import keys
from torchproof.core.errors import InputError, ResumeError
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import Threat
from torchproof.train import AT, Settings, region_round
from torchproof.train.region import (
    SETTINGS,
    enlarged,
    likeness,
    random_patterns,
    region_perturbations,
    region_training,
)
from torchproof.train.region_round import LABEL, Round, resisted, stored_patterns

THREAT = Threat(Linf(), 0.3)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def few(n: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=g)
    x = torch.rand(n, 1, 3, 3, generator=g, dtype=torch.float64) * 0.6
    x[torch.arange(n), 0, y] += 0.4
    return x, y


def naive_pattern(model: nn.Module, x: Tensor, y: Tensor, t: int, steps: int, alpha: float) -> Any:
    """Sign steps down the mean cross-entropy to t; the v that turned most, the first of equals."""
    others, v, seen = x[y != t], torch.zeros(1, 1, 3, 3, dtype=torch.float64), []
    for _ in range(steps + 1):
        with torch.no_grad():
            share = float((model((others + v).clamp(0, 1)).argmax(1) == t).double().mean())
        seen.append((share, v))
        live = v.clone().requires_grad_()
        goal = torch.full((len(others),), t)
        loss = F.cross_entropy(model((others + live).clamp(0, 1)), goal)
        (grad,) = torch.autograd.grad(loss, live)
        v = (v - alpha * grad.sign()).clamp(-0.3, 0.3)
    most = max(share for share, _ in seen)
    return next((share, v) for share, v in seen if share == most)


def test_a_pattern_is_that_of_the_naive_loop() -> None:
    model, (x, y) = network(), few()
    found = region_perturbations(model, x, y, THREAT, steps=12, alpha=0.05, batch=None)
    assert found.classes.tolist() == [0, 1, 2] and found.values.shape == (3, 1, 3, 3)
    for t in range(3):
        share, v = naive_pattern(model, x, y, t, 12, 0.05)
        assert float(found.share[t]) == pytest.approx(share)
        if share < 1:  # a search that has turned all ends at once
            assert torch.allclose(found.values[t], v[0], atol=1e-12)


def test_the_default_step_is_a_thirtieth_of_eps() -> None:
    model, (x, y) = network(), few()
    given = (model, x, y, THREAT, [1, 2])
    usual, same, other = (
        region_perturbations(*given, steps=9, batch=None, **more).values
        for more in ({}, {"alpha": 0.01}, {"alpha": 0.02})
    )
    assert torch.equal(usual, same) and not torch.equal(usual, other)


def test_random_patterns_know_nothing_of_the_network() -> None:
    (x, y), model = few(), network()
    found = random_patterns(model, x, y, THREAT, seed=4)
    assert set(found.values.abs().flatten().tolist()) == {0.3}
    assert torch.equal(found.values, random_patterns(network(1), x, y, THREAT, seed=4).values)
    assert torch.equal(found.values[2:], random_patterns(model, x, y, THREAT, [2], seed=4).values)
    assert not torch.equal(found.values, random_patterns(model, x, y, THREAT, seed=5).values)
    for t in range(3):
        with torch.no_grad():
            answer = model((x[y != t] + found.values[t]).clamp(0, 1)).argmax(1)
        assert float(found.share[t]) == pytest.approx(float((answer == t).double().mean()))
        assert found.spent[t].tolist() == [int((y != t).sum()), 0]
    long = random_patterns(model, x, y, Threat(L2(), 0.7), seed=4).values
    assert torch.allclose(long.flatten(1).norm(dim=1), torch.full((3,), 0.7, dtype=x.dtype))
    many = random_patterns(nn.Flatten(), torch.rand(8, 1, 50, 50), torch.arange(8), THREAT).values
    assert abs(float(many.sign().mean())) < 5 / many.numel() ** 0.5


def test_the_enlarged_set() -> None:
    x, y = few(8)
    values = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(2, 1, 3, 3)
    found = Semantic(values, torch.tensor([2, 0]), torch.zeros(2), torch.zeros(2, 2))
    images, labels = enlarged(x, y, found, Threat(Linf(), 1.0, low=0.1, high=0.8))
    want = [(x[i], y[i]) for i in range(8)]
    for k, t in enumerate((2, 0)):
        want += [((x[i] + values[k]).clamp(0.1, 0.8), y[i]) for i in range(8) if y[i] != t]
    assert len(images) == len(want) < 24
    assert torch.equal(images, torch.stack([a for a, _ in want]))
    assert labels.tolist() == [int(b) for _, b in want]


def test_likeness_is_the_correlation_with_the_contrast_of_means() -> None:
    x, y = few()
    contrast = torch.stack([x[y == t].mean(0) - x[y != t].mean(0) for t in range(3)])
    values = torch.stack([3 * contrast[0] + 0.2, -contrast[1], contrast[0], 0 * contrast[0]])
    found = Semantic(values, torch.tensor([0, 1, 2, 1]), torch.zeros(4), torch.zeros(4, 2))
    got = likeness(found, x, y)
    a, b = (c.flatten() - c.mean() for c in (contrast[0], contrast[2]))
    assert got.tolist() == pytest.approx([1.0, -1.0, float(a @ b / (a.norm() * b.norm())), 0.0])


def settings(**more: Any) -> Settings:
    given = {"epochs": 2, "batch_size": 500, "lr": 0.3, "momentum": 0.0, "weight_decay": 0.0}
    return Settings.of({**given, "schedule": "constant", "held_out": 0, "seed": 3, **more})


MAKE = partial(region_perturbations, steps=6, alpha=0.1, batch=None)


def naive_rounds(model: nn.Module, rounds: int) -> list[tuple[Semantic, float, float]]:
    """Full-batch gradient descent on D', round after round: patterns, clean and old accuracy."""
    (x, y), test, used, out = few(), few(30, seed=9), [], []
    for number in range(1, rounds + 1):
        seed = keys.seed_of(3, "region round", number)
        used.append(MAKE(model, x, y, THREAT, targets=[0, 1, 2], seed=seed))
        images, labels = enlarged(x, y, used[-1], THREAT)
        for _ in range(2):
            loss = F.cross_entropy(model(images), labels)
            grads = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, g in zip(model.parameters(), grads, strict=True):
                    p -= 0.3 * g
        right = []
        with torch.no_grad():
            clean = float((model(test[0]).argmax(1) == test[1]).double().mean())
            for found in used:
                for t, v in zip(found.classes.tolist(), found.values, strict=True):
                    for a, b in zip(*test, strict=True):
                        if b != t:
                            right.append(bool(model((a + v).clamp(0, 1)[None]).argmax() == b))
        out.append((used[-1], clean, sum(right) / len(right)))
    return out


def test_rounds_are_those_of_the_naive_loop() -> None:
    model, plain = network(), network()
    test = few(30, seed=9)
    got = list(region_training(model, few(), THREAT, 3, settings(), make=MAKE, test=test))
    want = naive_rounds(plain, 3)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-10)
    sizes = {24 + int(sum((few()[1] != t).sum() for t in range(3)))}
    assert {r.images for r in got} == sizes and [r.round for r in got] == [1, 2, 3]
    for record, (found, clean, old) in zip(got, want, strict=True):
        assert record.success == pytest.approx(tuple(found.share.tolist()))
        assert (record.clean, record.old) == pytest.approx((clean, old))
        assert record.measured_on == 30 and record.label == LABEL
        assert record.backward == int(found.spent[:, 1].sum())
    assert got[0].fresh == got[1].success and got[1].fresh == got[2].success
    assert got[0].old == got[0].first
    first = want[0][0]
    hits, of = resisted(model, *test, first, THREAT)
    assert got[2].first == pytest.approx(hits / of)


def test_another_method_trains_on_the_enlarged_set() -> None:
    one, other = network(), network()
    for model, method in ((one, None), (other, AT(Threat(Linf(), 0.1), steps=2))):
        list(region_training(model, few(), THREAT, 1, settings(), make=MAKE, method=method))
    different = [not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters())]  # noqa: B905
    assert all(different)


class Killed(BaseException):
    """Ends a run as a kill would."""


def test_killed_anywhere_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = (few(), THREAT, 3, settings(batch_size=20))
    whole = network()
    rounds = list(region_training(whole, *given, make=MAKE, out=tmp_path / "whole"))
    write, moments = region_round.checkpoint.write, 0

    def counted(*args: Any) -> None:
        nonlocal moments
        for when in (0, 1):
            moments -= 1
            if moments == 0:
                raise Killed
            if when == 0:
                write(*args)

    monkeypatch.setattr(region_round.checkpoint, "write", counted)
    moments = 10**6
    list(region_training(network(), *given, make=MAKE, out=tmp_path / "count"))
    total = 10**6 - moments
    assert total == 2 * (4 + 6)  # four sets of patterns, a checkpoint at the end of each epoch
    for fatal in range(1, total + 1, 3):  # before and after writes in turn
        out, model = tmp_path / str(fatal), network()
        moments = fatal
        with pytest.raises(Killed):
            list(region_training(model, *given, make=MAKE, out=out, resume=True))
        moments = 10**6
        again = network()
        assert list(region_training(again, *given, make=MAKE, out=out, resume=True)) == rounds
        for a, b in zip(again.parameters(), whole.parameters(), strict=True):
            assert torch.equal(a, b), fatal


def test_more_rounds_go_on_where_fewer_ended(tmp_path: Path) -> None:
    one, two = network(), network()
    first = list(region_training(one, few(), THREAT, 1, settings(), make=MAKE, out=tmp_path))
    both = list(
        region_training(two, few(), THREAT, 2, settings(), make=MAKE, out=tmp_path, resume=True)
    )
    fresh = network()
    assert both == list(region_training(fresh, few(), THREAT, 2, settings(), make=MAKE))
    assert both[:1] == first
    assert all(torch.equal(a, b) for a, b in zip(two.parameters(), fresh.parameters(), strict=True))
    stored = stored_patterns(tmp_path, 2)
    assert tuple(stored.share.tolist()) == both[1].success and stored.values.shape == (3, 1, 3, 3)


def test_the_card_says_that_it_is_our_reading(tmp_path: Path) -> None:
    cards = []

    def save(model: nn.Module, path: Path, card: dict[str, Any]) -> None:
        cards.append(card)

    model = network()
    list(
        region_training(
            model, few(), THREAT, 1, settings(), make=random_patterns, out=tmp_path, save=save
        )
    )
    assert len(cards) == 2 and all(c["region"] == {"round": 1, "label": LABEL} for c in cards)
    assert "reconstructed" in LABEL and "training" in cards[0]
    assert Round.model_fields["label"].default == LABEL


def test_refused(tmp_path: Path) -> None:
    run = partial(region_training, network(), few(), THREAT)
    with pytest.raises(InputError, match="rounds"):
        run(0)
    with pytest.raises(InputError, match="images"):
        region_training(network(), (few()[0] + 3, few()[1]), THREAT)
    with pytest.raises(InputError, match="labels"):
        run(1, test=(few()[0], few()[1].float()))
    list(run(1, settings(), make=MAKE, out=tmp_path))
    with pytest.raises(InputError, match="resume"):
        run(1, settings(), make=MAKE, out=tmp_path)
    changed: list[dict[str, Any]] = [
        {"settings": settings(lr=0.2), "make": MAKE},
        {"settings": settings(), "make": random_patterns},
        {"settings": settings(), "make": MAKE, "targets": [1]},
        {"settings": settings(), "make": MAKE, "method": AT(THREAT)},
    ]
    for more in changed:
        with pytest.raises(ResumeError):
            run(1, out=tmp_path, resume=True, **more)
    with pytest.raises(ResumeError, match="network"):
        region_training(
            network(7), few(), THREAT, 1, settings(), make=MAKE, out=tmp_path, resume=True
        )
    assert SETTINGS.held_out == 0 and SETTINGS.epochs == 3


def test_the_given_network_is_the_only_thing_that_changes() -> None:
    (x, y), model = few(), network()
    kept = x.clone(), copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    region_perturbations(model, x, y, THREAT, steps=3)
    random_patterns(model, x, y, THREAT)
    assert all(torch.equal(v, kept[1][k]) for k, v in model.state_dict().items())
    list(region_training(model, (x, y), THREAT, 1, settings(), make=MAKE))
    assert torch.equal(x, kept[0]) and torch.equal(torch.random.get_rng_state(), state)
    assert not model.training
