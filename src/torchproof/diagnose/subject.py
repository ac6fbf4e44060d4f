"""What is looked into: a network, its images, the threat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from torchproof.core.errors import InputError, unknown
from torchproof.core.fingerprints import data_sha256, model_sha256
from torchproof.core.threats import Threat

FEW = 64  # images of landscapes, which ask about them at every point


class Images(NamedTuple):
    """x (N, C, H, W) in [0, 1] and labels y (N,), where the model is."""

    x: Tensor
    y: Tensor


class Sets(NamedTuple):
    """The images that a network was trained on, and images that it was not."""

    train: Images
    test: Images


@dataclass(frozen=True)
class Subject:
    """A network, its images and the threat that it is to withstand; slots: images per call; layers:
    dotted names of those that are looked at one by one, none for all with parameters; checkpoints:
    (step, network) of its training; gradient_batch: images of each gradient whose noise is read,
    None for 100, or fewer where that leaves too few batches.

    Raises UnknownName for a layer, InputError for checkpoints that are not in order, or of another
    network, and for a gradient_batch below 1.
    """

    model: nn.Module
    sets: Sets
    threat: Threat
    seed: int = 0
    slots: int = 256
    layers: tuple[str, ...] = ()
    checkpoints: tuple[tuple[int, nn.Module], ...] = ()
    gradient_batch: int | None = None

    def __post_init__(self) -> None:
        if self.gradient_batch is not None and self.gradient_batch < 1:
            given = f"gradient_batch = {self.gradient_batch}"
            raise InputError(given, "a whole number >= 1", "give the batch size of its training")
        known = [name for name, _ in self.model.named_modules() if name]
        for name in self.layers:
            if name not in known:
                raise unknown("layer", name, known)
        steps, own = [step for step, _ in self.checkpoints], _shapes(self.model)
        if steps != sorted(set(steps)):
            given = f"checkpoints of the steps {', '.join(map(str, steps))}"
            raise InputError(given, "growing numbers", "give each step once, in order")
        for step, network in self.checkpoints:
            if _shapes(network) != own:
                given = (
                    f"the checkpoint of step {step}, whose parameters are others than the model's"
                )
                raise InputError(given, "checkpoints of its training", "leave it out")

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        more: dict[str, Any] = {"layers": list(self.layers)} if self.layers else {}
        if self.checkpoints:
            more["checkpoints"] = [[step, model_sha256(one)] for step, one in self.checkpoints]
        if self.gradient_batch is not None:
            more["gradient_batch"] = self.gradient_batch
        return {"train": data_sha256(*self.sets.train), "test": data_sha256(*self.sets.test),
                "threat": str(self.threat), "seed": self.seed, **more}  # fmt: skip

    @property
    def few(self) -> Images:
        """The first test images, for what only shows a picture."""
        return Images(*(t[:FEW] for t in self.sets.test))


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}
