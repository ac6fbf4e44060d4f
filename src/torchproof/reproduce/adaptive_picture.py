"""Of `reproduce adaptive`: the picture."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from torchproof.report.pictures import blank, content, plainly
from torchproof.reproduce.adaptive_figures import TUNED
from torchproof.reproduce.adaptive_record import Broken

LOOKS: Mapping[str, tuple[str, str, str]] = {
    "naive": ("naive evaluation", "#888888", "o"),
    "adapt": ("adapt", "#4477aa", "D"),
    "hand-made": ("hand-made attacks", "#cc6677", "s"),
    "base": ("undefended base", "#000000", "|"),
}
_STEP = 0.19
_WIDTH = 62  # characters of a line of flags


@plainly
def picture(found: Sequence[Broken], missing: Mapping[str, str]) -> bytes:
    """Robust accuracy of each defence with 95 % intervals, its flags beside it: a PNG."""
    count = len(found) + len(missing)
    figure = blank(11.5, 1.3 + 0.62 * max(count, 1))
    axes = figure.add_subplot()
    for place, one in enumerate(found):
        _row(axes, place, one)
    for place in range(len(found), count):
        axes.text(1, place, "not built", va="center", fontsize=8, color="0.5")
    names = [f"{o.name}{'*' if o.name in TUNED else ''}" for o in found] + list(missing)
    axes.set_yticks(range(count), names)
    for label, one in zip(axes.get_yticklabels(), found, strict=False):
        label.set_color("black" if one.formed else "0.55")
    axes.set_ylim(count - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("robust accuracy, % (95 % intervals)   * adapt was tuned on it")
    axes.set_ylabel("")
    for name, (text, colour, marker) in LOOKS.items():
        line = "-" if name == "base" else ""
        axes.plot([], [], color=colour, marker=marker, linestyle=line, label=text)
    axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), fontsize=9)
    axes.text(1.02, 1.01, "flags raised (capitals: right for it)", transform=axes.transAxes,
              fontsize=8, va="bottom")  # fmt: skip
    return content(figure, dpi=110)


def _row(axes: Axes, place: int, one: Broken) -> None:
    """Four marks with their intervals, and the flags to the right."""
    pale = 1.0 if one.formed else 0.35
    for number, (kind, (_, colour, marker)) in enumerate(LOOKS.items()):
        at, share = place + (number - 1.5) * _STEP, 100 * one.share(kind)
        low, high = (100 * end for end in one.interval(kind))
        axes.plot([low, high], [at, at], color=colour, linewidth=1.2, alpha=pale)
        axes.plot(share, at, color=colour, marker=marker, markersize=6, alpha=pale,
                  markeredgewidth=2 if kind == "base" else 1, clip_on=False)  # fmt: skip
    words = [text.upper() if name in one.right else text for name, text in one.raised]
    told = ", ".join(words).replace(" (", "\N{NO-BREAK SPACE}(") or "none"
    lines = textwrap.wrap(told, _WIDTH, break_on_hyphens=False)
    if not one.formed:
        lines = ["the defence did not form", *lines]
    axes.text(102, place, "\n".join(lines), va="center", fontsize=7,
              color="0.15" if one.formed else "0.5")  # fmt: skip
