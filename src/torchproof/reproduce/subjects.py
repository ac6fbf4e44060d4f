"""Networks of an experiment: trained at a seed once, and read back when the experiment goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import nn

from torchproof import data as sets
from torchproof.data.dataset import Dataset
from torchproof.nn import load_model
from torchproof.recipes import Plan, prepare, run
from torchproof.recipes.plan import Prepared
from torchproof.reproduce.experiment import Request


def seeded(request: Request, plan: Plan, seed: int) -> Prepared:
    """What the plan needs, at this seed, on the CPU."""
    settings = plan.settings.model_copy(update={"seed": seed})
    changed = plan.model_copy(update={"settings": settings})
    return prepare(changed, request.data_dir, torch.device("cpu"))


def trained(request: Request, ready: Prepared, folder: Path) -> nn.Module:
    """The trained network; trained now unless it was before."""
    name = folder.relative_to(request.out)
    for record in run(ready, folder, resume=request.resume or folder.exists()):
        request.say(f"{name}: epoch {record.epoch}, loss {record.loss:.3f}")
    return load_model(str(folder)).model


def tested_on(request: Request, name: str, n: int) -> Dataset:
    """The first n of them, or all where there are fewer."""
    data = sets.load(name, data_dir=request.data_dir, split="test")
    return data.take(min(n, len(data)))


class Part(Protocol):
    """One data set of an experiment: the plan of the network that all others start from, how many
    training images the others get, and how many test images there are.
    """

    @property
    def plan(self) -> Plan: ...

    @property
    def few(self) -> int: ...

    @property
    def tests(self) -> int: ...


P = TypeVar("P", bound=Part)


@dataclass(frozen=True)
class Subjects(Generic[P]):
    """The networks and images of one part and seed."""

    request: Request
    part: P
    seed: int

    def folder(self, name: str) -> Path:
        return self.request.out / f"{self.part.plan.data}-seed{self.seed}" / name

    def say(self, text: str) -> None:
        self.request.say(f"{self.part.plan.data}, seed {self.seed}: {text}")

    def base(self) -> nn.Module:
        """The network that all others start from."""
        ready = seeded(self.request, self.part.plan, self.seed)
        return trained(self.request, ready, self.folder("base"))

    def few(self) -> Dataset:
        """Training images of this seed's own, as far as there are so many."""
        plan = self.part.plan
        train = sets.load(plan.data, data_dir=self.request.data_dir, split="train")
        train = train if plan.n is None else train.take(plan.n)
        size = min(self.part.few, len(train))
        first = (self.seed * size) % (len(train) - size + 1)
        return train.subset(torch.arange(first, first + size))

    def test(self) -> Dataset:
        return tested_on(self.request, self.part.plan.data, self.part.tests)
