"""Every way to bound margins by its name.

A row says what it is, where it comes from and what it needs. A method that is another one under the
name of its own paper is a row too, and says which (`same`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.core.errors import MissingExtra
from torchproof.core.threats import AnyThreat
from torchproof.verify import hybrid, zonotope
from torchproof.verify.bounds import Margins, bounded
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.lipschitz.clever import clever
from torchproof.verify.lipschitz.fast_lip import FAST_LIP
from torchproof.verify.lipschitz.on_set import global_margins, local_margins
from torchproof.verify.lipschitz.recur_jac import CHORDS, RECUR_JAC
from torchproof.verify.lp import lp_margins
from torchproof.verify.milp import milp_margins

SECONDS = 60.0  # for one example, where a method can be limited


@dataclass(frozen=True)
class Verifier:
    """run: from a graph in float64, images (B, ...), labels (B,) and a threat to bounds of margins;
    about: what it is, in a line; timed: whether `run` takes `time_limit`, seconds for each example;
    extra: what has to be installed for it; same: the row that it equals; transforms: does it use
    torch.func, which imports most of torch's compiler when it is first called?
    """

    run: Callable[..., Margins]
    about: str
    source: str
    timed: bool = False
    extra: str = ""
    same: str = ""
    transforms: bool = False

    def __call__(
        self, model: Graph, x: Tensor, y: Tensor, threat: AnyThreat, /, seconds: float = SECONDS
    ) -> Margins:
        limit: dict[str, Any] = {"time_limit": seconds} if self.timed else {}
        return self.run(model, x, y, threat, **limit)

    def ready(self) -> None:
        """Imports what it needs, so that its time is its own; raises MissingExtra."""
        if isinstance(self.run, Later):
            self.run.load()
        if self.transforms:
            torch.func.vmap(torch.func.vjp(torch.neg, torch.zeros(1))[1])(torch.zeros(1, 1))

    @property
    def line(self) -> str:
        """What it is, its source and its needs, for a list."""
        alias = f"the same as {self.same} on ReLU networks: " if self.same else ""
        needs = f"; needs the extra {self.extra}" if self.extra else ""
        return f"{alias}{self.about} ({self.source}){needs}"


@dataclass(frozen=True)
class Later:
    """A function `module:name` of this package, imported when it is needed; package: what it needs
    to be installed, which the extra does.
    """

    place: str
    package: str = ""
    extra: str = ""

    def load(self) -> Callable[..., Margins]:
        """The function itself; raises MissingExtra where what it needs does not load."""
        module, name = self.place.split(":")
        if self.package:
            try:
                import_module(self.package)
            except Exception as error:  # whatever a broken installation may raise
                given = f"{name} without {self.package} ({error})"
                remedy = f"pip install 'torchproof[{self.extra}]'"
                raise MissingExtra(given, "a package that loads", remedy) from error
        function: Callable[..., Margins] = getattr(
            import_module(f"torchproof.verify.{module}"), name
        )
        return function

    def __call__(self, *given: Any, **more: Any) -> Margins:
        return self.load()(*given, **more)


def _deep_z(model: Graph, x: Tensor, y: Tensor, threat: AnyThreat) -> Margins:
    return Margins(zonotope.margins(model, x, y, threat, meet=False), 0)


def _hybrid(model: Graph, x: Tensor, y: Tensor, threat: AnyThreat) -> Margins:
    """With a symbol for every pixel."""
    with torch.no_grad():
        chosen = torch.arange(x[0].numel(), device=x.device).expand(len(x), -1)
        swept = hybrid.Sweep.of(model, InputSet.of(x, threat), chosen, "smooth")
        rows = rows_of(y, model.run(x[:1])[model.output].shape[-1]).to(x.dtype)
        return Margins(swept.lower(rows), 0)


def _propagated(method: str, about: str, source: str) -> Verifier:
    return Verifier(partial(bounded, method=method), about, source)


def _integers(middle: str, about: str, source: str) -> Verifier:
    return Verifier(partial(milp_margins, middle=middle), about, source, True)


def _programme(middle: str, about: str, source: str) -> Verifier:
    return Verifier(partial(lp_margins, middle=middle), about, source, True)


def _lipschitz(run: Callable[..., Margins], about: str, source: str) -> Verifier:
    return Verifier(run, about, source, transforms=True)


def _semidefinite(name: str, about: str, source: str) -> Verifier:
    run = Later(f"sdp:{name}", "cvxpy", "sdp")
    return Verifier(run, about, source, True, extra="sdp")


_OWN: dict[str, Verifier] = {
    "ibp": _propagated("ibp", "intervals, margins merged into the last layers",
                       "Gowal et al. 2019"),
    "crown-ibp": _propagated("crown-ibp", "lines walked back over intervals", "Zhang et al. 2020"),
    "fast-lin": _propagated("fast-lin", "lines walked back, lower ones parallel to the upper",
                            "Weng et al. 2018a"),
    "crown": _propagated("crown", "lines walked back, lower slopes 0 or 1, the nearer",
                         "Zhang et al. 2018"),
    "alpha-crown": _propagated("alpha-crown", "crown, slopes optimised for the margins",
                               "Xu et al. 2021"),
    "alpha-crown-full": _propagated(
        "alpha-crown-full", "crown, slopes optimised for every bound in the middle too",
        "Xu et al. 2021"),
    "best": _propagated("best", "the largest of ibp, crown-ibp, fast-lin, crown, and of crown met "
                        "with intervals; the default", "here"),
    "deepz": Verifier(_deep_z, "zonotopes walked forward", "Singh et al. 2018",
                      transforms=True),
    "hybrid": Verifier(_hybrid, "zonotopes of the pixels' noise, what ReLUs add in a box",
                       "Mirman et al. 2018", transforms=True),
    "op-norm": _lipschitz(global_margins, "product of certified operator norms",
                          "Szegedy et al. 2014, Tsuzuku et al. 2018"),
    "fast-lip": _lipschitz(partial(local_margins, by=FAST_LIP), "Jacobian by intervals",
                           "Weng et al. 2018a"),
    "recur-jac": _lipschitz(partial(local_margins, by=RECUR_JAC),
                            "Jacobian by linear bounds where signs are known", "Zhang et al. 2019"),
    "recur-jac-chords": _lipschitz(partial(local_margins, by=CHORDS),
                                   "recur-jac, with chords where signs are not known",
                                   "Shi et al. 2022"),
    "lp": _programme("best", "a linear programme per margin, boxes in the middle by best",
                     "Ehlers 2017"),
    "lp-full": _programme("lp", "the same, with linear programmes for every open neuron too",
                          "Weng et al. 2018a, Salman et al. 2019"),
    "milp": _integers("best", "integers for open neurons, boxes in the middle by best",
                      "Tjeng et al. 2019"),
    "milp-ibp": _integers("ibp", "milp with boxes in the middle by ibp", "Tjeng et al. 2019"),
    "milp-alpha": _integers("alpha-crown-full", "milp with boxes in the middle by alpha-crown-full",
                            "Xu et al. 2021 for the boxes"),
    "refine-zono": Verifier(Later("refine_zono:refine_zono_margins"), "deepz, boxes in the middle "
                            "refined by integers in the first layers and linear programmes in the "
                            "others", "Singh et al. 2019b", True, transforms=True),
    "k-relu": Verifier(Later("k_relu:k_relu_margins"), "lp, with the joint hulls of pairs of ReLUs",
                       "Singh et al. 2019c", True),
    "sdp": _semidefinite("sdp_margins", "SDPVerify: a semidefinite programme per margin, whose "
                         "dual value counts; small networks", "Raghunathan et al. 2018"),
    "lmi": _semidefinite("lmi_margins", "LMIVerify: a matrix inequality per margin, by quadratic "
                         "constraints; smaller ones", "Fazlyab et al. 2019"),
    "sdp-fo": Verifier(Later("sdp:sdp_fo_margins"), "the dual of SDPVerify by first-order steps, "
                       "without a solver", "Dathathri et al. 2020", True, transforms=True),
    "bab": Verifier(Later("bab:bab_margins"), "branch and bound over the signs of ReLUs "
                    "(beta-CROWN), until signs of margins are known", "Wang et al. 2021", True),
    "ai2": _integers("crown", "deeppoly, then integers: what evaluations call AI2; the "
                     "powersets of Gehr et al. 2018 are not in it", "Singh et al. 2019b"),
}  # fmt: skip


def _alias(same: str, about: str, source: str) -> Verifier:
    return replace(_OWN[same], about=about, source=source, same=same)


METHODS: dict[str, Verifier] = _OWN | {
    "deeppoly": _alias("crown", "back-substituted polyhedra", "Singh et al. 2019a"),
    "cnn-cert": _alias("crown", "convolutions without matrices, adaptive slopes",
                       "Boopathy et al. 2019"),
    "wk": _alias("fast-lin", "the dual network", "Wong and Kolter 2018"),
    "cascade": _alias("bab", "ibp, crown, alpha-crown-full and branch and bound, each for what is "
                      "open", "here"),
}  # fmt: skip
"""Verifiers: `METHODS[name](graph, x, y, threat)`."""


@dataclass(frozen=True)
class Estimator:
    """run: (model, x, y, norm, within) to (B,) estimated radii. Nothing is proved by it."""

    run: Callable[..., Tensor]
    about: str
    source: str

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *given: Any, **more: Any) -> Tensor:
        return self.run(model, x, y, *given, **more)

    @property
    def line(self) -> str:
        return f"an estimate, not a certificate: {self.about} ({self.source})"


ESTIMATES: dict[str, Estimator] = {
    "clever": Estimator(clever, "extreme values of sampled slopes", "Weng et al. 2018b"),
}
"""What guesses a radius; `certify` does not know these names."""
