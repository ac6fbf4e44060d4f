"""LADDER: the cut through a network, boundary-guided examples and both losses, by hand."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError, ModelError, ResumeError, UnknownName
from torchproof.nn import build
from torchproof.nn.decoder import Decoder
from torchproof.train import AWP, Batch, Settings, checkpoint, fit
from torchproof.train.ladder import (
    LABEL,
    LADDER,
    Boundary,
    Course,
    Fixed,
    Growing,
    Layer,
    Recipe,
    Reconstruction,
    answer,
    encode,
    ladder_training,
    train_pairs,
)
from torchproof.train.ladder.stages import reconstruction_error

LAYER = Layer("1")


class Sevenths(nn.Module):
    """A decoder of latents (B, 7) that can be followed by hand."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(5)
        self.w = nn.Parameter(torch.randn(7, 9, generator=g, dtype=torch.float64) * 0.3)

    def forward(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z @ self.w).reshape(-1, 1, 3, 3)


class Inverse(nn.Module):
    """The least image whose latent is z."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linalg.pinv(model[1].weight.detach()))  # type: ignore[index]
        self.b = nn.Parameter(model[1].bias.detach())  # type: ignore[index]

    def forward(self, z: Tensor) -> Tensor:
        return ((z - self.b) @ self.w.T).reshape(-1, 1, 3, 3)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Flatten(), nn.Linear(9, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3)
        return nn.Sequential(*layers).double().eval()


def few(n: int = 30) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    x = torch.rand(n, 1, 3, 3, generator=g, dtype=torch.float64) * 0.6
    x[torch.arange(n), 0, y] += 0.4
    return x, y


def test_the_cut() -> None:
    model, (x, _) = network(), few()
    flat = x.flatten(1)
    before = copy.deepcopy(model.state_dict())
    model.train()
    z = encode(model, LAYER, x, slots=7)
    assert torch.allclose(z, flat @ model[1].weight.T + model[1].bias) and not z.requires_grad
    relu = encode(model, Layer("4", "input"), x)
    model.eval()
    assert torch.allclose(relu, model[:4](x)) and torch.equal(
        encode(model, Layer("1", "input"), x), flat
    )
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model[1]._forward_hooks and not model[4]._forward_pre_hooks


def test_the_rest_of_the_network() -> None:
    model, (x, _) = network(), few()
    for layer in (LAYER, Layer("4", "input"), Layer("4")):
        z = encode(model, layer, x)
        assert torch.allclose(answer(model, layer, z, x[0] * 0), model(x))
    z = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    logits = answer(model, LAYER, z, x[0])
    assert torch.allclose(logits, model[2:](z))
    (grad,) = torch.autograd.grad(logits[:, 1].sum(), z)
    live = z.detach().clone().requires_grad_()
    assert torch.allclose(grad, torch.autograd.grad(model[2:](live)[:, 1].sum(), live)[0])


def test_a_cut_through_maps() -> None:
    model = build("small-cnn", channels=1, size=8, classes=3, seed=0).eval()
    x = torch.rand(4, 1, 8, 8)
    z = encode(model, Layer("net.conv1"), x)
    assert z.shape == (4, 16 * 16)
    assert torch.allclose(answer(model, Layer("net.conv1"), z, x[0]), model(x))


def test_cuts_that_cannot_be_made() -> None:
    x = few()[0]
    with pytest.raises(UnknownName, match="layer"):
        encode(network(), Layer("conv9"), x)
    with pytest.raises(InputError, match="side"):
        Layer("1", "middle")  # type: ignore[arg-type]
    twice = nn.Linear(9, 9).double()
    with pytest.raises(ModelError, match="2 times"):
        encode(nn.Sequential(nn.Flatten(), twice, twice), LAYER, x)

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x, x

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, x: Tensor) -> Tensor:
            return self.pair(x)[0].flatten(1)

    model = Both()
    with pytest.raises(ModelError, match="tuple"):
        encode(model, Layer("pair"), x)
    assert not model.pair._forward_hooks


def boundary(unit: str = "raw") -> Boundary:
    model, (x, y) = network(), few()
    recipe = Recipe(hinge=1.0, lr=0.1, attention="scaled")
    return Boundary(model, LAYER, Sevenths(), train_pairs(encode(model, LAYER, x), y, recipe), unit)


def test_targets_are_other_classes_each_as_likely() -> None:
    bound = boundary()
    y = torch.arange(3000) % 3
    target = bound.targets(y, seed=1)
    assert bool((target != y).all()) and set(target.tolist()) == {0, 1, 2}
    for c in range(3):
        share = float((target[y == c] == (c + 1) % 3).double().mean())
        assert abs(share - 0.5) < 5 * (0.25 / 1000) ** 0.5
    ids = torch.tensor([7, 2, 900])
    assert torch.equal(bound.targets(y[ids], 1, ids), target[ids])
    assert not torch.equal(bound.targets(y, seed=2), target)
    with pytest.raises(InputError, match=r"\[1\]"):
        bound.targets(torch.tensor([0, 7]), 0)


def naive_direction(bound: Boundary, z: Tensor, y: int, t: int) -> tuple[Tensor, Tensor]:
    """beta(z) * d and the score towards t, for one latent."""
    row = [sorted(p) for p in bound.pairs.pairs.tolist()].index(sorted((y, t)))
    svm, side = bound.pairs.svm(row), 1 if t > y else -1
    beta = 7 * torch.softmax(torch.tanh(svm.attention @ z + svm.attention_bias), 0)
    return beta * side * svm.w, side * ((beta * z) @ svm.w + svm.b)


@pytest.mark.parametrize("unit", ["raw", "distance"])
def test_examples_are_those_of_the_naive_loop(unit: str) -> None:
    bound, (x, y) = boundary(unit), few()
    model, decoder = bound.model, bound.decoder
    found = Fixed(1.7)(bound, x, y, seed=4)
    assert torch.equal(found.target, bound.targets(y, 4)) and bool((found.eps == 1.7).all())
    for i in range(len(x)):
        with torch.no_grad():
            z = model[1](x[i].flatten())
            step, _ = naive_direction(bound, z, int(y[i]), int(found.target[i]))
            step = step if unit == "raw" else step / step.norm()
            moved = z + 1.7 * step
            image = (decoder(moved[None])[0] * 255).round() / 255
            _, score = naive_direction(bound, moved, int(y[i]), int(found.target[i]))
            changed = bool(model(image[None]).argmax() != model(x[i][None]).argmax())
        assert torch.allclose(found.images[i], image, atol=1e-9)
        assert float(found.score[i]) == pytest.approx(float(score), rel=1e-5)
        assert bool(found.flipped[i]) == changed
    part = Fixed(1.7)(bound, x[20:], y[20:], seed=4, ids=torch.arange(20, 30))
    assert torch.equal(part.images, found.images[20:]), "an example depends on its id alone"
    if unit == "distance":
        z = encode(model, LAYER, x)
        assert torch.allclose(bound.steps(z, y, found.target).norm(dim=1), torch.ones(30).double())


def test_a_longer_way_scores_higher_and_zero_is_the_decoder() -> None:
    bound, (x, y) = boundary("distance"), few()
    scores = [Fixed(eps)(bound, x, y).score.mean() for eps in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert scores == sorted(scores) and scores[0] < 0 < scores[-1]
    still = Fixed(0.0)(bound, x, y)
    z = encode(bound.model, LAYER, x)
    assert torch.equal(still.images, bound.decoded(z))
    error, decisions = reconstruction_error(bound, x)
    assert error == pytest.approx(float(((still.images - x) ** 2).mean()))
    assert torch.equal(decisions != bound.classes_of(x), still.flipped)


def test_eps_grows_until_the_decision_changes() -> None:
    assert Growing().grid == (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0, 3.0, 4.0, 5.0)
    assert Growing(tries=100).grid[-1] == 25.0 and len(Growing(tries=100).grid) == 30
    assert Growing(0.1, 0.5, 1.0).grid == (0.1, 0.6)
    bound, (x, y) = boundary("distance"), few()
    bound = replace(bound, decoder=Inverse(bound.model))
    grow = Growing(0.5, 0.25, 40.0, 12)
    found = grow(bound, x, y, seed=1)
    assert int(found.flipped.sum()) > 0 and len(set(found.eps.tolist())) > 2
    fixed = [Fixed(eps)(bound, x, y, seed=1) for eps in grow.grid]
    for i in range(len(x)):
        at = next((k for k, f in enumerate(fixed) if bool(f.flipped[i])), len(fixed) - 1)
        assert float(found.eps[i]) == pytest.approx(grow.grid[at])
        assert torch.equal(found.images[i], fixed[at].images[i])
        assert bool(found.flipped[i]) == bool(fixed[at].flipped[i])
        assert float(found.score[i]) == pytest.approx(float(fixed[at].score[i]))
    for bad in ({"step": 0.0}, {"tries": 0}, {"start": 30.0}):
        with pytest.raises(InputError):
            Growing(**bad)  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="unit"):
        boundary("metres")


def test_the_loss_is_half_and_half() -> None:
    model, (x, y) = network(), few()
    images = torch.rand(30, 1, 3, 3, generator=torch.Generator().manual_seed(3)).double()
    ids = torch.tensor([3, 8, 29])
    method = LADDER(images)
    batch = method.prepare(model, Batch(x[ids], y[ids], ids, 0.0, 0))
    assert batch.adv is not None and torch.equal(batch.adv, images[ids]) and batch.spent == (0, 0)
    want = [
        0.5 * F.cross_entropy(model(images[i : i + 1]), y[i : i + 1])
        + 0.5 * F.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        for i in ids
    ]
    assert torch.allclose(method.losses(model, batch), torch.stack(want))
    same = LADDER(x)
    plain = same.losses(model, same.prepare(model, Batch(x[ids], y[ids], ids, 0.0, 0)))
    assert torch.allclose(plain, F.cross_entropy(model(x[ids]), y[ids], reduction="none"))
    assert method.passes == 2 and LADDER(images) == method != same
    assert repr(method) == f"LADDER(sha256='{method.sha256}')"
    with pytest.raises(InputError, match="row 29"):
        LADDER(images[:20]).prepare(model, batch)
    with pytest.raises(InputError, match="images"):
        LADDER(images * 3)


@pytest.mark.parametrize("power", [1, 2])
def test_the_decoder_is_trained_to_reconstruct(power: int) -> None:
    model, (x, y) = network(), few()
    z, decoder = encode(model, LAYER, x), Sevenths()
    method = Reconstruction(z, power)
    ids = torch.tensor([5, 0])
    losses = method.losses(decoder, Batch(x[ids], y[ids], ids, 0.0, 0))
    want = [((decoder(z[i : i + 1])[0] - x[i]).abs() ** power).sum() / 9 for i in ids]
    assert torch.allclose(losses, torch.stack(want))
    settings = Settings.of(epochs=1, batch_size=30, lr=0.4, momentum=0.0, weight_decay=0.0,
                           schedule="constant", held_out=0)  # fmt: skip
    naive = Sevenths()
    ((decoder(z) - x).abs() ** power).mean().backward()
    with torch.no_grad():
        first = float(((naive(z) - x).abs() ** power).mean())
        naive.w -= 0.4 * decoder.w.grad
    decoder.zero_grad()
    (record,) = fit(decoder, (x, y), method, settings)
    assert torch.allclose(decoder.w, naive.w, atol=1e-12)
    assert record.loss == pytest.approx(first)
    with pytest.raises(InputError, match="power"):
        Reconstruction(z, 3)


def quick(**more: Any) -> dict[str, Any]:
    given = {"epochs": 2, "batch_size": 8, "lr": 0.01, "optimiser": "adam", "weight_decay": 0.0}
    return {**given, "schedule": "constant", "held_out": 0, **more}


COURSE = Course(
    LAYER, Recipe(epochs=2), Fixed(2.0), "distance", Settings.of(quick()),
    Settings.of(quick(lr=0.02, epochs=3)), seed=6,
)  # fmt: skip


def made(seed: int = 0) -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(9)
        return network(seed), Decoder(7, 1, 3, (2, 2)).double()


def run(out: Path | None = None, resume: bool = False, course: Course = COURSE, **more: Any) -> Any:
    model, decoder = made()
    return ladder_training(model, few(), decoder, course, out=out, resume=resume, **more), model


def assert_same(one: Any, other: Any) -> None:
    (a, model), (b, twin) = one, other
    for x, y in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(x, y)
    for name in ("images", "target", "eps", "flipped", "score"):
        assert torch.equal(getattr(a.examples, name), getattr(b.examples, name))
    for name in ("attention", "w", "b", "accuracy"):
        assert torch.equal(getattr(a.boundary.pairs, name), getattr(b.boundary.pairs, name))
    for mine, theirs in ((a.decoding, b.decoding), (a.fine_tuning, b.fine_tuning)):
        assert [r.loss for r in mine] == [r.loss for r in theirs]


def test_the_four_stages_one_after_another() -> None:
    found, tuned = run()
    model, decoder = made()
    x, y = few()
    z = encode(model, LAYER, x)
    list(fit(decoder, (x, y), Reconstruction(z), Settings.of(quick(seed=6))))
    bound = Boundary(model, LAYER, decoder, train_pairs(z, y, Recipe(epochs=2), 6), "distance")
    guided = Fixed(2.0)(bound, x, y, seed=6)
    list(
        fit(model, (x, y), LADDER(guided.images), COURSE.fine_tuning.model_copy(update={"seed": 6}))
    )
    assert torch.equal(found.examples.images, guided.images)
    for a, b in zip(tuned.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
    before = made()[0]
    assert torch.equal(found.boundary.model(x), before(x)) and not torch.equal(tuned(x), before(x))
    assert len(found.decoding) == 2 and len(found.fine_tuning) == 3 and found.label == LABEL


class Killed(BaseException):
    """Ends a run as a kill would."""


def test_killed_at_any_stage_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole")
    write, left = checkpoint.write, 10**6

    def counted(*args: Any) -> None:
        nonlocal left
        for when in (0, 1):
            left -= 1
            if left == 0:
                raise Killed
            if when == 0:
                write(*args)

    monkeypatch.setattr(checkpoint, "write", counted)
    run(tmp_path / "count")
    total = 10**6 - left
    assert total == 2 * (2 + 1 + 1 + 3)
    for fatal in (2, 3, 5, 6, 7, 8, 9, 14):  # within and between the stages
        out, left = tmp_path / str(fatal), fatal
        with pytest.raises(Killed):
            run(out, resume=True)
        left = 10**6
        assert_same(run(out, resume=True), whole)


def test_every_card_says_what_it_is_not(tmp_path: Path) -> None:
    cards = []

    def save(model: nn.Module, path: Path, card: dict[str, Any]) -> None:
        cards.append(card)

    run(tmp_path, save=save)
    assert LABEL == "unbounded perturbation, not Lp-robust"
    assert len(cards) == 2 and all(c["robustness"] == LABEL for c in cards)
    assert LABEL in (tmp_path / "training" / "config.json").read_text()
    for name in ("svms", "examples"):
        assert checkpoint.read(tmp_path / f"{name}.safetensors")[1]["robustness"] == LABEL


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(InputError, match="resume"):
        run(tmp_path)
    changed: list[dict[str, Any]] = [
        {"svm": Recipe(epochs=3)}, {"distance": Fixed(3.0)}, {"unit": "raw"}, {"seed": 7},
        {"decoding": Settings.of(quick(lr=0.02))}, {"layer": Layer("1", "input")},
    ]  # fmt: skip
    for more in changed:
        with pytest.raises(ResumeError, match=next(iter(more))):
            run(tmp_path, True, Course(**{**vars(COURSE), **more}))


def test_it_combines_with_weight_perturbation() -> None:
    (x, y), images = few(), Fixed(2.0)(boundary(), *few()).images
    tuned = []
    for method in (LADDER(images), AWP(LADDER(images), gamma=0.05)):
        model = network()
        for record in fit(model, (x, y), method, COURSE.fine_tuning):
            assert record.loss > 0
        tuned.append(model)
    one, other = (model[1].weight for model in tuned)
    assert not torch.equal(one, other) and torch.allclose(one, other, atol=0.2)
