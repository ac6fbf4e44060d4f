"""The settings of a training run: everything that decides its result besides model, data and
method.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from torchproof.core.errors import InputError, unknown

# Settings that say how a run is stored, not what it computes: they may change when it is resumed.
FREE = frozenset({"checkpoint_steps", "checkpoint_seconds"})


class Settings(BaseModel):
    """How a network is trained; `Settings.of(...)` builds one with errors in torchproof's words."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(30, ge=1, description="passes over the training rows")
    batch_size: int = Field(128, ge=1, description="examples per step, over all processes")
    lr: float = Field(0.1, gt=0, allow_inf_nan=False, description="peak learning rate")
    optimiser: str = Field("sgd", description="a name from OPTIMISERS")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum, or beta1 of Adam and AdamW")
    weight_decay: float = Field(
        5e-4, ge=0, allow_inf_nan=False, description="weight decay, on all parameters"
    )
    schedule: str = Field("piecewise", description="a name from SCHEDULES")
    clip: float | None = Field(None, gt=0, description="largest Euclidean norm of the gradient")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of the weight average; none: off"
    )
    held_out: int | None = Field(
        None,
        ge=0,
        description="training rows held out to choose the checkpoint: 10 %, at most 1,000",
    )
    held_out_steps: int = Field(
        10, ge=1, description="PGD steps when measuring on the held-out rows"
    )
    monitor_steps: int = Field(
        0,
        ge=0,
        description="steps between looks at catastrophic overfitting; 0: after epochs only",
    )
    catastrophic: Literal["note", "stop", "roll-back"] = Field(
        "note",
        description="on catastrophic overfitting: go on, end the run, or take up the best weights",
    )
    extra_share: float = Field(
        0.0, ge=0, lt=1, description="share of each batch that comes from the extra data"
    )
    choose: Literal["auto", "robust", "clean"] = Field(
        "auto",
        description="accuracy that chooses the checkpoint; auto: robust if the method has a threat",
    )
    autocast: Literal["off", "bfloat16"] = Field(
        "off", description="precision of attack and losses"
    )
    seed: int = Field(0, ge=0, lt=2**62, description="keys every random number of the run")
    checkpoint_steps: int = Field(0, ge=0, description="steps between checkpoints; 0: by time only")
    checkpoint_seconds: float = Field(300.0, gt=0, description="seconds between checkpoints")

    @classmethod
    def of(cls, given: Mapping[str, Any] | None = None, **more: Any) -> Settings:
        """Settings from names and values; raises InputError, or UnknownName for a name that is
        none.
        """
        values = {**(given or {}), **more}
        for name in values:
            if name not in cls.model_fields:
                raise unknown("training setting", name, cls.model_fields)
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            about = (
                cls.model_fields[name].description if name in cls.model_fields else "valid settings"
            )
            raise InputError(
                f"{name} = {first['input']!r}",
                f"{about} ({first['msg'].lower()})",
                "correct the value",
            ) from None
