"""Networks that end in a cosine head, as some methods need them."""

from __future__ import annotations

from torch import Tensor, nn

from torchproof.core.errors import ModelError


def scale_of(model: nn.Module) -> Tensor:
    """The scale s of the model's one cosine head, by which its logits are divided to give cosines.

    A head is a module with a tensor `cosine_scale`, such as `torchproof.nn.cosine.CosineHead`.
    Raises ModelError for a model that has none, or several.
    """
    found = [getattr(m, "cosine_scale", None) for m in model.modules()]
    scales = [scale for scale in found if isinstance(scale, Tensor)]
    if len(scales) != 1:
        raise ModelError(
            f"a network with {len(scales)} cosine heads",
            "a network whose last layer is a cosine head",
            "build it with head='cosine', or with torchproof.nn.cosine.with_cosine_head(network)",
        )
    return scales[0]
