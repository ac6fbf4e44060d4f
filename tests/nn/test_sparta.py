"""The attentive activation: its special cases, exact; gradients; transfer to another network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.core.asides import listening
from torchproof.core.errors import FileError, InputError, UnknownName
from torchproof.core.objectives import CrossEntropy
from torchproof.core.threats import parse
from torchproof.diagnose import gate_saturation
from torchproof.nn import (
    activations_of,
    build,
    cards,
    load_activations,
    save_activations,
    with_activations,
)
from torchproof.nn.activations import activation_of
from torchproof.nn.parametric import PSiLU, PSoftplus, PSSiLU
from torchproof.nn.sparta import Sparta
from torchproof.train import Settings, fit, method

SHAPE: dict[str, Any] = {"channels": 1, "size": 12, "classes": 3}


class Fixed(nn.Module):
    """An h given by hand."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.function(x))


def maps(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def moved(module: nn.Module, by: float = 0.5) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(by * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p))
    return module


def test_an_open_gate_is_relu() -> None:
    act, x = Sparta(5).double(), maps(2, 5, 4, 4)
    act.h = Fixed(lambda x: torch.full_like(x, torch.inf))
    assert torch.equal(act(x), x.clamp_min(0))


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_a_gate_linear_in_x_is_silu(beta: float) -> None:
    act, x = Sparta(5, form="swish").double(), maps(2, 5, 4, 4)
    identity = nn.Conv2d(5, 5, 1, bias=False).double()
    with torch.no_grad():
        identity.weight.copy_(beta * torch.eye(5)[:, :, None, None])
    act.h = identity
    assert torch.allclose(act(x), x / (1 + (-beta * x).exp()), rtol=0, atol=1e-14)


def test_a_gate_that_knows_the_place_only_is_fixed_attention() -> None:
    act, x, place = Sparta(5, scale=2).double(), maps(2, 5, 4, 3), maps(1, 1, 4, 3)
    act.h = Fixed(lambda x: place)
    weights = 2 / (1 + (-place).exp())
    assert torch.allclose(act(x), x.clamp_min(0) * weights, rtol=0, atol=1e-14)


@pytest.mark.parametrize("options", ["", "shared=True", "reduction=3", "norm=True", "scale=2"])
def test_the_gate_is_its_formula(options: str) -> None:
    """Against loops over channels and pixels."""
    act = activation_of(f"sparta({options})", 6)
    assert isinstance(act, Sparta)
    x = maps(2, 6, 4, 4)
    start = {1: 1 / (1 + math.exp(-4)), 2: 1.0}[act.scale]
    assert torch.allclose(act.double()(x), start * x.clamp_min(0), rtol=0, atol=1e-14)
    found, h = moved(act)(x), _by_hand(act, x)
    assert torch.allclose(found, x.clamp_min(0) * act.scale / (1 + (-h).exp()), atol=1e-12)
    assert h.shape[1] == (1 if options == "shared=True" else 6)


def _by_hand(act: Sparta, x: Tensor) -> Tensor:
    assert isinstance(act.h, nn.Sequential)
    parts = dict(act.h.named_children())
    depthwise, last = parts["depthwise"], parts["pointwise"]
    assert isinstance(depthwise, nn.Conv2d) and isinstance(last, nn.Conv2d)
    inner, group = depthwise.weight.shape[:2]
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    first = x.new_zeros(2, inner, 4, 4)
    for c in range(inner):
        for i in range(4):
            for j in range(4):
                seen = padded[:, c * group : (c + 1) * group, i : i + 3, j : j + 3]
                first[:, c, i, j] = (seen * depthwise.weight[c]).sum((1, 2, 3))
        if depthwise.bias is not None:
            first[:, c] += depthwise.bias[c]
    if "norm" in parts:
        mean, var = first.mean((1, 2, 3), True), first.var((1, 2, 3), False, keepdim=True)
        slope, shift = (p[:, None, None] for p in parts["norm"].parameters())
        first = (first - mean) / (var + 1e-5).sqrt() * slope + shift
    score = torch.einsum("oc,bcij->boij", last.weight[:, :, 0, 0], first.clamp_min(0))
    assert last.bias is not None
    return score + last.bias[:, None, None]


def test_vectors_have_no_space_to_attend_to() -> None:
    act, x = Sparta(7, maps=False), maps(3, 7)
    assert torch.equal(act(x), x.clamp_min(0)) and not list(act.parameters())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"form": "silu"}, UnknownName), ({"scale": 3}, InputError),
        ({"reduction": 4}, InputError), ({"reduction": 0}, InputError),
    ],
    ids=["form", "scale", "divisor", "zero"],
)  # fmt: skip
def test_settings_that_cannot_be_meant(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Sparta(6, **options)
    for kind in (PSiLU, PSSiLU, PSoftplus):
        with pytest.raises(InputError, match="alpha"):
            kind(alpha=0.0)
    with pytest.raises(InputError, match="beta"):
        PSSiLU(beta=1.0)


def test_parametric_activations_are_their_formulas() -> None:
    x = torch.linspace(-3, 3, 25, dtype=torch.float64)
    formulas = {
        PSiLU(2.5): lambda t: t / (1 + math.exp(-2.5 * t)),
        PSSiLU(1.5, 0.3): lambda t: t * (1 / (1 + math.exp(-1.5 * t)) - 0.3) / 0.7,
        PSSiLU(): lambda t: t / (1 + math.exp(-t)),
        PSoftplus(4.0): lambda t: math.log1p(math.exp(4 * t)) / 4,
        PSoftplus(): lambda t: math.log1p(math.exp(10 * t)) / 10,
    }
    for act, formula in formulas.items():
        expected = torch.tensor([formula(float(t)) for t in x], dtype=torch.float64)
        # weights are kept in float32
        assert torch.allclose(act(x), expected, rtol=0, atol=1e-6), act
    assert PSSiLU(1.0, 0.3)(x[:1]).item() > 0 > PSiLU()(x[:1]).item()


@pytest.mark.parametrize(
    "text",
    ["sparta", "sparta(form='swish', norm=True)", "sparta(shared=True, scale=2)", "psilu",
     "pssilu(beta=0.1)", "psoftplus(alpha=2)"],
)  # fmt: skip
def test_first_and_second_derivatives(text: str) -> None:
    act = moved(activation_of(text, 2).double(), 0.3)
    x = (maps(1, 2, 3, 3) + 0.05).requires_grad_()
    names = [name for name, _ in act.named_parameters()]

    def answer(x: Tensor, *weights: Tensor) -> Tensor:
        found = torch.func.functional_call(act, dict(zip(names, weights, strict=True)), (x,))
        assert isinstance(found, Tensor)
        return found

    inputs = (x, *(p.detach().clone().requires_grad_() for p in act.parameters()))
    assert torch.autograd.gradcheck(answer, inputs)
    assert torch.autograd.gradgradcheck(answer, inputs)


@pytest.mark.slow
def test_compiles() -> None:
    model = moved(build("resnet", **SHAPE, width=4, seed=0, activation="sparta")).eval()
    x = maps(2, 1, 12, 12).float()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), model(x), atol=1e-5)


def test_gates_tell_how_many_are_stuck() -> None:
    model = build("resnet", **SHAPE, width=4, seed=0, activation="sparta").eval()
    x = maps(5, 1, 12, 12).float()
    assert gate_saturation(model, x, 2) == (0.0,) * 5
    stage = model.get_submodule("net.act")
    assert isinstance(stage, Sparta)
    stage.h = Fixed(lambda x: torch.where(torch.arange(x.shape[3]) < 2, -9.0, 7.9).expand_as(x))
    found = gate_saturation(model, x, 2)
    assert found == pytest.approx(
        (2 / 6,) * 3 + (0.0,) * 2
    )  # stem and layer1 share it; maps of 6 x 6
    with listening() as told:
        model(x)
    assert [t.shape for t in told["gate"]] == [(5,)] * 5
    with pytest.raises(InputError, match="without gates"):
        gate_saturation(build("mlp", **SHAPE, hidden=(4,)), x)


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize(
    ("small", "deep"),
    [
        (("resnet18", {}), ("resnet34", {})),
        (("resnet", {"blocks": (1, 1)}), ("resnet", {"blocks": (2, 3)})),
        (("wide-resnet", {"depth": 10, "width": 1}), ("wide-resnet", {"depth": 16, "width": 1})),
    ],
    ids=lambda pair: pair[0],
)
@pytest.mark.parametrize("text", ["sparta", "pssilu"])
def test_trained_activations_fit_a_deeper_network(
    text: str, small: tuple[str, dict[str, Any]], deep: tuple[str, dict[str, Any]]
) -> None:
    width = {} if small[0] == "wide-resnet" else {"width": 4}
    one, two = (
        build(name, **SHAPE, **{**width, **more}, activation=text, seed=seed).eval()
        for seed, (name, more) in enumerate((small, deep))
    )
    state = activations_of(moved(one))
    stages = {"resnet": 2}.get(small[0], 4)
    assert {name.partition(".")[0] for name in state} == {f"stage{i + 1}" for i in range(stages)}
    made = with_activations(two, state)
    assert same(activations_of(made), state) and not same(activations_of(two), state)
    frozen = {name for name, p in made.named_parameters() if not p.requires_grad}
    assert len(frozen) == len(state) and all("act" in name for name in frozen)
    free = with_activations(two, state, freeze=False)
    assert all(p.requires_grad for p in free.parameters())
    x = maps(2, 1, 12, 12).float()
    assert torch.equal(made(x), free(x)) and not torch.equal(made(x), two(x))


def test_activations_that_do_not_fit() -> None:
    state = activations_of(build("resnet", **SHAPE, width=4, activation="sparta"))
    for options in ({"width": 6}, {"width": 4, "blocks": (1, 1, 1)}):
        with pytest.raises(InputError, match="same activation, width"):
            with_activations(build("resnet", **SHAPE, **options, activation="sparta"), state)
    with pytest.raises(InputError, match=r"stage1\.h"):
        with_activations(build("resnet", **SHAPE, width=4), state)


def test_activations_are_stored_and_read(tmp_path: Path) -> None:
    model = moved(build("resnet", **SHAPE, width=4, activation="sparta"))
    state = activations_of(model)
    save_activations(state, tmp_path / "phi.safetensors")
    cards.save(model, tmp_path / "run")
    assert same(load_activations(tmp_path / "phi.safetensors"), state)
    assert same(load_activations(tmp_path / "run"), state)
    assert same(load_activations(str(tmp_path / "run" / "model.safetensors")), state)
    cards.save(build("resnet", **SHAPE, width=4), tmp_path / "plain")
    with pytest.raises(InputError, match="without any"):
        load_activations(tmp_path / "plain")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    for name in ("broken.safetensors", "missing.safetensors", "missing"):
        with pytest.raises(FileError):
            load_activations(tmp_path / name)


@pytest.mark.parametrize(
    "training", ["AWP(AT(steps=1))", "AWP(AT(steps=1), steps=2)", "SWA(AT(steps=1))"]
)
def test_training_leaves_frozen_activations_alone(training: str) -> None:
    """Weight decay, weight perturbation, averages: bit for bit, in every copy."""
    model = build("resnet", **SHAPE, width=4, seed=0, activation="sparta(norm=True)")
    state = activations_of(moved(model))
    made = with_activations(model, state)
    before = {name: p.clone() for name, p in made.named_parameters()}
    ema = None if "SWA" in training else 0.9
    settings = Settings.of(epochs=1, batch_size=6, lr=0.1, weight_decay=0.1, held_out=4, ema=ema)
    x, y = maps(22, 1, 12, 12).float().sigmoid(), torch.arange(22) % 3
    list(fit(made, (x, y), method(training, parse("linf:0.1")), settings))
    assert same(activations_of(made), state)
    for name, p in made.named_parameters():
        assert torch.equal(p, before[name]) != p.requires_grad, name


def test_attacks_pass_through_the_gate() -> None:
    """The gradient that an attack is given is that of a finite difference, gate included."""
    model = moved(build("resnet", **SHAPE, width=4, seed=0, activation="sparta")).double().eval()
    x, y = maps(2, 1, 12, 12).sigmoid(), torch.tensor([0, 1])
    value = Attack(parse("linf:0.05"), CrossEntropy(), PGD(5))(model, x, y).value
    assert isinstance(value, Tensor)
    losses = [nn.functional.cross_entropy(model(v), y, reduction="none") for v in (x, x + value)]
    assert (losses[1] > losses[0]).all()
