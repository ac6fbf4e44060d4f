"""A denoiser in front of a classifier that stays as it is (Liao et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from torchproof.core.errors import InputError, unknown
from torchproof.nn.unet import DUNET, NAMES, WIDTHS


class Purified(nn.Module):
    """Images x (B, C, H, W) to the classifier's logits (B, K) at the denoised x; in training only
    the denoiser learns.

    denoiser: images to images of the same shape; classifier: images to logits. The classifier is in
    eval mode and takes no gradients to its weights, whatever `train()` or `requires_grad_()` say;
    gradients flow through it to the denoiser and to x. Denoised images are not clamped to [0, 1]:
    a clamp has no gradient outside, and would hide the classifier from attacks.

    `caveat` is what reports of an evaluation say of such a model.
    """

    caveat: ClassVar[str] = (
        "grey-box only: a denoiser withstands attacks on the classifier behind it, not on both"
    )

    def __init__(self, denoiser: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.classifier = denoiser, classifier.requires_grad_(False)
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.denoiser(x))
        return logits

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.classifier.eval().requires_grad_(False)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        self.denoiser.requires_grad_(requires_grad)
        return self


def purified(
    channels: int,
    size: int,
    classes: int,
    classifier: Mapping[str, Any] | None = None,
    denoiser: str = "dunet",
    widths: Sequence[int] = WIDTHS,
    counts: Sequence[int] | None = None,
    zero: bool = True,
) -> nn.Module:
    """A denoising U-net in front of a trained network, the teacher of a plan (Liao et al. 2018).

    classifier: {"model": name, "options": options} as on its card; its weights are fresh ones until
    they are loaded, see `in_front_of`. denoiser: "dunet", or "dae" without lateral skips; the rest
    as in `DUNET`. Raises InputError without a classifier and for one of another shape, UnknownName.
    """
    from torchproof.nn.networks import build  # which has this function in its table

    if classifier is None:
        remedy = "train one, and pass it: --teacher RUN, or in_front_of(network) in Python"
        raise InputError("purified without a classifier", "a trained network behind it", remedy)
    if denoiser not in NAMES:
        raise unknown("denoiser", denoiser, NAMES)
    shape = {"channels": channels, "size": size, "classes": classes}
    made = build(classifier["model"], **{**shape, **classifier["options"], "seed": 0})
    if differing := {k: made.options[k] for k in shape if made.options[k] != shape[k]}:
        remedy = "purify a network that was trained on such data"
        raise InputError(f"a classifier with {differing}", f"one with {shape}", remedy)
    return Purified(DUNET(channels, widths, counts, NAMES[denoiser], zero), made)


def in_front_of(
    classifier: nn.Module,
    *,
    channels: int | None = None,
    size: int | None = None,
    classes: int | None = None,
    seed: int | None = None,
    **options: Any,
) -> nn.Module:
    """The network "purified" with a fresh denoiser, from `seed`, before a copy of `classifier`.

    channels, size, classes: by default the classifier's own; options: those of `purified`. Raises
    InputError for a classifier of another shape, and for one that no table can build again, so that
    no card could say what it is.
    """
    from torchproof.nn.networks import MODELS, Network, build

    if not isinstance(classifier, Network) or classifier.name not in MODELS:
        given = f"a {type(classifier).__name__} as the classifier of a purified network"
        remedy = "train one with torchproof, or write Purified(denoiser, classifier) yourself"
        raise InputError(given, f"a network of {', '.join(MODELS)}", remedy)
    own, asked = classifier.options, {"channels": channels, "size": size, "classes": classes}
    shape: dict[str, Any] = {n: own[n] if v is None else v for n, v in asked.items()}
    inner = {"model": classifier.name, "options": own}
    made = build("purified", **shape, seed=seed, classifier=inner, **options)
    assert isinstance(made.net, Purified)
    made.net.classifier.load_state_dict(classifier.state_dict())
    return made
