"""What a layer of a network answers, and how the logits depend on it; any layer by its dotted name.

Activations are flattened: (N, D) for a layer that answers (N, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import home, untouched
from torchproof.core.checks import check_images
from torchproof.core.errors import InputError, ModelError, unknown

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
            with _told(model, layer, len(part), torch.clone) as told:
                model(part.to(home(model)))
            found.append(told[0].flatten(1).cpu())
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
    def leaf(out: Tensor) -> Tensor:
        return out.detach().clone().requires_grad_()

    with torch.enable_grad(), _told(model, layer, len(x), leaf) as told:
        logits = model(x)
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
    (gradient,) = torch.autograd.grad(chosen, told[0], allow_unused=True)
    if gradient is None:
        given = f"layer {layer!r}, whose answer the logits do not use"
        raise ModelError(given, "a layer that the logits depend on", remedy)
    return gradient.flatten(1)


@contextmanager
def _told(
    model: nn.Module, layer: str, rows: int, keep: Callable[[Tensor], Tensor]
) -> Iterator[list[Tensor]]:
    """keep(answer) of the layer in the forward pass inside; the network goes on with a copy of it,
    so that what follows may write in place.
    """
    known = dict(model.named_modules())
    if layer not in known or not layer:
        raise unknown("layer", layer, [name for name in known if name])
    told: list[Tensor] = []
    seen: list[object] = []

    def after(module: nn.Module, args: object, out: object) -> object:
        seen.append(out)
        if not isinstance(out, Tensor) or not _rows(out, rows):
            return None
        told.append(keep(out))
        return told[-1].clone()

    hook = known[layer].register_forward_hook(after)
    try:
        yield told
    finally:
        hook.remove()
    if len(seen) != 1 or len(told) != 1:
        how = f"answers {len(seen)} times" if len(seen) != 1 else f"answers with {_kind(seen[0])}"
        remedy = "choose another layer; `layer_names` lists those that can be asked about"
        given = f"layer {layer!r}, which {how}"
        raise ModelError(given, f"one float tensor of {rows} rows, once", remedy)


def _rows(out: object, rows: int) -> bool:
    return isinstance(out, Tensor) and out.is_floating_point() and out.shape[:1] == (rows,)


def _kind(out: object) -> str:
    return f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
