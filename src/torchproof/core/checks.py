"""What is refused before work is done on it: images, labels, logits, weights nobody can mean.

An attack on images in [0, 255], on a network with a NaN in it or on one that answers with the wrong
number of rows would still produce numbers, and the numbers would look like robustness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, ModelError

_IMAGES = "a float tensor of images in [0, 1], shape (N, C, H, W)"


def check(x: Tensor, y: Tensor, classes: int | None = None) -> None:
    """Images x (N, C, H, W), float in [0, 1], and their labels y (N,), int64 in [0, classes).

    Without `classes` only negative labels are out of range. Raises InputError: integer images,
    another number of dimensions, an empty set, NaN or infinity, values outside [0, 1], labels of
    another dtype, length or range. Memory: nothing of the size of x is made unless x is refused.
    """
    check_images(x)
    check_labels(y, len(x), classes)


def check_images(x: Tensor) -> None:
    """The half of `check` that is about the images alone; raises InputError."""
    if not isinstance(x, Tensor):
        raise InputError(f"images as {_kind(x)}", _IMAGES, "convert them with torch.as_tensor")
    if not x.is_floating_point():
        remedy = "divide bytes by 255: x.float() / 255"
        raise InputError(f"images of {x.dtype}", _IMAGES, remedy)
    if x.ndim != 4:
        remedy = "give one image as x[None], pictures without channels as x[:, None]"
        raise InputError(f"images of shape {tuple(x.shape)}", _IMAGES, remedy)
    if x.numel() == 0:
        remedy = "choose a split or a number of examples that leaves some"
        raise InputError(f"an empty set of images, shape {tuple(x.shape)}", _IMAGES, remedy)
    low, high = (float(v) for v in x.detach().aminmax())  # one pass: NaN comes through
    if not (low >= 0.0 and high <= 1.0):
        raise _outside(x.detach())


def check_labels(y: Tensor, count: int, classes: int | None = None) -> None:
    """Labels y (count,), int64 in [0, classes); raises InputError."""
    expected = f"an int64 tensor of {count} labels, shape ({count},)"
    if not isinstance(y, Tensor):
        raise InputError(f"labels as {_kind(y)}", expected, "convert them with torch.as_tensor")
    if y.dtype != torch.int64:
        remedy = "use y.long() if the numbers are class indices, y.argmax(1) if they are one-hot"
        raise InputError(f"labels of {y.dtype}", expected, remedy)
    if tuple(y.shape) != (count,):
        raise InputError(f"labels of shape {tuple(y.shape)}", expected, "give one label per image")
    if count == 0:
        raise InputError("no labels", "at least one", "choose a split that holds some examples")
    low, high = (int(v) for v in y.aminmax())
    if low < 0 or (classes is not None and high >= classes):
        worst = low if low < 0 else high
        where = int((y == worst).nonzero()[0])
        limit = "0 or more" if classes is None else f"from 0 to {classes - 1}"
        remedy = "count classes from 0, and use a model that knows all classes of the data"
        raise InputError(f"label {worst} at example {where}", f"labels {limit}", remedy)


def check_logits(logits: Tensor, batch: int, classes: int | None = None) -> None:
    """Logits (batch, K) with K >= 2 (K = classes where that is given), real and finite.

    Raises ModelError: not a tensor, not floating, another shape, NaN or infinity.
    """
    width = "K" if classes is None else str(classes)
    expected = f"finite logits of shape ({batch}, {width})"
    if not isinstance(logits, Tensor):
        remedy = "wrap the model so that it returns the logits alone"
        raise ModelError(f"a model that returns {_kind(logits)}", expected, remedy)
    if not logits.is_floating_point():
        raise ModelError(f"logits of {logits.dtype}", expected, "return logits, not decisions")
    wrong = logits.ndim != 2 or logits.shape[0] != batch or logits.shape[1] < 2
    if wrong or (classes is not None and logits.shape[1] != classes):
        remedy = "return one row per image and one column per class (two columns for yes or no)"
        raise ModelError(f"logits of shape {tuple(logits.shape)}", expected, remedy)
    bad = ~logits.detach().isfinite().all(1)
    if bad.any():
        given = f"NaN or infinite logits for {int(bad.sum())} of {batch} images"
        remedy = f"look at row {int(bad.nonzero()[0])} of this batch, and try float32 or float64"
        raise ModelError(given, expected, remedy)


def check_weights(model: nn.Module | Callable[[Tensor], Tensor]) -> None:
    """Finite parameters and buffers; a callable that is no module has none that can be seen.

    Buffers may hold minus infinity, because attention masks do. Raises ModelError naming the
    tensors.
    """
    if not isinstance(model, nn.Module):
        return
    bad = list(_unsound(model))
    if bad:
        shown = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
        remedy = "load another checkpoint: this one diverged in training or was damaged"
        raise ModelError(f"NaN or infinity in {shown}", "finite weights", remedy)


def _unsound(model: nn.Module) -> Iterator[str]:
    """Names of parameters and buffers that hold what they must not."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.detach().isfinite().all()):
            yield name
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and not bool((buffer < torch.inf).all()):
            yield name


def _outside(x: Tensor) -> InputError:
    """What is wrong with images that are not all in [0, 1]: NaN and infinity first."""
    finite = x.isfinite()
    if not bool(finite.all()):
        rows = ~finite.flatten(1).all(1)
        given = f"NaN or infinity in {int(rows.sum())} of {len(x)} images"
        remedy = f"look at image {int(rows.nonzero()[0])}, and drop or repair such images"
        return InputError(given, _IMAGES, remedy)
    given = f"images from {float(x.min()):.4g} to {float(x.max()):.4g}"
    remedy = (
        "divide by 255 if these are bytes; if they are normalised, undo that and make the "
        "normalisation the first layer of the model"
    )
    return InputError(given, _IMAGES, remedy)


def _kind(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
