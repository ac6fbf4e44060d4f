"""What `evaluate` and `attack` begin with: threats, a test set, and a network that takes its
images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from torchproof import data as sets
from torchproof.attack import Attack, Chain, untouched
from torchproof.attack.catalogue import NAMES
from torchproof.attack.masks import Boxes, Centre, Frame, Mask, Patches, Salient, Scattered
from torchproof.attack.regional import Regions
from torchproof.cli.options import device_of
from torchproof.core.errors import InputError, ModelError, TorchproofError
from torchproof.core.expression import parse as parse_expression
from torchproof.core.threats import Threat, parse
from torchproof.data.dataset import Dataset
from torchproof.data.streamed_set import StreamSet
from torchproof.evaluate import Member
from torchproof.nn import load_model
from torchproof.nn.loading import Loaded
from torchproof.recipes import meant

MASKS: dict[str, type[Mask]] = {
    kind.__name__: kind for kind in (Centre, Frame, Scattered, Boxes, Patches, Salient)
}


def threats_of(texts: list[str]) -> list[Threat]:
    """One threat per text; raises InputError for one that is given twice."""
    threats = [parse(text) for text in texts]
    twice = [str(t) for i, t in enumerate(threats) if t in threats[:i]]
    if twice:
        raise InputError(f"the threat {twice[0]} twice", "different threats", "name it once")
    return threats


def within(threats: Sequence[Threat], region: str | None) -> list[Threat | Regions]:
    """The threats, in the region where one is named; raises UnknownName for one not in MASKS, and
    InputError for one that cannot be.
    """
    if region is None:
        return [*threats]
    mask = parse_expression(region, MASKS)
    return [Regions(threat, mask) for threat in threats]


def members_of(text: str, threats: Sequence[Threat | Regions]) -> list[Member]:
    """The attacks that an expression describes, one for each threat; a chain is several.

    Raises InputError and UnknownName.
    """
    members = []
    for threat in threats:
        with meant(text):
            made = parse_expression(text, NAMES, threat=threat)
        parts = made.attacks if isinstance(made, Chain) else [made]
        if not all(isinstance(part, Attack) for part in parts):
            raise InputError(f"--attack {text}", "an attack", "see `torchproof list attacks`")
        # the number keeps apart what a chain names twice; the threat what a union does
        labels = [text] if len(parts) == 1 else [f"{text} {i}" for i in range(1, len(parts) + 1)]
        more = f" ({threat})" if len(threats) > 1 else ""
        members += [Member(label + more, part) for label, part in zip(labels, parts, strict=True)]
    return members


def network_and_data(
    model: str, data: str, data_dir: Path | None, device: str | None, n: int | None = None
) -> tuple[Loaded, Dataset]:
    """The network, and the test part of the data set (its first n images).

    Raises what `load` and `load_model` raise, and ModelError for a network that does not take such
    images.
    """
    test = sets.load(data, data_dir=data_dir, split="test")
    test = test if n is None else test.take(n)
    return network_for(test, model, data, device), test


def network_for(test: Dataset | StreamSet, model: str, data: str, device: str | None) -> Loaded:
    """The network; raises what `load_model` raises, and ModelError for one that does not take the
    images of `test`, which the user called `data`.
    """
    place = device_of(device)
    loaded = load_model(model, place)
    x = test.head().to(place, copy=True)  # the network may write to what it is given
    try:
        with untouched(loaded.model), torch.no_grad():
            loaded.model(x)
    except (TorchproofError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{loaded.name}, which fails on images {tuple(x.shape[1:])} of {data} ({reason[:200]})",
            "a network for images of this shape",
            "name the data set that the network was trained on",
        ) from error
    return loaded
