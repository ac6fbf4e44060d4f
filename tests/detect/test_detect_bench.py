"""The comparison of detectors, by two small stand-ins whose figures can be worked out again."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from torchproof import data as sets
from torchproof.core.errors import FileError, InputError, ResumeError, UnknownName
from torchproof.detect.bench.attack_rows import attack_rows, chosen
from torchproof.detect.bench.record import FILE, Bench, Rate
from torchproof.detect.bench.run import bench, stored_scores
from torchproof.detect.bench.setup import Setup
from torchproof.detect.bench.splits import Sizes, shaped, split
from torchproof.detect.detector import Clean, Detector, Fitted
from torchproof.report.detect_bench import render_bench
from torchproof.report.detect_plots import draw_areas, draw_matrices, draw_roc

SIZES = Sizes(fit=200, calibrate=180, test=120, adaptive=12)
NAMES = ("FGSM linf:0.3", "PGD linf:0.3", "DeepFool l2")


@dataclass(frozen=True)
class MaxSoftmax(Detector):
    """Low confidence is suspicious (Hendrycks and Gimpel 2017)."""

    name: ClassVar[str] = "max-softmax"
    source: ClassVar[str] = "Hendrycks and Gimpel 2017"

    def fit(self, model: nn.Module, data: Clean, seed: int = 0) -> Fitted:
        assert data.adversarial is None
        return Confidence(model)


class Confidence(Fitted):
    def forward(self, x: Tensor) -> Tensor:
        return -self.model(x).softmax(1).amax(1)


@dataclass(frozen=True)
class Direction(Detector):
    """From the mean clean to the mean adversarial image."""

    name: ClassVar[str] = "direction"
    source: ClassVar[str] = "this test"
    supervised: ClassVar[bool] = True
    least: int = 0

    def fit(self, model: nn.Module, data: Clean, seed: int = 0) -> Fitted:
        self.check(data)
        assert data.adversarial is not None
        if len(data.x) < self.least:
            raise InputError(f"{len(data.x)} images", f"{self.least} or more", "give more")
        return Along(model, (data.adversarial - data.x).mean(0))


class Along(Fitted):
    way: Tensor

    def __init__(self, model: nn.Module, way: Tensor) -> None:
        super().__init__(model)
        self.register_buffer("way", way)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.way).flatten(1).sum(1)


def setup(**changed: object) -> Setup:
    rows = chosen(attack_rows("digits", (1, 8, 8)), NAMES)
    made = Setup(
        {"max-softmax": MaxSoftmax(), "direction": Direction()}, rows, "PGD linf:0.3",
        ("FGSM linf:0.3", "PGD linf:0.3"), SIZES,
    )  # fmt: skip
    return replace(made, **changed)


@pytest.fixture(scope="session")
def done(classifier: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Path]:
    out = tmp_path_factory.mktemp("bench")
    train, test = (sets.load("digits", split=part) for part in ("train", "test"))
    others = {"noise": torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))}
    found = bench(classifier, train, test, setup(), others, about={"model": "toy"}, out=out)
    return found, out


@pytest.mark.slow
def test_every_cell_is_there(done: tuple[Bench, Path]) -> None:
    found, out = done
    assert [one.name for one in found.judged] == [
        "max-softmax", "direction, trained on FGSM linf:0.3", "direction, trained on PGD linf:0.3",
    ]  # fmt: skip
    assert not found.refused and found.detectors == ("max-softmax", "direction")
    adaptive = [one.adaptive is not None for one in found.judged]
    assert adaptive == [True, False, True]  # once for each detector
    assert [a.name for a in found.attacks] == list(NAMES)
    pgd = next(a for a in found.attacks if a.name == "PGD linf:0.3")
    assert pgd.n == found.test == 120 and pgd.fooled == 120
    for one in found.judged:
        assert one.told("noise", "elsewhere").n == 40  # type: ignore[union-attr]
        fooled = {a.name: a.fooled for a in found.attacks}
        assert {r.what: r.n for r in one.rows if r.kind == "successful"} == fooled
        assert one.costs.fit >= 0 and one.costs.score > 0
    stored = json.loads((out / FILE).read_text())
    assert stored["schema_version"] == "torchproof.detect-bench/1"
    assert Bench.read(out) == found
    assert {p.name for p in out.iterdir()} == {FILE, "records.jsonl", "settings.json", "sets"}


def test_the_parts_have_no_image_in_common(classifier: nn.Module) -> None:
    train, test = (sets.load("digits", split=part) for part in ("train", "test"))
    found = split(classifier, train, test, SIZES, 3)
    every = [found.calibrate.rows, found.test.rows]
    assert len(torch.cat(every).unique()) == len(found.calibrate) + len(found.test) == 300
    for part in (found.calibrate, found.test):
        assert torch.equal(part.x, test.x[part.rows])
        assert bool((classifier(part.x).argmax(1) == part.y).all())
    assert len(found.fit) == 200 and torch.equal(found.fit.x, train.x[found.fit.rows])
    other = split(classifier, train, test, SIZES, 4)
    assert not torch.equal(other.test.rows, found.test.rows)
    few = split(classifier, train, test, Sizes(10, 10_000, 5_000, 5), 3)
    assert len(few.calibrate) == pytest.approx(2 * len(few.test), abs=1)
    with pytest.raises(InputError, match="same part"):
        split(classifier, test, test, SIZES, 0)
    renamed = replace(test, name="others", split="train")
    with pytest.raises(InputError, match="in common"):
        split(classifier, renamed, test, SIZES, 0)


def test_a_refused_adaptive_attack_leaves_the_detector_judged(
    classifier: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attacks(*given: object) -> tuple[object, ...]:
        raise InputError("no attack", "one", "give one")

    monkeypatch.setattr(Confidence, "attacks", attacks)
    train, test = (sets.load("digits", split=part) for part in ("train", "test"))
    lines: list[str] = []
    one = setup(recipes={"max-softmax": MaxSoftmax()}, sizes=Sizes(50, 60, 40, 2))
    found = bench(classifier, train, test, one, about={"data": "digits", "model": "toy"},
                  out=tmp_path, say=lines.append)  # fmt: skip
    assert not found.refused and [o.adaptive for o in found.judged] == [None]
    assert "no attack" in found.unattacked["max-softmax"]
    assert any("adaptive attack refused" in line for line in lines)
    assert Bench.read(tmp_path) == found
    page = render_bench(found, stored_scores(tmp_path), tmp_path).read_text()
    assert "max-softmax: adaptive attack refused: no attack" in page


def test_figures_are_those_of_scikit_learn(done: tuple[Bench, Path]) -> None:
    found, out = done
    for one in found.judged:
        scores = stored_scores(out)[one.name]
        clean, limit = scores["test"].numpy(), np.sort(scores["calibrate"].numpy())
        value = limit[int(np.ceil((len(limit) + 1) * 0.95)) - 1]
        assert one.threshold.value == value and one.alarms.share == (clean > value).mean()
        row = one.told("PGD linf:0.3")
        assert row is not None
        both = np.r_[clean, scores["PGD linf:0.3"].numpy()]
        truth = np.r_[np.zeros(len(clean)), np.ones(row.n)]
        assert row.auroc == pytest.approx(roc_auc_score(truth, both))
        assert row.aupr == pytest.approx(average_precision_score(truth, both))
        assert row.ci95[0] < row.auroc < row.ci95[1] or row.auroc in (0, 1)
        assert row.flagged.share == (scores["PGD linf:0.3"].numpy() > value).mean()
        low = np.sort(clean)[::-1][int(0.05 * len(clean))]
        assert row.caught["0.05"].share == (scores["PGD linf:0.3"].numpy() > low).mean()


@pytest.mark.slow
def test_failed_images_are_told_apart(classifier: nn.Module) -> None:
    train, test = (sets.load("digits", split=part) for part in ("train", "test"))
    rows = chosen(attack_rows("digits", (1, 8, 8)), ["FGSM linf:0.125", "PGD linf:0.3"])
    given = setup(rows=rows, train_on=(), recipes={"max-softmax": MaxSoftmax()})
    found = bench(classifier, train, test, given)
    weak = found.attacks[0]
    assert 0 < weak.fooled < weak.n and weak.failed == weak.n - weak.fooled
    kinds = {r.kind: r for r in found.judged[0].rows if r.what == "FGSM linf:0.125"}
    assert kinds["successful"].n == weak.fooled and kinds["failed"].n == weak.failed


def test_the_adaptive_row(done: tuple[Bench, Path], classifier: nn.Module) -> None:
    """Confidence is what projected gradient makes plenty of; a detector that never looks at what
    it is given cannot be lowered.
    """
    found, _ = done
    row = found.of("max-softmax").adaptive  # type: ignore[union-attr]
    assert row is not None and row.n == 12 and row.attacks == 2
    assert row.robust.share < 0.2 and row.after is not None and row.after < 0.6
    told = found.of("max-softmax").told("PGD linf:0.3")  # type: ignore[union-attr]
    assert told is not None and row.before == told.auroc
    assert row.failed == (row.before - row.after < 0.2)
    assert ("failed" in row.reading) == row.failed
    low = row.model_copy(update={"before": 0.7, "after": 0.6})
    assert low.failed and "yet" in low.reading and "evade it" in low.reading
    none = row.model_copy(update={"after": None, "robust": Rate.of(torch.ones(12).bool())})
    assert none.failed and "unknown" in none.reading and "yet" not in none.reading


def test_a_killed_run_goes_on(
    done: tuple[Bench, Path], classifier: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, source = done
    train, test = (sets.load("digits", split=part) for part in ("train", "test"))
    others = {"noise": torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))}
    out = tmp_path / "out"
    (out / "sets").mkdir(parents=True)
    for name in ("settings.json", *(p.name for p in (source / "sets").iterdir())):
        folder = "" if name == "settings.json" else "sets"
        (out / folder / name).write_bytes((source / folder / name).read_bytes())
    lines = (source / "records.jsonl").read_bytes().splitlines(keepends=True)
    (out / "records.jsonl").write_bytes(b"".join(lines[:3]))
    with pytest.raises(FileError, match="new folder"):
        bench(classifier, train, test, setup(), others, out=out)
    with pytest.raises(ResumeError, match="fpr"):
        bench(classifier, train, test, setup(fpr=0.1), others, out=out, resume=True)
    said: list[str] = []
    again = bench(
        classifier, train, test, setup(), others, about={"model": "toy"}, out=out, resume=True,
        say=said.append,
    )  # fmt: skip
    assert not any("fooled" in line for line in said)  # no attack is run again
    assert _figures(again) == _figures(whole)
    damaged = next(iter((out / "sets").iterdir()))
    damaged.write_bytes(b"nothing")
    with pytest.raises(FileError, match="remove that file"):
        bench(classifier, train, test, setup(), others, out=out, resume=True)


def _figures(found: Bench) -> object:
    """All but what depends on the clock."""
    content = found.model_dump()
    del content["seconds"]
    for one in content["judged"]:
        del one["costs"]
        if one["adaptive"]:
            del one["adaptive"]["seconds"]
    return content


@pytest.mark.slow
def test_what_does_not_apply_is_refused_and_the_rest_goes_on(classifier: nn.Module) -> None:
    train, test = (sets.load("digits", split=part) for part in ("train", "test"))
    rows = chosen(attack_rows("digits", (1, 8, 8)), ["PGD linf:0.3"])
    recipes = {"direction": Direction(least=10_000), "max-softmax": MaxSoftmax()}
    found = bench(classifier, train, test, setup(rows=rows, recipes=recipes, train_on=NAMES[1:2]))
    assert "10000 or more" in found.refused["direction, trained on PGD linf:0.3"]
    assert [one.name for one in found.judged] == ["max-softmax"]
    tight = setup(rows=rows, recipes=recipes, train_on=NAMES[1:2], fpr=0.001)
    assert set(bench(classifier, train, test, tight).refused) == {
        "direction, trained on PGD linf:0.3", "max-softmax",
    }  # fmt: skip


def test_setups_that_cannot_be_meant() -> None:
    with pytest.raises(InputError, match="no radius"):
        setup(main="DeepFool l2")
    with pytest.raises(UnknownName):
        setup(train_on=("PGD linf:9",))
    with pytest.raises(InputError, match="no attack"):
        setup(train_on=())
    with pytest.raises(InputError, match="adaptive"):
        Sizes(test=5, adaptive=6)
    with pytest.raises(UnknownName):
        chosen(attack_rows("mnist", (1, 28, 28)), ["JSMA"])


def test_the_attacks_of_the_review() -> None:
    mnist = attack_rows("mnist", (1, 28, 28))
    assert {"FGSM linf:0.125", "BIM linf:0.3125", "PGD l1:15", "PGD l2:1.5", "PGD linf:0.3",
            "CW l2", "DeepFool l2", "Square linf:0.3", "HopSkipJump l2",
            "Spatial 10px 60deg"} <= set(mnist)  # fmt: skip
    assert "PGD linf:0.03125" in attack_rows("cifar10", (3, 32, 32))
    assert set(chosen(mnist, ["pgd"])) == {n for n in mnist if n.startswith("PGD")}
    assert set(chosen(mnist, ["* l2*", "CW l2"])) >= {"PGD l2:1", "CW l2 k=10"}
    assert set(chosen(mnist, ["CW l2"])) == {"CW l2"}
    digits = attack_rows("digits", (1, 8, 8))
    assert "PGD l1:0.82" in digits and "PGD l2:0.29" in digits and "PGD linf:0.3" in digits


def test_images_of_elsewhere_are_brought_into_shape() -> None:
    x = torch.rand(3, 3, 16, 16)
    grey = shaped(x, torch.zeros(1, 8, 8))
    assert grey.shape == (3, 1, 8, 8)
    assert grey.mean() == pytest.approx(float(x.mean()), abs=0.01)
    assert torch.equal(shaped(x, torch.zeros(3, 16, 16)), x)
    assert shaped(x[:, :1], torch.zeros(3, 16, 16)).shape == x.shape


def test_pictures_of_a_comparison(done: tuple[Bench, Path]) -> None:
    found, out = done
    scores = stored_scores(out)
    roc = draw_roc(found, scores)
    labels = [text.get_text() for text in roc.axes[0].get_legend().get_texts()]
    area = found.of("max-softmax").told("PGD linf:0.3").auroc  # type: ignore[union-attr]
    assert labels[0] == f"max-softmax, {area:.3f}" and labels[1].startswith("direction")
    columns = [tick.get_text() for tick in draw_areas(found).axes[0].get_xticklabels()]
    assert columns == [*NAMES, "noise", "adaptive"]
    matrix = draw_matrices(found)
    assert matrix is not None
    trained = [tick.get_text() for tick in matrix.axes[0].get_yticklabels()]
    assert trained == ["FGSM linf:0.3", "PGD linf:0.3"]
    none = found.model_copy(update={"judged": ()})
    assert draw_matrices(none) is None
    with pytest.raises(InputError, match="refused"):
        draw_areas(none)
