"""A trained network of the package timm, `timm:NAME`, for images in [0, 1]."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import torch
from torch import nn

from torchproof.core.errors import InputError, MissingExtra, ModelError, unknown
from torchproof.nn.normalise import Normalise

_log = logging.getLogger(__name__)


def from_timm(name: str, device: torch.device | str = "cpu") -> nn.Module:
    """The network with its trained weights, behind the normalisation that these were trained with.

    timm fetches the weights, which the log says; names are those of `timm.list_pretrained()`, such
    as resnet18 or resnet50.a1_in1k. Raises MissingExtra where timm is not there or does not load,
    UnknownName for a network it does not have, InputError for a name with a scheme of timm's own,
    ModelError where it cannot build or fetch the network.
    """
    if ":" in name or "/" in name:
        remedy = "give one of timm.list_pretrained()"
        raise InputError(f"timm:{name}", "the name of a network of timm", remedy)
    library = _library()
    plain = name.partition(".")[0]
    if not library.is_model(plain):
        raise unknown("network of timm", plain, library.list_models())
    _log.warning("timm fetches the weights of %s where it does not have them yet", name)
    try:
        with torch.random.fork_rng(devices=[]):
            network = library.create_model(name, pretrained=True)
        about = dict(network.pretrained_cfg)
        mean, std = (tuple(float(v) for v in about[key]) for key in ("mean", "std"))
    except Exception as error:  # timm, its hub and the network between raise many kinds
        given = f"timm:{name} ({type(error).__name__}: {error})"
        remedy = "look at timm.list_pretrained() and at the network"
        raise ModelError(given, "a trained network", remedy) from error
    return nn.Sequential(Normalise(mean, std), network).to(device).eval()


def _library() -> Any:
    try:
        return importlib.import_module("timm")
    except Exception as error:  # it may be there and fail with the torchvision beside it
        given = f"timm:, whose package does not load ({type(error).__name__}: {error})"
        raise MissingExtra(given, "timm", "run `pip install 'torchproof[timm]'`") from error
