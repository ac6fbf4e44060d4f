"""The survey: every method asked, stopped, kept and checked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchproof.cli import survey as command
from torchproof.cli.main import main
from torchproof.core.errors import FileError, InputError, ResumeError, UnknownName
from torchproof.core.threats import parse
from torchproof.data import load
from torchproof.evaluate.survey import APPROACHES, Subject, Survey, run, survey
from torchproof.evaluate.survey.answers import Heard, Question
from torchproof.evaluate.survey.checks import violations
from torchproof.evaluate.survey.key import Key
from torchproof.evaluate.survey.worker import Ask, asking, asking_here
from torchproof.nn import build
from torchproof.reproduce.survey import networks, publish
from torchproof.reproduce.survey.smoothed import again
from torchproof.train import Settings
from torchproof.verify.bounds import Margins
from torchproof.verify.methods import METHODS
from torchproof.verify.smoothing import Log
from torchproof.verify.smoothing.theories import theory

CHOSEN = ["ibp", "crown", "deeppoly", "fast-lip", "milp-alpha"]


def subject(*hidden: int, eps: str = "linf:0.01") -> Subject:
    """An untrained perceptron whose labels are its own answers."""
    make = partial(build, "mlp", channels=1, size=8, classes=10, hidden=hidden, seed=0)
    x = load("digits", split="test").take(3).x
    with torch.no_grad():
        y = make().eval()(x).argmax(1)
    return Subject("tiny", "none", make, "digits", x, y, (parse(eps),))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions are answered in this process, which starts none."""
    monkeypatch.setattr(run, "asking", asking_here)


def test_from_questions_to_a_page(tmp_path: Path) -> None:
    """In processes of its own: all rows, the alias not run again, a page with all approaches."""
    found = survey([subject(8)], 2, 20.0, methods=CHOSEN, out=tmp_path)
    (cell,), rows = found.cells, {row.method: row for row in found.cells[0].rows}
    assert list(rows) == CHOSEN and not found.violations
    assert cell.clean.hits == 2 and cell.decided == 2
    for name in CHOSEN:
        share = rows[name].certified
        assert share is not None and share.n == 2 and share.hits <= cell.attacked.hits
        assert share.ci95[0] <= share.value <= share.ci95[1] and not rows[name].failed
    exact = rows["milp-alpha"].certified
    assert exact is not None and exact.hits == cell.attacked.hits  # complete, and so small
    assert rows["deeppoly"] == rows["crown"].model_copy(
        update={"method": "deeppoly", "same": "crown"}
    )
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert "deeppoly" not in {record["key"][2] for record in records}
    found.save(tmp_path)
    assert Survey.read(tmp_path) == found
    page = publish(found, tmp_path).read_text()
    assert all(f"| {a.number or '–'} | {a.name} |" in page for a in APPROACHES)
    assert "no violation" in page and "not a certificate" not in page
    assert (tmp_path / "certification" / "survey.png").read_bytes()[:4] == b"\x89PNG"


def test_a_method_is_stopped_and_the_next_one_answered() -> None:
    slow = subject(300, 300, 300, eps="linf:0.3")
    x, y = slow.x[:1].double().numpy(), slow.y[:1].numpy()
    with asking(slow) as ask:
        assert ask(Question("op-norm", x, y, slow.threats[0], 20.0)).status == "answered"  # imports
        start = time.monotonic()
        late = ask(Question("recur-jac", x, y, slow.threats[0], 0.02))
        spent = time.monotonic() - start
        assert late.status == "late" and not late.lower and 0.02 <= spent < 5.0
        answer = ask(Question("ibp", x, y, slow.threats[0], 20.0))
        assert answer.status == "answered" and len(answer.lower) == 9
        failed = ask(Question("op-norm", x, y, parse("l0:1"), 20.0))
        assert failed.status == "failed" and "l0" in failed.why


def test_a_killed_run_goes_on(here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    @contextmanager
    def dying(subject: Subject) -> Iterator[Ask]:
        with asking_here(subject) as ask:

            def once(question: Question) -> Heard:
                if len(asked) == 4:
                    raise KeyboardInterrupt
                asked.append(question.method)
                return ask(question)

            yield once

    methods = ["ibp", "crown", "fast-lin"]
    whole = survey([subject(8)], 3, methods=methods)
    monkeypatch.setattr(run, "asking", dying)
    with pytest.raises(KeyboardInterrupt):
        survey([subject(8)], 3, methods=methods, out=tmp_path)
    with (tmp_path / "records.jsonl").open("ab") as file:
        file.write(b'{"crc":"0000')  # the line that was being written
    with pytest.raises(FileError, match="settings"):
        survey([subject(8)], 3, methods=methods, out=tmp_path)
    with pytest.raises(ResumeError, match="seconds"):
        survey([subject(8)], 3, 6.0, methods=methods, out=tmp_path, resume=True)
    monkeypatch.setattr(run, "asking", asking_here)
    found = survey([subject(8)], 3, methods=methods, out=tmp_path, resume=True)
    assert [row.certified for row in found.cells[0].rows] == [
        row.certified for row in whole.cells[0].rows
    ]
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    keys = [tuple(json.loads(line)["key"]) for line in lines]
    assert len(keys) == len(set(keys)) == 3 * 4 and asked == ["ibp"] * 3 + ["crown"]


def test_what_is_counted(here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that a method had no time for do not count, neither for nor against; what an estimate
    claims is no certificate, and said to be wrong where an attack broke it.
    """

    @contextmanager
    def sleepy(subject: Subject) -> Iterator[Ask]:
        def ask(question: Question) -> Heard:
            if question.method == "clever":
                return Heard("answered", 0.1, radius=0.4 if question.y[0] else 9.0)
            over = question.method == "crown"
            return Heard("late", 3.0) if over else Heard("answered", 0.1, lower=(-1.0,) * 9)

        yield ask

    monkeypatch.setattr(run, "asking", sleepy)
    found = survey([subject(8, eps="linf:0.3")], 3, 1.0, methods=["ibp", "crown", "clever"])
    ibp, crown, clever = found.cells[0].rows
    assert clever.certified is None and clever.claimed == 3
    assert clever.wrongly == 3 - found.cells[0].attacked.hits and clever.wrongly > 0
    assert crown.certified is not None and crown.late == 2
    assert (crown.certified.hits, crown.certified.n) == (0, 2)
    assert ibp.certified is not None and ibp.certified.n == 3 and ibp.late == 0


def too_much(*given: Any, **more: Any) -> Margins:
    return Margins(torch.full((1, 9), 5.0, dtype=torch.float64), 0)


@pytest.mark.parametrize("planted", [False, True])
def test_the_exit_code_tells_of_a_wrong_bound(
    here: None, planted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(command, "small", lambda *given: [subject(8, eps="linf:0.5")])
    monkeypatch.setattr("torchproof.reproduce.survey.smoothed.at_hand", lambda folder: None)
    if planted:
        monkeypatch.setattr(METHODS["ibp"].__class__, "__call__", too_much)
    words = ["torchproof", "survey", "--method", "ibp", "--n", "3", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert int(ended.value.code or 0) == planted
    said = " ".join(capsys.readouterr().out.split())
    assert ("is certified but broken (5 against" in said) is planted
    page = (tmp_path / "certification.md").read_text()
    assert ("3 violations" in page) is planted and ("color:red" in page) is planted
    assert "no log here" in page and "no log at hand" in page


def test_violations_of_every_kind() -> None:
    def found(**records: dict[str, Any]) -> list[str]:
        made = {Key("net", "linf:1", name, 0): record for name, record in records.items()}
        return [v.wrong for v in violations(made, "net", "linf:1")]

    attack = {"right": True, "upper": [2.0, -1.0]}
    assert found(attack=attack, a={"lower": [1.9, -1.0]}, b={"status": "late"}) == []
    assert found(attack=attack, a={"lower": [1.0, 0.1]}) == ["certified but broken"]
    assert found(attack=attack, a={"lower": [2.1, -3.0]}) == ["above a margin that is reached"]
    solver = {"lower": [1.0, 1.0], "upper": [np.inf, 1.5]}
    kind = ["above a margin that is reached"]
    assert found(attack={"upper": [3.0, 3.0]}, a={"lower": [1.0, 1.6]}, milp=solver) == kind


def test_what_cannot_be_surveyed_is_refused(here: None) -> None:
    with pytest.raises(UnknownName, match="crwn"):
        survey([subject(8)], methods=["crwn"])
    with pytest.raises(InputError, match="tiny"):
        survey([subject(8), subject(8)], methods=["ibp"])
    with pytest.raises(InputError, match="seconds"):
        survey([subject(8)], seconds=0.0, methods=["ibp"])


def test_other_theories_start_from_the_stored_radius() -> None:
    """pA is read back from a radius of Neyman and Pearson, and nothing else changes."""
    pa = np.array([0.9, 0.99, 0.6])
    sigma = 0.5
    radii = np.append(theory("neyman-pearson", "gaussian")(pa, None, sigma), 0.0)
    ids = np.arange(4)
    log = Log(ids, np.array([0, 1, 2, 3]), np.array([0, 1, 0, -1]), radii, np.zeros(4))
    assert again(log, sigma, "neyman-pearson") is log
    for name in ("differential-privacy", "renyi", "hellinger"):
        found = again(log, sigma, name)
        assert np.allclose(found.radii[:3], theory(name, "gaussian")(pa, None, sigma), atol=1e-9)
        assert found.radii[3] == 0 and (found.radii <= radii + 1e-9).all()
    best = again(log, sigma, "f-divergence").radii
    assert (best >= again(log, sigma, "hellinger").radii).all() and (best <= radii + 1e-9).all()


def test_the_networks_of_the_small_scale(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained once and read back; packed ones are loaded, or left out aloud, or refused by name."""
    quick = Settings.of(epochs=1, batch_size=512, optimiser="adam")
    monkeypatch.setattr(networks, "_SETTINGS", quick)
    names = ["digits-4x4", "digits-clean", "mnist_kw_small"]
    found = networks.small(tmp_path, 2, names, data_dir)
    assert [tuple(s.x.shape[1:]) for s in found] == [(1, 4, 4), (1, 8, 8), (1, 28, 28)]
    assert all(s.load()(s.x).shape == (2, 10) for s in found)
    monkeypatch.setattr(networks, "fit", None)
    again_ = networks.small(tmp_path, 2, names, data_dir)
    assert [s.identity() for s in again_] == [s.identity() for s in found]
    with pytest.raises(UnknownName, match="mnist_kw_smal"):
        networks.small(tmp_path, 2, ["mnist_kw_smal"], data_dir)
    with pytest.raises(FileError):
        networks.small(tmp_path, 2, ["mnist_kw_small"], tmp_path)
    packed = {name: entry for name, entry in networks.SMALL.items() if not entry.method}
    monkeypatch.setattr(networks, "SMALL", packed)
    said: list[str] = []
    assert networks.small(tmp_path, 2, (), tmp_path, said.append) == []
    assert len(said) == len(packed) and all("without mnist_" in text for text in said)
