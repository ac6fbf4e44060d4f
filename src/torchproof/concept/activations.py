"""What a layer of a network answers, and how the logits depend on it; any layer by its dotted name.

Activations are flattened: (N, D) for a layer that answers (N, ...).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import home, untouched
from torchproof.core.checks import check_images
from torchproof.core.errors import InputError, ModelError
from torchproof.nn.taps import tapped

BATCH = 64


def layer_names(model: nn.Module, x: Tensor) -> tuple[str, ...]:
    """The dotted names of the layers that can be asked about, in the order in which they answer
    images x (N, C, H, W): those that run once and answer with one float tensor of N rows.
    """
    order: list[str] = []
    fit: dict[str, bool] = {}

    def after(name: str, out: object) -> None:
        order.append(name)
        fit[name] = name not in fit and _rows(out, len(x))

    hooks = [
        module.register_forward_hook(lambda m, args, out, n=name: after(n, out))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with untouched(model), torch.no_grad():
            model(x.to(home(model)))
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(name for name in dict.fromkeys(order) if fit[name])


def activations(model: nn.Module, x: Tensor, layer: str, batch_size: int = BATCH) -> Tensor:
    """(N, D) answers of the named layer to images x (N, C, H, W), in eval mode, on the CPU.

    They are taken before anything further on changes them in place. Raises UnknownName for a name
    that the network does not have, ModelError for a layer that does not run exactly once or does
    not answer with one float tensor of as many rows as there are images, InputError for images.
    """
    check_images(x)
    found = []
    with untouched(model), torch.no_grad():
        for part in torch.split(x, batch_size):
            _, (answer,) = tapped(model, part.to(home(model)), (layer,))
            found.append(answer.flatten(1).cpu())
    return torch.cat(found)


def gradients(
    model: nn.Module, x: Tensor, classes: Tensor | int, layer: str, batch_size: int = BATCH
) -> Iterator[Tensor]:
    """(B, D) gradients of a logit with regard to the layer's answer, batch after batch, on the CPU.

    classes: the logit, one for all images x (N, C, H, W) or one for each (N,). Errors as of
    `activations`; ModelError too where the logits do not depend on the layer, InputError for a
    class that is no logit.
    """
    check_images(x)
    wanted = torch.as_tensor(classes).expand(len(x))
    for part, rows in zip(*(torch.split(t, batch_size) for t in (x, wanted)), strict=True):
        with untouched(model):
            yield _gradient(model, part.to(home(model)), rows, layer).cpu()


def derivatives(
    model: nn.Module, x: Tensor, classes: Tensor | int, layer: str, directions: Tensor,
    batch_size: int = BATCH,
) -> Tensor:  # fmt: skip
    """(N, R) directional derivatives S(x) = grad_a logit_k(h(x)) . v of images x (N, C, H, W) along
    directions (R, D) of activations (Kim et al. 2018, eq. 1).

    Errors as of `gradients`, and InputError for directions of another width.
    """
    found = []
    for rows in gradients(model, x, classes, layer, batch_size):
        if rows.shape[1:] != directions.shape[1:]:
            given = f"directions of shape {tuple(directions.shape)} for layer {layer!r}"
            remedy = "take the vectors from this layer's activations"
            raise InputError(given, f"shape (R, {rows.shape[1]})", remedy)
        found.append(rows.to(directions.dtype) @ directions.T)
    return torch.cat(found)


def _gradient(model: nn.Module, x: Tensor, classes: Tensor, layer: str) -> Tensor:
    with torch.enable_grad(), _cut(model, layer):
        logits, (answer,) = tapped(model, x, (layer,))
    if logits.ndim != 2 or len(logits) != len(x):
        given = f"logits of shape {tuple(logits.shape)} for {len(x)} images"
        raise ModelError(given, "logits (B, K)", "give a classifier")
    if int(classes.min()) < 0 or int(classes.max()) >= logits.shape[1]:
        given = f"class {int(classes.max() if classes.min() >= 0 else classes.min())}"
        raise InputError(given, f"0 to {logits.shape[1] - 1}", "name a class of the network")
    chosen = logits.gather(1, classes.to(logits.device)[:, None]).sum()
    remedy = "choose a layer on the way to the logits"
    if not chosen.requires_grad:
        given = f"layer {layer!r}, on which no logit depends"
        raise ModelError(given, "a layer that the logits depend on", remedy)
    (gradient,) = torch.autograd.grad(chosen, answer, allow_unused=True)
    if gradient is None:
        given = f"layer {layer!r}, whose answer the logits do not use"
        raise ModelError(given, "a layer that the logits depend on", remedy)
    return gradient.flatten(1)


@contextmanager
def _cut(model: nn.Module, layer: str) -> Iterator[None]:
    """The layer answers with a leaf of the graph: what comes before it is not differentiated."""

    def leaf(module: nn.Module, args: object, out: object) -> object:
        if isinstance(out, Tensor) and out.is_floating_point():
            return out.detach().clone().requires_grad_()
        return None

    module = dict(model.named_modules()).get(layer)
    hook = None if module is None else module.register_forward_hook(leaf)
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


def _rows(out: object, rows: int) -> bool:
    return isinstance(out, Tensor) and out.is_floating_point() and out.shape[:1] == (rows,)
