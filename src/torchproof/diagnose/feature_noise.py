"""How far perturbed images move the features of a network, layer by layer (Xie et al. 2019,
section 3, draw it; the ratio is ours).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import untouched
from torchproof.core.checks import check_images
from torchproof.core.errors import InputError, unknown


def feature_noise(
    model: nn.Module, x: Tensor, moved: Tensor, layers: str | Sequence[str], *, slots: int = 256
) -> dict[str, Tensor]:
    """Layer -> (B,) |F(x') - F(x)|_2 / |F(x)|_2 of every image, in eval mode.

    x, moved (B, C, H, W): clean and perturbed images, row by row, the latter in any range;
    layers: names as in `model.named_modules()` of modules that answer with a tensor (B, ...).
    Behind a layer with a block of `insert`, `name` is what the block makes of it and `name.layer`
    what the block is given. 0 where both features are 0, very large where only the clean one is.

    Raises UnknownName for a layer that is not there, InputError for images that are no pairs and
    for a layer that does not answer once with a tensor of B rows.
    """
    check_images(x)
    if x.shape != moved.shape:
        given = f"images {tuple(x.shape)} and perturbed ones {tuple(moved.shape)}"
        raise InputError(given, "as many perturbed images as clean ones", "pair them row by row")
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    with torch.no_grad(), untouched(model, 0, x.device):
        for pair in zip(torch.split(x, slots), torch.split(moved, slots), strict=True):
            clean, noisy = (_features(model, rows, names) for rows in pair)
            for name in names:
                parts[name].append(_ratio(clean[name], noisy[name]))
    return {name: torch.cat(ratios) for name, ratios in parts.items()}


def _ratio(clean: Tensor, noisy: Tensor) -> Tensor:
    least = torch.finfo(clean.dtype).tiny
    shift, length = (t.flatten(1).norm(dim=1) for t in (noisy - clean, clean))
    ratio: Tensor = shift / length.clamp_min(least)
    return ratio


def _features(model: nn.Module, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """The answers of the named layers to x, in at least float32."""
    found: dict[str, Tensor] = {}
    with _heard(model, names) as answers:
        model(x)
    for name, told in answers.items():
        if len(told) != 1 or not isinstance(told[0], Tensor) or told[0].shape[:1] != x.shape[:1]:
            shapes = [tuple(getattr(t, "shape", ())) for t in told]
            given = f"layer {name!r}, which answered {shapes} to {len(x)} images"
            raise InputError(given, "one tensor with a row per image", "choose another layer")
        answer = told[0]
        found[name] = answer.to(torch.promote_types(answer.dtype, torch.float32))
    return found


@contextmanager
def _heard(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[object]]]:
    """Inside, the answers of the named layers are collected."""
    modules, answers, handles = dict(model.named_modules()), {}, []
    try:
        for name in names:
            if name not in modules:
                raise unknown("layer", name, [n for n in modules if n])
            told: list[object] = []
            answers[name] = told
            keep = modules[name].register_forward_hook(lambda m, args, out, t=told: t.append(out))
            handles.append(keep)
        yield answers
    finally:
        for handle in handles:
            handle.remove()
