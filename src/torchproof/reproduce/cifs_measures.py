"""Of `reproduce cifs`: what is measured of a network with CIFS blocks, or of its twin without."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from torchproof.attack.catalogue import pgd, square
from torchproof.attack.combine import Attack
from torchproof.attack.joint import heads, joint_pgd
from torchproof.attack.run import Run
from torchproof.attack.untouched import untouched
from torchproof.core import keys
from torchproof.core.asides import labels
from torchproof.core.threats import Threat
from torchproof.diagnose import channel_relevance
from torchproof.nn.cifs import MASK_GRADIENTS, mask_gradient
from torchproof.reproduce.figures import Figures

BETAS = (0.0, 2.0, 10.0)
QUERIES = 500  # of Square
SQUARE, UNION = "Square", "union"


def group(beta: float) -> str:
    """The name of the attacks of one beta, with all gradients of the mask."""
    return "last head" if beta == 0 else f"joint, beta {beta:g}"


class Measured(Figures):
    """Of one network, on n test images: how many are right.

    left: under each attack alone and all together; fed, alone: with masks made of the label, and of
    what the network knows, at clean and attacked images; probes: of each probe, clean; correlation:
    of mean activation and relevance behind the last stage and its blocks, mean over the classes, at
    clean and attacked images; against: the share of activation in channels that speak against the
    own class.
    """

    n: int
    left: dict[str, int]
    fed: tuple[int, int]
    alone: tuple[int, int]
    probes: tuple[int, ...]
    correlation: tuple[float, float]
    against: tuple[float, float]


def measured(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, seed: int) -> Measured:
    """x (N, C, H, W), y (N,); the attacks are those of `standing`."""
    found = standing(model, x, y, threat, seed)
    groups = [*map(group, BETAS), SQUARE]
    left = {name: union(v for k, v in found.items() if k.startswith(name)) for name in groups}
    left[UNION] = union(found.values())
    run = Run(keys.seed_of(seed, "shown"), patience=math.inf)
    value = pgd(threat, 20, 0.1)(model, x, y, run=run).value
    assert isinstance(value, Tensor), "perturbations of single inputs are one tensor"
    moved = (x + value).clamp(0, 1)
    seen = channel_relevance(model, last_stage(model), x, moved, y)
    with untouched(model), torch.no_grad():
        probes = heads(model, x)[1].argmax(2) == y[:, None]
    return Measured(
        n=len(x),
        left={name: int(rows.sum()) for name, rows in left.items()},
        fed=(_right(model, x, y, fed=True), _right(model, moved, y, fed=True)),
        alone=(_right(model, x, y), _right(model, moved, y)),
        probes=tuple(probes.sum(0).tolist()),
        correlation=(
            float(seen.correlation().nanmean()),
            float(seen.correlation(adversarial=True).nanmean()),
        ),
        against=(float(seen.against().nanmean()), float(seen.against(adversarial=True).nanmean())),
    )


def standing(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, seed: int
) -> dict[str, Tensor]:
    """Attack -> (N,) bool, right at x and at what that attack alone made of it, by the last head
    and without labels.

    PGD-20 on the joint loss, for each beta of BETAS with each gradient of the mask, and Square.
    Random starts differ from attack to attack, so that a network without such blocks is attacked
    as often, by so many restarts.
    """
    with untouched(model), torch.no_grad():
        clean = model(x).argmax(1) == y
    found: dict[str, Tensor] = {}
    for beta in BETAS:
        for kind in MASK_GRADIENTS:
            name = f"{group(beta)}, {kind}"
            with mask_gradient(kind):
                found[name] = _stands(model, x, y, clean, joint_pgd(threat, beta), name, seed)
    found[SQUARE] = _stands(model, x, y, clean, square(threat, QUERIES), SQUARE, seed)
    return found


def union(found: Iterable[Tensor]) -> Tensor:
    """(N,) bool: what stands under every one of the attacks, image by image."""
    return torch.stack(list(found)).all(0)


def _stands(
    model: nn.Module, x: Tensor, y: Tensor, clean: Tensor, attack: Attack, name: str, seed: int
) -> Tensor:
    left = clean.nonzero()[:, 0]
    run = Run(keys.seed_of(seed, name), ids=left)
    value = attack(model, x[left], y[left], run=run).value
    assert isinstance(value, Tensor), "perturbations of single inputs are one tensor"
    stands = clean.clone()
    with untouched(model), torch.no_grad():
        stands[left] = model((x[left] + value).clamp(0, 1)).argmax(1) == y[left]
    return stands


@torch.no_grad()
def _right(model: nn.Module, x: Tensor, y: Tensor, fed: bool = False) -> int:
    with untouched(model), labels(y if fed else None):
        return int((model(x).argmax(1) == y).sum())


def last_stage(model: nn.Module) -> str:
    """The name of the last stage of a ResNet, whose maps the head averages."""
    stages: list[str] = [
        n for n, _ in model.named_modules() if n.rpartition("layer")[2].isdecimal()
    ]
    return max(stages)
