"""Of `reproduce adaptive`: the images, and a defence with its base, trained once and read back."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor, nn

from torchproof import data as sets
from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.predictor import Declared, DefendedPredictor
from torchproof.attack.untouched import untouched
from torchproof.core import keys
from torchproof.core.errors import FileError, TorchproofError
from torchproof.core.files import write
from torchproof.core.rejection import Rejecting
from torchproof.data.dataset import Dataset
from torchproof.reproduce.experiment import Request, available

PROBES, _FEW, _ALIKE = 16, 200, 1e-4
_FAILS = (
    TorchproofError, SafetensorError, RuntimeError, ValueError, LookupError, AttributeError,
    TypeError,
)  # fmt: skip

Pair = tuple[DefendedPredictor, nn.Module]


@dataclass(frozen=True)
class Part:
    """Images for training, for thresholds and references, to be attacked; budget of `adapt`."""

    train: int
    calibration: int
    tests: int
    budget: int


@dataclass
class Materials:
    """The images of each data set, the test images of each seed; sets are read once."""

    request: Request
    part: Part
    known: dict[str, tuple[Dataset, Dataset]] = field(default_factory=dict)

    def of(self, name: str, seed: int) -> Material:
        """Seeds share images for training, and have test images of their own as far as there are
        enough. The bundled digits take the place of a set that is not there.
        """
        if name not in self.known:
            there = name if available(name, self.request) else "digits"
            folder = self.request.data_dir
            train, test = (
                sets.load(there, data_dir=folder, split=split) for split in ("train", "test")
            )
            self.known[name] = train, test
        train, test = self.known[name]
        held = min(self.part.calibration, len(train) // 5)
        first = min(self.part.train, len(train) - held)
        tests = min(self.part.tests, len(test))
        start = seed * tests % (len(test) - tests + 1)
        return Material(
            train.take(first),
            train.subset(torch.arange(first, first + held)),
            test.subset(torch.arange(start, start + tests)),
        )


def code_of(defence: Defence) -> str:
    """8 hexadecimal digits of the file that the defence stands in: what changes is made anew."""
    file = inspect.getsourcefile(defence.train)
    content = b"" if file is None else Path(file).read_bytes()
    return hashlib.sha256(content).hexdigest()[:8]


def trained(
    request: Request, defence: Defence, material: Material, seed: int, folder: Path
) -> Pair:
    """The defended predictor and its base, from the folder where they are kept there."""
    if (folder / _RULE).exists():
        try:
            return restored(defence, material, seed, folder)
        except _FAILS as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            request.say(f"{defence.name}, seed {seed}: trained again ({reason})")
    pair = defence.train(material, seed)
    keep(pair, material, seed, folder)
    return pair


_TENSORS, _RULE = "networks.safetensors", "networks.json"


def keep(pair: Pair, material: Material, seed: int, folder: Path) -> None:
    """Writes all tensors, the numbers of the rule, what is declared, and the answers to a few
    images; FileError.
    """
    rule, declared = pair[0].rule, pair[0].declared
    numbers = None if rule is None else (rule.threshold, rule.weight, rule.temperature)
    told = {"rule": numbers, "declared": None if declared is None else asdict(declared)}
    kept = {**_state(pair), **_answers(pair, material, seed)}
    write(folder / _TENSORS, bytes_of(kept))
    write(folder / _RULE, (json.dumps(told) + "\n").encode())


def restored(defence: Defence, material: Material, seed: int, folder: Path) -> Pair:
    """What `keep` wrote. The structure is that of a training on a few images, which takes a moment;
    tensors and rule are put into it. Raises FileError, and others, where answers then differ, as
    they do where a defence learns what is no tensor.
    """
    few = Material(
        material.train.take(min(_FEW, len(material.train))),
        material.calibration.take(min(_FEW, len(material.calibration))), material.test,
    )  # fmt: skip
    with _quiet():
        pair = defence.train(few, seed)
    kept = tensors_of((folder / _TENSORS).read_bytes())
    told = json.loads((folder / _RULE).read_text(encoding="utf-8"))
    numbers, declared = told["rule"], told["declared"]
    own = set(_state(pair))
    if own != {name for name in kept if not name.startswith(_ANSWER)}:
        raise FileError(f"{folder}", "the tensors of this defence", "train it again")
    for name in own:
        _put(
            pair[0] if name.startswith("defended.") else pair[1], name.partition(".")[2], kept[name]
        )
    pair[0].declared = None if declared is None else Declared(**declared)
    if pair[0].rule is not None and numbers is not None:
        threshold, weight, temperature = numbers
        rule: Rejecting = pair[0].rule
        pair[0].rule = replace(rule, threshold=threshold, weight=weight, temperature=temperature)
    for name, answer in _answers(pair, material, seed).items():
        scale = float(kept[name].abs().max().clamp_min(1.0))
        if answer.shape != kept[name].shape or float((answer - kept[name]).abs().max()) > (
            _ALIKE * scale
        ):
            raise FileError(f"{folder}", "a defence that answers as it did", "train it again")
    return pair


@contextmanager
def _quiet() -> Iterator[None]:
    """What a training on a few images is like is no news."""
    log = logging.getLogger("torchproof.train")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _state(pair: Pair) -> dict[str, Tensor]:
    """Copies, since safetensors does not keep what shares memory."""
    return {
        f"{name}.{key}": tensor.detach().clone().contiguous()
        for name, model in zip(("defended", "base"), pair, strict=True)
        for key, tensor in model.state_dict().items()
    }


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Writes a tensor of the state; in the place of another where that has another shape."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    old = getattr(owner, leaf)
    with torch.no_grad():
        if old.shape == tensor.shape and old.dtype == tensor.dtype:
            old.copy_(tensor)
        elif leaf in owner._buffers:
            owner._buffers[leaf] = tensor
        else:
            setattr(owner, leaf, nn.Parameter(tensor, requires_grad=old.requires_grad))


_ANSWER = "answer."


def _answers(pair: Pair, material: Material, seed: int) -> dict[str, Tensor]:
    """All tensors that the two models answer a few test images with."""
    x, found = material.test.x[:PROBES], {}
    for name, model in zip(("defended", "base"), pair, strict=True):
        with untouched(model, keys.seed_of(seed, "probe")), torch.no_grad():
            out = model(x)
        table = out if isinstance(out, Mapping) else {"logits": out}
        for key, tensor in table.items():
            found[f"{_ANSWER}{name}.{key}"] = tensor.detach().clone().contiguous().float()
    return found
