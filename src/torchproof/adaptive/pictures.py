"""Pictures of a hunt: what each trial left standing, what was found, and why gradients misled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from torchproof.adaptive.adapted import Adapted
from torchproof.attack.untouched import untouched
from torchproof.core.objectives import margin
from torchproof.core.sites import Model
from torchproof.core.threats import Threat
from torchproof.core.unaware import logits_of
from torchproof.report.pictures import blank, plainly

_COLOURS = {
    "naive": "#888888", "loss": "#4477aa", "estimator": "#cc6677", "targets": "#ddcc77",
    "length": "#117733", "all": "#332288",
}  # fmt: skip


@plainly
def course(found: Adapted, width: int = 70) -> Figure:
    """Share of examples left after every trial, one bar each, coloured by what it varied."""
    steps = found.steps
    figure = blank(9.0, 1.1 + 0.19 * len(steps))
    axes = figure.add_subplot()
    axes.axvline(100 * found.clean, color="#bbbbbb", linestyle=":", zorder=0)
    for number, step in enumerate(steps):
        axes.barh(number, 100 * step.robust, color=_COLOURS.get(step.axis, "#000000"), height=0.7)
        text = f"{100 * step.robust:.0f} %  ({step.won} of {step.asked})"
        mark = axes.text(100 * step.robust + 1, number, text, va="center", fontsize=7)
        mark.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    names = [s.name if len(s.name) <= width else s.name[: width - 1] + "…" for s in steps]
    axes.set_yticks(range(len(steps)), names, fontsize=7)
    axes.set_ylim(len(steps) - 0.5, -0.5)
    axes.set_xlim(0, 115)
    axes.set_xticks(range(0, 101, 20))
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("% left by all trials so far (won of those this one was run on); dotted: clean",
                    fontsize=7)  # fmt: skip
    shown = dict.fromkeys(step.axis for step in steps)
    handles = [Patch(color=_COLOURS.get(axis, "#000000"), label=axis) for axis in shown]
    figure.legend(handles=handles, fontsize=7, frameon=False, ncols=len(shown),
                  loc="outside upper center")  # fmt: skip
    return figure


_ROWS = ("image", "added", "adversarial")


@plainly
def worst_images(found: Adapted, x: Tensor, classes: Any = None, most: int = 8) -> Figure:
    """Rows of a clean image, what was added (grey is nothing) and the image that broke it."""
    rows = [i for i, row in enumerate(found.rows) if row.status == "broken"][:most]
    figure = blank(1.1 * max(len(rows), 3), 3.6)
    if not rows:
        figure.text(0.5, 0.5, "no example was broken", ha="center")
        return figure
    far = float((found.x - x).abs().max().clamp_min(1e-9))
    for column, i in enumerate(rows):
        delta = (found.x[i] - x[i]) / (2 * far) + 0.5
        for line, image in enumerate((x[i], delta, found.x[i])):
            axes = figure.add_subplot(3, len(rows), line * len(rows) + column + 1)
            axes.imshow(_shown(image), cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()
            if line == 0:
                label = found.rows[i].label
                name = f"class {label}" if classes is None else str(classes[label])
                axes.set_title(name, fontsize=8)
            if column == 0:
                axes.text(-0.08, 0.5, _ROWS[line], rotation=90, ha="right", va="center",
                          fontsize=8, transform=axes.transAxes)  # fmt: skip
    return figure


@plainly
def slices(
    models: Mapping[str, Model], x: Tensor, y: Tensor, threat: Threat, points: int = 161
) -> Figure:
    """The margin of each model along one line through an image x (C, H, W) with label y: the steps
    of the threat's length along the gradient of the last model, from -1 to 1 radius. Above 0 the
    image is lost; a curve that is flat or jagged where another one rises hides its slope.
    """
    way = _way(list(models.values())[-1], x, y, threat)
    share = torch.linspace(-1, 1, points)
    line = (x + share.view(-1, 1, 1, 1) * way).clamp(threat.low, threat.high)
    figure = blank(6.0, 3.2)
    axes = figure.add_subplot()
    for (name, model), colour in zip(models.items(), _COLOURS.values(), strict=False):
        with untouched(model), torch.no_grad():
            z = logits_of(model(line))
        heights = margin(z, y.expand(points)).tolist()
        axes.plot(share.tolist(), heights, label=name, color=colour, linewidth=1.2)
    axes.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.set_xlabel(f"step, in radii of {threat}")
    axes.set_ylabel("margin of the wrong class")
    axes.legend(fontsize=8, frameon=False)
    return figure


def _way(model: Model, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """The longest step along the gradient of the margin, (1, C, H, W)."""
    with untouched(model), torch.enable_grad():
        live = x[None].clone().requires_grad_()
        top = margin(logits_of(model(live)), y[None])
        (grad,) = torch.autograd.grad(top.sum(), [live])
    ball: Any = threat.set(model, torch.full_like(x[None], (threat.low + threat.high) / 2))
    way: Tensor = ball.maximiser(grad)
    return way


def _shown(image: Tensor) -> Any:
    """(C, H, W) as matplotlib shows it."""
    array = image.detach().cpu().clamp(0, 1)
    return (array[0] if len(array) == 1 else array.permute(1, 2, 0)).numpy()
