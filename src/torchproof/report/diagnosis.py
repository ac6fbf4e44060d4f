"""The page of `torchproof diagnose`: a section for each diagnostic, and its pictures as files."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from torchproof.core.files import write
from torchproof.diagnose.diagnosis import Diagnosis, Measured
from torchproof.diagnose.landscape import Landscapes
from torchproof.diagnose.prunability import Prunings
from torchproof.report import (
    flatness_plots,
    lipschitz_plots,
    prunability_plots,
    tail_index_plots,
    titration_plots,
)
from torchproof.report.pictures import content

KINDS = ("png", "svg")
PIXELS = 78  # of the page per inch, so that letters are as large in all pictures
Drawn = dict[str, tuple[Figure, str]]
"""What is added to the name of the file -> a picture and its caption."""


@dataclass(frozen=True)
class Picture:
    """file: its name without an ending; caption: what is to be seen; width: on the page, pixels."""

    file: str
    caption: str
    width: int
    png: bytes

    @property
    def uri(self) -> str:
        """The picture itself, as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def _flatness(found: Any) -> Drawn:
    figure = flatness_plots.draw_flatness({"this network": found})
    return {"": (figure, "Average- and worst-case flatness, in nats above the reference.")}


def _landscape(found: Landscapes) -> Drawn:
    draw, planes = flatness_plots.draw_landscapes, flatness_plots.draw_planes
    band = "bands from the lowest to the highest direction."
    return {
        "": (draw({"random directions": found.robust}),
             f"The attacked loss, in lengths of the filters; {band}"),
        "clean": (draw({"random directions": found.clean}, robust=False), "The clean loss."),
        "worst": (draw({"worst direction": found.robust_worst}),
                  "The attacked loss along the worst direction, in lengths of the tensors."),
        "worst-clean": (draw({"worst direction": found.clean_worst}, robust=False),
                        "The clean loss along its worst direction."),
        "plane": (planes({"clean": found.clean_plane, "attacked": found.plane}),
                  "Both losses on one plane of two random directions."),
    }  # fmt: skip


def _worst_plane(found: Any) -> Drawn:
    words = "The attacked loss: a random direction, and the one that raises it most."
    return {"": (flatness_plots.draw_planes({"attacked": found}), words)}


def _tails(found: Any) -> Drawn:
    return {
        "": (tail_index_plots.draw_tails(found.overall), "Gradient noise, and all readings."),
        "layers": (tail_index_plots.draw_layers(found), "Each parameter by itself."),
    }


def _prunability(found: Any) -> Drawn:
    return {"": (prunability_plots.draw(found), "The training loss with the largest weights only.")}


def _track(found: Any) -> Drawn:
    if not found.steps:  # every gradient was 0
        return {}
    return {"": (tail_index_plots.draw_track(found), "Readings over the checkpoints.")}


def _prunings(found: Prunings) -> Drawn:
    curves = {str(curve.by): curve for curve in found.curves}
    words = "What is kept by each rule; bands are a standard deviation over draws."
    return {"": (prunability_plots.draw(curves), words)}


def _layers(found: Any) -> Drawn:
    words = "Each layer as a function of what it reads."
    return {"": (lipschitz_plots.draw_layers(found), words)}


def _lipschitz(found: Any) -> Drawn:
    return {"": (lipschitz_plots.draw(found), "Bounds of alpha(r) from below and above.")}


def _titration(found: Any) -> Drawn:
    return {"": (titration_plots.draw(found), "The response to noise, and where answers go.")}


DRAWN: dict[str, Callable[[Any], Drawn]] = {
    "flatness": _flatness,
    "landscape": _landscape,
    "worst-plane": _worst_plane,
    "tail-index": _tails,
    "tail-track": _track,
    "prunability": _prunability,
    "prunings": _prunings,
    "baselines": lambda found: {},  # numbers of different units
    "lipschitz": _lipschitz,
    "local-bound": _lipschitz,
    "layers": _layers,
    "titration": _titration,
}


def render_diagnosis(found: Diagnosis, out: Path) -> Path:
    """Writes out/diagnosis.html, which needs nothing beside it, and every picture as PNG and SVG;
    the path of the page. Raises FileError.
    """
    sections = [(part, _pictures(name, part, out)) for name, part in found.parts.items()]
    environment = Environment(
        loader=PackageLoader("torchproof.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    html = environment.get_template("diagnosis.html.j2").render(found=found, sections=sections)
    path = out / "diagnosis.html"
    write(path, html.encode())
    return path


def _pictures(name: str, part: Measured, out: Path) -> list[Picture]:
    made = []
    for suffix, (figure, caption) in DRAWN[name](part.result(name)).items():
        file = f"{name}-{suffix}" if suffix else name
        both = {kind: content(figure, kind) for kind in KINDS}
        for kind, bytes_ in both.items():
            write(out / f"{file}.{kind}", bytes_)
        width = round(PIXELS * figure.get_size_inches()[0])
        made.append(Picture(file, caption, width, both["png"]))
    return made
