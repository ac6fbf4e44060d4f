"""Every method in every pair of wrappers: what is allowed takes a step, the rest says why not."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.asides import tell
from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.nn.cosine import CosineHead
from torchproof.nn.purified import Purified
from torchproof.nn.unet import DUNET
from torchproof.train import METHODS, SPAT, LabelSmoothing, Method, Settings, Standard, Sum, method
from torchproof.train.certified.bounding import Bounding
from torchproof.train.denoiser import Guided
from torchproof.train.hypersphere import HE
from torchproof.train.job import Job, lesson_of, started
from torchproof.train.ladder import LADDER
from torchproof.train.method import drawn, read
from torchproof.train.step import batch_of, take
from torchproof.train.wrapper import Wrapper

THREAT = Threat(Linf(), 0.1)
IMAGES, LABELS = torch.linspace(0, 1, 144).reshape(9, 1, 4, 4), torch.arange(9) % 3
STANDARD = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
# as short as they can be; what is not named here is written without arguments
ARGUMENTS = {
    **dict.fromkeys(
        ("AT", "TRADES", "MART", "IAT", "SPAT", "THRM", "ALP", "SCORE", "HAT", "HE", "CIFSAT"),
        "steps=1",
    ),
    **dict.fromkeys(("SABR", "CCIBP", "MTLIBP", "ExpIBP", "TAPS"), "Ramp(0, 0.1), steps=1"),
    **dict.fromkeys(("IBP", "CROWNIBP", "ConvexAdversarial", "DiffAI", "GloRo"), "Ramp(0, 0.1)"),
    **dict.fromkeys(("PixelGuided", "FGD", "LGD", "CGD"), "eps=(0.1,)"),
    **dict.fromkeys(("NoiseAugmentation", "Stability", "MACER"), "sigma=0.2, m=2"),
    "SmoothAdv": "steps=1, sigma=0.2, m=2",
    "COLT": "steps=1, depth=1", "MMA": "steps=1", "FreeAT": "m=2", "JSIGR": "stride=2, blur=3",
    "RAT": "steps=1", "BoundaryGuided": "'1', decoding=(1, 9, 0.1)",
    "FastWarmUp": "Ramp(0, 0.9)", "ReLUStability": "Ramp(0, 0.1)",
}  # fmt: skip
REGULARISERS = {
    "JSIGR", "GradAlign", "FirstLayer", "L1", "FastWarmUp", "ReLUStability", "Parseval",
    "LaplacianSmoothness",
}  # fmt: skip
"""They say too little alone."""
UNLABELLED = {"PixelGuided", "FGD", "LGD"}
"""Whose losses look at no labels."""
WRAPPERS: dict[str, Callable[[Method], Method]] = {
    **{name: kind for name, kind in METHODS.items() if issubclass(kind, Wrapper)},
    "Sum": lambda inner: Sum(inner, Standard()),
}
AVERAGES, TERMS, VOTING = (
    {"EMA", "SWA"},
    {"Consistency", "ADRE"},
    {"NoiseAugmentation", "SmoothAdv", "MACER"},
)
ATTACKS = {
    "AT", "TRADES", "MART", "IAT", "SPAT", "THRM", "ALP", "SCORE", "HAT", "HE", "CIFSAT", "FGSMAT",
    "FastAT", "NFGSM",
}  # fmt: skip
BASES = [*(name for name in METHODS if name not in WRAPPERS), "LADDER"]
STEP = Settings.of(epochs=50, batch_size=4, lr=1e-3, optimiser="sgd", held_out=0)


def written(name: str) -> str:
    return f"{name}({ARGUMENTS.get(name, '')})"


def base(name: str) -> Method:
    if name == "LADDER":
        return LADDER(IMAGES)
    networks: dict[str, Any] = {"standard": STANDARD, "sources": {"other": STANDARD}}
    networks["decoder"] = lambda latent, *shape: nn.Sequential(nn.Linear(latent, 16), Images())
    made = method(written(name), THREAT, **networks)
    return Sum(Standard(), made) if name in REGULARISERS else made


def reason(name: str, inside: tuple[str, ...], of: str) -> str | None:
    """Why a wrapper may not stand around these, the innermost being the method `of`."""
    if name in AVERAGES:
        return "one average" if AVERAGES & set(inside) else None
    if AVERAGES & set(inside):
        return "outermost"
    if name != "Sum" and name in inside:
        return "one tau" if name == "FAT" else f"{name} around {name}"
    if name == "LabelSmoothing" and of in UNLABELLED and "Sum" not in inside:
        return "looks at labels"
    if name in TERMS and (of not in VOTING or not set(inside) <= TERMS):
        return "NoiseAugmentation, SmoothAdv or MACER"
    if name == "TisODE" and kind_of(base(of)) != "usual":
        return "passes of its own"
    if name == "FAT" and of not in ATTACKS:
        return "inner attack"
    if name == "FAT" and of == "THRM":
        return "answers wrong"
    if name == "Sum" and of == "FreeAT":
        return "one step per batch"
    return "perturb weights" if name == "Sum" and "AWP" in inside else None


class Images(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h.sigmoid().view(-1, 1, 4, 4)


class Talking(nn.Module):
    """Tells what ODE blocks and CIFS blocks would."""

    def __init__(self) -> None:
        super().__init__()
        self.probe = nn.Linear(6, 3)

    def forward(self, h: Tensor) -> Tensor:
        tell("steady", h.abs().mean(1))
        tell("probe", self.probe(h))
        return h


@functools.cache
def network(kind: str) -> nn.Module:
    """One of each kind for all steps: bounds trace a network when they first see it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "purified":
            maps = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
            head = nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
            return Purified(DUNET(1, (2, 2), (1, 1), zero=False), nn.Sequential(maps, head))
        first = (nn.Flatten(), nn.Linear(16, 6), nn.ReLU())
        if kind == "bounded":
            return nn.Sequential(*first, nn.Linear(6, 3))
        second = (nn.Linear(6, 6), nn.ReLU())
        return nn.Sequential(*first, *second, Talking(), CosineHead(6, 3, 4))


def kind_of(made: Method) -> str:
    if isinstance(made, Guided):
        return "purified"
    parts = made.methods if isinstance(made, Sum) else (made,)
    return "bounded" if any(isinstance(part, Bounding) for part in parts) else "usual"


def job_of(made: Method, kind: str) -> Job:
    job = started(network(kind), lesson_of(IMAGES, LABELS, made, STEP, None, None), None, None)
    made.begin(job.learner.model, job.lesson.train, 0.0)
    job.learner.model.train()
    job.state.total = 10  # past ramps and warm-ups
    return job


def test_the_tables_hold_all_methods_and_wrappers() -> None:
    assert {*BASES, *WRAPPERS} == {*METHODS, "LADDER"}
    assert {*AVERAGES, *TERMS} <= set(WRAPPERS) and {*REGULARISERS, *VOTING, *ATTACKS} <= set(BASES)
    assert {kind_of(base(name)) for name in BASES} == {"purified", "bounded", "usual"}
    assert {SPAT, HE} <= {type(base(name)) for name in BASES}  # which ask for the cosine head


def test_only_regularisers_say_that_they_are() -> None:
    assert {name for name in METHODS if METHODS[name].regulariser} == REGULARISERS


@pytest.mark.parametrize("name", sorted({*BASES} - REGULARISERS - UNLABELLED))
def test_label_smoothing_changes_every_loss_that_it_may_stand_around(name: str) -> None:
    """Where it changed nothing, it would have to be refused."""
    inner, found = base(name), []
    for made in (inner, LabelSmoothing(inner, 0.3)):
        job = job_of(made, kind_of(inner))
        model = job.learner.model
        ready = made.prepare(model, batch_of(job.lesson, model, job.state, torch.arange(4)))
        with drawn(ready):
            found.append(read(made, model, ready).detach())
    assert found[0].shape == (4,) and not torch.equal(*found)


@pytest.mark.parametrize("name", sorted(REGULARISERS))
def test_regularisers_are_refused_where_no_loss_is_beside_them(name: str) -> None:
    """Alone when training starts, in every wrapper when it is built."""
    alone = method(written(name), THREAT)
    with pytest.raises(InputError, match=rf"{name} alone.*write Sum\(AT\(\), {name}"):
        lesson_of(IMAGES, LABELS, alone, STEP, None, None)
    for outer in set(WRAPPERS) - {"Sum"}:
        with pytest.raises(InputError, match=f"{name} in {outer}.*a loss about labels"):
            WRAPPERS[outer](alone)
            pytest.fail(f"{outer}({name}) was to be refused")
    assert WRAPPERS["LabelSmoothing"](Sum(Standard(), alone))


@pytest.mark.parametrize("name", BASES)
def test_every_pair_of_wrappers_around(name: str) -> None:
    innermost = base(name)
    kind, ran, refused = kind_of(innermost), 0, 0
    for inner, outer in itertools.product(WRAPPERS, WRAPPERS):
        why = reason(inner, (), name) or reason(outer, (inner,), name)
        text = f"{outer}({inner}({name}))"
        if why is not None:
            with pytest.raises(InputError, match=why):
                WRAPPERS[outer](WRAPPERS[inner](innermost))
                pytest.fail(f"{text} was to be refused: {why}")
            refused += 1
            continue
        job = job_of(WRAPPERS[outer](WRAPPERS[inner](innermost)), kind)
        before = [p.detach().clone() for p in job.learner.model.parameters()]
        sums = take(job.learner, job.lesson, job.state, torch.arange(4))
        after = list(job.learner.model.parameters())
        assert math.isfinite(sums.loss) and sums.rows == 4, text
        assert all(bool(p.isfinite().all()) for p in after), text
        assert any(not torch.equal(p, q) for p, q in zip(after, before, strict=True)), text
        ran += 1
    assert ran and ran + refused == len(WRAPPERS) ** 2
