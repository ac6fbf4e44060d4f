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
from torchproof.diagnose.parts import Landscapes
from torchproof.report import (
    flatness_plots,
    lipschitz_plots,
    prunability_plots,
    tail_index_plots,
    titration_plots,
)
from torchproof.report.pictures import content

KINDS = ("png", "svg")


@dataclass(frozen=True)
class Picture:
    """file: its name without an ending; caption: what is to be seen."""

    file: str
    caption: str
    png: bytes

    @property
    def uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def _flatness(found: Any) -> dict[str, tuple[Figure, str]]:
    figure = flatness_plots.draw_flatness({"this network": found})
    return {"": (figure, "Average- and worst-case flatness, in nats above the reference.")}


def _landscape(found: Landscapes) -> dict[str, tuple[Figure, str]]:
    draw, band = flatness_plots.draw_landscapes, "bands from the lowest to the highest direction."
    return {
        "": (draw({"random directions": found.robust}),
             f"The attacked loss, in lengths of the filters; {band}"),
        "clean": (draw({"random directions": found.clean}, robust=False), "The clean loss."),
        "worst": (draw({"worst direction": found.robust_worst}),
                  "The attacked loss along the worst direction, in lengths of the tensors."),
        "worst-clean": (draw({"worst direction": found.clean_worst}, robust=False),
                        "The clean loss along its worst direction."),
        "plane": (flatness_plots.draw_plane(found.plane), "The attacked loss on a plane of two."),
    }  # fmt: skip


def _tails(found: Any) -> dict[str, tuple[Figure, str]]:
    return {
        "": (tail_index_plots.draw_tails(found.overall), "Gradient noise, and all readings."),
        "layers": (tail_index_plots.draw_layers(found), "Each parameter by itself."),
    }


def _prunability(found: Any) -> dict[str, tuple[Figure, str]]:
    return {"": (prunability_plots.draw(found), "The training loss with the largest weights only.")}


def _lipschitz(found: Any) -> dict[str, tuple[Figure, str]]:
    return {"": (lipschitz_plots.draw(found), "Bounds of alpha(r) from below and above.")}


def _titration(found: Any) -> dict[str, tuple[Figure, str]]:
    return {"": (titration_plots.draw(found), "The response to noise, and where answers go.")}


DRAWN: dict[str, Callable[[Any], dict[str, tuple[Figure, str]]]] = {
    "flatness": _flatness,
    "landscape": _landscape,
    "tail-index": _tails,
    "prunability": _prunability,
    "lipschitz": _lipschitz,
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
        made.append(Picture(file, caption, both["png"]))
    return made
