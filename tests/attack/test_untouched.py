"""Attacks leave the model, the caller's tensors and the global random state as they were."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.apgd import APGD
from torchproof.attack.combine import Attack, Chain, EveryTarget, Restarts
from torchproof.attack.fab import FAB
from torchproof.attack.fgsm import FGSM
from torchproof.attack.oracle import EOT, Quantised
from torchproof.attack.pgd import PGD, MomentumPGD, NesterovPGD
from torchproof.attack.run import Run
from torchproof.attack.square import Square
from torchproof.attack.untouched import forked, kept_buffers, untouched
from torchproof.core.norms import L1, L2, Linf
from torchproof.core.objectives import DLR, CrossEntropy, Margin, TargetedMargin
from torchproof.core.sites import Latent, Universal
from torchproof.core.threats import Both, Relative, Threat
from torchproof.core.values import leaves

LINF = Threat(Linf(), 0.2)

ATTACKS: dict[str, Any] = {
    "fgsm": Attack(LINF, CrossEntropy(), FGSM()),
    "pgd": Attack(LINF, CrossEntropy(), PGD(3)),
    "momentum": Attack(LINF, CrossEntropy(), MomentumPGD(3)),
    "nesterov": Attack(LINF, CrossEntropy(), NesterovPGD(3)),
    "apgd l2": Attack(Threat(L2(), 0.5), DLR(), APGD(4)),
    "pgd l1": Attack(Threat(L1(), 2.0), DLR(), PGD(3)),
    "fab-t": EveryTarget(Attack(LINF, TargetedMargin(), FAB(3)), 2),
    "square": Attack(LINF, Margin(), Square(5)),
    "eot": Attack(LINF, CrossEntropy(), PGD(2), wrap=lambda o: EOT(o, 2)),
    "quantised": Attack(LINF, CrossEntropy(), PGD(2), wrap=Quantised),
    "restarts": Restarts(Attack(LINF, CrossEntropy(), PGD(2)), 2),
    "chain": Chain((Attack(LINF, CrossEntropy(), FGSM()), Attack(LINF, Margin(), Square(4)))),
    "universal": Attack(Threat(Linf(), 0.1, site=Universal()), CrossEntropy(), PGD(2)),
    "latent": Attack(Threat(L2(), 1.0, site=Latent("bn")), CrossEntropy(), PGD(2)),
    "weights": Attack(Relative(0.1), CrossEntropy(), PGD(2)),
    "joint": Attack(Both(LINF, Relative(0.05)), CrossEntropy(), APGD(3)),
}
each_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())


def prepare(model: nn.Module) -> None:
    """A model in the middle of training, fine-tuned with frozen parts: nothing is in its usual
    state.
    """
    model.train()
    model.get_submodule("bn").eval()
    model.get_parameter("conv.bias").requires_grad_(False)
    model.get_parameter("head.weight").grad = torch.full_like(
        model.get_parameter("head.weight"), 7.0
    )


def bf16(model: nn.Module) -> Any:
    return torch.autocast("cpu", torch.bfloat16)


CONTEXTS: dict[str, Callable[[nn.Module], Any]] = {
    "plain": lambda m: nullcontext(),
    "autocast": bf16,
    "no_grad": lambda m: torch.no_grad(),
    "inference_mode": lambda m: torch.inference_mode(),
}
each_context = pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS.keys())


@each_attack
@each_context
def test_everything_is_as_it_was(attack: Any, context: Any, make_problem: Any, watch: Any) -> None:
    problem = make_problem(n=3, noisy=True)
    prepare(problem.model)
    with context(problem.model):
        seen = watch(problem.model, problem.x, problem.y)
        found = attack(problem.model, problem.x, problem.y)
        seen.check()
    for leaf in [*leaves(found.value), found.score, found.lost]:
        assert not leaf.requires_grad and not leaf.is_inference()
    assert all(leaf.dtype == torch.float32 for leaf in leaves(found.value))


@each_attack
@each_context
def test_training_attacks_leave_no_trace_either(
    attack: Any, context: Any, make_problem: Any, watch: Any
) -> None:
    problem = make_problem(n=3, noisy=True)
    prepare(problem.model)
    with context(problem.model):
        seen = watch(problem.model, problem.x, problem.y)
        attack(problem.model, problem.x, problem.y, run=Run(last=True, patience=float("inf")))
        seen.check()


class Failing(nn.Module):
    """Raises at its third call, after having drawn random numbers."""

    def __init__(self, inner: nn.Module, calls: int) -> None:
        super().__init__()
        self.inner, self.left = inner, calls

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        out: Tensor = self.inner(x)
        if self.left < 0:
            torch.rand(3)
            raise RuntimeError("out of order")
        return out


@each_attack
@pytest.mark.parametrize("calls", [0, 1])
def test_everything_is_as_it_was_after_an_exception(
    attack: Any, calls: int, make_problem: Any, watch: Any
) -> None:
    problem = make_problem(n=3, noisy=True)
    if hasattr(attack, "threat") and isinstance(attack.threat.site, Latent):
        problem.model.get_submodule("relu").forward = explode  # type: ignore[method-assign]
        model, message = problem.model, "out of order"
    else:
        model, message = Failing(problem.model, calls), "out of order"
    prepare(problem.model)
    seen = watch(model, problem.x)
    with pytest.raises(RuntimeError, match=message):
        attack(model, problem.x, problem.y)
    seen.check()


def explode(x: Tensor) -> Tensor:
    raise RuntimeError("out of order")


@each_attack
def test_a_callers_tensor_that_wants_gradients_gets_none(attack: Any, make_problem: Any) -> None:
    problem = make_problem(n=3)
    x = problem.x.clone().requires_grad_()
    found = attack(problem.model, x, problem.y)
    assert x.grad is None and not any(leaf.requires_grad for leaf in leaves(found.value))


@each_attack
def test_tensors_made_under_inference_mode_are_fine(attack: Any, make_problem: Any) -> None:
    problem = make_problem(n=3)
    plain = attack(problem.model, problem.x, problem.y)
    with torch.inference_mode():
        x, y = problem.x * 1, problem.y * 1
        assert x.is_inference()
        found = attack(problem.model, x, y)
    assert torch.equal(found.lost, plain.lost)
    assert all(
        torch.equal(a, b) for a, b in zip(leaves(found.value), leaves(plain.value), strict=True)
    )


@each_attack
def test_a_graph_built_before_survives_the_attack(attack: Any, make_problem: Any) -> None:
    """Clean loss, then attack, then backward: buffers must not look changed."""
    problem = make_problem(n=3)
    for train in (False, True):
        problem.model.train(train)
        loss = problem.model(problem.x).sum()
        attack(problem.model, problem.x, problem.y)
        loss.backward()
        assert all(p.grad is not None for p in problem.model.parameters() if p.requires_grad)


@each_attack
def test_a_bf16_model_is_attacked_in_float32_under_its_own_names(
    attack: Any, make_problem: Any
) -> None:
    problem = make_problem(n=3)
    expected = attack(problem.model, problem.x, problem.y)
    model = problem.model.to(torch.bfloat16)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    found = attack(model, problem.x, problem.y)
    assert all(
        torch.equal(t, before[n]) and t.dtype == before[n].dtype
        for n, t in model.state_dict().items()
    )
    assert all(leaf.dtype == torch.float32 for leaf in leaves(found.value))
    if isinstance(expected.value, dict):
        assert found.value.keys() == expected.value.keys()


@each_attack
def test_a_float32_model_takes_float64_images(attack: Any, make_problem: Any) -> None:
    problem = make_problem(n=3)
    expected = attack(problem.model, problem.x, problem.y)
    found = attack(problem.model, problem.x.double(), problem.y)
    assert torch.equal(found.lost, expected.lost)


@each_attack
def test_no_examples_nothing_found(attack: Any, make_problem: Any, watch: Any) -> None:
    problem = make_problem(n=3)
    seen = watch(problem.model)
    found = attack(problem.model, problem.x[:0], problem.y[:0])
    assert len(found.lost) == len(found.spent) == 0
    seen.check()


@each_attack
def test_same_seed_same_answer_whatever_the_global_state(attack: Any, make_problem: Any) -> None:
    problem = make_problem(n=3, noisy=True)
    with forked(1, torch.device("cpu")):
        one = attack(problem.model, problem.x, problem.y, run=Run(seed=5))
    with forked(2, torch.device("cpu")):
        two = attack(problem.model, problem.x, problem.y, run=Run(seed=5))
    assert all(torch.equal(a, b) for a, b in zip(leaves(one), leaves(two), strict=True))


def test_dropout_is_off_while_attacking(make_problem: Any) -> None:
    """The model is asked in eval mode: what is found for a model in train mode is what eval mode
    gives.
    """
    problem = make_problem(n=4)
    expected = ATTACKS["pgd"](problem.model, problem.x, problem.y)
    problem.model.train()
    found = ATTACKS["pgd"](problem.model, problem.x, problem.y)
    assert torch.equal(found.value, expected.value)


class Ticking(nn.Module):
    """Replaces its buffer instead of writing into it, as exponential averages often do."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1
        return x.flatten(1)[:, :3]


def test_buffers_that_are_replaced_come_back() -> None:
    model = Ticking()
    before = model.count
    ATTACKS["pgd"](model, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))
    assert model.count is before and float(model.count) == 0.0


def test_kept_buffers_undoes_what_train_mode_does(make_problem: Any) -> None:
    model = make_problem().model.train()
    before = {n: b.clone() for n, b in model.named_buffers()}
    with pytest.raises(ZeroDivisionError), kept_buffers(model):
        model(torch.rand(8, 1, 4, 4))
        assert not torch.equal(model.get_buffer("bn.running_mean"), before["bn.running_mean"])
        raise ZeroDivisionError
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())


def test_forked_gives_keyed_numbers_and_the_state_back() -> None:
    state = torch.get_rng_state()
    with forked(3, torch.device("cpu")):
        one = torch.rand(4)
    with forked(3, torch.device("cpu")):
        two = torch.rand(4)
    assert torch.equal(one, two) and torch.equal(torch.get_rng_state(), state)


def test_untouched_works_for_plain_functions() -> None:
    state = torch.get_rng_state()
    with untouched(lambda x: x):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("attack", [ATTACKS[n] for n in ("fgsm", "pgd", "square", "universal")])
def test_a_plain_function_is_a_model(attack: Any, make_problem: Any) -> None:
    problem = make_problem(n=3)
    by_module = attack(problem.model, problem.x, problem.y)
    by_function = attack(lambda x: problem.model(x), problem.x, problem.y)
    assert torch.equal(by_module.value, by_function.value)
    double = problem.model.double()
    found = attack(lambda x: double(x), problem.x.double(), problem.y)
    assert found.value.dtype == torch.float64


@pytest.mark.parametrize("name", ["pgd", "fab-t", "square"])
def test_images_are_kept_from_a_model_that_writes_to_its_input(
    name: str, make_problem: Any
) -> None:
    problem = make_problem()
    before = problem.x.clone()

    def shifting(x: Tensor) -> Tensor:
        x -= 0.1
        answer: Tensor = problem.model(x)
        return answer

    ATTACKS[name](shifting, problem.x, problem.y)
    assert torch.equal(problem.x, before)
