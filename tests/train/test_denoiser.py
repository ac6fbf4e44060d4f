"""Guided denoisers and ensemble adversarial training against naive references in float64."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.attack_set import AttackSet, Way
from torchproof.core.errors import InputError, ModelError, TorchproofError, UnknownName
from torchproof.core.threats import parse
from torchproof.nn import build, cards, load_model
from torchproof.nn.normalise import Normalise
from torchproof.nn.purified import Purified
from torchproof.nn.unet import DUNET
from torchproof.recipes import Plan, prepare, run
from torchproof.train import CGD, FGD, LGD, Batch, EnsembleAT, Method, PixelGuided, Settings, fit
from torchproof.train.method import drawn, read

EPS = (0.05, 0.2)
GUIDED = [PixelGuided(EPS), FGD(EPS), FGD(EPS, layer="0"), LGD(EPS), CGD(EPS)]
every_guide = pytest.mark.parametrize(
    "method", GUIDED, ids=["pixels", "features", "first maps", "logits", "classes"]
)


class Behind(nn.Module):
    """A network behind its normalisation, named as those of `torchproof.nn.build`."""

    def __init__(self, normalise: nn.Module, net: nn.Module) -> None:
        super().__init__()
        self.normalise, self.net = normalise, net

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.net(self.normalise(x))
        return answer


def purifier(conv: Any, mean: float = 0.0, std: float = 1.0) -> Behind:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        denoiser = DUNET(2, (3, 4), (1, 1), zero=False)
    return Behind(Normalise(mean, std), Purified(denoiser, conv())).double().train()


def naive(method: Method, model: Behind, batch: Batch, adv: Tensor) -> Tensor:
    """Row by row, in the definition's own words; the denoiser in train mode sees them together."""
    classifier = copy.deepcopy(model.net.classifier).eval()
    denoised, x = model.net.denoiser(model.normalise(adv)), model.normalise(batch.x)
    losses = []
    for row in range(len(x)):
        found, clean = denoised[row : row + 1], x[row : row + 1]
        if isinstance(method, FGD):
            last = 1 if method.layer else 3  # all but flatten and linear, or the convolution
            found, clean = classifier[:last](found), classifier[:last](clean)
        elif isinstance(method, (LGD, CGD)):
            found, clean = classifier(found), classifier(clean)
        if isinstance(method, CGD):
            y = int(batch.y[row])
            losses.append(found.exp().sum().log() - found[0, y])
        else:
            losses.append((found - clean).abs().sum() / found.numel())
    return torch.stack(losses)


@every_guide
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.3, 0.5)], ids=["plain", "normalised"])
def test_losses_and_gradients(
    method: Method, mean: float, std: float, conv: Any, batch: Any
) -> None:
    model, b = purifier(conv, mean, std), batch()
    ready = method.prepare(model, b)
    seen = copy.deepcopy(model).eval()
    source = {"classifier": lambda x: seen.net.classifier(seen.normalise(x))}
    pairs = AttackSet(source, EPS)(b.x, b.ids, b.seed)
    assert torch.equal(ready.adv, pairs.adv)
    twin = copy.deepcopy(model)
    with drawn(ready):
        losses = read(method, model, ready)
    expected = naive(method, twin, b, pairs.adv)
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=1e-12)
    losses.sum().backward()
    expected.sum().backward()
    for (name, one), (_, other) in zip(
        model.named_parameters(), twin.named_parameters(), strict=True
    ):
        if "classifier" in name:
            assert one.grad is None
        else:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-8, atol=1e-10)


@every_guide
def test_labels_are_read_by_cgd_alone(method: Method, conv: Any, batch: Any) -> None:
    model, b = purifier(conv), batch()
    other = replace(b, y=(b.y + 1) % 3)
    one, two = (method.prepare(model, part) for part in (b, other))
    assert torch.equal(one.adv, two.adv)
    same = torch.equal(method.losses(model, one), method.losses(model, two))
    assert same != isinstance(method, CGD)


@every_guide
def test_training_leaves_the_classifier_alone(method: Method, conv: Any, settings: Any) -> None:
    model = purifier(conv)
    inner = model.net.classifier
    before = copy.deepcopy(inner.state_dict())
    start = copy.deepcopy(model.net.denoiser.state_dict())
    g = torch.Generator().manual_seed(0)
    x = torch.rand(40, 2, 6, 6, generator=g, dtype=torch.float64)
    y = torch.randint(3, (40,), generator=g)
    chosen = settings(held_out=0, lr=0.05, weight_decay=0.1, ema=0.5, optimiser="adam")
    records = list(fit(model, (x, y), method, chosen))
    assert [record.best_epoch for record in records] == [1, 2]
    assert all(torch.equal(v, before[k]) for k, v in inner.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in inner.parameters())
    assert not any(m.training for m in inner.modules())
    weights = model.net.denoiser.state_dict()
    assert any(not torch.equal(v, start[k]) for k, v in weights.items())


def test_a_fresh_denoiser_is_asked_for_nothing_on_clean_images(conv: Any, batch: Any) -> None:
    model, b = Purified(DUNET(2, (3, 4)), conv()).double().train(), batch()
    for method in (PixelGuided, FGD, LGD):
        made = method(EPS, ways=(Way("noop"),))
        assert torch.equal(made.losses(model, made.prepare(model, b)), torch.zeros(20).double())


def test_sources_are_attacked_and_part_of_the_identity(conv: Any, batch: Any) -> None:
    model, b, source = purifier(conv), batch(), conv()
    nn.init.normal_(source[0].weight, generator=torch.Generator().manual_seed(1))
    method = LGD(EPS, sources={"A": source}, ways=(("FGSM", "A"),))
    ready = method.prepare(model, b)
    assert torch.equal(ready.adv, AttackSet({"A": source}, EPS, (Way("FGSM", "A"),))(
        b.x, b.ids, b.seed).adv)  # fmt: skip
    assert ready.spent == (2 * 20 + 20, 20)  # twice for FGSM, once for the clean target
    assert "A " in repr(method) and repr(method) != repr(LGD(EPS, sources={"A": conv()},
                                                            ways=(("FGSM", "A"),)))  # fmt: skip


def test_a_plan_purifies_its_teacher(tmp_path: Path) -> None:
    teacher = build("mlp", channels=1, size=8, classes=10, hidden=(6,), seed=1)
    cards.save(teacher, tmp_path / "standard")
    plan = Plan(
        model="purified(widths=(4, 6))", method="LGD(eps=(0.1, 0.2))", n=60,
        teacher=str(tmp_path / "standard"),
        settings=Settings.of(epochs=1, batch_size=20, held_out=0),
    )  # fmt: skip
    ready = prepare(plan, None, torch.device("cpu"))
    x = ready.train.x[:5]
    assert torch.equal(ready.model.eval()(x), teacher.eval()(x))  # nothing is denoised yet
    assert list(ready.method.sources) == ["teacher"]
    (record,) = run(ready, tmp_path / "run")
    assert record.best_epoch == 1 and record.loss > 0
    stored = load_model(str(tmp_path / "run")).model
    state = stored.net.classifier.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in teacher.state_dict().items())
    assert not torch.equal(stored(x), teacher(x))
    for part, word in (
        ({"teacher": None}, "--teacher RUN"),
        ({"model": "mlp", "method": "Standard"}, "asks for one"),
        ({"data": "digits", "model": "purified(denoiser='unet')"}, "denoiser"),
    ):
        with pytest.raises(TorchproofError, match=word):
            prepare(plan.model_copy(update=part), None, torch.device("cpu"))
    stranger = build("mlp", channels=3, size=8, classes=10, hidden=(6,), seed=1)
    cards.save(stranger, tmp_path / "standard")
    with pytest.raises(InputError, match="a classifier with"):
        prepare(plan, None, torch.device("cpu"))


class Loose(nn.Module):
    """What is no `Purified`, and trains its classifier."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.classifier = DUNET(2, (3,)).double(), classifier

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.classifier(self.denoiser(x))
        return answer


def test_what_cannot_be_guided_is_refused(conv: Any, batch: Any) -> None:
    b = batch()
    for model in (conv(), Loose(conv()), Loose(conv().eval())):
        with pytest.raises(ModelError, match="Purified"):
            LGD(EPS).prepare(model, b)
    with pytest.raises(UnknownName, match="layer"):
        FGD(EPS, layer="layer4").prepare(purifier(conv), b)
    twice = nn.ReLU()
    model = Purified(DUNET(2, (3,)), nn.Sequential(nn.Flatten(), twice, twice)).double()
    with pytest.raises(ModelError, match="answers 2 times"):
        FGD(EPS, layer="1").prepare(model, b)
    with pytest.raises(ModelError, match="with maps"):
        FGD(EPS).prepare(model, b)
    with pytest.raises(UnknownName, match="source"):
        LGD(EPS, ways=(Way("FGSM", "A"),))


def test_ensemble_adversarial_training_by_hand(conv: Any, batch: Any) -> None:
    threat, b, model = parse("linf:0.1"), batch(40), conv()
    other = conv()
    nn.init.normal_(other[0].weight, generator=torch.Generator().manual_seed(1))
    method = EnsembleAT(threat, {"A": other}, ("FGSM", "I-FGSM-2"))
    ready = method.prepare(model, b)
    way, _ = AttackSet({"A": other, "self": model}, (0.1,), tuple(
        Way(a, s) for s in ("A", "self") for a in ("FGSM", "I-FGSM-2")
    )).draw(b.ids, b.seed)  # fmt: skip
    assert way.bincount().min() > 3
    for row, number in enumerate(way.tolist()):
        net, steps = copy.deepcopy((other, model)[number // 2]).eval(), 1 + number % 2
        x = b.x[row : row + 1]
        y, at = net(x).argmax(1), x.clone()
        for _ in range(steps):
            point = at.clone().requires_grad_()
            (g,) = torch.autograd.grad(nn.functional.cross_entropy(net(point), y), point)
            at = (at + 0.1 / steps * g.sign()).clamp(0, 1)
        torch.testing.assert_close(ready.adv[row], at[0], rtol=0, atol=1e-12)
    losses = method.losses(copy.deepcopy(model), ready)
    halves = [nn.functional.cross_entropy(model(part), b.y, reduction="none")
              for part in (b.x, ready.adv)]  # fmt: skip
    torch.testing.assert_close(losses, (halves[0] + halves[1]) / 2, rtol=1e-12, atol=1e-12)
    assert method.passes == 2 and "A " in repr(method)


def test_an_ensemble_needs_networks_and_a_ball(conv: Any) -> None:
    threat = parse("linf:0.1")
    for given in ({}, {"sources": {"self": conv()}}, {"sources": {"A": conv()}, "attacks": ()}):
        with pytest.raises(InputError, match="one fixed network"):
            EnsembleAT(threat, **given)
    with pytest.raises(InputError, match="Linf threat"):
        EnsembleAT(parse("l2:1"), {"A": conv()})
    with pytest.raises(UnknownName, match="attack"):
        EnsembleAT(threat, {"A": conv()}, ("PGD",))
