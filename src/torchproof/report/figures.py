"""Matplotlib figures as SVG for a page: no ids in common, no dates, colours from its palette.

A figure is drawn with stand-in colours that are then exchanged for CSS variables, so that one
drawing serves the light, the dark and the printed page. Text stays text, to be read aloud and
searched.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

SERIES = 6
# Stand-ins that no other colour of a drawing equals, and the variables of style.css they become.
PAINT = {
    "ink": "#0a0a01",
    "quiet": "#0a0a02",
    "rule": "#0a0a03",
    "paper": "#0a0a04",
    **{f"s{number}": f"#0b0b0{number}" for number in range(SERIES)},
}
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "torchproof",
    "text.parse_math": False,
    "font.size": 12.5,
    "axes.edgecolor": PAINT["quiet"],
    "axes.labelcolor": PAINT["ink"],
    "axes.labelsize": 12.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": PAINT["rule"],
    "grid.linewidth": 0.8,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "xtick.color": PAINT["quiet"],
    "ytick.color": PAINT["quiet"],
    "xtick.labelcolor": PAINT["ink"],
    "ytick.labelcolor": PAINT["ink"],
    "text.color": PAINT["ink"],
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "figure.dpi": 72,
}


@contextmanager
def drawing(width: float = 460, height: float = 300) -> Iterator[tuple[Figure, Axes]]:
    """An empty figure of width x height points in the page's style; call `inline` inside."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own style must not change the bytes of a page
        parameters: Any = matplotlib.rcParams
        parameters.update(STYLE)
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.add_subplot()


def percent_axis(axes: Axes) -> None:
    """The y axis from 0 to 100 %, given fractions."""
    axes.set_ylim(0, 1.02)
    ticks = range(0, 101, 20)
    axes.set_yticks([tick / 100 for tick in ticks], [str(tick) for tick in ticks])


def inline(figure: Figure, name: str, title: str, description: str) -> Markup:
    """The figure as an <svg> element whose ids start with `name`; the texts are escaped."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    for variable, stand_in in PAINT.items():
        text = text.replace(stand_in, f"var(--{variable})")
    # The family is the page's, so that figures and text look as one.
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    about = f'<desc id="{name}-about">{escape(description)}</desc>'
    opening = (
        f'<svg class="figure" {box.group()} role="img" aria-labelledby="{name}-title {name}-about">'
        f'<title id="{name}-title">{escape(title)}</title>{about}'
    )
    return Markup(opening + text[text.index(">") + 1 :].strip())
