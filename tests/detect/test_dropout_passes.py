"""Passes with fixed masks beside one pass at a time, and beside real dropout."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import ModelError
from torchproof.detect.parts import dropout_passes
from torchproof.detect.parts.dropout_passes import DropoutPasses, uncertainty


class Around(nn.Module):
    """A network with a path around its dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.drop, self.out = nn.Linear(16, 8), nn.Dropout(0.4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.into(x.flatten(1))
        logits: Tensor = self.out(inside + self.drop(inside))
        return logits


def straight() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.Dropout2d(0.5), nn.ReLU(), nn.Flatten(), nn.Dropout(0.0),
        nn.Linear(24, 8), nn.Dropout(0.3), nn.Linear(8, 3),
    )  # fmt: skip


def images(rows: int = 5) -> Tensor:
    return torch.rand(rows, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def one_by_one(passes: DropoutPasses, model: nn.Module, x: Tensor) -> Tensor:
    """(B, T, K), each pass with its masks alone, image by image, by hooks of our own."""
    drops = [m for m in model.modules() if isinstance(m, nn.Dropout | nn.Dropout2d) and m.p > 0]
    found = []
    for t in range(len(passes.masks[0])):
        hooks = [
            module.register_forward_hook(lambda m, _, out, mask=mask: out * mask / (1 - m.p))
            for module, mask in zip(drops, (m[t] for m in passes.masks), strict=True)
        ]
        found.append(torch.cat([model(row) for row in x.split(1)]))
        for hook in hooks:
            hook.remove()
    return torch.stack(found, 1)


@pytest.mark.parametrize(("make", "late"), [(straight, True), (Around, False)])
def test_equal_to_one_pass_at_a_time(make: type[nn.Module], late: bool) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), images()
    passes = DropoutPasses.drawn(model, x[:2], 7, seed=1)
    assert passes.late is late
    torch.testing.assert_close(passes(model, x), one_by_one(passes, model, x))


def test_channels_are_dropped_whole_and_passes_differ() -> None:
    passes = DropoutPasses.drawn(straight().eval(), images(2), 50, seed=1)
    whole, single = passes.masks
    assert whole.shape == (50, 6, 1, 1) and single.shape == (50, 8)
    assert 0.4 < float(whole.double().mean()) < 0.6 and 0.6 < float(single.double().mean()) < 0.8
    assert len(torch.unique(single, dim=0)) > 25
    again = DropoutPasses.drawn(straight().eval(), images(2), 50, seed=1)
    other = DropoutPasses.drawn(straight().eval(), images(2), 50, seed=2)
    assert torch.equal(again.masks[1], single) and not torch.equal(other.masks[1], single)


def test_in_portions_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = straight().eval(), images()
    passes = DropoutPasses.drawn(model, x[:2], 10, seed=1)
    expected = passes(model, x)
    monkeypatch.setattr(dropout_passes, "ROWS", 15)
    torch.testing.assert_close(passes(model, x), expected)


def test_uncertainty_is_that_of_real_dropout() -> None:
    """Many fixed masks beside as many random ones of torch's own."""
    torch.manual_seed(0)
    model, x = straight().eval(), images(20)
    passes = DropoutPasses.drawn(model, x[:2], 2000, seed=1)
    ours = uncertainty(passes(model, x).detach())
    model.train()
    with torch.no_grad():
        random = torch.stack([model(x) for _ in range(2000)], 1).softmax(2)
    model.eval()
    expected = (random.square().mean(1) - random.mean(1).square()).mean(1).double()
    torch.testing.assert_close(ours, expected, rtol=0.15, atol=0)
    assert float(torch.corrcoef(torch.stack([ours, expected]))[0, 1]) > 0.95


def test_the_model_is_left_as_it_was() -> None:
    model, x = straight().eval(), images()
    before = model(x)
    passes = DropoutPasses.drawn(model, x[:2], 3, seed=1)
    passes(model, x)
    assert torch.equal(model(x), before) and not any(m._forward_hooks for m in model.modules())


def test_saved_as_modules_are() -> None:
    model, x = straight().eval(), images()
    passes = DropoutPasses.drawn(model, x[:2], 3, seed=1)
    other = copy.deepcopy(passes)
    for buffer in other.buffers():
        buffer.zero_()
    other.load_state_dict(passes.state_dict())
    assert torch.equal(other(model, x), passes(model, x))


def test_no_dropout_is_refused() -> None:
    for model in (nn.Flatten(), nn.Sequential(nn.Dropout(0.0), nn.Flatten())):
        with pytest.raises(ModelError, match="passes=0"):
            DropoutPasses.drawn(model, images(2), 3, seed=0)
    turned = nn.Sequential(nn.Flatten(0), nn.Dropout(0.5), nn.Unflatten(0, (2, 16)))
    with pytest.raises(ModelError, match="one row for each image"):
        DropoutPasses.drawn(turned, images(2), 3, seed=0)
