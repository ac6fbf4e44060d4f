"""Tables of training runs: what they read, that they resume, and their statistics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from scipy import stats

from torchproof.core.errors import (
    FileError,
    InputError,
    ResumeError,
    TorchproofError,
    UnknownName,
)
from torchproof.core.threats import parse
from torchproof.data import load
from torchproof.evaluate.together import held
from torchproof.nn import load_model
from torchproof.recipes import Many, Table
from torchproof.recipes.comparison import Cell, Comparison, difference, line_of
from torchproof.recipes.many import attacked

BASE = """
base:
  data: digits
  model: small-cnn(widths=(4, 8), hidden=16)
  threat: linf:0.1
  n: 120
  settings: {epochs: 1, batch_size: 50, lr: 0.002, optimiser: adam, held_out: 20, held_out_steps: 2}
rows:
  AT: {method: AT(steps=2)}
  plain: {method: Standard, settings: {epochs: 2}}
seeds: [0, 1]
evaluate: {n: 12, suite: quick}
"""


def table(tmp_path: Path, text: str = BASE) -> Table:
    path = tmp_path / "table.yaml"
    path.write_text(text)
    return Table.read(path)


def test_rows_are_merged_over_the_base(tmp_path: Path) -> None:
    found = table(tmp_path)
    assert found.against == "AT" and found.seeds == (0, 1)
    plain = found.rows["plain"]
    assert plain.method == "Standard" and plain.settings.epochs == 2
    assert plain.settings.batch_size == 50 and plain.n == 120


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "rows: {}",
        "rows: {AT: 3}",
        "rows: {AT: {metod: AT}}",
        "rows: {AT: {settings: {epoks: 3}}}",
        "rows: {AT: {}}\nseeds: []",
        "rows: {AT: {}}\nseeds: [1, 1]",
        "rows: {AT: {}}\nreference: TRADES",
        "rows: {a/b: {}}",
        "rows: {AT: {recipe: none}}",
        "rows: {AT: {}}\nevaluate: {m: 3}",
        "rows: {AT: {}}\nspeed: 1",
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises((InputError, UnknownName)):
        table(tmp_path, text)


def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="YAML"):
        table(tmp_path, "rows: [")


def test_a_table_is_trained_judged_compared_and_resumed(tmp_path: Path) -> None:
    asked = table(tmp_path)
    left = [7]  # steps until the run is cut off

    def stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    quiet = {"say": lambda text: None}
    assert Many(asked, tmp_path / "a", stop=stop, **quiet).run() is None
    cut = Many(asked, tmp_path / "a", resume=True, **quiet).run()
    with held(tmp_path / "b" / "AT" / "seed0" / "held"):  # as by another process
        assert Many(asked, tmp_path / "b", first=(1,), **quiet).run() is None
    cells = {path.parent.relative_to(tmp_path / "b") for path in tmp_path.glob("b/*/*/cell.json")}
    every = {Path(name) / f"seed{seed}" for name in asked.rows for seed in asked.seeds}
    assert every - cells == {Path("AT/seed0")}
    whole = Many(asked, tmp_path / "b", resume=True, **quiet).run()
    assert cut is not None and whole is not None
    for one, other in zip(cut.lines, whole.lines, strict=True):
        for seed in asked.seeds:
            a, b = one.cells[seed].model_dump(), other.cells[seed].model_dump()
            a.pop("seconds"), b.pop("seconds")
            assert a == b
    table_of_all, _, fallen = (
        (tmp_path / "a" / "comparison.md").read_text().partition("seed by seed")
    )
    assert table_of_all.count("\n| ") == 3 and fallen.count("\n| ") == 3  # none learnt anything
    stored = json.loads((tmp_path / "b" / "comparison.json").read_text())
    assert stored["reference"] == "AT" and len(stored["lines"]) == 2
    with pytest.raises(FileError, match="holds a table"):
        Many(asked, tmp_path / "a", **quiet).run()
    with pytest.raises(ResumeError):
        other_table = asked.model_copy(update={"seeds": (0,)})
        Many(other_table, tmp_path / "a", resume=True, **quiet).run()
    _the_cell_is_what_the_network_does(tmp_path / "b", whole.lines[0].cells[1])


def _the_cell_is_what_the_network_does(out: Path, cell: Cell) -> None:
    model = load_model(str(out / "AT" / "seed1")).model
    test = load("digits", split="test").take(12)
    clean = (model(test.x).argmax(1) == test.y).float().mean()
    assert cell.clean == pytest.approx(float(clean))
    loss, pgd, fgsm = attacked(model, test.x, test.y, parse("linf:0.1"), 1)
    assert (loss, pgd, fgsm) == pytest.approx((cell.loss, cell.pgd, cell.fgsm))
    x = test.x.clone().requires_grad_()
    torch.nn.functional.cross_entropy(model(x), test.y).backward()
    moved = (test.x + 0.1 * x.grad.sign()).clamp(0, 1)
    assert fgsm == pytest.approx(float((model(moved).argmax(1) == test.y).float().mean()))


def test_who_collapsed_is_told_seed_by_seed() -> None:
    cells = {
        seed: cell([0]).model_copy(update={"catastrophic": flagged, "fgsm": 0.9, "pgd": 0.3})
        for seed, flagged in enumerate((0, 1))
    }
    calm = {seed: cell([0]) for seed in (0, 1)}
    lines = [line_of("one", "FGSMAT()", cells, cells), line_of("two", "AT()", calm, cells)]
    made = Comparison(
        data="d", model="m", threat="t", suite="fast", weights="last", seeds=(0, 1),
        reference="one", lines=lines, versions={},
    )  # fmt: skip
    told = made.markdown()
    assert "| one | 60, 60 | 100, 100 | 0 of 1, 1 of 1 | 0, 0 |" in told
    assert "| two | 0, 0 | 100, 100 | 0 of 1, 0 of 1 | 0, 0 |" in told
    quiet = made.model_copy(update={"lines": lines[1:]})
    assert "seed by seed" not in quiet.markdown()


def test_a_plan_that_cannot_work_fails_before_anything_is_trained(tmp_path: Path) -> None:
    text = BASE.replace("method: Standard", "method: TRADES(beta=-1)")
    with pytest.raises(TorchproofError):
        Many(table(tmp_path, text), tmp_path / "out", say=lambda text: None).run()
    assert not (tmp_path / "out").exists()


def cell(standing: list[int], n: int = 10) -> Cell:
    return Cell(
        n=n, clean=1, robust=len(standing) / n, pgd=0, fgsm=0, loss=0, train_loss=0, train_pgd=0,
        standing=standing, backward=0, seconds=0, epochs=1, catastrophic=0, collapsed=0,
        overfitting=None,
        figures={}, flags=[],
    )  # fmt: skip


def test_differences_are_paired_by_seed_and_by_image() -> None:
    ours = [cell([0, 1, 2, 3]), cell([0, 1, 2]), cell([5, 6, 7, 8, 9])]
    theirs = [cell([0, 1]), cell([0, 1, 4]), cell([5, 6])]
    found = difference(ours, theirs)
    assert found.mean == pytest.approx((0.2 + 0.0 + 0.3) / 3)
    t = stats.ttest_rel([0.4, 0.3, 0.5], [0.2, 0.3, 0.2])
    assert found.p_seeds == pytest.approx(float(t.pvalue))
    interval = t.confidence_interval(0.95)
    assert found.ci95 == pytest.approx((interval.low, interval.high))
    assert (found.gained, found.lost) == (6, 1)
    assert found.p_images == pytest.approx(2 * (7 + 1) / 2**7)
    alone = difference(ours[:1], theirs[:1])
    assert alone.p_seeds is None and alone.ci95 is None
    cells = dict(enumerate(theirs))
    assert line_of("a", "AT", cells, cells).difference is None
