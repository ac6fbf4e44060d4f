"""Problems of two classes with an adversarial example by construction (Zimmermann et al. 2022).

Around an image, points well inside the threat's set are told from points at its very edge by a
linear read-out of the model's features, without error: whoever starts at the image and may go
anywhere in the set can reach the edge's class.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchproof.adaptive.readout import Readout
from torchproof.attack.starts import Corner, Sphere
from torchproof.attack.untouched import untouched
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.rejection import Rejecting
from torchproof.core.sites import Model
from torchproof.core.threats import AnyThreat
from torchproof.core.unaware import logits_of
from torchproof.core.values import expand

_ROUNDS = 10
_ROOM = 250  # points per model call


@dataclass(frozen=True)
class Setting:
    """inside: interior points besides the image itself; edge: boundary points; gap: interior points
    keep off the edge by this share of the radius; boundary: points in a uniform direction at full
    distance, or corners; logits: scaled to a range of 1 ("fixed"), to the median range of the
    model's own ("adaptive"), or "fixed" with the decision moved to just before the boundary points
    ("tight"); random: random points that are tried for comparison.
    """

    inside: int = 999
    edge: int = 1
    gap: float = 0.05
    boundary: Literal["sphere", "corner"] = "sphere"
    logits: Literal["fixed", "adaptive", "tight"] = "fixed"
    random: int = 200

    def __post_init__(self) -> None:
        counts = min(self.inside, self.edge, self.random)
        known = self.boundary in ("sphere", "corner")
        known = known and self.logits in ("fixed", "adaptive", "tight")
        if counts < 1 or not 0 < self.gap < 1 or not known:
            expected = "counts >= 1, 0 < gap < 1, boundary sphere or corner, logits fixed, "
            raise InputError(f"{self}", expected + "adaptive or tight", "Setting() is as published")


class Problems(nn.Module):
    """Images near one of N clean ones x to two logits (B, 2) of that one's own problem, with the
    score of rejection of a model that has one. An image belongs to the clean one nearest to it.
    """

    def __init__(
        self, model: Model, readout: Readout, x: Tensor, weight: Tensor, bias: Tensor
    ) -> None:
        super().__init__()
        self.model, self.readout = model, readout
        self.x: Tensor
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer("x", x)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.training = False
        self.draws = getattr(model, "draws", 1)

    def forward(self, x: Tensor) -> Any:
        features, reject = self.readout.read(self.model, x)
        with torch.no_grad():
            mine = torch.cdist(x.flatten(1), self.x.to(x).flatten(1)).argmin(1)
        score = (features * self.weight[mine]).sum(1) + self.bias[mine]
        logits = torch.stack([-score, score], 1) / 2
        return logits if reject is None else {"logits": logits, "reject": reject}

    @property
    def rejects(self) -> bool:
        """Has the model a score of rejection? One that is attacked in its place may have none."""
        with untouched(self), torch.no_grad():
            return isinstance(self(self.x[:1]), dict)

    def only(self, row: int) -> Problems:
        """The problem of one clean image alone."""
        part = slice(row, row + 1)
        return Problems(self.model, self.readout, self.x[part], self.weight[part], self.bias[part])


def build(
    model: Model, readout: Readout, x: Tensor, number: int, threat: AnyThreat,
    rule: Rejecting | None, draws: int, setting: Setting, seed: int,
) -> tuple[Tensor, Tensor, Tensor] | None:  # fmt: skip
    """Weights (F,), bias () and scale () of one image's read-out; None where none of ten draws of
    boundary points is accepted, and told from the interior without error.

    A random model is read `draws` times at the image and the boundary points, which have to be on
    their side each time, and once at each interior point. The interior is drawn once, and only for
    a boundary that is accepted.
    """
    key = keys.mix(seed, "binarization", torch.tensor([number], device=x.device))
    near: Tensor | None = None
    for attempt in range(_ROUNDS):
        outer = _boundary(model, x[None], threat, keys.mix(key, attempt), setting)
        with torch.no_grad():
            far, sure = _read(model, readout, outer, rule, draws)
            if not bool(sure.all()):
                continue
            if near is None:
                inner = _interior(model, x[None], threat, key, setting)
                once, _ = _read(model, readout, inner, rule, 1)
                if len(once) < max(1, setting.inside // 2):
                    return None
                near = torch.cat([_read(model, readout, x[None], rule, draws)[0], once])
        fitted = _separated(near, far)
        if fitted is not None:
            return _scaled(*fitted, near, far, model, x, setting)
    return None


def _interior(
    model: Model, x: Tensor, threat: AnyThreat, key: Tensor, setting: Setting
) -> Tensor:  # fmt: skip
    """Points around the image x (1, C, H, W) that keep off the edge."""
    several = x.expand(setting.inside, *x.shape[1:])
    ball: Any = threat.set(model, several)
    own = keys.mix(key, "interior", torch.arange(setting.inside, device=x.device))
    found: Tensor = several + (1 - setting.gap) * ball.sample(own)
    return found


def _boundary(
    model: Model, x: Tensor, threat: AnyThreat, key: Tensor, setting: Setting
) -> Tensor:  # fmt: skip
    """Points around the image x (1, C, H, W) at full distance, as far as the box allows."""
    edge = x.expand(setting.edge, *x.shape[1:])
    ball: Any = threat.set(model, edge)
    start = Corner() if setting.boundary == "corner" else Sphere()
    delta: Any = start(ball, keys.mix(key, "edge", torch.arange(setting.edge, device=x.device)))
    for _ in range(_ROUNDS):  # the box may have cut it short
        length = ball.length(delta).clamp_min(1e-12)
        delta = ball.project(delta * expand((ball.radius / length).clamp_max(2.0), delta))
    found: Tensor = edge + delta
    return found


def _read(
    model: Model, readout: Readout, points: Tensor, rule: Rejecting | None, draws: int
) -> tuple[Tensor, Tensor]:
    """Features of the accepted points, `draws` of each, and which points were accepted."""
    found, kept = [], []
    for part in torch.split(points, _ROOM):
        for _ in range(draws):
            features, reject = readout.read(model, part)
            fine = torch.ones(len(part), dtype=torch.bool, device=part.device)
            if rule is not None and reject is not None:
                fine = reject <= rule.threshold
            found.append(features[fine].double())
            kept.append(fine)
    return torch.cat(found), torch.cat(kept)


def _separated(near: Tensor, far: Tensor) -> tuple[Tensor, Tensor] | None:
    """Weights and bias of an unregularised linear classifier, None where it errs."""
    from sklearn.linear_model import LogisticRegression

    both = torch.cat([near, far])
    mean, spread = both.mean(0), both.std(0).clamp_min(1e-9)
    labels = [0] * len(near) + [1] * len(far)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # separable data have no finite optimum
        fitted = LogisticRegression(C=1e12, max_iter=500)
        fitted.fit(((both - mean) / spread).cpu().numpy(), labels)
    weight = torch.from_numpy(fitted.coef_[0]).to(both) / spread
    bias = torch.as_tensor(fitted.intercept_[0]).to(both) - (weight * mean).sum()
    below, above = near @ weight + bias, far @ weight + bias
    return (weight, bias) if bool(below.max() < 0) and bool(above.min() > 0) else None


def _scaled(
    weight: Tensor, bias: Tensor, near: Tensor, far: Tensor, model: Model, x: Tensor,
    setting: Setting,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The read-out in the model's precision, its scores scaled as the setting says, and by what one
    logit of the model is worth one of the problem.
    """
    below, above = near @ weight + bias, far @ weight + bias
    with torch.no_grad():
        logits = logits_of(model(x[None]))
    own = float(logits.amax() - logits.amin())
    wide = own if setting.logits == "adaptive" else 1.0
    by = wide / (above.max() - below.min())
    if setting.logits == "tight":
        bias = bias - above.min() + 0.01 * (above.min() - below.max())
    kind = torch.promote_types(x.dtype, torch.float32)
    return (weight * by).to(kind), (bias * by).to(kind), x.new_tensor(wide / max(own, 1e-12))
