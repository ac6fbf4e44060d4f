"""`reproduce thrm`: pairs of equal clean accuracy, verdicts by hand, a whole run of tiny ones."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from PIL import Image

from torchproof.core.errors import ResumeError
from torchproof.evaluate.friends import HypocrisyRecord
from torchproof.evaluate.risks import Risks
from torchproof.recipes import Plan
from torchproof.reproduce import Request, thrm
from torchproof.train import Settings

Table = dict[tuple[str, float], list[HypocrisyRecord]]


def record(correct: int, befriended: int) -> HypocrisyRecord:
    """Of 1,000 examples; a tenth of the correct ones can be made wrong."""
    wrong, broken = 1000 - correct, correct // 10
    risks = Risks(1000, correct, broken, befriended, befriended, broken + befriended)
    assert befriended <= wrong
    return HypocrisyRecord(
        date="", model="m", model_sha256=None, data="d", data_sha256="", n=1000, seed=0,
        threat="linf:0.1", adversary="", risks=risks.shares, attacks=[], forward=1, backward=1,
        identities=risks.identities, seconds=0.0, unfinished=0, unconfirmed=0, verdict="ok",
        versions={}, command="",
    )  # fmt: skip


def table(trades: tuple[int, int], *ours: tuple[int, int]) -> Table:
    """One weight of TRADES beside weights of THRM, each (correct, befriended) at two seeds that
    differ by two examples.
    """

    def both(correct: int, befriended: int) -> list[HypocrisyRecord]:
        return [record(correct, befriended), record(correct - 2, befriended)]

    made = {("TRADES", 6.0): both(*trades)}
    return made | {("THRM", float(beta)): both(*one) for beta, one in enumerate(ours)}


@pytest.mark.parametrize(
    ("trades", "ours", "verdict"),
    [
        ((900, 80), [(890, 20), (902, 60)], "shows"),
        # the nearest weight has more risk, another one at a higher accuracy has less
        ((900, 60), [(950, 20), (902, 80)], "shows"),
        ((900, 60), [(880, 90), (899, 80)], "contradicts"),
        # TRADES has less risk, but nothing as accurate as the first weight of THRM
        ((900, 60), [(950, 40), (899, 80)], "does not show at this scale"),
        ((900, 60), [(880, 90), (900, 60)], "does not show at this scale"),  # equal
        ((900, 80), [(950, 20), (902, 0)], "does not show at this scale"),  # nothing is left
    ],
)
def test_the_verdict(trades: tuple[int, int], ours: list[tuple[int, int]], verdict: str) -> None:
    made = table(trades, *ours)
    assert thrm.pairs(made) == [(("TRADES", 6.0), ("THRM", 1.0))]
    found, because = thrm.judge(made)
    assert found == verdict, because
    assert "TRADES (beta 6) minus THRM (beta 1)" in because


def test_no_pair_is_equal_where_accuracies_are_apart() -> None:
    made = table((900, 80), (906, 60))  # 0.6 points
    assert thrm.judge(made)[1].endswith("within 0.5 points: none")
    assert not any(row.published for row in thrm.rows(made))


def test_differences_are_paired_by_seed() -> None:
    made = table((900, 80), (902, 60))
    (pair,) = thrm.pairs(made)
    expected = [80 / 100 - 60 / 98, 80 / 102 - 60 / 100]
    assert thrm.differences(made, pair, "hypocritical_risk") == pytest.approx(expected)
    rows = {row.what: row for row in thrm.rows(made)}
    row = rows["TRADES, beta 6, minus THRM, beta 0: hypocritical risk"]
    assert row.ours == pytest.approx(tuple(expected)) and row.published == pytest.approx(0.0545)
    assert rows["THRM, beta 0: hypocritical risk"].n == 98 + 100


def test_the_least_risk_at_no_lower_accuracy_is_told(tmp_path: Path) -> None:
    made = table((900, 80), (950, 10), (890, 0), (910, 30))  # 20, 0 and 33 % of the errors
    assert thrm.least(made, ("TRADES", 6.0)) == ("THRM", 0.0)
    assert "THRM (beta 0) 19.6 % at 94.90 % (+59.6 points" in thrm.judge(made)[1]
    assert thrm.least(table((900, 80), (890, 0)), ("TRADES", 6.0)) is None
    assert thrm.least(made, ("THRM", 1.0)) == ("TRADES", 6.0) and not thrm.beaten(made, ("THRM", 1))
    assert "THRM (beta 0) 19.6 % at 94.90 %, TRADES nowhere as accurate" in thrm.judge(made)[1]


def test_plans_differ_in_method_and_weight_alone(tmp_path: Path) -> None:
    request = Request(tmp_path, data_dir=tmp_path, say=lambda text: None)
    plans = thrm.sweep(request).plans
    assert len({plan.model_dump_json(exclude={"method"}) for plan in plans.values()}) == 1
    assert all(plan.data == "digits" for plan in plans.values())
    paper = thrm.sweep(Request(tmp_path, "paper")).plans
    rates = {beta: plan.settings.lr for (_, beta), plan in paper.items()}
    assert rates[6] == 0.1 and rates[10] == rates[80] == 0.05  # as the authors train


@pytest.mark.slow
def test_it_runs_from_end_to_end_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.of(epochs=1, batch_size=50, lr=2e-3, optimiser="adam", held_out=0)
    base = Plan(model="small-cnn(widths=(4, 8), hidden=16)", n=60, settings=settings)
    plans = {
        (name, beta): base.model_copy(
            update={"method": f"{name}(steps=1, beta={beta})", "threat": "linf:0.1"}
        )
        for name, beta in (("TRADES", 1.0), ("THRM", 1.0), ("THRM", 5.0))
    }
    monkeypatch.setattr(thrm, "sweep", lambda _: thrm.Sweep(plans, "linf:0.1", 12))
    said: list[str] = []
    request = Request(tmp_path / "out", seeds=2, data_dir=tmp_path, say=said.append)
    found = thrm.thrm_experiment(request)
    assert {row.what.split(":")[0] for row in found.rows} > {"TRADES, beta 1", "THRM, beta 5"}
    assert sum("minus THRM" in row.what for row in found.rows) == 3
    drawn = (tmp_path / "out" / "picture.png").read_bytes()
    assert Image.open(io.BytesIO(drawn)).format == "PNG"
    said.clear()
    again = thrm.thrm_experiment(dataclasses.replace(request, resume=True))
    assert again.rows == found.rows and not any("epoch" in text for text in said)
    plans[("THRM", 5.0)] = plans[("THRM", 5.0)].model_copy(update={"n": 50})
    with pytest.raises(ResumeError):
        thrm.thrm_experiment(dataclasses.replace(request, resume=True))
