"""A study of training methods: a table of plans that share data, network and threat, and what is to
be seen in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure

from torchproof.core.errors import InputError
from torchproof.core.files import write
from torchproof.recipes import Comparison, Many, Table
from torchproof.recipes.comparison import Line
from torchproof.recipes.small import SETTINGS
from torchproof.recipes.table import Judgement
from torchproof.report.pictures import content
from torchproof.reproduce.experiment import (
    Outcome,
    Partial,
    Request,
    Row,
    Verdict,
    available,
    conclude,
)

Judge = Callable[[Mapping[str, Line], Sequence[Row]], tuple[Verdict, str]]
"""From the lines by name, and all rows, to the verdict and the sentence that says why."""

More = Callable[[Request, Table, Comparison], tuple[Row, ...]]
"""What else is measured on the networks of a table, whose runs lie in `request.out / "runs"`."""

# Small bases that minutes on two cores suffice for; eps grows at first, or small networks collapse
# to a constant answer.
MNIST = {
    "data": "mnist", "model": "small-cnn", "threat": "linf:0.2", "n": 5000,
    "settings": SETTINGS,
}  # fmt: skip
DIGITS = {
    "data": "digits", "model": "small-cnn(widths=(32, 64), hidden=128)", "threat": "linf:0.15",
    "settings": {**SETTINGS, "epochs": 30, "batch_size": 64, "lr": 2e-3, "held_out": 130},
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """Rows of changes to `base`; the first row is what the others are compared with.

    more: measures more on the networks; published: row name -> (robust accuracy, its setting),
    shown beside ours and never compared. The bundled digits take the place of a data set that is
    not there.
    """

    name: str
    paper: str
    claim: str
    rows: Mapping[str, Mapping[str, object]]
    judge: Judge
    base: Mapping[str, object]
    published: Mapping[str, tuple[float, str]]
    n: int = 500
    weights: Literal["best", "last"] = "best"
    more: More | None = None

    def __call__(self, request: Request) -> Outcome:
        request.claim({"table": self.table(request).model_dump_json()})
        return self.run(request)

    def run(self, request: Request) -> Outcome:
        """The experiment, in a folder that has been claimed."""
        table = self.table(request)
        runs = request.out / "runs"
        many = Many(
            table,
            runs,
            request.resume or runs.exists(),
            request.data_dir,
            say=request.say,
            first=request.own,
        )
        found = many.run()
        if found is None:  # nothing stops it but its end
            raise Partial
        rows = self._rows(found) + (() if self.more is None else self.more(request, table, found))
        write(request.out / "comparison.md", found.markdown().encode())
        return conclude(
            request, name=self.name, paper=self.paper, claim=self.claim,
            settings={"data": found.data, "network": found.model, "threat": found.threat,
                      "suite": found.suite, "weights": found.weights,},
            rows=rows, judged=self.judge({line.name: line for line in found.lines}, rows),
            picture=picture(found),
        )  # fmt: skip

    def table(self, request: Request) -> Table:
        """The plans: at the scale `paper` those that rows have under "paper" (a recipe, or changes
        of one), else the changes of the small base.
        """
        rows: dict[str, dict[str, object]] = {}
        for name, row in self.rows.items():
            small, paper = {k: v for k, v in row.items() if k != "paper"}, row.get("paper")
            if request.scale == "small":
                rows[name] = small
            elif paper is not None:
                rows[name] = dict(paper) if isinstance(paper, Mapping) else {"recipe": paper}
        if not rows:
            remedy = "run it with --scale small"
            raise InputError(f"{self.name} at scale paper", "settings of a paper", remedy)
        base = dict(self.base) if available(str(self.base["data"]), request) else dict(DIGITS)
        base = base if request.scale == "small" else {}
        n, suite = (10000, "standard") if request.scale == "paper" else (self.n, "fast")
        judged = Judgement(n=n, suite=suite, weights=self.weights)
        made = Table.of({"base": base, "rows": rows, "seeds": tuple(range(request.seeds))})
        return made.model_copy(update={"evaluate": judged})

    def _rows(self, found: Comparison) -> tuple[Row, ...]:
        rows: list[Row] = []
        for line in found.lines:
            cells = list(line.cells.values())
            of = [cell.n for cell in cells]
            known, setting = self.published.get(line.name, (None, ""))
            clean = [round(cell.clean * cell.n) for cell in cells]
            left = [len(cell.standing) for cell in cells]
            rows += [
                Row.share(f"{line.name}: clean", clean, of),
                Row.share(
                    f"{line.name}: {found.suite}", left, of, published=known, setting=setting
                ),
            ]
        return tuple(rows)


def picture(found: Comparison) -> bytes:
    """Clean and robust accuracy of each row: a dot per seed, a bar for the mean, as PNG."""
    figure = Figure(figsize=(7.5, 1.2 + 0.34 * len(found.lines)), layout="constrained")
    axes = figure.subplots()
    places = list(range(len(found.lines)))[::-1]
    for name, words, colour, shift in (
        ("clean", "clean", "#8a8f98", 0.16), ("robust", found.suite, "#1f6feb", -0.16),
    ):  # fmt: skip
        means = [100 * line.mean(name) for line in found.lines]
        axes.barh([p + shift for p in places], means, 0.3, color=colour, alpha=0.35, label=words)
        for place, line in zip(places, found.lines, strict=True):
            dots = [100 * getattr(cell, name) for cell in line.cells.values()]
            axes.scatter(dots, [place + shift] * len(dots), color=colour, s=12, zorder=3)
    axes.set_yticks(places, [line.name for line in found.lines])
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"accuracy, % ({found.data}, {found.threat}, a dot per seed)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return content(figure)


def points(value: float) -> str:
    """A difference of fractions in words: `+1.2 points`."""
    return f"{100 * value:+.1f} points"
