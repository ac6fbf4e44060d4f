"""`reproduce survey`: the verdict on hand-made cells, and the stored survey told as an outcome."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from torchproof.core.errors import FileError, InputError
from torchproof.evaluate.survey import APPROACHES, Survey
from torchproof.evaluate.survey.record import Cell, Row, Share, Violation
from torchproof.reproduce import Request
from torchproof.reproduce.experiment import Partial
from torchproof.reproduce.survey import SMALL, smoothed_here, trained
from torchproof.reproduce.survey.experiment import judge, rows, survey_experiment, told
from torchproof.reproduce.survey.page import page


def cell(network: str, attacked: int, **certified: int) -> Cell:
    made = tuple(
        Row(method=name.replace("_", "-"), certified=Share.of(hits, 20), median_seconds=0.1, late=0,
            enough=0)
        for name, hits in certified.items()
    )  # fmt: skip
    return Cell(
        network=network, training="plain", data="digits", norm="linf", eps=0.1, eps_text="0.1",
        clean=Share.of(19, 20), attacked=Share.of(attacked, 20), decided=attacked, rows=made,
    )  # fmt: skip


def survey(*cells: Cell, violations: tuple[Violation, ...] = ()) -> Survey:
    return Survey(
        date="2026-01-01", n=20, seconds=4, in_all=20, attack="PGD", cells=cells,
        violations=violations, spent=5.0, versions={},
    )  # fmt: skip


def test_the_verdict_follows_the_three_conditions() -> None:
    few, many = cell("digits-a", 15, bab=15, crown=12), cell("mnist", 18, bab=10, crown=17)
    verdict, because = judge(survey(few, many))
    assert verdict == "shows" and "1 of 1 small" in because
    loose = cell("digits-a", 15, bab=14, crown=12)
    assert judge(survey(loose, many))[0] == "does not show at this scale"
    ahead = cell("mnist", 18, bab=18, crown=17)
    assert judge(survey(few, ahead))[0] == "does not show at this scale"
    late = cell("mnist", 18, crown=6)  # 3 of the 8 images that it was asked about, and no more
    stopped = late.rows[0].model_copy(update={"method": "bab", "certified": Share.of(3, 8)})
    late = late.model_copy(update={"rows": (*late.rows, stopped)})
    assert judge(survey(few, late))[0] == "shows"
    wrong = Violation(network="mnist", threat="linf:0.1", image=3, method="crown",
                      wrong="certified but broken", told=1.0, reached=-1.0)  # fmt: skip
    assert judge(survey(few, many, violations=(wrong,)))[0] == "contradicts"


def test_a_survey_is_told_with_its_page_and_picture(tmp_path: Path) -> None:
    found = survey(cell("digits-a", 15, bab=15, crown=12, ibp=0))
    request = Request(tmp_path, seeds=1, say=lambda text: None)
    outcome = told(found, request)
    assert [r.what.split(": ")[-1] for r in outcome.rows] == [
        "clean", "attacked", "certified by ibp", "certified by crown", "certified by bab"
    ]  # fmt: skip
    assert all(row.ci95 is not None for row in rows(found.cells))
    for name in ("outcome.json", "table.md", "picture.png", "certification.md", "result.json"):
        assert (tmp_path / name).stat().st_size > 0
    told_ = (tmp_path / "certification.md").read_text()
    links = re.findall(r"\]\(([^)#]+)\)", told_)
    assert links and all((tmp_path / link).exists() for link in links)
    assert "(../certification/taxonomy.md#bab)" in page(found)


def test_processes_share_the_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is asked about once; one that is not at hand is left out, which is said."""
    asked, said = list[str](), list[str]()

    def found(out: Path, n: int, names: tuple[str, ...], *_: object) -> str:
        if names == ("mnist_kw_small",):
            raise FileError("no such file", "a network", "fetch it")
        return names[0]

    def answered(subject: str, *_: object, **more: object) -> Survey:
        asked.append(subject)
        return survey(cell(subject, 15, bab=15, crown=12))

    nothing = dict.fromkeys(("theories", "trainings", "trained"), lambda *_: ())
    for name, fake in {"small": found, "survey": answered, **nothing}.items():
        monkeypatch.setattr(f"torchproof.reproduce.survey.experiment.{name}", fake)
    request = Request(tmp_path / "out", say=said.append)
    with pytest.raises(Partial):
        survey_experiment(request.part(1))
    others = [name for name in SMALL if name != "mnist_kw_small"]
    assert asked == others
    outcome = survey_experiment(replace(request, resume=True))
    assert asked == others and "without mnist_kw_small: no such file" in said
    whole = Survey.read(tmp_path / "out")
    assert [c.network for c in whole.cells] == others and whole.spent == 5.0 * len(others)
    assert outcome.seeds == (0,)


def test_another_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="your own networks"):
        survey_experiment(Request(tmp_path / "out", scale="paper", say=lambda text: None))


@pytest.mark.slow
def test_every_training_for_smoothing_has_a_figure_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two epochs and four digits; what is there is read back, not made again."""
    short = smoothed_here._SETTINGS.model_copy(update={"epochs": 2})
    monkeypatch.setattr(smoothed_here, "_SETTINGS", short)
    monkeypatch.setattr(smoothed_here, "IMAGES", 4)
    monkeypatch.setattr(smoothed_here, "SAMPLES", 50)
    said: list[str] = []
    made = trained(tmp_path, said.append)
    names = [a.name for a in APPROACHES if a.kind == "training"]
    assert [s.training for s in made] == names and len(said) == 5
    assert all(s.acr >= 0 and s.certified[0].n == 4 and not s.log for s in made)
    start = (tmp_path / "trainings" / "smoothadv-pretrained" / "config.json").read_text()
    assert str(tmp_path / "trainings" / "noise") in start
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("checkpoint.safetensors")}
    assert trained(tmp_path, said.append) == made and len(before) == 5
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("checkpoint.safetensors")}
    text = page(survey(cell("digits-a", 15, bab=15)).model_copy(update={"trainings": made}))
    rows = [line for line in text.splitlines() if "[trained here: 1](#smoothing-trainings)" in line]
    assert len(rows) == 5 and "No log here: Data augmentation, SmoothAdv" in text
