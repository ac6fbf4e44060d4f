"""CIFS: closed-form relevance against autograd, masks, labels, the gradients that attacks see."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.asides import labels, listening
from torchproof.core.errors import InputError, TorchproofError
from torchproof.nn import build
from torchproof.nn.cifs import CIFS, IMGFS, PROBES, mask_gradient

B, C, K = 6, 7, 5


@pytest.fixture
def block() -> Callable[..., CIFS]:
    """`block(**options)`: a block whose probe has large weights, in float64."""

    def make(**options: object) -> CIFS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            made = CIFS(C, K, hidden=9, **options).double()  # type: ignore[arg-type]
            with torch.no_grad():
                for p in made.parameters():
                    p.copy_(1.5 * torch.randn_like(p))
        return made

    return make


def maps() -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.rand(B, C, 3, 4, generator=g, dtype=torch.float64)


def probe_of(made: CIFS, z: Tensor) -> Tensor:
    """The probe as the paper writes it, on maps."""
    pooled = F.adaptive_avg_pool2d(z, 1).flatten(1)
    own = dict(made.named_parameters())
    if "probe.inner.weight" in own:
        u = pooled @ own["probe.inner.weight"].T + own["probe.inner.bias"]
        pooled = (1 + (5.0 * u).exp()).log() / 5.0
    return pooled @ own["probe.out.weight"].T + own["probe.out.bias"]


def autograd_relevance(made: CIFS, z: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits and relevance as the authors compute them: two logits, their gradient in the maps,
    summed over pixels.
    """
    live = z.clone().requires_grad_()
    r = probe_of(made, live)
    order = r.argsort(1, descending=True)
    first = order[:, 0] if y is None else y
    rows = torch.arange(len(z))
    summed = (r[rows, first] + r[rows, order[:, 1]]).sum()
    return r.detach(), torch.autograd.grad(summed, live)[0].sum((2, 3))


@pytest.mark.parametrize("fed", [False, True], ids=["predicted", "label"])
@pytest.mark.parametrize("probe", PROBES)
def test_closed_form_is_the_gradient(block: Callable[..., CIFS], probe: str, fed: bool) -> None:
    made, z = block(probe=probe), maps()
    y = torch.arange(B) % K if fed else None
    r, wanted = autograd_relevance(made, z, y)
    with torch.no_grad(), labels(y), listening() as told:
        out = made(z)
        found = made.probe.relevance(z.mean((2, 3)), made._chosen(r, y))  # type: ignore[operator]
    assert (found - wanted).abs().max() < 1e-12
    assert (told["probe"][0] - r).abs().max() < 1e-12
    assert (out - wanted.softmax(1)[:, :, None, None] * z).abs().max() < 1e-12


def test_a_label_of_rank_two_counts_twice(block: Callable[..., CIFS]) -> None:
    made = block()
    r = torch.tensor([[0.0, 3.0, 5.0, 1.0, 2.0]], dtype=torch.float64)
    assert made._chosen(r, None).tolist() == [[0, 1, 1, 0, 0]]
    assert made._chosen(r, torch.tensor([1])).tolist() == [[0, 2, 0, 0, 0]]
    assert made._chosen(r, torch.tensor([4])).tolist() == [[0, 1, 0, 0, 1]]
    assert block(k=3)._chosen(r, torch.tensor([0])).tolist() == [[1, 1, 0, 0, 1]]


@pytest.mark.parametrize("rescale", [False, True], ids=["plain", "rescaled"])
@pytest.mark.parametrize("imgf", IMGFS)
@torch.no_grad()
def test_masks(block: Callable[..., CIFS], imgf: str, rescale: bool) -> None:
    made, z = block(imgf=imgf, rescale=rescale), maps()
    m = made.mask(z.mean((2, 3)), probe_of(made, z))
    assert m.shape == (B, C) and (m >= 0).all()
    if rescale:
        assert torch.allclose(m.mean(1), torch.ones(B).double(), atol=1e-12)
    elif imgf == "softmax":
        assert torch.allclose(m.sum(1), torch.ones(B).double(), atol=1e-12)
    assert torch.equal(made(z), z) == (imgf == "ones")


def test_labels_change_the_mask_and_nothing_else(block: Callable[..., CIFS]) -> None:
    made, z = block(), maps()
    with listening() as told:
        alone, first = made(z), probe_of(made, z).argmax(1)
        with labels(first):
            same = made(z)
        with labels((first + 1) % K):
            other = made(z)
    assert torch.equal(alone, same)
    assert ((alone - other).abs().amax((1, 2, 3)) > 1e-3).all()
    assert torch.equal(told["probe"][0], told["probe"][2])


def network() -> nn.Module:
    """A smooth network with a block in its middle, so that its derivative is defined."""
    text = "CIFS(probe='mlp', hidden=6, rescale=True)"
    net = build("resnet", channels=1, size=6, classes=4, seed=0, blocks=(1, 1), width=4,
                stem_stride=1, activation="silu", insert={"layer1.0": text})  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for name, p in net.named_parameters():
            if "probe" in name:
                p.add_(0.8 * torch.randn_like(p))
    return net.double().eval()


def gradient(net: nn.Module, x: Tensor, kind: str) -> Tensor:
    live = x.clone().requires_grad_()
    with mask_gradient(kind):
        (grad,) = torch.autograd.grad(net(live)[:, 2].sum(), live)
    return grad


def test_full_is_the_derivative_of_the_network() -> None:
    """Central differences of the whole network along random directions, where no step changes the
    choice of classes.
    """
    net, g = network(), torch.Generator().manual_seed(2)
    x = torch.rand(4, 1, 6, 6, generator=g, dtype=torch.float64)
    kinds = {kind: gradient(net, x, kind) for kind in ("detached", "full", "smooth")}
    for _ in range(5):
        v = torch.randn(x.shape, generator=g, dtype=torch.float64)
        h, choices = 1e-5, []
        values = []
        for s in (h, -h):
            with listening() as told, torch.no_grad():
                values.append(net(x + s * v)[:, 2])
            choices.append(told["probe"][0].topk(2, 1).indices.sort(1).values)
        assert torch.equal(*choices)
        slope = (values[0] - values[1]) / (2 * h)
        exact = (kinds["full"] * v).flatten(1).sum(1)
        assert torch.allclose(exact, slope, rtol=1e-6, atol=1e-8)
    for one, other in (("detached", "full"), ("full", "smooth")):
        assert (kinds[one] - kinds[other]).abs().max() > 1e-3 * kinds["full"].abs().max()


def test_smooth_is_the_derivative_of_the_softened_choice(block: Callable[..., CIFS]) -> None:
    """At the hard answer, with the Jacobian of 2 softmax(r / T) in the place of the choice's."""
    made, z = block(mask_grad="smooth", temperature=0.7), maps()
    v = torch.randn(B, C, 3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    live = z.clone().requires_grad_()
    (found,) = torch.autograd.grad((made(live) * v).sum(), live)
    other = z.clone().requires_grad_()
    r, hard = probe_of(made, other), autograd_relevance(made, z, None)[1]
    soft = 2 * (r / 0.7).softmax(1) @ made.probe.out.weight  # type: ignore[union-attr]
    m = (hard + soft - soft.detach()).softmax(1)
    (wanted,) = torch.autograd.grad((m[:, :, None, None] * other * v).sum(), other)
    assert torch.allclose(found, wanted, atol=1e-12)


def test_the_kind_of_gradient_changes_no_answer_and_ends_with_its_block() -> None:
    net, x = network(), torch.rand(3, 1, 6, 6, dtype=torch.float64)
    plain = net(x)
    for kind in ("detached", "full", "smooth"):
        with mask_gradient(kind):
            assert torch.equal(net(x), plain)
    before = gradient(net, x, "detached")
    with pytest.raises(ZeroDivisionError), mask_gradient("full"):
        raise ZeroDivisionError
    live = x.clone().requires_grad_()
    assert torch.equal(torch.autograd.grad(net(live)[:, 2].sum(), live)[0], before)


def test_detached_teaches_the_probe_through_the_mask(block: Callable[..., CIFS]) -> None:
    made = block(probe="mlp")
    made(maps()).square().sum().backward()
    assert made.probe.out.weight.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_frozen_in_forward(block: Callable[..., CIFS]) -> None:
    made = block(probe="mlp", mask_grad="smooth")
    before = copy.deepcopy(vars(made))
    made(maps())
    assert {k: v for k, v in vars(made).items() if not k.startswith("_")} == {
        k: v for k, v in before.items() if not k.startswith("_")
    }


@pytest.mark.parametrize(
    "options",
    [{"k": 0}, {"k": K + 1}, {"beta": 0.0}, {"temperature": -1.0}, {"probe": "deep"},
     {"imgf": "relu"}, {"mask_grad": "none"}],
    ids=lambda o: next(iter(o)),
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(TorchproofError):
        CIFS(C, K, **options)  # type: ignore[arg-type]
    with pytest.raises(TorchproofError), mask_gradient("none"):
        pass
    with pytest.raises(InputError, match="hidden"):
        CIFS(C, K, hidden=0)
