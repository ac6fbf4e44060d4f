"""Passes through a network with dropout, whose masks are drawn once and for all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from torchproof.core.errors import ModelError
from torchproof.core.keys import mix, uniform

ROWS = 2048  # images times passes that go through the network at once
WHOLE = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)  # these drop channels
KINDS = (nn.Dropout, *WHOLE)


class DropoutPasses(nn.Module):
    """T passes with dropout on, of a model in eval mode. Pass t has the same mask for all images
    and all calls; it is put on the answers of the dropout modules, which are the identity there.

    masks: for each call of a dropout module, in the order of the calls, bool (T, ...), what is
    kept; kept: the shares 1 - p that are expected to. late: images are only multiplied when they
    reach the first dropout, which holds for networks without a path around it.
    """

    def __init__(self, masks: Sequence[Tensor], kept: Sequence[float], late: bool = False) -> None:
        super().__init__()
        self.kept, self.late = tuple(kept), late
        for i, mask in enumerate(masks):
            self.register_buffer(f"mask{i}", mask)
        self.training = False

    @classmethod
    def drawn(cls, model: nn.Module, x: Tensor, passes: int, seed: int) -> DropoutPasses:
        """For images like x (2 or more, on the model's device). Raises ModelError for a model that
        asks no nn.Dropout with p > 0 (functional dropout cannot be seen), or one whose dropout
        answers with other than one row for each image.
        """
        shapes: list[tuple[int, ...]] = []
        kept: list[float] = []

        def note(module: nn.Module, out: Tensor) -> Tensor:
            if out.shape[0] != len(x):
                given = f"dropout of a tensor of shape {tuple(out.shape)} for {len(x)} images"
                raise ModelError(given, "one row for each image", "use passes=0, density alone")
            whole = isinstance(module, WHOLE)
            tail = (1,) * (out.ndim - 2) if whole else tuple(out.shape[2:])
            shapes.append((*out.shape[1:2], *tail))
            kept.append(1 - float(cast(float, module.p)))
            return out

        with torch.no_grad(), _hooked(model, note):
            model(x)
        if not shapes:
            remedy = "add nn.Dropout to the model, or take density alone: passes=0"
            given = "a model in which no nn.Dropout with p > 0 is asked"
            raise ModelError(given, "dropout, from which uncertainty is read", remedy)
        numbers = torch.arange(passes)
        masks = [
            (uniform(mix(seed, "dropout", i, numbers), 0, shape) < share).to(x.device)
            for i, (shape, share) in enumerate(zip(shapes, kept, strict=True))
        ]
        return cls(masks, kept, late=_agree(cls(masks, kept), cls(masks, kept, True), model, x))

    @property
    def masks(self) -> list[Tensor]:
        return [self.get_buffer(f"mask{i}") for i in range(len(self.kept))]

    def forward(self, model: nn.Module, x: Tensor) -> Tensor:
        """(B, T, K) logits of images x (B, C, H, W), differentiable in x."""
        total = len(self.masks[0])
        size = max(1, ROWS // len(x))
        spans = [slice(i, i + size) for i in range(0, total, size)]
        return torch.cat([self._some(model, x, span) for span in spans], 1)

    def _some(self, model: nn.Module, x: Tensor, span: slice) -> Tensor:
        masks = [mask[span] for mask in self.masks]
        calls = itertools.count()

        def drop(module: nn.Module, out: Tensor) -> Tensor:
            i = next(calls)
            if i >= len(masks):
                raise ModelError("a model that asks dropout more often", "as in fitting", "refit")
            grouped = out.reshape(len(x), -1, *out.shape[1:])  # (B, 1 or T, ...)
            return (grouped * masks[i].to(out) / max(self.kept[i], 1e-9)).flatten(0, 1)

        many = x if self.late else x.repeat_interleave(len(masks[0]), 0)
        with _hooked(model, drop):
            logits: Tensor = model(many)
        return logits.reshape(len(x), len(masks[0]), -1)


def uncertainty(logits: Tensor) -> Tensor:
    """(B,) from logits (B, T, K): the variance over the passes of each class's probability, mean
    over classes (Feinman et al. 2017, up to the factor K), in float64.
    """
    return logits.double().softmax(2).var(1, correction=0).mean(1)


@torch.no_grad()
def _agree(early: DropoutPasses, late: DropoutPasses, model: nn.Module, x: Tensor) -> bool:
    """May images be multiplied late? Where another path goes around the dropout they may not."""
    expected = early(model, x)
    try:
        found = late(model, x)
    except (RuntimeError, ValueError, IndexError):
        return False
    same = found.shape == expected.shape
    return same and bool(torch.allclose(found, expected, rtol=1e-3, atol=1e-4))


@contextmanager
def _hooked(model: nn.Module, then: Callable[[nn.Module, Tensor], Tensor]) -> Iterator[None]:
    """`then` changes what each dropout module with p > 0 answers."""

    def hook(module: nn.Module, args: object, out: Tensor) -> Tensor:
        return then(module, out)

    found = [m for m in model.modules() if isinstance(m, KINDS) and m.p > 0]
    handles = [module.register_forward_hook(hook) for module in found]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
