"""Another library's points: brought into the threat, judged, refused where they are no images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.foreign import foreign
from torchproof.core.errors import ModelError
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import Threat
from torchproof.evaluate import Member, evaluate


class Threshold(nn.Module):
    """Two classes, parted by the mean of the image at 1 / 2."""

    def forward(self, x: Tensor) -> Tensor:
        s = x.flatten(1).mean(1)
        return 10 * torch.stack([s, 1 - s], 1)


LEVELS = torch.tensor([0.1, 0.45, 0.42, 0.58, 0.55, 0.8])
X = LEVELS[:, None, None, None].expand(6, 1, 4, 4).contiguous()
Y = (LEVELS < 0.5).long()


def towards(x: Tensor, y: Tensor) -> Tensor:
    """A step of 1 across the boundary, far out of the ball."""
    return x + (2 * y - 1).view(-1, 1, 1, 1).to(x)


def test_points_are_brought_into_the_ball_and_judged() -> None:
    model = Threshold().eval()
    found = foreign(Threat(Linf(), 0.1), model, towards)(model, X, Y)
    assert torch.equal(found.lost, (LEVELS - 0.5).abs() < 0.1)
    assert isinstance(found.value, Tensor)
    assert float(found.value.abs().max()) <= 0.1 + 1e-6
    assert ((X + found.value >= 0) & (X + found.value <= 1)).all()
    near = foreign(Threat(L2(), 0.2), model, towards)(model, X, Y)
    assert isinstance(near.value, Tensor)
    assert float(near.value.flatten(1).norm(dim=1).max()) <= 0.2 + 1e-5


def test_the_call_sees_gradients_and_the_labels() -> None:
    model, seen = Threshold().eval(), []

    def call(x: Tensor, y: Tensor) -> Tensor:
        seen.append(y.clone())
        live = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(model(live).gather(1, y[:, None]).sum(), live)
        return x - 0.1 * grad.sign()

    found = foreign(Threat(Linf(), 0.1), model, call)(model, X, Y)
    assert torch.equal(torch.cat(seen), Y) and int(found.lost.sum()) == 4


def test_it_stands_in_an_evaluation() -> None:
    model, about = Threshold().eval(), Threat(Linf(), 0.1)
    report = evaluate(model, (X, Y), about, [Member("theirs", foreign(about, model, towards))])
    assert report.robust_accuracy == pytest.approx(2 / 6)
    assert report.attacks[0].name == "theirs" and report.attacks[0].broken == 4


def test_what_is_no_image_is_refused() -> None:
    model, about = Threshold().eval(), Threat(Linf(), 0.1)
    with pytest.raises(ModelError, match=r"shape \(6, 16\)"):
        foreign(about, model, lambda x, y: x.flatten(1))(model, X, Y)
    with pytest.raises(ModelError, match="NoneType"):
        foreign(about, model, lambda x, y: None)(model, X, Y)  # type: ignore[arg-type, return-value]
