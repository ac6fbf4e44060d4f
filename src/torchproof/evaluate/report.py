"""The answer of an evaluation: the names of result.json as attributes, the examples, the images."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from torchproof.core.errors import FileError
from torchproof.core.files import replacing, writing
from torchproof.evaluate.images import RESUME
from torchproof.evaluate.outcome import Example
from torchproof.evaluate.robustbench import model_info

if TYPE_CHECKING:  # records bring pydantic with them: a tenth of torch's import
    from torchproof.evaluate.record import Result

PICTURES = "adversarial.npz"


@dataclass(frozen=True)
class Report:
    """What an evaluation found. Each name of result.json is an attribute: `.robust_accuracy`.

    examples: one row per example (result.json has the name of their file there); x, adversarial:
    (n, C, H, W) clean images and, for broken examples, adversarial ones (else clean again), None
    where they were not kept.
    """

    result: Result
    examples: tuple[Example, ...]
    x: Tensor | None = None
    adversarial: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "result":  # absent while being copied or unpickled
            raise AttributeError(name)
        return getattr(self.result, "schema_" if name == "schema" else name)

    def save(self, folder: Path | str) -> None:
        """Writes result.json, examples.csv and, where there are images, adversarial.npz.

        The arrays of adversarial.npz are x and x_adv (n, C, H, W), id and y (n,), and x_adv_uint8
        for a quantised evaluation. result.json comes last. Raises FileError.
        """
        from torchproof.evaluate.record import write_examples

        folder = Path(folder)
        with writing(folder, RESUME):
            folder.mkdir(parents=True, exist_ok=True)
        if self.x is not None and self.adversarial is not None:
            self._save_images(folder, self.x, self.adversarial)
        write_examples(folder, self.examples)
        self.result.save(folder)

    def _save_images(self, folder: Path, x: Tensor, adversarial: Tensor) -> None:
        arrays = {
            "x": x.cpu().numpy(),
            "x_adv": adversarial.cpu().numpy(),
            "id": np.array([row.id for row in self.examples], dtype=np.int64),
            "y": np.array([row.label for row in self.examples], dtype=np.int64),
        }
        if self.result.quantised:
            levels = adversarial.mul(255).round().to(torch.uint8)
            arrays["x_adv_uint8"] = levels.cpu().numpy()
        with replacing(folder / PICTURES, RESUME) as file:
            np.savez(file, allow_pickle=False, **arrays)

    def robustbench(self, **fields: Any) -> dict[str, Any]:
        """The result in the form of RobustBench's files; see `robustbench.model_info`."""
        return model_info(self.result, **fields)

    @classmethod
    def load(cls, folder: Path | str) -> Report:
        """A report that was saved; raises FileError for files that are missing or damaged."""
        from torchproof.evaluate.record import Result, read_examples

        folder = Path(folder)
        result, examples = Result.read(folder), read_examples(folder)
        if not (folder / PICTURES).exists():
            return cls(result, examples)
        return cls(result, examples, *read_pictures(folder, [row.id for row in examples]))


def read_pictures(folder: Path, ids: list[int]) -> tuple[Tensor, Tensor]:
    """x and x_adv of adversarial.npz; raises FileError when damaged or not about these ids."""
    path = folder / PICTURES
    expected, remedy = "images of the examples beside it", "evaluate again with resume=True"
    try:
        with np.load(path, allow_pickle=False) as stored:
            known = stored["id"].tolist() == ids
            x, adversarial = torch.from_numpy(stored["x"]), torch.from_numpy(stored["x_adv"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise FileError(f"{path} ({error})", expected, remedy) from error
    if not known or x.shape != adversarial.shape or len(x) != len(ids):
        raise FileError(f"{path} about other examples", expected, remedy)
    return x, adversarial
