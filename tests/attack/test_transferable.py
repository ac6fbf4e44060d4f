"""What makes attacks transfer: input diversity, smoothed gradients, each against a naive loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.cases import Cases, Point
from torchproof.attack.catalogue import NAMES, pgd
from torchproof.attack.input_diversity import InputDiversity, Shift, diverse, placed
from torchproof.attack.oracle import EOT, Plain
from torchproof.attack.run import Run
from torchproof.attack.starts import Uniform, Zero
from torchproof.attack.translation_invariant import TranslationInvariant, translation_invariant
from torchproof.attack.variance_tuning import VarianceTuning, vmi_fgsm
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.expression import parse
from torchproof.core.norms import L2, Linf
from torchproof.core.objectives import CrossEntropy
from torchproof.core.sites import Input, Latent
from torchproof.core.threats import Relative, Threat

LINF = Threat(Linf(), 0.1)


def cases(problem: Any, threat: Any = LINF) -> Cases:
    n = len(problem.x)
    allowed = threat.set(problem.model, problem.x)
    return Cases(problem.x, problem.y, problem.target, allowed, keys.mix(0, torch.arange(n)))


# ---- input diversity


@pytest.mark.parametrize(("height", "width"), [(9, 9), (12, 7), (5, 20)])
def test_a_shift_is_interpolation_and_padding(height: int, width: int) -> None:
    """Against torch's interpolation and padding, image by image, for every size and place."""
    g = torch.Generator().manual_seed(0)
    for side, top, wide, left in [
        (height, 0, width, 0),
        (height - 1, 1, width - 2, 0),
        (3, 2, 4, 1),
    ]:
        image = torch.rand(1, 2, height, width, generator=g, dtype=torch.float64)
        small = F.interpolate(image, (side, wide), mode="bilinear", align_corners=False)
        expected = F.pad(small, (left, width - wide - left, top, height - side - top))
        parts = [(height, side, top), (width, wide, left)]
        maps = [placed(n, torch.tensor([s]), torch.tensor([o]), torch.float64) for n, s, o in parts]
        assert torch.allclose(Shift(*maps)(image), expected, atol=1e-12)


def drawn(oracle: InputDiversity, c: Cases, progress: Tensor) -> Shift:
    return oracle._shift(c, torch.zeros_like(c.x), progress)


def test_what_is_drawn(make_problem: Any) -> None:
    """Half of the images stay; the others have sizes and places of their own, from the allowed
    ones.
    """
    x = torch.ones(400, 1, 20, 20)
    c = Cases(x, torch.zeros(400), torch.zeros(400), LINF.set(nn.Identity(), x), torch.arange(400))
    shift = drawn(InputDiversity(None, 0.5, 0.7), c, torch.zeros(400))  # type: ignore[arg-type]
    changed = [m for m in shift.columns if not torch.equal(m, torch.eye(20))]
    assert 160 < len(changed) < 240
    rows = [(m.sum(1) > 0).nonzero()[:, 0] for m in changed]
    sides = [len(r) for r in rows]
    assert set(sides) == {14, 15, 16, 17, 18, 19}, "at least 0.7 of 20, never all of it"
    assert all(int(r[-1] - r[0]) + 1 == len(r) for r in rows)
    tops = {int(r[0]) for r, side in zip(rows, sides, strict=True) if side == 17}
    assert tops == {0, 1, 2, 3}
    again = drawn(InputDiversity(None, 0.5, 0.7), c, torch.zeros(400))  # type: ignore[arg-type]
    later = drawn(InputDiversity(None, 0.5, 0.7), c, torch.full((400,), 0.1))  # type: ignore[arg-type]
    assert torch.equal(again.rows, shift.rows) and not torch.equal(later.rows, shift.rows)


def test_its_gradient_is_that_of_the_changed_image(make_problem: Any) -> None:
    p = make_problem(n=5, dtype=torch.float64)
    plain = Plain(p.model, Input(), CrossEntropy())
    oracle, c = InputDiversity(plain, 0.8, 0.5), cases(p)
    delta, progress = torch.full_like(p.x, 0.02), torch.full((5,), 0.3)
    point, shift = oracle(c, delta, True, progress), drawn(oracle, c, progress)
    live = delta.clone().requires_grad_()
    rows = [
        m @ image @ w.T
        for image, m, w in zip((p.x + live)[:, 0], shift.columns, shift.rows, strict=True)
    ]
    loss = F.cross_entropy(p.model(torch.stack(rows)[:, None]), p.y, reduction="none")
    (grad,) = torch.autograd.grad(loss.sum(), live)
    assert torch.allclose(point.loss, loss.detach()) and torch.allclose(point.grad, grad)
    here = plain(c, delta, False, progress)
    assert torch.equal(point.won, here.won) and torch.equal(point.score, here.score)


def test_the_verdict_is_about_the_image_itself(counted: Any) -> None:
    """A model that only shrunk images fool is not fooled."""

    def model(x: Tensor) -> Tensor:
        border = x[:, 0, 0, 0] + x[:, 0, -1, -1]
        return torch.stack([border, torch.ones_like(border)], 1)

    x, y = torch.ones(6, 1, 8, 8), torch.zeros(6, dtype=torch.int64)
    watched = counted(model)
    attack = diverse(pgd(Threat(Linf(), 0.01), 3, start=Zero()), chance=1.0)
    found = attack(watched, x, y)
    assert not bool(found.lost.any())
    assert found.spent.tolist() == [[3 * 2 + 1, 3]] * 6, "a forward more for each verdict"
    assert (watched.forwards, watched.backwards) == (6 * 7, 6 * 3)


def test_without_chance_nothing_changes(make_problem: Any) -> None:
    p = make_problem(n=4)
    attack = pgd(LINF, 4)
    one, two = (
        a(p.model, p.x, p.y, run=Run(last=True, patience=9)) for a in (attack, diverse(attack, 0))
    )
    assert torch.allclose(one.value, two.value, atol=1e-6)


@pytest.mark.parametrize("bad", [{"chance": 1.5}, {"least": 1.0}, {"least": 0.0}])
def test_diversity_refuses(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match="a probability, and a share"):
        InputDiversity(None, **bad)  # type: ignore[arg-type]


# ---- translation invariance


@pytest.mark.parametrize("size", [1, 3, 5, 15])
def test_smoothing_is_the_double_sum(size: int) -> None:
    grad = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    half = size // 2
    at = [-3 + 6 * i / (size - 1) if size > 1 else 0.0 for i in range(size)]
    density = [torch.tensor(-a * a / 2).double().exp() for a in at]
    kernel = torch.tensor([[a * b for a in density] for b in density], dtype=torch.float64)
    kernel = kernel / kernel.sum()
    expected = torch.zeros_like(grad)
    for i in range(6):
        for j in range(5):
            for a in range(-half, half + 1):
                for b in range(-half, half + 1):
                    if 0 <= i + a < 6 and 0 <= j + b < 5:
                        weight = kernel[a + half, b + half]
                        expected[:, :, i, j] += weight * grad[:, :, i + a, j + b]

    def inner(*_: Any) -> Point:
        value = torch.zeros(2)
        return Point(value, value, value > 0, grad, (1, 1))

    point = TranslationInvariant(inner, size)(None, None, True, torch.zeros(2))  # type: ignore[arg-type]
    assert isinstance(point.grad, Tensor) and torch.allclose(point.grad, expected, atol=1e-10)


@pytest.mark.parametrize("size", [0, 4, -3])
def test_kernels_are_odd(size: int) -> None:
    with pytest.raises(InputError, match="an odd number"):
        TranslationInvariant(None, size)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrap", "threat"),
    [(diverse, Threat(L2(), 0.1, site=Latent("bn"))), (translation_invariant, Relative(0.1))],
    ids=["diverse", "translation invariant"],
)
def test_both_are_about_images(wrap: Any, threat: Any, make_problem: Any) -> None:
    p = make_problem(n=3)
    with pytest.raises(InputError, match="site Input"):
        wrap(pgd(threat))(p.model, p.x, p.y)


# ---- together


def test_the_names_combine(make_problem: Any) -> None:
    """VMI-DI-TI as an expression: smoothed outside, diverse inside, tuned along the way."""
    p = make_problem(n=5)
    text = "TI(DI(VMI-FGSM(steps=3, samples=2), chance=1.0), size=3)"
    attack = parse(text, NAMES, threat=LINF)
    plain = Plain(p.model, Input(), CrossEntropy())
    oracle = attack.wrap(plain)
    assert isinstance(oracle, TranslationInvariant) and isinstance(oracle.inner, InputDiversity)
    assert oracle.inner.inner is plain and isinstance(attack.search, VarianceTuning)
    found = attack(p.model, p.x, p.y, run=Run(patience=99))
    assert found.spent.tolist() == [[2 * 7 + 1, 7]] * 5
    assert bool((found.value.abs() <= 0.1 + 1e-6).all())


def test_averaging_keeps_what_it_is_put_around(make_problem: Any) -> None:
    p = make_problem(n=2)
    oracle = parse("EOT(DI(PGD), 3)", NAMES, threat=LINF).wrap(
        Plain(p.model, Input(), CrossEntropy())
    )
    assert isinstance(oracle, EOT) and isinstance(oracle.inner, InputDiversity)


def test_starts_may_be_random(make_problem: Any) -> None:
    p = make_problem(n=3)
    attack = vmi_fgsm(LINF, 2, samples=2, start=Uniform())
    values = [attack(p.model, p.x, p.y, run=Run(seed=s, patience=99)).value for s in (0, 0, 1)]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
