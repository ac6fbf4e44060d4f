"""Attack sets: images beside copies of them that were attacked in many ways on several networks
(Liao et al. 2018), to train denoisers on and to test them.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from torchproof.attack.untouched import home, precision, untouched
from torchproof.core import keys
from torchproof.core.errors import FileError, InputError, unknown
from torchproof.core.files import replacing, write
from torchproof.core.sites import Model

NOOP, NOISE, FGSM, ITERATED = "noop", "noise", "FGSM", "I-FGSM-"
ENSEMBLE = "ensemble"
_ARRAYS = ("x", "adv", "ids", "eps")
EPS = tuple(number / 255 for number in range(1, 17))  # of the paper, input units


class Way(NamedTuple):
    """An attack, "noop", "noise", "FGSM" or "I-FGSM-4" (4 steps), and the name of the network it is
    made on, "ensemble" for the mean of all logits; "" where it needs none.
    """

    attack: str
    source: str = ""

    @property
    def steps(self) -> int:
        """Steps along gradients; raises UnknownName for an attack that is none of these."""
        if self.attack in (NOOP, NOISE):
            return 0
        number = self.attack.removeprefix(ITERATED)
        if self.attack == FGSM or (number != self.attack and number.isdecimal() and int(number)):
            return 1 if self.attack == FGSM else int(number)
        raise unknown("attack", self.attack, (NOOP, NOISE, FGSM, f"{ITERATED}2", f"{ITERATED}4"))


def ways(sources: Sequence[str]) -> tuple[Way, ...]:
    """The authors' list for training: nothing, noise, FGSM on each network; FGSM and I-FGSM of 2
    and 4 steps on their ensemble (of one network, on that).
    """
    joint = ENSEMBLE if len(sources) > 1 else sources[0]
    single = [Way(FGSM, source) for source in sources if source != joint]
    together = [Way(attack, joint) for attack in (FGSM, f"{ITERATED}2", f"{ITERATED}4")]
    return (Way(NOOP), Way(NOISE), *single, *together)


@dataclass(frozen=True)
class Pairs:
    """Images x and attacked copies adv (N, C, H, W), ids (N,); of each row the way it was made and
    its eps (N,), 0 where nothing was done; spent: forward and backward samples.
    """

    x: Tensor
    adv: Tensor
    ids: Tensor
    made: tuple[Way, ...]
    eps: Tensor
    spent: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, folder: Path | str) -> None:
        """Writes pairs.npz, and pairs.csv with a line per row; raises FileError."""
        folder = Path(folder)
        arrays: dict[str, Any] = {n: getattr(self, n).cpu().numpy() for n in _ARRAYS}
        arrays["attack"] = np.array([way.attack for way in self.made])
        arrays["source"] = np.array([way.source for way in self.made])
        with replacing(folder / "pairs.npz") as file:
            np.savez_compressed(file, **arrays)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["id", "attack", "source", "eps"])
        table.writerows(
            [i, way.attack, way.source, eps]
            for i, way, eps in zip(self.ids.tolist(), self.made, self.eps.tolist(), strict=True)
        )
        write(folder / "pairs.csv", text.getvalue().encode())

    @classmethod
    def read(cls, folder: Path | str) -> Pairs:
        """What `save` wrote; raises FileError for a file that is missing, damaged or another's."""
        path = Path(folder) / "pairs.npz"
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                x, adv, ids, eps = (torch.from_numpy(stored[n]) for n in _ARRAYS)
                made = zip(stored["attack"].tolist(), stored["source"].tolist(), strict=True)
                return cls(x, adv, ids, tuple(Way(*way) for way in made), eps)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            given = f"{path} ({error})"
            raise FileError(given, "pairs of an attack set", "build it again") from error


@dataclass(frozen=True)
class AttackSet:
    """For every image one of `ways` and one of `eps`, drawn uniformly, keyed by seed and id.

    sources: networks by name, or functions to logits, asked in eval mode and left as they are;
    ways: by default the authors' list; eps: input units. Steps are eps / steps times the gradient's
    sign, from the image itself; the label is the network's own answer to the image, so that none
    leaks. Noise is uniform in the eps-ball. Deviations: the authors keep a copy of every image per
    way, take an ensemble's answer from the sum of its probabilities, draw eps from 1/255 to 15/255
    (their paper says 16), and add 0.4 times the loss of auxiliary logits.

    Each row has an eps of its own, which no `Threat` has; hence no `Attack` makes it.
    Raises InputError and UnknownName for parts that do not fit.
    """

    sources: Mapping[str, Model] = field(repr=False)
    eps: tuple[float, ...] = EPS
    ways: tuple[Way, ...] | None = None

    def __post_init__(self) -> None:
        if not self.eps or not all(0 < eps <= 1 for eps in self.eps):
            remedy = "write eps=(4/255, 8/255)"
            raise InputError(f"eps = {self.eps!r}", "numbers in (0, 1], input units", remedy)
        chosen = None if self.ways is None else tuple(map(_way, self.ways))
        needed = chosen is None or any(way.steps for way in chosen)
        if (needed and not self.sources) or ENSEMBLE in self.sources or chosen == ():
            given = f"an attack set of networks {list(self.sources)} and ways {chosen}"
            remedy = f"pass sources={{'A': network}}; {ENSEMBLE!r} is the name of all together"
            raise InputError(given, "at least one network and one way", remedy)
        object.__setattr__(self, "ways", chosen or ways(list(self.sources)))
        for way in chosen or ():
            if way.steps and way.source not in (*self.sources, ENSEMBLE):
                raise unknown("source", way.source, (*self.sources, ENSEMBLE))

    def draw(self, ids: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """(N,) numbers of ways and (N,) numbers of eps for the given ids (N,)."""
        assert self.ways is not None
        key = keys.mix(seed, "attack set", ids.cpu())
        way = keys.integers(key, 0, len(self.ways), ())
        return way, keys.integers(key, 0, len(self.eps), (), stream=1)

    def __call__(self, x: Tensor, ids: Tensor | None = None, seed: int = 0) -> Pairs:
        """Attacks x (N, C, H, W) in [0, 1]; ids (N,), by default the positions. No row depends on
        which others there are.
        """
        assert self.ways is not None
        ids = torch.arange(len(x)) if ids is None else ids.cpu()
        way, number = self.draw(ids, seed)
        kinds = tuple(self.ways[i] for i in way.tolist())
        idle = torch.tensor([kind.attack == NOOP for kind in kinds], dtype=torch.bool)
        chosen = torch.tensor(self.eps, dtype=torch.float64)[number].masked_fill(idle, 0.0)
        eps, delta, spent = chosen.to(x), torch.zeros_like(x), [0, 0]
        for i, kind in enumerate(self.ways):
            rows = (way == i).nonzero()[:, 0]
            at = rows.to(x.device)
            if kind.attack == NOISE:
                key = keys.mix(seed, "noise", ids[rows]).to(x.device)
                shape = tuple(x.shape[1:])
                delta[at] = (2 * keys.uniform(key, 0, shape, dtype=x.dtype) - 1) * _wide(eps[at], x)
            elif kind.steps and len(rows):
                networks = self._networks(kind.source)
                delta[at] = signed_steps(networks, x[at], eps[at], kind.steps)
                spent[0] += len(rows) * (kind.steps + 1) * len(networks)
                spent[1] += len(rows) * kind.steps * len(networks)
        adv = (x.detach() + delta).clamp(0, 1)
        return Pairs(x, adv, ids, kinds, eps, (spent[0], spent[1]))

    def _networks(self, name: str) -> list[Model]:
        return list(self.sources.values()) if name == ENSEMBLE else [self.sources[name]]


def _way(given: Way | Sequence[str]) -> Way:
    """Also from a tuple of words."""
    return given if isinstance(given, Way) else Way(*given)


def _wide(eps: Tensor, x: Tensor) -> Tensor:
    return eps.reshape(-1, *(1,) * (x.dim() - 1))


def signed_steps(networks: Sequence[Model], x: Tensor, eps: Tensor, steps: int) -> Tensor:
    """(N, C, H, W) perturbations by I-FGSM (Kurakin et al. 2017) with an eps (N,) for each row:
    x <- clip(x + eps / steps sign(grad CE(mean logits, y))), y the answer to x itself.
    """
    clean, length = x.detach(), _wide(eps, x) / steps
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(untouched(network, 0, home(network, x.device)))
        with torch.no_grad():
            moved, y = clean, _logits(networks, clean).argmax(1)
        for _ in range(steps):
            with torch.enable_grad():
                asked = moved.clone().requires_grad_()
                loss = F.cross_entropy(_logits(networks, asked), y, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, asked)
            moved = (moved + length * gradient.sign()).clamp(0, 1)
    return moved - clean


def _logits(networks: Sequence[Model], x: Tensor) -> Tensor:
    """(N, K) the mean logits, each network asked on its own device and in its own precision."""
    total: list[Tensor] = []
    for network in networks:
        asked = x.to(home(network, x.device), precision(network) or x.dtype)
        out: Tensor = network(asked)
        total.append(out.to(x.device, torch.promote_types(out.dtype, torch.float32)))
    return torch.stack(total).mean(0)
