"""LADDER in its four stages, each kept on disk: decoder, SVMs, examples, fine-tuning (Zhou, Tsang
and Yin 2022).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from torchproof.core.checks import check, check_weights
from torchproof.train import checkpoint, distributed
from torchproof.train.folder import Folder, Save, described, digest
from torchproof.train.ladder.examples import Boundary, Distance, Examples, Fixed
from torchproof.train.ladder.latent import Layer, encode
from torchproof.train.ladder.method import LADDER, Reconstruction
from torchproof.train.ladder.svm import Pairs, Recipe, train_pairs
from torchproof.train.loop import fit
from torchproof.train.record import Record
from torchproof.train.settings import FREE, Settings

LABEL = "unbounded perturbation, not Lp-robust"

DECODING = Settings.of(epochs=1000, batch_size=256, lr=1e-3, optimiser="adam", schedule="constant",
                       weight_decay=0.0, held_out=0)  # fmt: skip
FINE_TUNING = Settings.of(epochs=100, batch_size=64, lr=0.01, optimiser="sgd", momentum=0.5,
                          weight_decay=0.0, schedule="constant", held_out=0)  # fmt: skip
"""The authors' for MNIST."""


@dataclass(frozen=True)
class Course:
    """How the stages are run. layer: where the network is cut; svm, distance, unit: how examples
    are made; decoding, fine_tuning: settings of the two trainings, their seeds aside; seed: of all.
    """

    layer: Layer
    svm: Recipe = field(default_factory=Recipe)
    distance: Distance = field(default_factory=Fixed)
    unit: str = "raw"
    decoding: Settings = DECODING
    fine_tuning: Settings = FINE_TUNING
    seed: int = 0


@dataclass(frozen=True)
class Ladder:
    """What came of it: the records of both trainings, epoch by epoch; the boundary of the network
    as it was; the examples that it was fine-tuned on.
    """

    decoding: list[Record]
    boundary: Boundary
    examples: Examples
    fine_tuning: list[Record]
    label: str = LABEL


def ladder_training(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    decoder: nn.Module,
    course: Course,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    save: Save | None = None,
) -> Ladder:
    """Latent boundary-guided adversarial training of a trained `model`, in place.

    data: images (N, C, H, W) in [0, 1] and labels, of which the decoder, the SVMs and the examples
    are made; decoder: latents (B, D) to images, untrained, trained in place; out: where the stages
    are kept; resume: go on there, with the result of a run left alone; save: as `fit` has it, the
    card says `robustness: unbounded perturbation, not Lp-robust`. Deviation: all stages see images
    in [0, 1], where the authors' differ from stage to stage. Raises InputError, ModelError,
    UnknownName, ResumeError and FileError.
    """
    check(*data)
    check_weights(model)
    stages = _Stages(copy.deepcopy(model).eval(), data, course, None if out is None else Path(out))
    latents = encode(stages.model, course.layer, data[0])
    if stages.path is not None:
        Folder(stages.path, stages.identity(decoder), None).claim(resume)
    decoding, boundary, examples = stages.made(decoder, latents)
    return Ladder(decoding, boundary, examples, stages.tune(model, examples, save))


def boundary_examples(
    model: nn.Module, data: tuple[Tensor, Tensor], decoder: nn.Module, course: Course
) -> tuple[Boundary, Examples]:
    """The stages before the fine-tuning, nothing of them kept on disk; the model stays as it is.
    Raises what `ladder_training` raises.
    """
    stages = _Stages(copy.deepcopy(model).eval(), data, course, None)
    _, boundary, examples = stages.made(decoder, encode(stages.model, course.layer, data[0]))
    return boundary, examples


@dataclass(frozen=True)
class _Stages:
    """The stages one by one; each is read where it is stored. model: a copy of the network as it
    was.
    """

    model: nn.Module
    data: tuple[Tensor, Tensor]
    course: Course
    path: Path | None

    def identity(self, decoder: nn.Module) -> dict[str, Any]:
        """What makes a run this run."""
        course, shown = self.course, ("layer", "svm", "distance", "unit", "seed")
        return {
            "schema": "torchproof.ladder/1",
            "network": digest(self.model.state_dict()),
            "decoder": digest(decoder.state_dict()),
            "data": digest({"x": self.data[0], "y": self.data[1]}),
            "decoding": course.decoding.model_dump(exclude=set(FREE)),
            "fine_tuning": course.fine_tuning.model_dump(exclude=set(FREE)),
            **{name: described(getattr(course, name)) for name in shown},
        }

    def made(self, decoder: nn.Module, latents: Tensor) -> tuple[list[Record], Boundary, Examples]:
        """Decoder, SVMs and examples."""
        decoding = self.decode(decoder, latents)
        pairs, course = self.pairs(latents), self.course
        boundary = Boundary(self.model, course.layer, decoder, pairs, course.unit)
        return decoding, boundary, self.examples(boundary)

    def decode(self, decoder: nn.Module, latents: Tensor) -> list[Record]:
        records = fit(
            decoder, self.data, Reconstruction(latents), self._seeded(self.course.decoding),
            out=self._at("decoder"), resume=True,
        )  # fmt: skip
        return self._all(list(records), "decoder")

    def pairs(self, latents: Tensor) -> Pairs:
        stored = self._read("svms")
        if stored is not None:
            return Pairs(**stored, kind=self.course.svm.attention)
        found = train_pairs(latents, self.data[1].cpu(), self.course.svm, self.course.seed)
        tensors = {name: value for name, value in vars(found).items() if name != "kind"}
        self._write("svms", tensors)
        return found

    def examples(self, boundary: Boundary) -> Examples:
        stored = self._read("examples")
        if stored is not None:
            return Examples(**stored)
        found = self.course.distance(boundary, *self.data, seed=self.course.seed)
        self._write("examples", vars(found))
        return found

    def tune(self, model: nn.Module, examples: Examples, save: Save | None) -> list[Record]:
        def labelled(model: nn.Module, path: Path, card: dict[str, Any]) -> None:
            if save is not None:
                save(model, path, {**card, "robustness": LABEL})

        method, settings = LADDER(examples.images), self._seeded(self.course.fine_tuning)
        records = fit(
            model, self.data, method, settings, out=self._at("training"), resume=True,
            save=labelled, info={"robustness": LABEL},
        )  # fmt: skip
        return self._all(list(records), "training")

    def _seeded(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"seed": self.course.seed})

    def _at(self, name: str) -> Path | None:
        return None if self.path is None else self.path / name

    def _all(self, records: list[Record], name: str) -> list[Record]:
        """All records of a training, those before it was resumed included."""
        path = self._at(name)
        if path is None:
            return records
        lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [Record.model_validate_json(line) for line in lines]

    def _read(self, name: str) -> dict[str, Tensor] | None:
        path = self._at(f"{name}.safetensors")
        return checkpoint.read(path)[0] if path is not None and path.exists() else None

    def _write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        path = self._at(f"{name}.safetensors")
        if path is not None and distributed.rank() == 0:
            checkpoint.write(path, tensors, {"stage": name, "robustness": LABEL})


def reconstruction_error(boundary: Boundary, x: Tensor) -> tuple[float, Tensor]:
    """The mean squared error of G(e(x)), and f's decisions on it, (N,): what eps = 0 does."""
    images = boundary.decoded(encode(boundary.model, boundary.layer, x))
    error = (images - x.cpu()).pow(2).mean()
    return float(error), boundary.classes_of(images)
