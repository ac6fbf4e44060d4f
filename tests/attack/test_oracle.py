"""Oracles: functions of the point without memory, the wrappers around them, and what they cost."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.cases import Cases
from torchproof.attack.combine import Attack, Chain
from torchproof.attack.fgsm import FGSM
from torchproof.attack.input_diversity import InputDiversity
from torchproof.attack.nes import NES, SPSA
from torchproof.attack.oracle import EOT, Plain, Quantised
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.smoothed import Smoothed
from torchproof.attack.square import Square
from torchproof.attack.starts import Zero
from torchproof.attack.translation_invariant import TranslationInvariant
from torchproof.core.errors import ModelError
from torchproof.core.norms import Linf
from torchproof.core.objectives import CrossEntropy, Margin, Objective
from torchproof.core.sites import Input, Universal
from torchproof.core.threats import Threat

LINF = Threat(Linf(), 0.2)
WRAPS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda o: o,
    "eot": lambda o: EOT(o, 3),
    "quantised": Quantised,
    "both": lambda o: EOT(Quantised(o), 2),
    "nes": lambda o: NES(o, 3),
    "spsa of eot": lambda o: SPSA(EOT(o, 2), 2, room=8),
    "ti-di": lambda o: TranslationInvariant(InputDiversity(o, 1.0), 3),
}
each_oracle = pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS.keys())
each_type = pytest.mark.parametrize(
    "kind", [Plain, EOT, Quantised, NES, SPSA, InputDiversity, TranslationInvariant]
)


@each_type
def test_an_oracle_has_one_method(kind: type) -> None:
    public = [n for n in dir(kind) if callable(getattr(kind, n)) and not n.startswith("_")]
    assert public == [] and "__call__" in vars(kind)


@each_type
def test_an_oracle_has_no_memory(kind: type, make_problem: Any) -> None:
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    for name, hint in typing.get_type_hints(kind).items():
        origin = typing.get_origin(hint) or hint
        assert origin not in (list, dict, set, Tensor, bytearray), f"{name} could remember"
    problem = make_problem()
    plain = Plain(problem.model, Input(), CrossEntropy())
    oracle = plain if kind is Plain else kind(plain)
    with pytest.raises(dataclasses.FrozenInstanceError):
        oracle.samples = 3
    before = dict(vars(oracle))
    oracle(cases(problem), torch.zeros_like(problem.x), True, torch.zeros(4))
    assert dict(vars(oracle)) == before, "asking left something behind"


def cases(problem: Any, threat: Any = LINF) -> Cases:
    n = len(problem.x)
    allowed = threat.set(problem.model, problem.x)
    return Cases(problem.x, problem.y, problem.target, allowed, torch.arange(n))


@each_oracle
@pytest.mark.parametrize("gradient", [False, True])
def test_the_same_question_has_the_same_answer(
    wrap: Any, gradient: bool, make_problem: Any
) -> None:
    problem = make_problem()
    oracle = wrap(Plain(problem.model, Input(), CrossEntropy()))
    delta = torch.full_like(problem.x, 3 / 255)
    given = delta.clone()
    one = oracle(cases(problem), delta, gradient, torch.zeros(4))
    oracle(cases(problem), delta * 2, True, torch.ones(4))
    two = oracle(cases(problem), delta, gradient, torch.zeros(4))
    assert torch.equal(delta, given) and not delta.requires_grad
    for a, b in zip(one[:3], two[:3], strict=True):
        assert torch.equal(a, b) and not a.requires_grad and not a.is_inference()
    assert one.cost == two.cost
    assert (one.grad is not None) is gradient
    if gradient:
        assert torch.equal(one.grad, two.grad)


def test_plain_is_one_forward_and_one_backward(make_problem: Any, counted: Any) -> None:
    problem = make_problem()
    model = counted(problem.model)
    oracle = Plain(model, Input(), CrossEntropy())
    point = oracle(cases(problem), torch.zeros_like(problem.x), True, torch.zeros(4))
    assert (model.forwards, model.backwards) == (4, 4) and point.cost == (1, 1)
    point = oracle(cases(problem), torch.zeros_like(problem.x), False, torch.zeros(4))
    assert (model.forwards, model.backwards) == (8, 4) and point.cost == (1, 0)


def test_plain_gives_the_gradient_of_each_loss(make_problem: Any) -> None:
    problem = make_problem(dtype=torch.float64)
    delta = torch.full_like(problem.x, 0.01)
    point = Plain(problem.model, Input(), CrossEntropy())(
        cases(problem), delta, True, torch.zeros(4)
    )
    for i in range(4):
        x = (problem.x[i : i + 1] + 0.01).requires_grad_()
        loss = nn.functional.cross_entropy(problem.model(x), problem.y[i : i + 1])
        (grad,) = torch.autograd.grad(loss, x)
        assert float(point.loss[i]) == pytest.approx(loss.item())
        assert isinstance(point.grad, Tensor) and torch.allclose(point.grad[i], grad[0], atol=1e-12)


class Nonsense(nn.Module):
    """Fine at the images, NaN or infinity elsewhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        far = (x.detach().flatten(1) > 0.55).any(1, keepdim=True)
        return x.flatten(1)[:, :3] * torch.where(far, self.value, 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("search", [FGSM(), PGD(3), Square(20)], ids=["fgsm", "pgd", "square"])
def test_nan_and_infinity_are_refused(value: float, search: Any) -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    with pytest.raises(ModelError):
        Attack(LINF, CrossEntropy(), search)(
            Nonsense(value), x, torch.zeros(2).long(), run=Run(patience=99)
        )


def kinked(x: Tensor) -> Tensor:
    """Every gradient of a picture with a bright corner is NaN; all answers are plain numbers."""
    dark = (x.detach()[:, :, :1, :1] <= 0.9).to(x.dtype)
    same = ((x - x.detach()).abs() + dark).sqrt().flatten(1).sum(1)  # no slope, or NaN at sqrt(0)
    return x.flatten(1)[:, :3] + same[:, None]


def half_kinked() -> tuple[Tensor, Tensor]:
    """Four pictures (4, 1, 2, 2), the second and last with a bright corner, and their labels."""
    x = torch.full((4, 1, 2, 2), 0.5, dtype=torch.float64)
    x[:, 0, 0, 1] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    x[[1, 3], 0, 0, 0] = 1.0
    return x, torch.zeros(4).long()


@pytest.mark.parametrize(
    "wrap", [lambda o: o, lambda o: EOT(o, 3), Smoothed, lambda o: InputDiversity(o, 0.0)],
    ids=["plain", "eot", "smoothed", "di"],
)  # fmt: skip
def test_undefined_gradients_are_put_to_zero_and_counted(wrap: Any) -> None:
    """A NaN has no sign: its row gets nothing, all other rows what they get alone."""
    x, y = half_kinked()
    oracle = wrap(Plain(kinked, Input(), Margin()))

    def ask(rows: list[int]) -> Any:
        part = Threat(Linf(), 0.05).set(kinked, x[rows])
        key = torch.tensor(rows)
        case = Cases(x[rows], y[rows], y[rows] - 1, part, key)
        return oracle(case, torch.zeros_like(x[rows]), True, torch.zeros(len(rows)))

    every, sound, bad = ask([0, 1, 2, 3]), ask([0, 2]), ask([1, 3])
    each = {EOT: 3, Smoothed: 8}.get(type(oracle), 1)
    assert every.undefined.tolist() == [0, each, 0, each] and bad.undefined.tolist() == [each] * 2
    assert sound.undefined is None
    assert torch.equal(every.grad[[0, 2]], sound.grad) and bool((sound.grad != 0).any())
    assert not bool(every.grad[[1, 3]].any()) and bool(every.loss.isfinite().all())


def test_only_the_undefined_coordinates_are_lost() -> None:
    def rooted(x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3] + 0 * x.flatten(1)[:, 3:].sqrt()

    x, y = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64), torch.zeros(1).long()
    x[0, 0, 1, 1] = 0.0
    case = Cases(x, y, y - 1, LINF.set(rooted, x), y)
    point = Plain(rooted, Input(), Margin())(case, torch.zeros_like(x), True, torch.zeros(1))
    assert isinstance(point.grad, Tensor) and point.undefined is not None
    assert point.grad.flatten()[[0, 3]].tolist() == [-1, 0] and point.undefined.tolist() == [1]


@pytest.mark.parametrize("slots", [1, 3, 4])
@pytest.mark.parametrize(
    ("search", "asked"),
    [(FGSM(), 1), (PGD(3), 3), (PGD(3, start=Zero()), 3), (Square(20), 0)],
    ids=["fgsm", "pgd", "pgd zero", "square"],
)
def test_an_attack_counts_its_blind_questions(
    search: Any, asked: int, slots: int, caplog: pytest.LogCaptureFixture
) -> None:
    x, y = half_kinked()
    attack = Attack(Threat(Linf(), 0.05), Margin(), search)
    found = attack(kinked, x, y, run=Run(patience=99, slots=slots))
    assert found.undefined.tolist() == [0, asked, 0, asked] and bool(found.done.all())
    said = f"{2 * asked} questions about 2 of 4 examples"
    assert (said in caplog.text) is bool(asked)
    two = Chain((attack, attack))(kinked, x, y, run=Run(patience=99, slots=slots))
    assert two.undefined.tolist() == [0, 2 * asked, 0, 2 * asked]


def test_undefined_gradients_of_a_shared_perturbation_are_refused() -> None:
    x, y = half_kinked()
    with pytest.raises(ModelError, match="gradient is NaN"):
        Attack(Threat(Linf(), 0.05, Universal()), Margin(), PGD(3))(kinked, x, y)


def test_a_model_without_a_gradient_is_refused_unless_none_is_needed() -> None:
    def rounded(x: Tensor) -> Tensor:
        return x.detach().flatten(1)[:, :3]

    x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    with pytest.raises(ModelError, match="BPDA"):
        Attack(LINF, CrossEntropy(), PGD(3))(rounded, x, y)
    assert Attack(LINF, Margin(), Square(5))(rounded, x, y).done.all()


def test_losses_of_a_half_precision_model_are_float32(make_problem: Any) -> None:
    problem = make_problem()
    with torch.autocast("cpu", torch.bfloat16):
        assert problem.model(problem.x).dtype == torch.bfloat16
        point = Plain(problem.model, Input(), CrossEntropy())(
            cases(problem), torch.zeros_like(problem.x), True, torch.zeros(4)
        )
    assert point.loss.dtype == point.score.dtype == torch.float32
    assert isinstance(point.grad, Tensor) and point.grad.dtype == torch.float32


def test_objectives_of_other_tasks_fit_in() -> None:
    """A regression task writes its own loss and verdict, and reads outputs of its own shape."""

    class Far(Objective):
        def loss(self, out: Any, goal: Any) -> Tensor:
            return (out["value"] - goal.y).abs()

        def won(self, out: Any, goal: Any) -> Tensor:
            return self.loss(out, goal) > 0.35

    def model(x: Tensor) -> dict[str, Tensor]:
        return {"value": x.flatten(1).sum(1)}

    x = torch.full((2, 1, 1, 2), 0.5)
    found = Attack(LINF, Far(), PGD(5, start=Zero()))(
        model, x, torch.tensor([0.9, 1.2]), run=Run(patience=99)
    )
    assert found.lost.tolist() == [True, True]
    assert torch.allclose(found.score, torch.tensor([0.5, 0.6]), atol=1e-6)
