"""A second stream of images: recipes that use one, and where its labels come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from torchproof import data as sets
from torchproof.core.errors import FileError, InputError
from torchproof.data.dataset import Dataset
from torchproof.nn import load_model
from torchproof.recipes.cifar10 import cifar10
from torchproof.recipes.plan import Plan

CHUNK = 500  # images that are labelled at once


def cifar10_generated() -> Plan:
    """TRADES, beta 6, of a WideResNet-28-10 with SiLU on CIFAR-10, seven tenths of every batch from
    a file of generated images, weights averaged, 400 epochs (Gowal et al. 2021; Rebuffi et al.
    2021). The images are in `cifar10-generated.npz` (arrays x and y), or `--extra`.
    """
    plan = cifar10(
        "EMA(LabelSmoothing(TRADES(beta=6), amount=0.1), decay=0.995)",
        "wide-resnet",
        "depth=28, activation='silu', ",
        epochs=400,
        batch_size=1024,
        lr=0.4,
        schedule="cosine",
        held_out=1024,
        extra_share=0.7,
    )
    return plan.model_copy(update={"extra": "npz:cifar10-generated.npz"})


def cifar10_pseudo_labelled() -> Plan:
    """TRADES, beta 6, of a WideResNet-28-10 on CIFAR-10, half of every batch from images without
    labels, which a network trained on the labelled ones labels (Carmon et al. 2019; the settings
    are ours). The images are in `cifar10-unlabelled.npz`, or `--extra`; the network is the run of
    cifar10-standard, or `--labeller`.
    """
    plan = cifar10("TRADES(beta=6)", "wide-resnet", "depth=28, ", schedule="cosine",
                   extra_share=0.5)  # fmt: skip
    own = {"extra": "npz:cifar10-unlabelled.npz", "labeller": "runs/cifar10-standard"}
    return plan.model_copy(update=own)


def extra_of(plan: Plan, data_dir: Path | None, device: torch.device) -> Dataset | None:
    """The second stream of a plan: its `extra`, of which rows that the plan trains on anyway are
    left out, with the answers of its `labeller` for labels where there is one.

    Raises InputError for a labeller without a stream and for a stream without a row, FileError for
    files that cannot be read.
    """
    if plan.extra is None:
        if plan.labeller is not None:
            remedy = "give extra (--extra), or leave the labeller out"
            raise InputError("a labeller without extra data", "images for it to label", remedy)
        return None
    found = sets.load(plan.extra, data_dir=data_dir, split="train")
    if plan.extra == plan.data:
        first = len(found) if plan.n is None else plan.n
        if first >= len(found):
            given = f"extra = {plan.extra}, all of which is trained on already"
            raise InputError(given, "other images", "train on the first n rows only (--n)")
        found = found.subset(torch.arange(first, len(found)))
    return found if plan.labeller is None else _labelled(found, plan.labeller, device)


def _labelled(images: Dataset, labeller: str, device: torch.device) -> Dataset:
    """The images with the answers of a stored network for labels."""
    try:
        model = load_model(labeller, device).model.eval()
    except (FileError, InputError) as error:
        remedy = f"{error.remedy}; or train one first (--method Standard), and pass --labeller RUN"
        raise type(error)(f"the labeller: {error.given}", error.expected, remedy) from error
    with torch.no_grad():
        parts = [model(x.to(device)).argmax(1).cpu() for x in torch.split(images.x, CHUNK)]
    answers = torch.cat(parts)
    made = Dataset.of(images.x, answers, images.classes, images.name, images.split, images.levels)
    return replace(made, name=f"{images.name}, labelled by {labeller}")
