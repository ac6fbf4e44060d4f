"""Query ledgers and curves against counting by hand; the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchproof.attack.cases import Found
from torchproof.attack.catalogue import square
from torchproof.attack.run import Run
from torchproof.core.errors import FileError, InputError
from torchproof.core.metrics import clopper_pearson
from torchproof.core.threats import Threat
from torchproof.evaluate import Member, evaluate
from torchproof.evaluate.queries import (
    QueryLedger,
    Spent,
    query_curve,
    query_ledger,
    save_queries,
    to_json,
)
from torchproof.report.queries import draw_queries

SPENT = [[3, 2], [10, 0], [7, 0], [1, 0], [10, 0], [3, 2]]
LOST = [True, False, True, True, False, True]


def found(done: list[bool] | None = None) -> Found:
    empty = Found.empty(6, torch.zeros(6, 1, 2, 2), torch.device("cpu"))
    return Found(
        value=empty.value, lost=torch.tensor(LOST), score=empty.score,
        spent=torch.tensor(SPENT), by=empty.by, done=torch.tensor(done or [True] * 6),
        undefined=empty.undefined,
    )  # fmt: skip


def test_the_ledger_says_what_each_example_cost() -> None:
    ledger = query_ledger(found(), "hand", ids=torch.arange(100, 106))
    assert ledger.rows[0] == Spent(100, True, 3, 2) and ledger.rows[0].queries == 5
    assert [row.queries for row in ledger.rows] == [5, 10, 7, 1, 10, 5]
    assert ledger.unfinished == 0


def test_the_curve_counts_the_broken() -> None:
    curve = query_curve(found(), "hand")
    assert curve.queries == (1, 5, 5, 7) and curve.n == 6 and curve.limit == 10
    by_hand = {0: 0, 1: 1, 4: 1, 5: 3, 6: 3, 7: 4, 10: 4, 99: 4}
    for queries, broken in by_hand.items():
        assert curve.success(queries) == broken / 6
        assert curve.ci95(queries) == clopper_pearson(broken, 6)
    assert curve.median == 5 and curve.mean == pytest.approx((1 + 5 + 5 + 7 + 10 + 10) / 6)
    assert [p[:2] for p in curve.points()] == [
        (0, 0),
        (1, 1 / 6),
        (5, 0.5),
        (7, 4 / 6),
        (10, 4 / 6),
    ]


def test_what_was_stopped_is_not_counted_as_robust() -> None:
    """A broken example is known, however its run ended; an unbroken one when it was finished."""
    ledger = query_ledger(found([False, False, True, True, True, True]))
    assert ledger.unfinished == 1 and [row.id for row in ledger.rows] == [0, 2, 3, 4, 5]
    nothing = found([False] * 6)
    only = query_curve(nothing)
    assert only.n == 4 and only.success(7) == 1.0


def test_nothing_finished_is_refused() -> None:
    with pytest.raises(InputError, match="none of them finished"):
        query_curve(QueryLedger("empty", (), 3))
    with pytest.raises(InputError, match="2 ids for 6 examples"):
        query_ledger(found(), ids=torch.arange(2))


def test_nobody_is_broken() -> None:
    curve = query_curve(QueryLedger("none", (Spent(0, False, 9, 0), Spent(1, False, 9, 0))))
    assert curve.median is None and curve.mean == 9.0
    assert curve.points() == [(0, 0.0, *clopper_pearson(0, 2)), (9, 0.0, *clopper_pearson(0, 2))]


def test_an_evaluation_is_a_ledger(
    net: nn.Module, blobs: Any, threat: Threat, tmp_path: Path
) -> None:
    """The same numbers from the attack itself, its report, and the folder of its report."""
    attack, seed = square(threat, 40), 0
    report = evaluate(
        net, blobs, threat, [Member("Square", attack)], out=tmp_path / "run", seed=seed
    )
    ledger = query_ledger(report, "Square")
    assert query_ledger(tmp_path / "run", "Square") == ledger
    with torch.no_grad():
        right = (net(blobs.x).argmax(1) == blobs.y).nonzero()[:, 0]
    assert [row.id for row in ledger.rows] == right.tolist()
    from torchproof.core import keys

    run = Run(seed=keys.seed_of(seed, "Square"), ids=right)
    direct = query_ledger(attack(net, blobs.x[right], blobs.y[right], run=run), ids=right)
    assert [row.broken for row in direct.rows] == [row.broken for row in ledger.rows]
    # the evaluation has looked at each clean image once
    assert [row.queries + 1 for row in direct.rows] == [row.queries for row in ledger.rows]
    assert 0 < sum(row.broken for row in direct.rows) < len(right)


def test_json_and_picture(tmp_path: Path) -> None:
    ledgers = [query_ledger(found(), "one"), query_ledger(found(), "two")]
    save_queries(tmp_path / "deep" / "queries.json", *ledgers)
    stored = json.loads((tmp_path / "deep" / "queries.json").read_text())
    assert stored == json.loads(json.dumps(to_json(ledgers)))
    entry = stored["attacks"][1]
    assert stored["schema"] == "torchproof.queries/1" and entry["name"] == "two"
    assert entry["curve"][2] == {
        "queries": 5, "success": 0.5, "low": clopper_pearson(3, 6)[0],
        "high": clopper_pearson(3, 6)[1],
    }  # fmt: skip
    assert entry["examples"][0] == {"id": 0, "broken": True, "forward": 3, "backward": 2}
    curves = [query_curve(ledger) for ledger in ledgers]
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        draw_queries(curves, tmp_path / f"q.{kind}")
        assert (tmp_path / f"q.{kind}").read_bytes().startswith(start)
    assert (tmp_path / "q.svg").read_text().count("fill-opacity: 0.15") == 2, "a band for each"


def test_pictures_that_cannot_be(tmp_path: Path) -> None:
    curve = query_curve(found())
    with pytest.raises(InputError, match="ends in png, svg, pdf"):
        draw_queries([curve], tmp_path / "q.txt")
    with pytest.raises(InputError, match="at least one curve"):
        draw_queries([], tmp_path / "q.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError):
        draw_queries([curve], tmp_path / "file" / "q.png")
    with pytest.raises(FileError):
        save_queries(tmp_path / "file" / "q.json", query_ledger(found()))
