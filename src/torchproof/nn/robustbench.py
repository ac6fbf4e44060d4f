"""Checkpoints of RobustBench's model zoo (Croce et al. 2021), read without running code.

The zoo keeps them as FOLDER/DATASET/THREAT/NAME.pt, and NAME says which network to build. Known
here are the names whose network `MODELS` can build exactly; a parameter name that fits does not
prove that a network is the same, so the others are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from torchproof.core.errors import FileError, InputError, unknown
from torchproof.nn.foreign import load_state, read_foreign
from torchproof.nn.networks import Network, build

CLASSES = {"cifar10": 10, "cifar100": 100}
THREATS = ("Linf", "L2", "corruptions")

_RAW = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
_EXACT10 = (
    (0.4913997551666284, 0.48215855929893703, 0.4465309133731618),
    (0.24703225141799082, 0.24348516474564, 0.26158783926049628),
)
_RONY = ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
_WU100 = (
    (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
    (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
)
_CHEN100 = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))

# names, architecture, mean and standard deviation of the first layer where the file has none
_ROWS: dict[str, tuple[tuple[str, str, tuple[tuple[float, ...], tuple[float, ...]]], ...]] = {
    "cifar10/Linf": (
        ("Carmon2019Unlabeled Sehwag2020Hydra Wang2020Improving Wu2020Adversarial_extra "
         "Zhang2020Geometry Sridhar2021Robust Standard", "WideResNet-28-10", _RAW),
        ("Zhang2019Theoretically Huang2020Self Zhang2019You Zhang2020Attacks Wu2020Adversarial "
         "Sehwag2021Proxy Sitawarin2020Improving Cui2020Learnable_34_10 Addepalli2021Towards_WRN34 "
         "Chen2021LTD_WRN34_10 Jia2022LAS-AT_34_10 Addepalli2022Efficient_WRN_34_10 "
         "Cui2023Decoupled_WRN-34-10 Chen2024Data_WRN_34_10", "WideResNet-34-10", _RAW),
        ("Cui2020Learnable_34_20 Chen2021LTD_WRN34_20 Chen2024Data_WRN_34_20",
         "WideResNet-34-20", _RAW),
        ("Sridhar2021Robust_34_15", "WideResNet-34-15", _RAW),
        ("Jia2022LAS-AT_70_16", "WideResNet-70-16", _RAW),
        ("Hendrycks2019Using", "WideResNet-28-10", _HALF),
        ("Rice2020Overfitting", "WideResNet-34-20", _CIFAR10),
        ("Chen2020Efficient", "WideResNet-34-10", _CIFAR10),
        ("Sehwag2021Proxy_R18 Addepalli2021Towards_RN18 Addepalli2022Efficient_RN18",
         "ResNet-18", _RAW),
    ),
    "cifar10/L2": (
        ("Standard", "WideResNet-28-10", _RAW),
        ("Wu2020Adversarial Sehwag2021Proxy", "WideResNet-34-10", _RAW),
        ("Augustin2020Adversarial_34_10 Augustin2020Adversarial_34_10_extra",
         "WideResNet-34-10", _EXACT10),
        ("Rony2019Decoupling", "WideResNet-28-10", _RONY),
        ("Sehwag2021Proxy_R18", "ResNet-18", _RAW),
        ("Rice2020Overfitting", "PreActResNet-18-BN", _CIFAR10),
    ),
    "cifar10/corruptions": (
        ("Standard", "WideResNet-28-10", _RAW),
        ("Addepalli2021Towards_WRN34 Addepalli2022Efficient_WRN_34_10", "WideResNet-34-10", _RAW),
        ("Hendrycks2020AugMix_WRN", "WideResNet-40-2", _HALF),
        ("Modas2021PRIMEResNet18", "ResNet-18", _HALF),
        ("Kireev2021Effectiveness_Gauss50percent Kireev2021Effectiveness_AugMixNoJSD "
         "Kireev2021Effectiveness_RLAT Kireev2021Effectiveness_RLATAugMixNoJSD "
         "Kireev2021Effectiveness_RLATAugMix", "PreActResNet-18-BN", _CIFAR10),
    ),
    "cifar100/Linf": (
        ("Cui2020Learnable_34_10_LBGAT0 Cui2020Learnable_34_10_LBGAT6 Sehwag2021Proxy "
         "Cui2020Learnable_34_10_LBGAT9_eps_8_255 Sitawarin2020Improving Chen2021LTD_WRN34_10 "
         "Addepalli2021Towards_WRN34 Jia2022LAS-AT_34_10 Addepalli2022Efficient_WRN_34_10 "
         "Cui2023Decoupled_WRN-34-10 Cui2023Decoupled_WRN-34-10_autoaug Chen2024Data_WRN_34_10",
         "WideResNet-34-10", _RAW),
        ("Cui2020Learnable_34_20_LBGAT6 Jia2022LAS-AT_34_20", "WideResNet-34-20", _RAW),
        ("Hendrycks2019Using", "WideResNet-28-10", _HALF),
        ("Chen2020Efficient", "WideResNet-34-10", _CHEN100),
        ("Wu2020Adversarial", "WideResNet-34-10", _WU100),
        ("Addepalli2022Efficient_RN18", "ResNet-18", _RAW),
        ("Addepalli2021Towards_PARN18", "PreActResNet-18-BN", _RAW),
    ),
    "cifar100/corruptions": (
        ("Hendrycks2020AugMix_WRN", "WideResNet-40-2", _HALF),
        ("Addepalli2021Towards_WRN34 Addepalli2022Efficient_WRN_34_10", "WideResNet-34-10", _RAW),
        ("Modas2021PRIMEResNet18", "ResNet-18", _HALF),
        ("Addepalli2021Towards_PARN18", "PreActResNet-18-BN", _RAW),
    ),
}  # fmt: skip
ZOO = {
    place: {name: (architecture, first) for names, architecture, first in rows
            for name in names.split()}
    for place, rows in _ROWS.items()
}  # fmt: skip
"""DATASET/THREAT -> name -> (architecture, (mean, std) of the first layer)."""

_OTHER = {
    name: "its shortcuts take the raw input where ours take the rectified one"
    for name in ("Wong2020Fast", "Andriushchenko2020Understanding", "Rice2020Overfitting")
}
"""Names whose parameters would fit a network of ours that computes something else."""

_WIDE = re.compile(r"WideResNet-(\d+)-(\d+)")


def options_of(architecture: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of the network that RobustBench calls `architecture`.

    WideResNet-D-W (ReLU, the names of TRADES), ResNet-18, ResNet-34 (the CIFAR stem), and
    PreActResNet-18-BN, the one with a batch norm before its last layer. Raises UnknownName.

    >>> options_of("WideResNet-28-10")
    ('wide-resnet', {'depth': 28, 'width': 10})
    """
    wide = _WIDE.fullmatch(architecture)
    if wide:
        return "wide-resnet", {"depth": int(wide[1]), "width": int(wide[2])}
    known: dict[str, tuple[str, dict[str, Any]]] = {
        "ResNet-18": ("resnet18", {}),
        "ResNet-34": ("resnet34", {}),
        "PreActResNet-18-BN": ("preact-resnet18", {"final_norm": True}),
    }
    if architecture not in known:
        raise unknown("architecture", architecture, ["WideResNet-28-10", *known])
    return known[architecture]


def in_zoo(path: Path) -> bool:
    """Does the path end in DATASET/THREAT/NAME.pt?"""
    return path.suffix == ".pt" and path.parent.name in THREATS and (
        path.parent.parent.name in CLASSES
    )  # fmt: skip


def load_zoo(
    path: Path | str, device: torch.device | str = "cpu", architecture: str | None = None
) -> Network:
    """The network of the checkpoint DATASET/THREAT/NAME.pt, in eval mode on `device`.

    architecture: for names that are not in ZOO, what the network is (see `options_of`), images
    then going in as they are unless the file has a first layer `mu`, `sigma`. The file is read with
    weights_only=True; wrappers and prefixes are stripped, the pair of `last` and `best` weights
    gives the last, as in RobustBench. Raises FileError, InputError and UnknownName.
    """
    path = Path(path)
    if not in_zoo(path):
        given, expected = f"{path}", "a path that ends in cifar10/Linf/NAME.pt, for example"
        raise InputError(given, expected, f"data sets {', '.join(CLASSES)}; {', '.join(THREATS)}")
    place = f"{path.parent.parent.name}/{path.parent.name}"
    called, (mean, std) = _described(path.stem, ZOO.get(place, {}), architecture)
    model, options = options_of(called)
    state = read_foreign(path)
    network = build(
        model, channels=3, size=32, classes=CLASSES[path.parent.parent.name], mean=mean, std=std,
        seed=0, **options,
    )  # fmt: skip
    load_state(network, state)
    return network.to(device).eval()


def _described(
    name: str, known: Mapping[str, tuple[str, tuple[tuple[float, ...], tuple[float, ...]]]],
    architecture: str | None,
) -> tuple[str, tuple[tuple[float, ...], tuple[float, ...]]]:  # fmt: skip
    if architecture is not None:
        return architecture, known[name][1] if name in known else _RAW
    if name in known:
        return known[name]
    why = _OTHER.get(name, "no network of that name can be built here")
    raise FileError(
        f"{name} of RobustBench's zoo: {why}",
        f"a name such as {', '.join(sorted(known)[:3])}" if known else "a name of ZOO",
        "build its network yourself and give it the weights: "
        "torchproof.nn.cards.load_state(model, read_foreign(path)); or, for a network of your own "
        "in this layout, name its architecture to torchproof.nn.robustbench.load_zoo",
    )
