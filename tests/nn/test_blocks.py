"""What every block of `insert`, and every activation with weights, has to keep. A new one is one
row.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.asides import listening
from torchproof.core.errors import ModelError
from torchproof.core.keys import uniform
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.nn import Network, build
from torchproof.nn.activations import ACTIVATIONS
from torchproof.nn.blocks import BLOCKS
from torchproof.verify import margins

# text -> is it the identity before it is trained? What it is instead stands in its docstring.
ROWS: dict[str, bool] = {
    "CIFS": False,
    "CIFS(probe='mlp', mask_grad='smooth')": False,
    "CIFS(probe='mlp', mask_grad='full', imgf='sigmoid', rescale=True)": False,
    "CIFS(imgf='ones')": True,
    "NonLocal": True,
    "NonLocal(form='dot')": True,
    "NonLocal(form='softmax', pool=2)": True,
    "Bilateral": True,
    "Bilateral(form='dot')": True,
    "MeanFilter": True,
    "MedianFilter": True,
    "NullFilter": True,
    "ODE": True,
    "ODE(time=True, h=0.5, solver='rk4')": True,
}

# Activations with weights, whose first answer is documented.
GATES: tuple[str, ...] = (
    "psilu",
    "pssilu(beta=0.1)",
    "psoftplus",
    "sparta",
    "sparta(form='swish', shared=True)",
    "sparta(scale=2, reduction=2, norm=True)",
)

NAMES = [*ROWS, *GATES]
REFUSED = {"CIFS", "MedianFilter"}  # by the verifier: they choose, by rank


TWICE = ("layer1", "layer2.0")


def network(
    text: str, seed: int = 0, blocks: tuple[int, ...] = (1, 1), places: tuple[str, ...] = TWICE
) -> Network:
    shape = {"channels": 1, "size": 12, "classes": 4, "seed": seed, "blocks": blocks, "width": 6}
    if text in GATES:
        return build("resnet", **shape, activation=text).eval()
    return build("resnet", **shape, insert=dict.fromkeys(places, text)).eval()


def once(text: str) -> Network:
    """One residual block and at most one inserted one, for what takes long with every operation."""
    return network(text, blocks=(1,), places=("layer1.0",))


def images(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return uniform(torch.arange(count), 0, (1, 12, 12)).to(dtype)


def moved(model: Network) -> Network:
    """As after some training: no weight at its special start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


def test_every_block_has_a_row() -> None:
    assert {text.partition("(")[0] for text in ROWS} == set(BLOCKS)
    weighty = {n for n in ACTIVATIONS if any(True for _ in build_of(n).parameters())}
    assert {text.partition("(")[0] for text in GATES} == weighty


def build_of(name: str) -> nn.Module:
    return build("resnet", channels=1, size=8, classes=2, seed=0, activation=name).get_submodule(
        "net.act"
    )


@pytest.mark.parametrize("text", [text for text, identity in ROWS.items() if identity])
def test_identity_at_the_start(text: str) -> None:
    plain = build("resnet", channels=1, size=12, classes=4, seed=0, blocks=(1, 1), width=6).eval()
    assert torch.equal(network(text)(images(3)), plain(images(3)))


@pytest.mark.parametrize("text", NAMES)
def test_rows_do_not_mix(text: str) -> None:
    model, x = moved(network(text)).double(), images(5, torch.float64)
    whole = model(x)
    assert whole.isfinite().all()
    assert torch.allclose(model(x[[3, 1]]), whole[[3, 1]], rtol=0, atol=1e-10)


@pytest.mark.parametrize("text", NAMES)
def test_gradients_reach_input_and_weights(text: str) -> None:
    model, x = moved(network(text)).train(), images(4).requires_grad_()
    with listening() as told:  # what is told is trained on too
        answers = [model(x), *(value for values in told.values() for value in values)]
    torch.stack([answer.square().sum() for answer in answers]).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0 and x.grad.isfinite().all()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name


@pytest.mark.parametrize("text", NAMES)
def test_works_without_gradients_copied_and_under_autocast(text: str) -> None:
    model, x = moved(network(text)), images(3)
    exact = model(x).detach()
    with torch.inference_mode():
        assert torch.allclose(copy.deepcopy(model)(x), exact, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(x).detach().float()
    # bfloat16 has 8 bits: the error of a few layers, relative to the spread of the logits
    assert torch.allclose(low, exact, rtol=0, atol=0.1 * max(float(exact.abs().max()), 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("text", NAMES)
def test_exports_with_any_batch_size(text: str) -> None:
    model, x = moved(once(text)), images(2)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    more = images(5)
    assert torch.allclose(program.module()(more), model(more), atol=1e-5)


@pytest.mark.parametrize("text", NAMES)
def test_weights_depend_on_the_seed_alone(text: str) -> None:
    state = torch.get_rng_state()
    one, two, other = network(text, 0), network(text, 0), network(text, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert any(
        not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )


@pytest.mark.parametrize("text", {t.partition("(")[0]: t for t in NAMES}.values())
def test_the_verifier_bounds_it_or_refuses_it_by_name(text: str) -> None:
    model = moved(once(text)).requires_grad_(False).double()
    x = images(2).double()  # intervals of solvers grow beyond what float32 can hold
    y, eps = model(x).argmax(1), 0.002
    if text.partition("(")[0] in REFUSED:
        with pytest.raises(ModelError, match=r"without a rule: .* at '"):
            margins(model, x, y, Threat(Linf(), eps), "ibp")
        return
    lower = margins(model, x, y, Threat(Linf(), eps), "ibp")
    for seed in range(6):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).sign()
        z = model((x + eps * noise).clamp(0, 1))
        for row, label in enumerate(y.tolist()):
            gaps = [z[row, label] - z[row, t] for t in range(4) if t != label]
            assert bool((torch.stack(gaps) >= lower[row] - 1e-4).all())
