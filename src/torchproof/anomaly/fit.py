"""Training on contaminated images, stage by stage, resumable by epoch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from torchproof.anomaly.detector import Detector
from torchproof.anomaly.learner import Learner, Setting
from torchproof.anomaly.premise import Premise, premise
from torchproof.anomaly.scores import rule_from, scores
from torchproof.anomaly.stages import Method
from torchproof.core.errors import FileError, InputError, ResumeError
from torchproof.core.files import write
from torchproof.data.dataset import fingerprint

SCHEMA = "torchproof.anomaly-checkpoint/1"
CHECKPOINT = "checkpoint.safetensors"

Watch = Callable[[Learner, Tensor], None]
"""Called after each epoch with the learner and the weights (N,) it was trained with."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """The learner at its end, and of each stage by name, in order, the weights (N,) and what was
    rejected when it began.
    """

    learner: Learner
    weights: dict[str, Tensor]
    premises: dict[str, Premise | None]

    @property
    def last(self) -> Tensor:
        """The weights of the last stage."""
        return list(self.weights.values())[-1]

    def detector(self, x: Tensor, share: float = 0.9) -> Detector:
        """With thresholds from images x (N, C, H, W): of held-out normal images where there are
        some, else of the training images that were kept, as in the paper.
        """
        setting = self.learner.setting
        rule = rule_from(scores(self.learner.network, x), setting.adversarial, share)
        return Detector(self.learner.network.eval(), setting, self.learner.shape, rule)


@dataclass(frozen=True, eq=False)
class Stood:
    """How a stage stood when it began: the weights (N,), and what was rejected."""

    weights: Tensor
    premise: Premise | None


def fit(
    x: Tensor,
    method: Method,
    setting: Setting = Setting(),
    *,
    out: Path | None = None,
    resume: bool = False,
    every: int = 25,
    watch: Watch | None = None,
) -> Fitted:
    """Train an autoencoder on images x (N, C, H, W) in [0, 1], where they are.

    With `out` a checkpoint is written there every `every` epochs and at the ends of stages;
    `resume` goes on from it and ends with the same weights, bit for bit on one machine.

    Raises InputError for images that cannot be meant, ResumeError for a checkpoint of other
    settings, images or method, FileError for one that cannot be read.
    """
    _check(x)
    shape = (int(x.shape[1]), int(x.shape[2]), int(x.shape[3]))
    learner, plan = Learner(setting, shape, x.device), method.stages()
    bound = _bound(x, method, setting) if out is not None else ""
    history: list[Stood] = []
    if resume and out is not None and (out / CHECKPOINT).exists():
        history = _restored(out / CHECKPOINT, bound, learner, x.device)
    end = 0
    for number, stage in enumerate(plan):
        end += stage.epochs
        if number >= len(history):
            before = history[-1].weights if history else torch.ones(len(x), device=x.device)
            weights = stage.weigh(learner, x, before)
            history.append(Stood(weights, premise(learner, x, weights)))
        while learner.epochs < end:
            learner.epoch(x, history[number].weights)
            if watch is not None:
                watch(learner, history[number].weights)
            if out is not None and (learner.epochs % every == 0 or learner.epochs == end):
                _store(out / CHECKPOINT, bound, learner, history)
    named = dict(zip((stage.name for stage in plan), history, strict=True))
    return Fitted(
        learner,
        {name: stood.weights for name, stood in named.items()},
        {name: stood.premise for name, stood in named.items()},
    )


def _check(x: Tensor) -> None:
    if x.ndim != 4 or len(x) < 2 or not x.is_floating_point():
        given = f"images of shape {tuple(x.shape)}, {x.dtype}"
        raise InputError(given, "floats of shape (N, C, H, W), N >= 2", "convert them")
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):  # NaN fails as well
        given = f"images from {low:g} to {high:g}"
        raise InputError(given, "numbers in [0, 1]", "divide bytes by 255")


def _bound(x: Tensor, method: Method, setting: Setting) -> str:
    """What a checkpoint belongs to; epochs, method and images may not change under it."""
    digest = fingerprint(x, torch.zeros(len(x), dtype=torch.int64))
    about = {"setting": asdict(setting), "method": repr(method), "images": digest}
    return json.dumps(about, sort_keys=True)


def _store(path: Path, bound: str, learner: Learner, history: list[Stood]) -> None:
    kept = {f"weights.{i}": one.weights.cpu().clone() for i, one in enumerate(history)}
    premises = [None if one.premise is None else asdict(one.premise) for one in history]
    about = {"schema": SCHEMA, "of": bound, "premises": json.dumps(premises)}
    write(path, to_bytes({**learner.state(), **kept}, metadata=about))


def _restored(path: Path, bound: str, learner: Learner, device: torch.device) -> list[Stood]:
    """Puts the learner back to where it was; the stages begun."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        given = f"{path} ({error})"
        raise FileError(given, "a checkpoint", "remove it, and start anew") from error
    if about.get("schema") != SCHEMA:
        given = f"{path} of schema {about.get('schema')!r}"
        raise FileError(given, f"a checkpoint of schema {SCHEMA}", "remove it, and start anew")
    if about.get("of") != bound:
        stored, wanted = json.loads(about["of"]), json.loads(bound)
        differing = ", ".join(k for k in wanted if wanted[k] != stored.get(k))
        expected = "those that the run was started with"
        raise ResumeError(f"another {differing}", expected, "choose another folder")
    learner.restore({k: v for k, v in state.items() if not k.startswith("weights.")})
    return [
        Stood(state[f"weights.{i}"].to(device), None if told is None else Premise(**told))
        for i, told in enumerate(json.loads(about["premises"]))
    ]
