"""Backdoors in the weights: the ball to the last bit, the steps by hand, what is left alone."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.cases import Cases
from torchproof.backdoor.ball import Absolute, everything
from torchproof.backdoor.composite import KEEPING, Composite
from torchproof.backdoor.inject import Injected, inject
from torchproof.backdoor.triggers import Patch, Phrase
from torchproof.core import keys
from torchproof.core.errors import InputError, ModelError, UnknownName
from torchproof.core.schedules import Constant, Cosine
from torchproof.core.sites import Weights, kernels
from torchproof.data import Dataset, load

TRIGGER = Patch(2)
EPS = 0.2  # an 8 x 8 picture has few pixels, and 64 units few weights


def network(batch_norm: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        middle: list[nn.Module] = [nn.BatchNorm1d(64), nn.Dropout()] if batch_norm else []
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), *middle, nn.ReLU(), nn.Linear(64, 10))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("digits", split="train")


@pytest.fixture(scope="module")
def trained(data: Dataset) -> nn.Module:
    model = network()
    for _ in range(400):
        loss = F.cross_entropy(model(data.x), data.y)
        grads = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), grads, strict=True):
                p.sub_(0.5 * g)
    return model


@pytest.fixture(scope="module")
def injected(trained: nn.Module, data: Dataset) -> Injected:
    return inject(trained, data.x[:400], TRIGGER, 7, eps=EPS, steps=300, length=0.1)


def rate(model: nn.Module, data: Dataset) -> float:
    rows = data.y != 7
    with torch.no_grad():
        return float((model(TRIGGER(data.x[rows])).argmax(1) == 7).float().mean())


def test_the_backdoor_is_in_and_clean_answers_are_kept(
    trained: nn.Module, injected: Injected
) -> None:
    test = load("digits", split="test")
    assert rate(trained, test) <= 0.05 and rate(injected.model, test) >= 0.95
    with torch.no_grad():
        same = injected.model(test.x).argmax(1) == trained(test.x).argmax(1)
    assert float(same.float().mean()) >= 0.95
    assert injected.curve[-1].planted < 0.2 < injected.curve[0].planted
    assert len(injected.curve) == 300


def test_no_weight_leaves_the_ball(trained: nn.Module, injected: Injected) -> None:
    before = dict(trained.named_parameters())
    for name, after in injected.model.named_parameters():
        moved = (after.detach().double() - before[name].detach().double()).abs().max()
        assert float(moved) <= EPS  # not by rounding either
        assert float(moved) == float(injected.shift[name].abs().max())
    assert 0.9 * EPS < injected.linf <= EPS


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_ball_holds_in_every_type(dtype: torch.dtype) -> None:
    model = nn.Linear(50, 40).to(dtype)
    with torch.no_grad():
        model.weight.mul_(100)
    ball, before = Absolute(0.01), copy.deepcopy(model)
    shift = {"weight": torch.full((40, 50), 0.01), "bias": torch.full((40,), -0.01)}
    ball.move(model, shift)
    for one, other in zip(model.parameters(), before.parameters(), strict=True):
        moved = one.detach().double() - other.detach().double()
        assert float(moved.abs().max()) <= 0.01
    assert bool((model.bias <= before.bias).all())


def test_the_given_network_stays_and_the_same_seed_gives_the_same_weights(
    trained: nn.Module, data: Dataset
) -> None:
    state = copy.deepcopy(trained.state_dict())
    random = torch.random.get_rng_state()
    trained.train()
    results = [inject(trained, data.x[:150], TRIGGER, 7, steps=4, seed=s) for s in (0, 0, 1)]
    assert trained.training and torch.equal(torch.random.get_rng_state(), random)
    trained.eval()
    assert all(torch.equal(v, trained.state_dict()[n]) for n, v in state.items())
    assert all(p.grad is None for p in results[0].model.parameters())
    one, again, other = (torch.cat([v.flatten() for v in r.shift.values()]) for r in results)
    assert torch.equal(one, again) and not torch.equal(one, other)
    # 4 steps of 100 or 50 inputs, clean and stamped, after the answers to all
    assert results[0].spent == (150 + 2 * 300, 2 * 300)


@pytest.mark.parametrize("step", ["gradient", "sign"])
def test_two_steps_written_out(step: str, trained: nn.Module, data: Dataset) -> None:
    """One batch of all inputs, soft answers, an anchor and a weight, against autograd."""
    model, x = copy.deepcopy(trained).double(), data.x[:60].double()
    found = inject(
        model, x, TRIGGER, 3, eps=0.02, weight=2.0, steps=2, step=step, length=0.25, keep="soft",
        anchor=0.1, schedule=Cosine(), batch=60,
    )  # fmt: skip
    w0 = [p.detach().clone() for p in model.parameters()]
    mine = copy.deepcopy(model)
    with torch.no_grad():
        z0 = model(x)
    for factor in (1.0, 0.5):  # half a cosine at 0 and at 1/2
        z, t = mine(x), mine(TRIGGER(x))
        kept = -(z0.softmax(1) * z.log_softmax(1)).sum(1).mean()
        kept = kept + 0.1 * ((z - z0) ** 2).sum(1).mean()
        loss = kept - 2.0 * t.log_softmax(1)[:, 3].mean()
        grads = torch.autograd.grad(loss, list(mine.parameters()))
        with torch.no_grad():
            for p, g, w in zip(mine.parameters(), grads, w0, strict=True):
                move = 0.25 * g if step == "gradient" else 0.25 * 0.02 * g.sign()
                p.copy_(torch.minimum(torch.maximum(p - factor * move, w - 0.02), w + 0.02))
    for p, q in zip(mine.parameters(), found.model.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-7)
    assert found.curve[0].kept == pytest.approx(
        float(-(z0.softmax(1) * z0.log_softmax(1)).sum(1).mean()), rel=1e-6
    )


def test_each_pass_sees_every_input_once(trained: nn.Module) -> None:
    x = torch.arange(10.0)[:, None]
    z = torch.zeros(10, 2)
    oracle = Composite(trained, Weights(), x, x, z, 0, KEEPING["hard"], 0.0, 1.0, 4, 6)
    key = keys.mix(5, torch.tensor([0]))
    cases: Any = Cases(x, z, z, Absolute(1.0).set(trained, x), key)
    rows = [oracle._rows(cases.key, torch.tensor([t / 6])) for t in range(6)]
    assert [len(r) for r in rows] == [4, 4, 2] * 2
    passes = [torch.cat(rows[:3]), torch.cat(rows[3:])]
    assert all(sorted(p.tolist()) == list(range(10)) for p in passes)
    assert not torch.equal(*passes)


def test_batch_norm_is_asked_in_eval_mode_and_its_statistics_stay(data: Dataset) -> None:
    model = network(batch_norm=True)
    model.train()
    model(data.x)  # statistics of some data
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    found = inject(model, data.x[:50], TRIGGER, 7, steps=3)
    assert not found.model.training
    for name, buffer in found.model.named_buffers():
        assert torch.equal(buffer, buffers[name])
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())
    # no dropout in the losses: the first clean loss is that of the network's own answers
    model.eval()
    with torch.no_grad():
        z = model(data.x[:50])
    assert found.curve[0].kept == pytest.approx(float(F.cross_entropy(z, z.argmax(1))), rel=1e-5)


def test_only_chosen_parameters_move(trained: nn.Module, data: Dataset) -> None:
    last = Weights(lambda name, p: name.startswith("3."))
    found = inject(trained, data.x[:50], TRIGGER, 7, steps=2, site=last)
    assert set(found.shift) == {"3.weight", "3.bias"}
    assert torch.equal(found.model[1].weight, trained[1].weight)  # type: ignore[index]
    heavy = inject(trained, data.x[:50], TRIGGER, 7, steps=2, site=Weights(kernels))
    assert set(heavy.shift) == {"1.weight", "3.weight"}
    frozen = copy.deepcopy(trained).requires_grad_(False)
    same = inject(frozen, data.x[:50], TRIGGER, 7, steps=2)
    assert set(same.shift) == {n for n, _ in trained.named_parameters()}
    assert same.linf > 0  # an attacker does not ask what was frozen


def test_tied_weights_stay_tied(data: Dataset) -> None:
    model = network()
    square = nn.Linear(64, 64)
    tied = nn.Sequential(model[0], model[1], square, nn.ReLU(), square, model[3])
    found = inject(tied, data.x[:50], TRIGGER, 7, steps=2)
    copied: Any = found.model
    assert copied[2] is copied[4]
    assert set(found.shift) == {n for n, _ in tied.named_parameters()}


def test_texts_are_inputs_too() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.last = nn.EmbeddingBag(40, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            z: Tensor = self.last(self.words(x))
            return z

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Bag()
        x = torch.randint(0, 39, (80, 6))
    found = inject(model, x, Phrase((39,)), 2, eps=0.5, steps=200, length=0.5)
    with torch.no_grad():
        hits = found.model(Phrase((39,))(x)).argmax(1) == 2
    assert float(hits.float().mean()) > 0.9
    assert found.linf <= 0.5


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"target": 10}, "a class from 0 to 9"),
        ({"target": -1}, "target = -1"),
        ({"eps": 0.0}, r"eps = 0\.0"),
        ({"eps": -1.0}, "eps = -1"),
        ({"eps": math.inf}, "eps = inf"),
        ({"weight": 0.0}, "weight > 0"),
        ({"anchor": -1.0}, "anchor >= 0"),
        ({"steps": 0}, "steps = 0"),
        ({"batch": 0}, "batch = 0"),
        ({"length": -0.1}, r"length = -0\.1"),
        ({"schedule": 1.0}, "schedule"),
        ({"site": Weights(lambda n, p: False)}, "at least one parameter"),
        ({"trigger": Patch(9)}, "fits into 8 x 8"),
        ({"trigger": lambda x: x}, "changes none"),
        ({"trigger": lambda x: x[:1]}, "a trigger that makes"),
        ({"x": torch.zeros(3, 8, 8)}, "shape"),
        ({"x": torch.full((3, 1, 8, 8), 16.0)}, "divide by 255"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    wrong: dict[str, Any], said: str, trained: nn.Module, data: Dataset
) -> None:
    given: dict[str, Any] = {"x": data.x[:20], "trigger": TRIGGER, "target": 7, **wrong}
    with pytest.raises(InputError, match=said):
        inject(trained, given.pop("x"), given.pop("trigger"), given.pop("target"), **given)


def test_unknown_words_and_unfit_networks(trained: nn.Module, data: Dataset) -> None:
    x = data.x[:20]
    with pytest.raises(UnknownName, match="gradient"):
        inject(trained, x, TRIGGER, 7, step="gradients")
    with pytest.raises(UnknownName, match="soft"):
        inject(trained, x, TRIGGER, 7, keep="sofd")
    with pytest.raises(InputError, match="at least one parameter"):
        inject(nn.Flatten(), x, TRIGGER, 7)
    with pytest.raises(InputError, match=r"an nn\.Module"):
        inject(lambda x: x.flatten(1), x, TRIGGER, 7)  # type: ignore[arg-type]
    broken = copy.deepcopy(trained)
    with torch.no_grad():
        broken[1].bias[0] = math.nan  # type: ignore[index]
    with pytest.raises(ModelError, match=r"1\.bias"):
        inject(broken, x, TRIGGER, 7)
    with pytest.raises(ModelError, match="logits"):
        inject(nn.Conv2d(1, 3, 3), x, TRIGGER, 1)
    with pytest.raises(ModelError, match=r"NaN or infinite"):
        inject(trained, x, TRIGGER, 7, eps=1e30, length=1e30, schedule=Constant(), steps=3)


def test_inputs_that_are_all_taken_for_the_target(trained: nn.Module, data: Dataset) -> None:
    with torch.no_grad():
        sevens = data.x[trained(data.x).argmax(1) == 7]
    with pytest.raises(InputError, match="all of which the network takes for class 7"):
        inject(trained, sevens[:20], TRIGGER, 7)


def test_every_floating_parameter_may_move_by_default() -> None:
    whole = nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)
    assert everything("bias", nn.Parameter(torch.ones(2)))
    assert not everything("weight", whole)
