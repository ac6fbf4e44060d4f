"""Pictures of backdoors: both accuracies against the budget, the trade-off, and the triggers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from torchproof.backdoor.metrics import Measured, Share
from torchproof.backdoor.sweep import Setting, Sweep
from torchproof.backdoor.triggers import Trigger
from torchproof.core.errors import InputError
from torchproof.report.pictures import blank, plainly

COLOURS = {"success": "#c2410c", "clean": "#1f6feb", "agreement": "#15803d"}
WORDS = {
    "success": "attack success",
    "clean": "clean accuracy",
    "agreement": "agreement with the original",
}
DASHES = ("-", "--", ":", "-.")
QUIET = "#8a8f98"


@plainly
def draw(sweeps: Sequence[Sweep], title: str = "") -> Figure:
    """Accuracies against the budget beside the trade-off; a sweep per seed of one network."""
    figure = blank(9.5, 3.8)
    left, right = figure.subplots(1, 2)
    budgets(left, sweeps, title)
    trade_off(right, sweeps, {}, title)
    return figure


def _mean(settings: Sequence[Setting], name: str) -> tuple[float, float, float]:
    """The mean over seeds, and the ends of the pooled interval, in percent."""
    shares: list[Share] = [getattr(s.measured, name) for s in settings]
    every = [100 * share.share for share in shares]
    low = min(100 * share.low for share in shares) if len(shares) == 1 else min(every)
    high = max(100 * share.high for share in shares) if len(shares) == 1 else max(every)
    return statistics.fmean(every), low, high


def _groups(sweeps: Sequence[Sweep], weight: float) -> dict[float, list[Setting]]:
    """Budget -> the settings of all seeds."""
    found: dict[float, list[Setting]] = {}
    for setting in (s for sweep in sweeps for s in sweep.at(weight)):
        found.setdefault(setting.eps, []).append(setting)
    return dict(sorted(found.items()))


def _weights(sweeps: Sequence[Sweep]) -> list[float]:
    if not any(sweep.settings for sweep in sweeps):
        raise InputError("sweeps without settings", "at least one backdoor", "run sweep() first")
    return sorted({s.weight for sweep in sweeps for s in sweep.settings}, reverse=True)


def budgets(axes: Axes, sweeps: Sequence[Sweep], title: str = "") -> None:
    """Success, clean accuracy and agreement against eps; bands from the lowest to the highest seed,
    or the 95 % interval of a single one. A dash style per weight.
    """
    weights = _weights(sweeps)
    for weight, dash in zip(weights, DASHES, strict=False):
        groups = _groups(sweeps, weight)
        eps = list(groups)
        for name, colour in COLOURS.items():
            middle, low, high = zip(*(_mean(groups[e], name) for e in eps), strict=True)
            label = WORDS[name] if weight == weights[0] else None
            axes.plot(eps, middle, dash, color=colour, label=label, lw=1.8, marker="o", ms=3.5)
            axes.fill_between(eps, low, high, color=colour, alpha=0.15, lw=0)
    for weight, dash in list(zip(weights, DASHES, strict=False))[1:]:
        axes.plot([], [], dash, color=QUIET, label=f"the same at weight {weight:g}")
    before = [100 * s.measured.clean_before.share for sweep in sweeps for s in sweep.settings]
    axes.axhline(statistics.fmean(before), color=QUIET, lw=0.9, label="clean accuracy before")
    every = sorted({s.eps for sweep in sweeps for s in sweep.settings})
    axes.set_xscale("log")
    axes.set_xticks(every, [f"{e:g}" for e in every], fontsize=8)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("largest change of a weight, ε")
    _percent(axes, f"{title}: % of test inputs" if title else "% of test inputs")
    _legend(axes)


def trade_off(
    axes: Axes, sweeps: Sequence[Sweep], others: Mapping[str, Sequence[Measured]], title: str = ""
) -> None:
    """Attack success against agreement, a dot per seed and the budgets joined through their means;
    `others` are drawn beside by name.
    """
    for weight, dash in zip(_weights(sweeps), DASHES, strict=False):
        groups = _groups(sweeps, weight)
        path = [(_mean(g, "agreement")[0], _mean(g, "success")[0]) for g in groups.values()]
        label = f"in the weights, weight {weight:g}"
        axes.plot(*zip(*path, strict=True), dash, color=COLOURS["success"], lw=1.2, label=label)
        for group in groups.values():
            _dots(axes, [s.measured for s in group], color=COLOURS["success"], marker="o")
        if weight == max(_weights(sweeps)):
            _named(axes, list(zip(groups, path, strict=True)))
    for (name, measured), marker in zip(others.items(), "s^Dv", strict=False):
        _dots(axes, measured, color=COLOURS["clean"], marker=marker, label=name)
    axes.set_xlabel("agreement with the original, %")
    axes.set_xlim(-2, 103)
    _percent(axes, f"{title}: attack success, %" if title else "attack success, %")
    _legend(axes)


def _named(axes: Axes, path: Sequence[tuple[float, tuple[float, float]]]) -> None:
    """Writes the budgets beside their points, of points that fall together the last one only."""
    for at, (eps, (u, v)) in enumerate(path):
        later = [place for _, place in path[at + 1 :]]
        if not any(abs(u - a) < 5 and abs(v - b) < 6 for a, b in later):
            axes.annotate(f"{eps:g}", (u, v), xytext=(-7, -3), textcoords="offset points",
                          fontsize=7.5, ha="right")  # fmt: skip


def _dots(axes: Axes, measured: Sequence[Measured], **how: Any) -> None:
    across = [100 * m.agreement.share for m in measured]
    up = [100 * m.success.share for m in measured]
    axes.scatter(across, up, s=16, alpha=0.75, lw=0, zorder=3, **how)


def _legend(axes: Axes) -> None:
    """Above the plot, where no curve runs."""
    axes.legend(frameon=False, fontsize=7.5, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _percent(axes: Axes, label: str) -> None:
    axes.set_ylim(-3, 103)
    axes.set_ylabel(label)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


@plainly
def draw_triggers(x: Tensor, triggers: Mapping[str, Trigger], figure: Any = None) -> Any:
    """The images x (N, C, H, W), stamped by each trigger, and how far each pixel went (red up, blue
    down); drawn into `figure`, a new one by default, which is returned.
    """
    count = len(x)
    rows = 1 + 2 * len(triggers)
    figure = figure or blank(1.0 * rows + 0.4, 1.05 * count + 0.4)
    panels = figure.subplots(count, rows, squeeze=False)
    columns: list[tuple[str, Tensor, bool]] = [("clean", x, False)]
    for name, trigger in triggers.items():
        stamped = trigger(x)
        columns += [(name, stamped, False), ("change", stamped - x, True)]
    for line, images in zip(panels, range(count), strict=True):
        for axes, (name, shown, change) in zip(line, columns, strict=True):
            _image(axes, shown[images], change)
            if images == 0:
                axes.set_title(name, fontsize=8)
    return figure


def _image(axes: Axes, image: Tensor, change: bool) -> None:
    picture = image.detach().cpu().float()
    if change:
        top = max(float(picture.abs().max()), 1e-6)
        axes.imshow(picture.mean(0).numpy(), cmap="RdBu_r", vmin=-top, vmax=top)
    elif len(picture) == 3:
        axes.imshow(torch.movedim(picture, 0, 2).numpy(), vmin=0, vmax=1)
    else:
        axes.imshow(picture.mean(0).numpy(), cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
