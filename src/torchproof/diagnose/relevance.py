"""Which channels speak for a class, and how active they are on clean and on adversarial images (the
analysis of Yan et al. 2021, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import untouched
from torchproof.core.checks import check
from torchproof.core.errors import InputError, unknown


@dataclass(frozen=True)
class ChannelRelevance:
    """Per class k (row) and channel c: the mean over images of class k.

    relevance: (K, C) the derivative of the logit z_k in the channel's map, summed over its pixels
    (in front of average pooling and a linear head: the weight); clean, adversarial: (K, C) mean
    activation, of the pixels too; count: (K,) images, rows without images are NaN.
    """

    relevance: Tensor
    clean: Tensor
    adversarial: Tensor
    count: Tensor

    @property
    def positive(self) -> Tensor:
        """(K, C) bool: does the channel speak for the class? The others speak against it."""
        return self.relevance > 0

    def correlation(self, adversarial: bool = False) -> Tensor:
        """(K,) Pearson's correlation of activation and relevance, over the channels."""
        activation = self.adversarial if adversarial else self.clean
        both = torch.stack([activation, self.relevance])
        a, r = both - both.mean(2, keepdim=True)
        found: Tensor = (a * r).sum(1) / (a.norm(dim=1) * r.norm(dim=1))
        return found

    def against(self, adversarial: bool = False) -> Tensor:
        """(K,) the share of all activation that is in channels that speak against the class; maps
        are taken to be >= 0, as behind a ReLU.
        """
        activation = self.adversarial if adversarial else self.clean
        return (activation * ~self.positive).sum(1) / activation.sum(1)


def channel_relevance(
    model: nn.Module, layer: str, x: Tensor, moved: Tensor, y: Tensor, slots: int = 256
) -> ChannelRelevance:
    """The channels of the maps (B, C, H, W) that the named layer answers with, in eval mode.

    x, moved: (N, C, H, W) clean and adversarial images with labels y (N,); the relevance is that on
    clean images. Raises UnknownName, and InputError for a layer that answers anything but maps.
    """
    check(x, y)
    check(moved, y)
    modules = dict(model.named_modules())
    if layer not in modules or not layer:
        raise unknown("layer", layer, [name for name in modules if name])
    parts: list[tuple[Tensor, ...]] = []
    with untouched(model, 0, x.device):
        for i in range(0, len(x), slots):
            own = y[i : i + slots]
            slope, active = _looked(model, modules[layer], layer, x[i : i + slots], own)
            parts.append((slope, active, _looked(model, modules[layer], layer,
                                                 moved[i : i + slots], own)[1]))  # fmt: skip
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
    slope, clean, adversarial = (torch.cat(column) for column in zip(*parts, strict=True))
    member = torch.nn.functional.one_hot(y.to(slope.device), classes).to(slope.dtype)
    count = member.sum(0)

    def mean(rows: Tensor) -> Tensor:
        return (member.T @ rows) / count[:, None]

    return ChannelRelevance(mean(slope), mean(clean), mean(adversarial), count.long())


def _looked(
    model: nn.Module, module: nn.Module, name: str, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, C) derivatives of the own logits, summed over pixels, and mean activations."""
    seen: list[Any] = []
    handle = module.register_forward_hook(lambda m, args, out: seen.append(out))
    try:
        with torch.enable_grad():
            z = model(x.detach().requires_grad_())
    finally:
        handle.remove()
    if len(seen) != 1 or not isinstance(seen[0], Tensor) or seen[0].dim() != 4:
        given = f"layer {name!r}, which does not answer with one tensor of maps"
        raise InputError(given, "maps (B, C, H, W), once", "choose a convolution or a stage")
    (slope,) = torch.autograd.grad(z.gather(1, y[:, None]).sum(), seen[0])
    return slope.sum((2, 3)), seen[0].detach().mean((2, 3))
