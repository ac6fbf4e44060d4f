"""Training that is cut off and goes on; detectors on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from torchproof.anomaly.detector import load
from torchproof.anomaly.fit import CHECKPOINT, fit
from torchproof.anomaly.itsr import ITSR
from torchproof.anomaly.learner import Learner, Setting
from torchproof.anomaly.networks import Architecture
from torchproof.anomaly.stages import Plain
from torchproof.core.errors import FileError, InputError, ResumeError

SHAPE = (1, 4, 4)
SETTING = Setting(Architecture(latent=2, width=8, batch_norm=True), True, batch_size=16)
METHOD = ITSR(pretrain=2, rounds=2, refine=2, retrain=2, share=0.2)


def images(n: int = 40) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0))


class Cut(Exception):
    pass


@pytest.mark.parametrize("epoch", [1, 3, 4, 7])
def test_a_cut_run_ends_as_an_uncut_one(tmp_path: Path, epoch: int) -> None:
    def cut(learner: Learner, weights: Tensor) -> None:
        if learner.epochs == epoch:
            raise Cut

    whole = fit(images(), METHOD, SETTING)
    with pytest.raises(Cut):
        fit(images(), METHOD, SETTING, out=tmp_path, every=1, watch=cut)
    seen: list[int] = []
    found = fit(
        images(), METHOD, SETTING, out=tmp_path, resume=True, every=1,
        watch=lambda learner, weights: seen.append(learner.epochs),
    )  # fmt: skip
    assert seen == list(range(epoch, 9))  # the epoch that was cut off is made again
    one, other = whole.learner.state(), found.learner.state()
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert list(found.weights) == ["pre-training", "refinement 1", "refinement 2", "re-training"]
    assert all(torch.equal(whole.weights[k], found.weights[k]) for k in whole.weights)
    assert whole.premises == found.premises


def test_a_finished_run_is_read_back(tmp_path: Path) -> None:
    fit(images(), METHOD, SETTING, out=tmp_path)
    seen: list[int] = []
    again = fit(
        images(), METHOD, SETTING, out=tmp_path, resume=True,
        watch=lambda learner, weights: seen.append(1),
    )  # fmt: skip
    assert not seen and again.learner.epochs == 8


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"method": Plain(8)}, "method"),
        ({"setting": Setting(Architecture(latent=2, width=8), seed=1)}, "setting"),
        ({"x": images().flip(0)}, "images"),
    ],
)
def test_nothing_may_change_under_a_checkpoint(
    tmp_path: Path, change: dict[str, object], word: str
) -> None:
    given: dict[str, object] = {"x": images(), "method": METHOD, "setting": SETTING}
    fit(**given, out=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ResumeError, match=word):
        fit(**{**given, **change}, out=tmp_path, resume=True)  # type: ignore[arg-type]


def test_a_damaged_checkpoint(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"no such thing")
    with pytest.raises(FileError, match="checkpoint"):
        fit(images(), METHOD, SETTING, out=tmp_path, resume=True)


@pytest.mark.parametrize("x", [images()[0], images()[:1], images() * 255, images() * float("nan")])
def test_images_that_cannot_be_meant(x: Tensor) -> None:
    with pytest.raises(InputError):
        fit(x, Plain(1), SETTING)


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_a_detector_comes_back_from_disk(tmp_path: Path, kind: str) -> None:
    how = Architecture(kind, latent=2, width=4, batch_norm=True)  # type: ignore[arg-type]
    x = images()
    made = fit(x, Plain(2), Setting(how, True, batch_size=16)).detector(x)
    made.save(tmp_path / "net", {"training": {"data": "toys"}})
    assert sorted(p.name for p in (tmp_path / "net").iterdir()) == [
        "model.json", "model.safetensors",
    ]  # fmt: skip
    back = load(tmp_path / "net")
    assert back.rule == made.rule and back.setting == made.setting and back.shape == SHAPE
    assert torch.equal(back.suspicion(x), made.suspicion(x))
    assert torch.equal(back.flags(x), made.suspicion(x) > 0)
    assert torch.allclose(back.heat_maps(x).mean((1, 2)), back.scores(x).error)
    with pytest.raises(InputError, match=r"\(N, 1, 4, 4\)"):
        back.suspicion(x[:, :, :2])


def test_a_card_of_another_kind(tmp_path: Path) -> None:
    x = images()
    fit(x, Plain(1), SETTING).detector(x).save(tmp_path)
    for change, word in ({"model": "resnet18"}, "resnet18"), ({"options": {}}, "options"):
        card = json.loads((tmp_path / "model.json").read_text())
        (tmp_path / "model.json").write_text(json.dumps({**card, **change}))
        with pytest.raises(FileError, match=word):
            load(tmp_path)
        (tmp_path / "model.json").write_text(json.dumps(card))
