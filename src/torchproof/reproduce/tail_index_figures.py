"""Of `reproduce tail-index`: the table, the verdict, the pictures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes

from torchproof.core.metrics import clopper_pearson
from torchproof.diagnose.tail_index import Tails
from torchproof.report.pictures import blank, content, plainly
from torchproof.report.tail_index_plots import READINGS, draw_tails, lines_over, plain_log
from torchproof.reproduce.experiment import Row, Verdict
from torchproof.reproduce.tail_index_measures import Cell, Exit, Synthetic, Track, groups

ROWS = {
    "pooled": "published reading",
    "filtered": "without exact zeros",
    "per_coordinate": "coordinate by coordinate, median",
    "standardised": "coordinates over their deviation",
    "gaussian": "Gaussian control, same deviations",
    "correlated": "Gaussian control, same covariance",
    "correlated_standardised": "that control, over its deviations",
    "gaussian_per_coordinate": "that control, coordinate by coordinate",
    "hill": "Hill",
    "quantile": "McCulloch",
    "characteristic": "characteristic function",
}
# Of them, what is told of every step of a training: the readings and their controls.
TRACKED = tuple(ROWS)[:8]


def judge(
    cells: Sequence[Cell], synthetic: Synthetic, exits: Sequence[Exit]
) -> tuple[Verdict, str]:
    """Shown: estimators that are sound, every published reading below 2 with its interval, lower
    at the widest than at the narrowest networks of every data set and loss, no network of which a
    control speaks against heavy tails, and exits by width alone. Contradicted: a published reading
    of 2, or no network that the controls leave heavy-tailed.
    """
    tails = [c.tails for c in cells if c.tails]
    low = sum(t.pooled.high < 2 for t in tails)
    heavy = sum(t.heavy_tailed for t in tails)
    falls, changes = 0, []
    named = groups(cells)
    for what, by in named:
        for reading in ("pooled", "correlated"):
            ends = [_mean(by[i][1], reading) for i in (0, -1)] if by else [0.0, 0.0]
            changes.append(f"{what}, {ROWS[reading]} {ends[0]:.2f} to {ends[1]:.2f}")
            falls += reading == "pooled" and ends[1] < ends[0]
    levy, brown = (_exit_ratios(exits, a) for a in (1.5, 2.0))
    by_width = 2 <= levy[0] <= 4 and levy[1] < 1.2 < brown[1]
    text = (
        f"the estimators are {'' if synthetic.sound else 'not '}sound on synthetic draws; the "
        f"published reading is below 2 in {low} of {len(tails)} networks and lower at the widest "
        f"than at the narrowest in {falls} of {len(named)} settings ({'; '.join(changes)}); "
        f"the controls leave {heavy} of {len(tails)} networks heavy-tailed; twice the width makes "
        f"exits {levy[0]:.2f} times as long for alpha 1.5 (theory 2.83), twice the height "
        f"{levy[1]:.2f} times (theory 1), and {brown[1]:.2f} times for Gaussian noise"
    )
    if not tails or low < len(tails) or not heavy:
        return "contradicts", text
    shown = synthetic.sound and falls == len(named) and heavy == len(tails) and by_width
    return ("shows" if shown else "does not show at this scale"), text


def _mean(tails: Sequence[Tails], reading: str) -> float:
    return statistics.fmean(getattr(t, reading).alpha for t in tails)


def _exit_ratios(exits: Sequence[Exit], alpha: float) -> tuple[float, float]:
    width, height = ([e.ratio(alpha, w) for e in exits] for w in ("half width", "height"))
    return statistics.fmean(width), statistics.fmean(height)


def rows(
    cells: Sequence[Cell], tracks: Sequence[Track], synthetic: Synthetic, exits: Sequence[Exit]
) -> list[Row]:
    """The whole table."""
    return [*_synthetic_rows(synthetic), *_cell_rows(cells), *_track_rows(tracks),
            *_exit_rows(exits)]  # fmt: skip


def _synthetic_rows(found: Synthetic) -> list[Row]:
    made: list[Row] = []
    for kind, by in found.means.items():
        for alpha, each in by.items():
            what = f"synthetic, alpha {alpha}: {kind} estimator, {len(each)} sets"
            row = Row.per_seed(what, each, found.draws, "")  # a set takes the place of a seed
            made.append(row.model_copy(update={"digits": 4}))
    for alpha, hits in found.covered.items():
        what = f"synthetic, alpha {alpha}: published estimator, intervals that hold it"
        of, ends = found.repetitions, clopper_pearson(hits, found.repetitions)
        made.append(Row(what=what, ours=(hits / of,), n=of, ci95=ends))
    for spread, (read, theory) in found.scales.items():
        what = f"Gaussian numbers, deviation of log scales {spread}: published estimator"
        setting = f"our closed form: {theory:.3f}"
        made.append(Row(what=what, ours=(read,), n=10 * found.draws, unit="", setting=setting))
    for share, (read, without) in found.zeros.items():
        what = f"Gaussian numbers, a share {share} of zeros: published estimator"
        setting = f"without the zeros: {without:.3f}"
        made.append(Row(what=what, ours=(read,), n=10 * found.draws, unit="", setting=setting))
    what = "Gaussian numbers, 10,000 coordinates that are equal: published estimator"
    made.append(Row(what=what, ours=(found.together,), n=10 * found.draws, unit=""))
    return made


def _cell_rows(cells: Sequence[Cell]) -> list[Row]:
    made: list[Row] = []
    for what, by in groups(cells):
        for width, tails in by:
            own = [
                c for c in cells if c.tails and (f"{c.data}, {c.loss}", c.width) == (what, width)
            ]
            name, n = f"{what}, width {width}", own[0].n
            made.append(Row.per_seed(f"{name}: test accuracy", [c.accuracy for c in own], n))
            entries = tails[0].batches * tails[0].coordinates
            made.append(Row.per_seed(f"{name}: exact zeros", [t.zeros for t in tails], entries))
            for reading, words in ROWS.items():
                values = [getattr(t, reading).alpha for t in tails]
                count = getattr(tails[0], reading).n
                made.append(Row.per_seed(f"{name}: {words}", values, count, ""))
            ends = [t.scaling[-1].alpha - t.scaling[0].alpha for t in tails if t.scaling]
            if ends:
                words = "levelled noise, longest minus shortest sums"
                made.append(Row.per_seed(f"{name}: {words}", ends, entries, ""))
            shares, looked = [t.gaussian_share for t in tails], tails[0].per_coordinate.n
            words = f"{name}: coordinates not rejected as Gaussian"
            made.append(Row.per_seed(words, shares, looked // tails[0].batches))
            made.append(_heavy(name, tails))
    return made


def _heavy(name: str, tails: Sequence[Tails]) -> Row:
    words = f"{name}: networks that the controls leave heavy-tailed"
    return Row.share(words, [sum(t.heavy_tailed for t in tails)], [len(tails)])


def _track_rows(tracks: Sequence[Track]) -> list[Row]:
    made = []
    for step in tracks[0].found.steps:
        each = [t.found.tails[t.found.steps.index(step)] for t in tracks if step in t.found.steps]
        name, count = f"over training, step {step}", each[0].batches * each[0].coordinates
        made.append(Row.per_seed(f"{name}: exact zeros", [t.zeros for t in each], count))
        for reading in TRACKED:
            values = [getattr(t, reading).alpha for t in each]
            words = f"{name}: {ROWS[reading]}"
            made.append(Row.per_seed(words, values, getattr(each[0], reading).n, ""))
        made.append(_heavy(name, each))
    return made


def _exit_rows(exits: Sequence[Exit]) -> list[Row]:
    made = []
    for name, theory in exits[0].predicted.items():
        values = [e.means[name] for e in exits]
        words = f"mean exit time, {name}"
        setting = f"theory: {theory:.4g}"
        count = exits[0].walkers * len(exits)
        made.append(Row.per_seed(words, values, count, "").model_copy(update={"setting": setting}))
    return made


def tails_png(cells: Sequence[Cell]) -> bytes:
    """The tails of the widest network of the first setting."""
    own = [c for c in cells if c.tails and (c.data, c.loss) == (cells[0].data, cells[0].loss)]
    if not own:
        return content(blank(6.4, 4.8), dpi=130)
    widest = max(own, key=lambda c: (c.width, -c.seed))
    assert widest.tails is not None
    about = f"{widest.data}, {widest.loss}, width {widest.width}"
    return content(draw_tails(widest.tails, about), dpi=130)


@plainly
def png(
    cells: Sequence[Cell], tracks: Sequence[Track], synthetic: Synthetic, exits: Sequence[Exit]
) -> bytes:
    """Readings over width, a panel per data set and loss; over training; on draws; exit times."""
    named = groups(cells)
    columns = max(len(named), 3)
    figure = blank(3.6 * columns, 7)
    grid = figure.subplots(2, columns, squeeze=False)
    for axes, (what, by) in zip(grid[0], named, strict=False):
        widths = [w for w, _ in by]
        lines_over(axes, widths, {
            name: [[getattr(t, name).alpha for t in tails] for _, tails in by] for name in READINGS
        })  # fmt: skip
        plain_log(axes, widths)
        axes.set_title(what, fontsize=9)
        axes.set_xlabel("width")
    grid[0][0].set_ylabel("tail index α (dotted: Gaussian)")
    _exit_bars(grid[1][0], exits)  # its long labels are at home at the left margin
    _on_draws(grid[1][1], synthetic)
    _over_training(grid[1][2], tracks)
    for axes in [*grid[0][len(named) :], *grid[1][3:]]:
        axes.set_axis_off()
    lines, words = grid[0][0].get_legend_handles_labels()
    place = grid[1][3] if columns > 3 else grid[0][2]
    place.legend(lines, words, frameon=False, fontsize=9, loc="center", title="readings of noise")
    return content(figure, dpi=130)


def _over_training(axes: Axes, tracks: Sequence[Track]) -> None:
    steps = tracks[0].found.steps
    runs = {
        name: [
            [getattr(t.found.tails[i], name).alpha for t in tracks if len(t.found.steps) > i]
            for i in range(len(steps))
        ]
        for name in READINGS
    }
    lines_over(axes, steps, runs)
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(-1, 1.1 * max(steps))
    axes.set_title(f"{tracks[0].data}, nll, over training", fontsize=9)
    axes.set_xlabel("step")
    axes.set_ylabel("tail index α")


def _on_draws(axes: Axes, found: Synthetic) -> None:
    for number, (kind, by) in enumerate(found.means.items()):
        at = [float(a) + 0.012 * (number - 1.5) for a in by]
        middle = [statistics.fmean(v) for v in by.values()]
        spread = [1.96 * statistics.stdev(v) if len(v) > 1 else 0.0 for v in by.values()]
        shown = [min(m, 3.2) for m in middle]
        axes.errorbar(at, shown, yerr=spread, fmt="o", ms=4, capsize=2, label=kind)
    axes.plot([1.1, 2.1], [1.1, 2.1], color="0.5", lw=0.8, ls=":")
    axes.set_ylim(1, 3.3)
    axes.set_title("on stable draws (above 3.2: at the top)", fontsize=9)
    axes.set_xlabel("true α")
    axes.set_ylabel("estimate, 95 % of 20 sets")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)


def _exit_bars(axes: Axes, exits: Sequence[Exit]) -> None:
    names = list(exits[0].means)
    for place, name in enumerate(names):
        colour = "C3" if name.startswith("alpha 1.5") else "C7"
        values = [e.means[name] for e in exits]
        axes.barh(place, statistics.fmean(values), color=colour, alpha=0.4)
        axes.plot(values, [place] * len(values), "o", color=colour, ms=3)
        axes.plot([exits[0].predicted[name]], [place], "k|", ms=11)
    words = [n.replace("alpha", "α").replace("half width", "width") for n in names]
    axes.set_yticks(range(len(names)), words, fontsize=7)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_title("mean exit time from a well (stroke: theory)", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
