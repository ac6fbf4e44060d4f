"""From suspicion to number: broken defences are found out, honest networks are left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.adaptive.adapt import adapt
from torchproof.adaptive.adapted import FILE, Adapted
from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.binarization import Setting
from torchproof.adaptive.discover import predictor_of
from torchproof.adaptive.hunt import Hunt
from torchproof.adaptive.judge import Judge
from torchproof.adaptive.pictures import course, slices, worst_images
from torchproof.adaptive.predictor import Declared, DefendedPredictor, Inside
from torchproof.adaptive.suspicion import suspicion
from torchproof.adaptive.trial import carry_out
from torchproof.attack.catalogue import pgd
from torchproof.core.errors import InputError
from torchproof.core.objectives import CrossEntropy, Margin
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import parse
from torchproof.core.unaware import Unaware

Adapt = Callable[..., Adapted]


pytestmark = pytest.mark.usefixtures("short_searches")


@pytest.fixture
def run(images: Any, held: Any, threat: Any) -> Adapt:
    """`run(model, n=24)`: a small run on the first images."""

    def go(model: Any, n: int = 24, budget: int = 250, **more: Any) -> Adapted:
        more = {"setting": Setting(inside=100, random=10), "references": held, **more}
        return adapt(model, images.x[:n], images.y[:n], threat, budget, **more)

    return go


@pytest.fixture(scope="module")
def quantised(net: Any, parts: Any) -> DefendedPredictor:
    """A quantiser that says nothing of having no gradient."""
    return DefendedPredictor(net, preprocess={"levels": parts["levels"](4)})


@pytest.fixture(scope="module")
def found(quantised: DefendedPredictor, images: Any, held: Any, threat: Any) -> Adapted:
    """A run on 24 images, during which nothing of the model has changed."""
    before = [p.clone() for p in quantised.parameters()]
    x, y, setting = images.x[:24], images.y[:24], Setting(inside=100, random=10)
    made = adapt(quantised, x, y, threat, 300, references=held, setting=setting)
    assert all(torch.equal(a, b) for a, b in zip(before, quantised.parameters(), strict=True))
    return made


@pytest.mark.slow
def test_a_quantiser_is_found_out(found: Adapted) -> None:
    assert {"zero-gradients", "active-test-fails", "declaration-false"} <= set(found.names)
    assert found.suspect == "levels" and "levels" in found.best
    assert found.robust < found.naive - 0.1
    assert found.active is not None and not found.active.passes
    (part,) = found.components
    assert part.without is not None and "zero-gradients" in part.without.cleared
    assert part.substituted is not None and part.substituted.robust < 0.9
    assert found.spent <= found.budget and "levels" in found.reading


def test_every_example_is_accounted_for(found: Adapted) -> None:
    of = {name: [r for r in found.rows if r.status == name] for name in ("broken", "standing")}
    assert len(of["standing"]) == round(24 * found.robust)
    assert {row.broken_by for row in of["broken"]} <= {step.name for step in found.steps}
    assert all(step.fresh <= step.won <= step.asked for step in found.steps)
    assert sum(step.fresh for step in found.steps) == len(of["broken"])
    assert [s.robust for s in found.steps] == sorted([s.robust for s in found.steps], reverse=True)


def test_broken_images_hold_and_lie_in_the_set(
    found: Adapted, quantised: DefendedPredictor, images: Any
) -> None:
    broken = [i for i, row in enumerate(found.rows) if row.status == "broken"]
    assert broken
    assert float((found.x - images.x[:24]).abs().max()) <= 0.1 + 1e-5
    assert float(found.x.min()) >= 0 and float(found.x.max()) <= 1
    with torch.no_grad():
        answer = quantised(found.x).argmax(1)
    assert bool((answer[broken] != images.y[:24][broken]).all())


def test_pictures(found: Adapted, quantised: DefendedPredictor, images: Any) -> None:
    x, y = images.x[:24], images.y[:24]
    drawn = course(found)
    assert len(drawn.axes[0].get_yticks()) == len(found.steps)
    broken = sum(row.status == "broken" for row in found.rows)
    assert len(worst_images(found, x).axes) == 3 * min(broken, 8)
    bare = quantised.without("levels")
    lines = slices({"defended": quantised, "bare": bare}, x[0], y[0], parse("linf:0.1")).axes[0]
    defended, smooth = (len(set(line.get_ydata())) for line in lines.get_lines()[:2])
    assert defended < smooth  # a staircase has few values


class Hundredfold(nn.Module):
    """Logits a hundred times as large: their softmax is 0 and 1 to the last bit."""

    def forward(self, z: Tensor) -> Tensor:
        return 100 * z


class Clipped(Hundredfold):
    """Probabilities of such logits, clipped."""

    def forward(self, z: Tensor) -> Tensor:
        return (100 * z).softmax(1).clamp_min(1e-7).log()


@pytest.mark.slow
def test_a_way_around_a_part_is_tried_with_a_loss_that_has_a_slope_there(
    net: nn.Module, run: Adapt, threat: Any
) -> None:
    inside = {"clipped": Inside(Clipped, plain=lambda part: Hundredfold())}
    model = DefendedPredictor(nn.Sequential(net, Clipped()), inside=inside)
    naive = [Attempt("PGD-20", pgd(threat, 20, objective=CrossEntropy()))]
    found = run(model, naive=naive, budget=1500)
    assert found.suspect == "clipped" and found.robust < found.naive - 0.3
    won = {step.name: step.won for step in found.steps if step.axis == "estimator"}
    flat, sloped = (
        won[f"PGD-40 on {loss}, by way without clipped"] for loss in ("cross-entropy", "margin")
    )
    assert sloped >= flat + 4 and "margin, by way without clipped" in found.best
    assert "surrogate-wins" in found.names


def test_the_search_ends_where_everything_is_broken(net: nn.Module, images: Any, held: Any) -> None:
    wide = parse("linf:0.5")
    weak = [Attempt("PGD-1", pgd(wide, 1, 1e-6, objective=CrossEntropy()))]
    found = adapt(
        net, images.x[:24], images.y[:24], wide, 1000, naive=weak, references=held,
        setting=Setting(inside=50, random=5),
    )  # fmt: skip
    searched = [step for step in found.steps if step.axis not in ("naive", "all")]
    # the loss of the attack in question is tried all the same, to be compared with
    assert [step.name for step in searched] == ["PGD-40 on margin", "PGD-40 on cross-entropy"]
    assert searched[0].won == searched[0].asked and found.robust == 0


@pytest.mark.parametrize("name", ["net", "hardened"])
def test_honest_networks_raise_no_flag(name: str, request: Any, run: Adapt) -> None:
    found = run(request.getfixturevalue(name))
    assert found.names == () and found.suspect is None and found.components == ()
    assert found.active is not None and found.active.passes and found.active.asr >= 0.9
    assert found.naive - 0.08 <= found.robust <= found.naive
    assert "nothing suspicious" in found.reading


@pytest.mark.slow
def test_noise_is_judged_by_the_majority(run: Adapt, net: Any, parts: Any, threat: Any) -> None:
    model = DefendedPredictor(
        net, preprocess={"noise": parts["noise"](0.15)}, declared=Declared(random=True)
    )
    naive = [Attempt("PGD-5", pgd(threat, 5, objective=CrossEntropy()))]
    few = {"setting": Setting(inside=30, random=5), "naive": naive}
    found = run(model, n=12, budget=150, **few)
    assert "random" in found.names and found.suspect == "noise"
    assert found.robust <= found.naive
    again = run(model, n=12, budget=150, **few)
    assert again == found  # the randomness is keyed


class Suspicious(nn.Module):
    """Objects to every image whose two largest logits are close, and to every large step."""

    def __init__(self, net: nn.Module, bank: Tensor) -> None:
        super().__init__()
        self.body = nn.Sequential(*list(net)[:5])  # type: ignore[call-overload]
        self.head = list(net)[5]  # type: ignore[call-overload]
        with torch.no_grad():
            seen = self.body(bank)
            self.labels: Tensor
            self.bank: Tensor
            self.register_buffer("bank", seen)
            self.register_buffer("labels", self.head(seen).argmax(1))

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        far = torch.cdist(self.body(x), self.bank)
        other = self.labels[None] != logits.argmax(1)[:, None]
        return far.masked_fill(other, torch.inf).amin(1)


@pytest.mark.slow
def test_a_detector_that_rejects_everything(
    run: Adapt, net: Any, held: Any, train_images: Any, threat: Any
) -> None:
    model = DefendedPredictor(
        net, reject=Suspicious(net, train_images.x), declared=Declared(rejects=True)
    ).calibrated(held.x, 0.1)
    assert isinstance(model.rule, Rejecting)
    far = parse("linf:0.25")
    naive = (Attempt("far", pgd(far, 20, objective=Unaware(CrossEntropy(), model.rule))),)
    found = adapt(
        model, held.x[:24], held.y[:24], far, 300, naive=naive,
        references=train_images, setting=Setting(inside=100, random=10),
    )  # fmt: skip
    assert "all-rejected" in found.names and found.suspect == "reject"
    assert found.robust < found.naive - 0.2
    assert found.clean <= 0.92


class Telling(nn.Module):
    """Also tells its hidden layer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*list(net)[:5])  # type: ignore[call-overload]
        self.head = list(net)[5]  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)
        return {"logits": self.head(features), "features": features}


@pytest.mark.slow
def test_features_that_are_told_are_matched(run: Adapt, net: Any) -> None:
    found = run(Telling(net), n=16, budget=400)
    names = [step.name for step in found.steps]
    assert any("feature matching" in name for name in names) and found.names == ()
    assert found.active is not None and found.active.passes


class Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def test_a_cut_gradient_is_a_flag_and_no_refusal(net: Any, images: Any, threat: Any) -> None:
    model = DefendedPredictor(net, preprocess={"cut": Cut()})
    attempts = [Attempt("PGD", pgd(threat, 5))]
    found = suspicion(model, images.x[:20], images.y[:20], threat, attempts)
    assert "zero-gradients" in found.names and found.weight >= 2
    judge = Judge(model)
    rows = torch.arange(20)
    blind = carry_out(attempts[0], judge, images.x[:20], images.y[:20], rows)
    through = Attempt("PGD", pgd(threat, 5), on=model.substituted("cut"))
    seeing = carry_out(through, judge, images.x[:20], images.y[:20], rows)
    assert seeing.won > blind.won


def test_transfer_goes_on_to_the_best_point(
    net: Any, winners: Any, images: Any, threat: Any, parts: Any
) -> None:
    model = DefendedPredictor(winners, inside={"k": Inside(parts["winners"], lambda m: nn.ReLU())})
    attack = pgd(threat, 20, objective=Margin())
    trial = carry_out(
        Attempt("t", attack, on=net), Judge(model), images.x, images.y, torch.arange(60)
    )
    with torch.no_grad():
        answer = model(trial.x).argmax(1)
    assert torch.equal(trial.verdict.lost, answer != images.y)
    # nothing stops at the first win of another model
    assert trial.forward >= 60 * 20


def test_a_judge_counts_draws(net: Any, images: Any, parts: Any) -> None:
    noisy = DefendedPredictor(net, preprocess={"noise": parts["noise"](0.3)})
    one, many = Judge(noisy, draws=1, seed=4), Judge(noisy, draws=11, seed=4)
    assert torch.equal(many(images.x, images.y).lost, many(images.x, images.y).lost)
    assert not torch.equal(one(images.x, images.y).score, many(images.x, images.y).score)
    plain = Judge(net)
    with torch.no_grad():
        wrong = net(images.x).argmax(1) != images.y
    assert torch.equal(plain(images.x, images.y).lost, wrong)
    assert torch.equal(plain.clean(images.x, images.y), ~wrong)
    with pytest.raises(InputError):
        Judge(net, draws=4)


def test_a_hunt_keeps_its_books(net: Any, images: Any, threat: Any) -> None:
    judge = Judge(net)
    clean = judge.clean(images.x, images.y)
    hunt = Hunt(judge, images.x, images.y, torch.arange(60), clean.clone(), budget=5000)
    rows = clean.nonzero()[:, 0]
    trial = hunt.run(Attempt("PGD", pgd(threat, 10)), rows, "naive")
    assert hunt.spent == trial.spent and hunt.steps[0].fresh == trial.won > 0
    assert hunt.robust == pytest.approx((int(clean.sum()) - trial.won) / 60)
    again = hunt.run(Attempt("PGD", pgd(threat, 10)), rows, "naive")
    assert hunt.steps[1].won == again.won and hunt.steps[1].fresh == 0
    assert hunt.affords(1, 1) and not hunt.affords(100, 60)


def test_parts_of_a_model_that_does_not_name_them(net: Any, images: Any, parts: Any) -> None:
    model = nn.Sequential(parts["levels"](), net, nn.Identity())
    found = predictor_of(model, images.x)
    assert found.parts == ("Levels",) and found.declared is None
    assert torch.equal(found(images.x), model(images.x))
    bare = found.without("Levels")
    assert torch.equal(bare(images.x), net(images.x))
    assert predictor_of(found, images.x) is found
    assert predictor_of(lambda x: net(x), images.x).parts == ()


def test_the_record_is_json(run: Adapt, net: Any, tmp_path: Any) -> None:
    found = run(net, n=12, budget=100)
    path = found.save(tmp_path / "out", model="net", data="digits")
    record = json.loads(path.read_text())
    assert path.name == FILE and record["schema"] == "torchproof.adaptation/1"
    assert "not a certificate" in record["caveat"] and record["model"] == "net"
    assert len(record["examples"]) == 12 and record["steps"][0]["axis"] == "naive"
    assert record["declaration"]["measured"]["rejects"] is False


def test_what_cannot_be_meant(run: Adapt, net: Any) -> None:
    with pytest.raises(InputError):
        run(net, n=12, budget=0)


@pytest.mark.parametrize("threat", ["l0:4", "l1:2", "l2:0.5"])
def test_other_norms(threat: str, run: Adapt, net: Any, images: Any, held: Any) -> None:
    setting = Setting(inside=30, random=5)
    x, y, about = images.x[:8], images.y[:8], parse(threat)
    found = adapt(net, x, y, about, 120, references=held, setting=setting)
    assert found.robust <= found.naive < found.clean
    assert bool(about.set(net, x).inside(found.x - x).all())
