"""How often a classifier answers each class under noise.

Draw i for an example is a pure function of (seed, purpose, the example's id, i), so that counts do
not depend on batch size, order or resumption (but for the float rounding of the model itself, whose
kernels may differ with the size of a batch). Samples of different purposes are independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.core import keys
from torchproof.core.checks import check_images, check_logits
from torchproof.core.errors import InputError
from torchproof.core.room import Room
from torchproof.verify.smoothing.noise import Noise
from torchproof.verify.smoothing.probabilities import whole

SELECTION, ESTIMATION, PREDICTION = "selection", "estimation", "prediction"
SLOTS = 256

Model = Callable[[Tensor], Any]


def class_counts(
    model: Model,
    x: Tensor,
    noise: Noise,
    n: int,
    ids: Tensor | None = None,
    seed: int = 0,
    purpose: str = ESTIMATION,
    slots: int = SLOTS,
) -> Tensor:
    """(B, K) int64 on the CPU: how many of n noisy versions of each image go to each class.

    x (B, C, H, W) in [0, 1]; ids (B,) int64, by default 0, 1, ...; slots: images per model call.
    The model answers in eval mode and is left as it was. Raises ModelError for logits that are NaN,
    infinite or of another shape, InputError for images, ids or n nobody can mean.
    """
    whole(1, n=n)
    check_images(x)
    numbers = example_ids(ids, len(x))
    room = Room(slots)
    rows = [
        count(model, image, noise, n, int(i), seed, purpose, room)
        for image, i in zip(x, numbers, strict=True)
    ]
    return torch.stack(rows)


def count(
    model: Model, image: Tensor, noise: Noise, n: int, example: int, seed: int, purpose: str,
    room: Room,
) -> Tensor:  # fmt: skip
    """(K,) counts for one image (C, H, W); see `class_counts`."""
    place, own = home(model, image)
    x = image.detach().to(place, torch.promote_types(own, torch.float32)).unsqueeze(0)
    key = keys.mix(seed, "smoothing", purpose, torch.tensor([example], device=place))
    found: list[Tensor] = []

    def ask(start: int, size: int) -> None:
        step = torch.arange(start, start + size, device=place)
        logits = model(noise.noisy(x, key.expand(size), step).to(own))
        check_logits(logits, size, len(found[0]) if found else None)
        found.append(logits.argmax(1).bincount(minlength=logits.shape[1]).cpu())

    done = 0
    with torch.no_grad(), still(model, keys.seed_of(seed, "smoothing", purpose, example), place):
        while done < n:
            size = min(room.slots, n - done)
            if room.survives(partial(ask, done, size)):
                done += size
    return torch.stack(found).sum(0)


def example_ids(ids: Tensor | None, count: int) -> Tensor:
    """(count,) int64 on the CPU, by default 0, 1, ...; raises InputError unless they differ."""
    if ids is None:
        return torch.arange(count)
    good = ids.dtype == torch.int64 and tuple(ids.shape) == (count,)
    if not good or int(ids.min()) < 0 or len(set(ids.tolist())) < count:
        given = f"ids of {ids.dtype}, shape {tuple(ids.shape)}"
        expected = f"{count} different int64 numbers >= 0"
        raise InputError(given, expected, "leave ids out to number by position")
    return ids.cpu()


def home(model: Model, image: Tensor) -> tuple[torch.device, torch.dtype]:
    """Where the model lives and what it computes in; those of the image for a plain function."""
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    first = next((t for t in tensors if t.is_floating_point()), image)
    return first.device, first.dtype


@contextmanager
def still(model: Model, seed: int, place: torch.device) -> Iterator[None]:
    """Eval mode and a random state of its own inside; every mode, every buffer and torch's
    generators as before afterwards.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [(m, m.training) for m in modules]
    buffers = [
        (m._buffers, name, b, b.clone())
        for m in modules
        for name, b in m._buffers.items()
        if b is not None
    ]
    cuda = [place] if place.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for device in cuda:
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        try:
            if isinstance(model, nn.Module):
                model.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training
            for store, name, buffer, value in buffers:
                store[name] = buffer
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
