"""What `adapt` refuses before it works: images, labels and answers that nobody can mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchproof.attack.untouched import home, untouched
from torchproof.core import keys
from torchproof.core.checks import check, check_logits
from torchproof.core.errors import InputError, ModelError
from torchproof.core.sites import Model
from torchproof.core.unaware import logits_of


def refuse(model: Model, x: Tensor, y: Tensor, references: tuple[Tensor, Tensor] | None) -> None:
    """Raises InputError for images x (N, C, H, W), labels y (N,) and references that do not fit
    each other or the model's classes, ModelError for a model that does not answer with logits (a
    score of rejection beside them is (B,)), or not for a single image. The model stays as it was.
    """
    check(x, y)
    place = home(model, x.device)
    with untouched(model, keys.seed_of(0, "intake"), place), torch.no_grad():
        classes = _classes(model(x[[0, -1]].to(place)), 2)
        try:
            _classes(model(x[[0]].to(place)), 1)
        except Exception as error:  # whatever a batch of one brings about
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            given = f"a model that answers two images, and fails for one ({reason})"
            remedy = "look for squeeze() and for statistics of the batch"
            raise ModelError(given, f"logits of shape (1, {classes})", remedy) from error
    check(x, y, classes)
    if references is None or not len(references[0]):
        return
    check(*references, classes)
    if references[0].shape[1:] != x.shape[1:]:
        given = f"references of shape {tuple(references[0].shape[1:])}"
        raise InputError(given, f"{tuple(x.shape[1:])} as the images", "prepare them alike")


def _classes(out: Any, batch: int) -> int:
    """K of an answer with logits (B, K)."""
    logits = logits_of(out) if not isinstance(out, Mapping) or "logits" in out else None
    if not isinstance(logits, Tensor):
        found = f"a table of {', '.join(map(str, out))}" if isinstance(out, Mapping) else type(out)
        given = f"a model that answers with {found}"
        expected = "logits (B, K), or a table of `logits` and `reject`"
        raise ModelError(given, expected, "wrap it in a function that returns these")
    check_logits(logits, batch)
    score = out.get("reject") if isinstance(out, Mapping) else None
    if score is not None and tuple(score.shape) != (batch,):
        given = f"scores of rejection of shape {tuple(score.shape)}"
        raise ModelError(given, f"one for each image, ({batch},)", "return the largest of several")
    return logits.shape[1]
