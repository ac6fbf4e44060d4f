"""Networks of torch's own transformer layers are bounded, and left as they were."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import ModelError
from torchproof.core.threats import parse
from torchproof.verify import graph_of, margins
from torchproof.verify.attention import batches_first

X = torch.rand(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Attending(nn.Module):
    """Self-attention or a transformer layer over (B, 6, 4), and a linear head."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        alone = isinstance(self.layer, nn.MultiheadAttention)
        inner = self.layer(x, x, x)[0] if alone else self.layer(x)
        logits: Tensor = self.head(inner.flatten(1))
        return logits


def layers() -> dict[str, nn.Module]:
    block = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=True)
    return {
        "attention": nn.MultiheadAttention(4, 2, batch_first=True),
        "no bias": nn.MultiheadAttention(4, 2, batch_first=True, bias=False),
        "layer": nn.TransformerEncoderLayer(4, 1, 8, batch_first=True, activation="gelu"),
        "encoder": nn.TransformerEncoder(block, 2, enable_nested_tensor=False),
    }


@pytest.mark.parametrize("name", ["attention", "no bias", "layer", "encoder"])
def test_torchs_transformers_are_bounded(name: str) -> None:
    """Within next to no radius as they answer, and at a larger one no point is beyond."""
    torch.manual_seed(1)
    net = Attending(layers()[name]).double().eval().requires_grad_(False)
    z = net(X)
    y = z.argmax(1)
    others = [[j for j in range(3) if j != int(label)] for label in y]
    exact = torch.stack([z[i, y[i]] - z[i, others[i]] for i in range(2)])
    graph = graph_of(net, X)
    assert torch.allclose(margins(graph, X, y, parse("linf:1e-7")), exact, atol=1e-4)
    lower = margins(graph, X, y, parse("linf:0.001"), method="crown")
    near = (X[:, None] + (torch.rand(2, 500, 6, 4).double() * 2 - 1).sign() * 0.001).clamp(0, 1)
    found = net(near.flatten(0, 1)).view(2, 500, 3)
    reached = torch.stack([found[i, :, [int(y[i])]] - found[i, :, others[i]] for i in range(2)])
    gap = reached.amin(1) - lower
    assert float(gap.min()) >= -1e-9 and float(gap.max()) < 0.1
    assert not any("forward" in vars(module) for module in net.modules())


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("average", [False, True])
def test_the_same_answers_and_weights(apart: bool, average: bool) -> None:
    sizes = {"kdim": 3, "vdim": 5} if apart else {}
    attention = nn.MultiheadAttention(4, 2, batch_first=True, **sizes).double().eval()
    keys, values = (torch.rand(2, 7, sizes.get(part, 4)).double() for part in ("kdim", "vdim"))
    given = X, keys, values
    expected = attention(*given, average_attn_weights=average)
    with batches_first(nn.Sequential(attention)):
        found = attention(*given, average_attn_weights=average)
        assert attention(*given, need_weights=False)[1] is None
        masked = attention(*given, attn_mask=torch.ones(6, 7).triu(2).bool())
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))
    again = attention(*given, attn_mask=torch.ones(6, 7).triu(2).bool())
    assert torch.equal(masked[0], again[0]) and not torch.allclose(masked[0], found[0])


def test_what_somebody_made_of_an_attention_stays() -> None:
    """A `forward` that an instance was given is the network's, then and afterwards."""
    net = Attending(nn.MultiheadAttention(4, 2, batch_first=True)).double().eval()
    attention = net.layer
    plain = attention.forward
    attention.forward = lambda *given: (3 * plain(*given)[0], None)
    before = net(X)
    with contextlib.suppress(ModelError):
        graph = graph_of(net, X)
        assert torch.allclose(graph.run(X)[graph.output], before)
    with batches_first(net), batches_first(net):
        assert torch.equal(net(X), before)
    assert "forward" in vars(attention) and torch.equal(net(X), before)


@pytest.mark.slow
def test_a_batch_that_is_not_first_is_refused() -> None:
    net = Attending(nn.MultiheadAttention(4, 2)).double().eval()
    with pytest.raises(ModelError, match="depend on the others of the batch"):
        graph_of(net, X)
