"""A plan: what is trained, on what, how. Written down as text, so that a run directory tells all
of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from torchproof import data as sets
from torchproof.core.errors import FileError, InputError, TorchproofError, unknown
from torchproof.core.expression import parse
from torchproof.core.threats import Threat
from torchproof.core.threats import parse as parse_threat
from torchproof.data.augment import AUGMENTATIONS
from torchproof.data.dataset import Dataset
from torchproof.data.streamed_set import StreamSet, opened
from torchproof.nn import MODELS, Purified, build, cards, in_front_of, load_model
from torchproof.nn.activation_transfer import (
    activations_of,
    load_activations,
    with_activations,
)
from torchproof.nn.decoder import decoder_for
from torchproof.train import OPTIMISERS, SCHEDULES, Method, Record, Settings, fit
from torchproof.train import method as parse_method
from torchproof.train.folder import digest
from torchproof.train.job import require_trainable
from torchproof.train.method import layers


class Plan(BaseModel):
    """One training run as text: data set, network, method, threat, augmentation and settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = Field(default="digits", description="a name of `torchproof list data`")
    model: str = Field(
        default="small-cnn", description="a network, such as 'wide-resnet(depth=34)'"
    )
    method: str = Field(
        default="AT", description="a method, such as 'AWP(TRADES(beta=6), gamma=0.005)'"
    )
    threat: str | None = Field(default=None, description="NORM:EPS, such as linf:8/255")
    augment: str | None = Field(default=None, description="such as 'Compose(Crop(4), Flip())'")
    settings: Settings = Field(default_factory=Settings.of, description="how it is trained")
    n: int | None = Field(default=None, description="train on the first n rows only")
    teacher: str | None = Field(
        default=None,
        description="a stored network: the standard one of HAT, the classifier of a purified one",
    )
    activations: str | None = Field(
        default=None,
        description="a stored network, or a file of activations, whose activations are taken over "
        "and frozen",
    )
    start: str | None = Field(
        default=None, description="a stored network whose weights the training starts from"
    )
    extra: str | None = Field(
        default=None,
        description="data that fill the share settings.extra_share of every batch; of the data set "
        "itself, the rows behind the first n",
    )
    labeller: str | None = Field(
        default=None, description="a stored network whose answers are the labels of the extra data"
    )


@dataclass(frozen=True)
class Prepared:
    """A plan with its names looked up: everything that can be wrong with it has been checked."""

    plan: Plan
    train: Any  # a Dataset, or a StreamSet where `prepare` was to read streams
    model: nn.Module
    method: Method
    threat: Threat | None
    augment: Any
    extra: Dataset | None


def network(
    text: str, data: Dataset | StreamSet, seed: int, classifier: nn.Module | None = None
) -> nn.Module:
    """The network that `text` describes, shaped for `data`; `classifier` is what "purified" stands
    in front of. Raises UnknownName, InputError.
    """
    if not data.classes:
        remedy = "write stream(shards('train-*.tar', classes=1000))"
        raise InputError(f"{data.name}, whose classes are unknown", "their number", remedy)
    _, channels, height, width = data.head().shape
    if height != width:
        raise InputError(
            f"images of {height} x {width}", "square images", "crop or pad them to a square"
        )
    makers: dict[str, Callable[..., Any]] = {name: partial(build, name) for name in MODELS}
    if classifier is not None:
        makers["purified"] = partial(in_front_of, classifier)
    shape = {"channels": channels, "size": height, "classes": len(data.classes), "seed": seed}
    with meant(text):
        made = parse(text, makers, **shape)
    if not isinstance(made, nn.Module):
        raise InputError(f"model {text!r}", "a network", f"choose one of {', '.join(MODELS)}")
    return made


@contextmanager
def meant(text: str) -> Iterator[None]:
    """Python's complaint about an argument in an expression, such as `TRADES(beta="x")`, becomes an
    InputError.
    """
    try:
        yield
    except TorchproofError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        remedy = "see `torchproof list` for the names, and its source for the arguments"
        raise InputError(f"{text!r} ({error})", "arguments of the right kind", remedy) from error


def _augmentation(text: str) -> Any:
    with meant(text):
        made = parse(text, AUGMENTATIONS)
    if not callable(made):
        known = ", ".join(AUGMENTATIONS)
        raise InputError(f"augment {text!r}", "an augmentation", f"choose one of {known}")
    return made


def _teacher(plan: Plan, device: torch.device) -> nn.Module | None:
    """The stored network of a plan; raises FileError for one that cannot be read."""
    if plan.teacher is None:
        return None
    try:
        return load_model(plan.teacher, device).model
    except (FileError, InputError) as error:
        remedy = f"{error.remedy}; or train one first (--method Standard), and pass --teacher RUN"
        raise type(error)(f"the teacher: {error.given}", error.expected, remedy) from error


def _started(plan: Plan, model: nn.Module, device: torch.device) -> None:
    """Gives the model the weights its plan starts from; raises FileError for those of another
    network.
    """
    if plan.start is None:
        return
    try:
        model.load_state_dict(load_model(plan.start, device).model.state_dict())
    except (FileError, InputError) as error:
        remedy = f"{error.remedy}; or train it first, and pass --start RUN"
        raise type(error)(f"the start: {error.given}", error.expected, remedy) from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        given = f"the start {plan.start} ({reason[:200]})"
        raise FileError(given, f"weights of {plan.model}", "name a network like it") from error


def _method(plan: Plan, threat: Threat | None, teacher: nn.Module | None) -> Method:
    """The method of a plan, with its teacher, where it has one, and decoders where it asks."""
    known: dict[str, Any] = {"decoder": decoder_for}
    if teacher is not None:
        known |= {"standard": teacher, "sources": {"teacher": teacher}}
    with meant(plan.method):
        return parse_method(plan.method, threat, **known)


def _require_use(plan: Plan, teacher: nn.Module | None, method: Method, model: nn.Module) -> None:
    """Raises InputError for a teacher that nothing asks for."""
    values = [value for _, part in layers(method) for value in vars(part).values()]
    named = [v for value in values if isinstance(value, dict) for v in value.values()]
    purified = isinstance(getattr(model, "net", None), Purified)
    if teacher is not None and not purified and not any(v is teacher for v in [*values, *named]):
        remedy = "leave the teacher out, train with HAT(), or a model='purified(...)'"
        raise InputError(f"a teacher for {plan.method}", "a method that asks for one", remedy)


def prepare(
    plan: Plan, data_dir: Path | None, device: torch.device, streams: bool = False
) -> Prepared:
    """Looks everything up; raises the error of the first name, file or setting that is wrong.

    streams: data may be a stream too, which only the training itself can read.
    """
    from torchproof.recipes.extra import extra_of  # whose recipes are plans

    threat = None if plan.threat is None else parse_threat(plan.threat)
    teacher = _teacher(plan, device)
    method = _method(plan, threat, teacher)
    augment = None if plan.augment is None else _augmentation(plan.augment)
    require_trainable(method, augmented=augment is not None)
    for kind, name, table in (
        ("optimiser", plan.settings.optimiser, OPTIMISERS),
        ("learning-rate schedule", plan.settings.schedule, SCHEDULES),
    ):
        if name not in table:
            raise unknown(kind, name, table)
    train = (opened if streams else sets.load)(plan.data, data_dir=data_dir, split="train")
    train = train if plan.n is None else train.take(plan.n)
    extra = extra_of(plan, data_dir, device)
    model = network(plan.model, train, plan.settings.seed, teacher)
    _require_use(plan, teacher, method, model)
    _started(plan, model, device)
    if plan.activations is not None:
        model = with_activations(model, load_activations(plan.activations))
    return Prepared(plan, train, model.to(device), method, threat, augment, extra)


def run(
    ready: Prepared,
    out: Path | None = None,
    *,
    resume: bool = False,
    stop: Callable[[], bool] | None = None,
    info: Mapping[str, Any] | None = None,
) -> Iterator[Record]:
    """Trains; yields a record per epoch. The model of `ready` then holds the best weights."""
    plan = ready.plan
    about: dict[str, Any] = {
        "plan": plan.model_dump(exclude={"settings"}),
        "data_sha256": ready.train.sha256,
    }
    if ready.extra is not None:
        about["extra_sha256"] = ready.extra.sha256
    if plan.activations is not None:
        about["activations_sha256"] = digest(activations_of(ready.model))
    if plan.start is not None:
        about["start_sha256"] = digest(ready.model.state_dict())
    return fit(
        ready.model,
        ready.train,
        ready.method,
        plan.settings,
        threat=ready.threat,
        augment=ready.augment,
        out=out,
        resume=resume,
        save=partial(_save, ready),
        info={**about, **(info or {})},
        stop=stop,
        extra=None if ready.extra is None else (ready.extra.x, ready.extra.y),
    )


def _save(ready: Prepared, model: nn.Module, path: Path, card: Mapping[str, Any]) -> None:
    """The network with a card that names its data and classes, and says what its method has to."""
    more: dict[str, Any] = {"data": ready.plan.data, "classes": list(ready.train.classes)}
    labels = [part.label for _, part in layers(ready.method) if part.label]
    more |= {"labels": labels} if labels else {}
    cards.save(model, path, {**card, **more})
