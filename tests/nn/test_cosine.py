"""The cosine head: its formula, its place in networks, and its way through files."""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from torchproof.core.errors import InputError, ModelError, UnknownName
from torchproof.nn import MODELS, build, cards, load_model
from torchproof.nn.cosine import CosineHead, with_cosine_head

SHAPE = {"channels": 1, "size": 8, "classes": 3}
SMALL = {"preact-resnet18": {"width": 4}, "resnet18": {"width": 4}, "resnet34": {"width": 4},
         "wide-resnet": {"depth": 10, "width": 1},
         "purified": {"widths": (4, 6), "classifier": {"model": "mlp", "options": {}}}}  # fmt: skip


def head(scale: float = 8.0) -> CosineHead:
    made = CosineHead(4, 3, scale).double()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        made.weight.copy_(torch.randn(3, 4, generator=g, dtype=torch.float64))
        made.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return made


def test_the_formula_entry_by_entry() -> None:
    made, h = head(5.0).requires_grad_(False), torch.randn(6, 4, dtype=torch.float64)
    z = made(h)
    for n in range(6):
        for k in range(3):
            w = made.weight[k].tolist()
            dot = sum(a * b for a, b in zip(w, h[n].tolist(), strict=True))
            angle = dot / math.hypot(*w) / math.hypot(*h[n].tolist())
            assert float(z[n, k]) == pytest.approx(5 * (angle + float(made.bias[k])), abs=1e-12)


def test_lengths_do_not_matter_and_weights_stay_as_they_are() -> None:
    made, h = head(), torch.randn(6, 4, dtype=torch.float64)
    before, z = made.weight.clone(), made(h)
    assert torch.equal(made.weight, before)
    torch.testing.assert_close(made(100 * h), z)
    longer = copy.deepcopy(made)
    with torch.no_grad():
        longer.weight.mul_(torch.tensor([[2.0], [3.0], [0.5]], dtype=torch.float64))
    torch.testing.assert_close(longer(h), z)
    nothing = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    out = made(nothing)
    torch.testing.assert_close(out, 8 * made.bias.expand(2, 3))
    (gradient,) = torch.autograd.grad(out.sum(), nothing)
    assert bool(gradient.isfinite().all())


def test_gradients() -> None:
    made = head()
    h = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(made, (h,))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_network_takes_the_head(name: str) -> None:
    options = {**SHAPE, "size": 16, "seed": 0, **SMALL.get(name, {})}
    plain, model = build(name, **options), build(name, **options, head="cosine", scale=4)
    heads = [m for m in model.modules() if isinstance(m, CosineHead)]
    assert len(heads) == 1 and float(heads[0].cosine_scale) == 4
    with torch.no_grad():
        bound = 4 * (1 + heads[0].bias.abs().max())
        assert model.eval()(torch.rand(5, 1, 16, 16)).abs().max() <= bound + 1e-5
    old, new = plain.state_dict(), model.state_dict()
    assert new.keys() - old.keys() == {k for k in new if k.endswith("cosine_scale")}
    assert all(torch.equal(old[k], new[k]) for k in old if not k.endswith("bias"))
    assert not {"head", "scale"} & plain.options.keys()


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = build("small-cnn", **SHAPE, seed=0, head="cosine").eval()
    card = cards.save(model, tmp_path / "run")
    assert card["options"]["head"] == "cosine" and card["options"]["scale"] == 8.0
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(load_model(str(tmp_path / "run")).model(x), model(x))
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "model.pt2")
    again = load_model(str(tmp_path / "model.pt2")).model
    torch.testing.assert_close(again(x), model(x))


def test_read_back_from_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    model, x = build("small-cnn", **SHAPE, seed=0, head="cosine").eval(), torch.rand(4, 1, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is the old one
        torch.onnx.export(model, (x,), str(tmp_path / "model.onnx"), dynamo=False)
    torch.testing.assert_close(load_model(str(tmp_path / "model.onnx")).model(x), model(x))


def test_a_network_of_ones_own() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3, bias=False))
    weight = net[3].weight.clone()
    made = with_cosine_head(net.double(), 10)
    assert made is net and isinstance(net[3], CosineHead) and net[3].bias is None
    assert torch.equal(net[3].weight, weight.double())
    assert net(torch.rand(2, 1, 3, 3, dtype=torch.float64)).dtype == torch.float64


def test_what_makes_no_head_is_refused() -> None:
    for scale in (0, -1, float("inf"), float("nan"), True):
        with pytest.raises(InputError, match="scale"):
            CosineHead(4, 3, scale)
    with pytest.raises(InputError, match="scale"):
        build("mlp", **SHAPE, head="cosine", scale=0)
    with pytest.raises(InputError, match="linear head"):
        build("mlp", **SHAPE, scale=4)
    with pytest.raises(UnknownName, match="cosine"):
        build("mlp", **SHAPE, head="cosin")
    for net in (nn.Sequential(nn.Conv2d(1, 3, 3)), nn.Linear(3, 2)):
        with pytest.raises(ModelError, match="linear layer"):
            with_cosine_head(net)
