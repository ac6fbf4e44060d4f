"""`reproduce hgd`: verdicts by hand, the rows, what is measured, a whole run of tiny networks."""

from __future__ import annotations

import json
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.data import load
from torchproof.data.dataset import Dataset
from torchproof.reproduce import EXPERIMENTS, Outcome, Request
from torchproof.reproduce import hgd_measures as measures_of
from torchproof.reproduce.hgd import SMALL, Part
from torchproof.reproduce.hgd_figures import (
    CLEAN,
    ENSEMBLE,
    EPS,
    HALF,
    JUDGED,
    KINDS,
    LGD,
    PIXELS,
    PLAIN,
    SETS,
    Cell,
    judge,
    picture,
    rows,
)
from torchproof.reproduce.hgd_measures import Classifiers, measured

RUN = EXPERIMENTS["hgd"]
experiment = sys.modules[RUN.__module__]


def cell(kind: str, seed: int = 0, **changed: Any) -> Cell:
    """Of 100 images, 40 of them of later classes: a defence that shows what is claimed."""
    defended = kind != PLAIN
    hits = {name: 80 if defended else 10 for name in (CLEAN, *SETS)} | {CLEAN: 97}
    given: dict[str, Any] = {
        "right": hits, "unseen": {name: n * 40 // 100 for name, n in hits.items()},
        "white": {"PGD-40": 4, "fast suite": 2}, "other": hits,
        "error": 0.6 if kind == PIXELS else 0.2, "squared": 0.01 if kind == PIXELS else 0.02,
        **changed,
    }  # fmt: skip
    if kind == ENSEMBLE:
        given |= {"other": {}, "error": None, "squared": None}
    return Cell(data="mnist", kind=kind, seed=seed, n=100, unseen_n=40, few=50, **given)


def cells(seed: int = 0, **lgd: Any) -> list[Cell]:
    return [cell(kind, seed, **(lgd if kind == LGD else {})) for kind in KINDS]


def hits(clean: int = 97, attacked: int = 80) -> dict[str, int]:
    return {name: attacked for name in (CLEAN, *SETS)} | {CLEAN: clean}


@pytest.mark.parametrize(
    ("lgd", "verdict", "said"),
    [
        ({}, "shows", "LGD gains +70.0 and +70.0 points"),
        ({"right": hits(attacked=49)}, "does not show at this scale", "+39.0 and +39.0"),
        ({"right": hits(clean=95)}, "does not show at this scale", "clean -2.0 points"),
        ({"error": 0.43}, "does not show at this scale", "0.430 against 0.600"),
        ({"squared": 0.009}, "does not show at this scale", "0.0090 against 0.0100"),
        ({"other": hits(attacked=29)}, "does not show at this scale", "+19.0 and +19.0"),
        ({"white": {"PGD-40": 8, "fast suite": 6}}, "does not show at this scale", "12.0 % stay"),
        ({"right": hits(attacked=10)}, "contradicts", "+0.0 and +0.0"),
    ],
    ids=["all", "gain", "clean", "error", "pixels", "transfer", "end to end", "no gain"],
)
def test_the_verdict(lgd: dict[str, Any], verdict: str, said: str) -> None:
    found, because = judge(cells(**lgd))
    assert found == verdict and said in because and "grey-box only" in because


def test_rows_pool_the_seeds() -> None:
    two = [*cells(), *cells(1, right=hits(attacked=60))]
    found = {row.what: row for row in rows(two)}
    assert found["LGD: BIM on A, 0.2"].ours == (0.8, 0.6) and found["LGD: BIM on A, 0.2"].n == 200
    assert found["LGD: fast suite end to end, 0.2 [grey-box only]"].ours == (0.04, 0.04)
    assert f"{PLAIN}: PGD-40 end to end, 0.2" in found
    gain = found["LGD minus undefended: FGSM on A, 0.2"]
    assert gain.ours == pytest.approx((0.7, 0.5)) and gain.ci95 is not None
    assert found["LGD before B minus B alone: FGSM on A, 0.2"].ours == pytest.approx((0.7, 0.7))
    other = found[f"{HALF} minus undefended, on the other five: BIM on A, 0.2"]
    assert other.ours == pytest.approx((0.7, 0.7))
    over = found["LGD: BIM on A, 0.2 minus fast suite end to end (over-reporting)"]
    assert over.ours == pytest.approx((0.76, 0.56))
    error = found["pixels: relative error of the logits, BIM on A, 0.2"]
    assert error.ours == (0.6, 0.6) and error.unit == ""
    assert not any(what.startswith(f"{ENSEMBLE}, before B") for what in found)
    assert picture(two).startswith(b"\x89PNG")


class Half:
    """The report of an evaluation that breaks every other image."""

    robust_accuracy = 0.5


class Bright(nn.Module):
    """Answers by the mean brightness, whose attacks are known in closed form."""

    def forward(self, x: Tensor) -> Tensor:
        z = 8 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-z, z, *(torch.full_like(z, -50),) * 6], 1)


class Levels(nn.Module):
    """Brings a brightness back to the level that it was moved from, by at most 0.2."""

    def forward(self, x: Tensor) -> Tensor:
        number = torch.bucketize(x.flatten(1).mean(1), torch.tensor([0.425, 0.68]))
        return torch.tensor([0.2, 0.45, 0.9])[number][:, None, None, None] + 0 * x


def test_what_is_measured_of_a_denoiser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures_of, "evaluate", lambda *_, **__: Half())
    level = torch.tensor([0.2, 0.45, 0.9, 0.9])
    x, y = level[:, None, None, None].expand(4, 1, 4, 4).clone(), torch.tensor([0, 0, 1, 7])
    data = Dataset.of(x, y, "01234567", "levels", "test")
    nets = Classifiers(Bright(), Bright(), Bright())
    plain = measured(PLAIN, None, nets, data, 0, 4)
    # attacks move 0.45 over 0.5; the last image is misclassified from the start
    assert plain.right == {CLEAN: 3, **dict.fromkeys(SETS, 2)} and plain.other == plain.right
    assert plain.white == {"PGD-40": 2, "fast suite": 2} and plain.n == plain.few == 4
    assert plain.unseen == dict.fromkeys(plain.right, 0) and plain.unseen_n == 1
    assert plain.squared == pytest.approx(0.2**2, rel=1e-4)  # all attacks spend the whole eps
    z = torch.tensor([[2.4, 0.4, 3.2, 3.2]]) * 2 + 300  # |logits|_1 of the four levels
    assert plain.error == pytest.approx(float((2 * 8 * 0.2 / z).mean()), rel=1e-4)
    cleaned = measured(LGD, Levels(), nets, data, 0, 2)
    assert cleaned.right[JUDGED[0]] == cleaned.right[CLEAN] == 3
    assert cleaned.error == pytest.approx(0, abs=1e-6) and cleaned.few == 2
    ensemble = measured(ENSEMBLE, None, nets, data, 0, 4, Bright())
    assert ensemble.right == plain.right and ensemble.error is None and not ensemble.other


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part("digits", 120, 40, 20, 6, 2, (4, 6), (1, 1))
    monkeypatch.setitem(SMALL, "digits", part)
    monkeypatch.setattr(experiment, "MODELS", dict.fromkeys("ABC", "small-cnn"))
    monkeypatch.setattr("torchproof.data.load", cache(load))
    monkeypatch.setattr(measures_of, "evaluate", lambda *_, **__: Half())


@pytest.mark.slow
def test_a_run_and_its_resumption(tiny: None, tmp_path: Path) -> None:
    said: list[str] = []
    request = {"data_dir": tmp_path, "seeds": 1}
    whole = RUN(Request(tmp_path / "whole", say=said.append, **request))
    assert Outcome.model_validate_json((tmp_path / "whole" / "outcome.json").read_text()) == whole
    assert "digits take the place" in said[0] and whole.settings["data"] == "digits"
    assert "grey-box only" in whole.settings["label"] and "grey-box only" in whole.because
    assert sum("LGD, a tenth: epoch" in text for text in said) == 20  # as many steps
    found = {row.what for row in whole.rows}
    assert {f"{kind}: {name}" for kind in KINDS for name in (CLEAN, *SETS)} <= found
    card = json.loads((tmp_path / "whole/seed0/LGD/model.json").read_text())
    assert card["model"] == "purified" and "LGD(eps=(" in card["training"]["method"]

    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for path in ("outcome.json", "picture.png", "seed0/cells/FGD.json", "seed0/cells/pixels.json"):
        (tmp_path / "cut" / path).unlink()
    shutil.rmtree(tmp_path / "cut/seed0/FGD")
    again: list[str] = []
    resumed = RUN(Request(tmp_path / "cut", resume=True, say=again.append, **request))
    assert resumed.rows == whole.rows and resumed.because == whole.because
    assert {text.split(":")[0] for text in again if "epoch" in text} == {"seed 0, FGD"}
    assert sum("clean" in text for text in again) == 2  # measured anew


def test_what_needs_imagenet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scale small"):
        RUN(Request(tmp_path, "paper"))
    assert max(EPS) == SETS["BIM on A, 0.2"][2] < SETS["BIM on A, 0.25 (held out)"][2]
