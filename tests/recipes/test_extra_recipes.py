"""Recipes with a second stream of images, labelled and pseudo-labelled, at a tiny scale."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from torchproof.core.errors import FileError, InputError, ResumeError
from torchproof.data import load
from torchproof.nn import load_model
from torchproof.recipes import Plan, prepare, recipe, run, small
from torchproof.train import EMA, TRADES, LabelSmoothing, Settings

CPU = torch.device("cpu")
TINY = Settings.of(epochs=1, batch_size=20, lr=0.002, optimiser="adam", held_out=10,
                   held_out_steps=1)  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled digits under the name of MNIST, which the small recipes read."""
    folder, whole = tmp_path_factory.mktemp("data"), load("digits", split="train")
    x, y = (whole.x[:300, 0] * 255).round().byte().numpy(), whole.y[:300].numpy()
    np.savez(folder / "mnist.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    return folder


def tiny(plan: Plan, **settings: object) -> Plan:
    """A small recipe on 60 labelled images, one epoch."""
    given = {**TINY.model_dump(), "extra_share": plan.settings.extra_share, **settings}
    return plan.model_copy(update={
        "n": 60, "model": "small-cnn(widths=(4, 8), hidden=16)", "settings": Settings.of(given),
    })  # fmt: skip


def test_the_settings_of_the_papers() -> None:
    plan = recipe("cifar10-generated")
    chosen = plan.settings
    assert plan.model.startswith("wide-resnet(depth=28, activation='silu', ")
    assert (chosen.epochs, chosen.batch_size, chosen.lr, chosen.schedule) == (400, 1024, 0.4,
                                                                              "cosine")  # fmt: skip
    assert (chosen.extra_share, chosen.weight_decay, chosen.held_out) == (0.7, 5e-4, 1024)
    half = recipe("cifar10-pseudo-labelled")
    assert half.settings.extra_share == 0.5 and half.labeller == "runs/cifar10-standard"
    assert small("cifar10-pseudo-labelled").labeller == "runs/cifar10-standard-small"
    for name in ("cifar10-generated", "cifar10-pseudo-labelled"):
        own = small(name)
        drawn = own.settings.epochs * (own.n or 0) / (1 - own.settings.extra_share)
        assert own.extra == own.data == "mnist" and drawn <= 8 * 5000  # of the other recipes


def test_a_stream_with_labels_of_its_own(digits: Path, tmp_path: Path) -> None:
    plan = tiny(small("cifar10-generated"))
    ready = prepare(plan, digits, CPU)
    assert isinstance(ready.method, EMA) and isinstance(ready.method.method, LabelSmoothing)
    assert isinstance(ready.method.method.method, TRADES) and ready.extra is not None
    whole = load("mnist", data_dir=digits, split="train")
    assert torch.equal(ready.extra.x, whole.x[60:]) and torch.equal(ready.extra.y, whole.y[60:])
    (record,) = run(ready, tmp_path / "run")
    # 50 images of 6 in every batch of 20, the rest from the stream
    assert record.loss > 0
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert ready.extra.sha256 in json.dumps(stored)
    other = np.load(digits / "mnist.npz")
    np.savez(tmp_path / "more.npz", x_train=other["x_train"][:50], y_train=other["y_train"][:50])
    changed = plan.model_copy(update={"extra": f"npz:{tmp_path / 'more.npz'}"})
    with pytest.raises(ResumeError):
        list(run(prepare(changed, digits, CPU), tmp_path / "run", resume=True))


def test_a_stream_that_a_network_labels(digits: Path, tmp_path: Path) -> None:
    standard = tiny(small("cifar10-standard"), epochs=6, extra_share=0.0)
    list(run(prepare(standard, digits, CPU), tmp_path / "standard"))
    own = {"labeller": str(tmp_path / "standard")}
    ready = prepare(tiny(small("cifar10-pseudo-labelled")).model_copy(update=own), digits, CPU)
    assert isinstance(ready.method, TRADES) and ready.extra is not None
    whole = load("mnist", data_dir=digits, split="train")
    with torch.no_grad():
        answers = load_model(str(tmp_path / "standard")).model(whole.x[60:]).argmax(1)
    assert torch.equal(ready.extra.y, answers) and not torch.equal(answers, whole.y[60:])
    assert torch.equal(ready.extra.x, whole.x[60:])
    (record,) = run(ready, tmp_path / "run")
    assert record.epoch == 1 and (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"extra": None}, InputError, "without extra data"),
        ({"n": None, "labeller": None}, InputError, "trained on already"),
        ({"labeller": "absent"}, InputError, "the labeller"),
        ({"extra": "npz:absent.npz", "labeller": None}, FileError, "absent.npz"),
    ],
)
def test_streams_that_are_refused(
    digits: Path, change: dict[str, object], error: type[Exception], word: str
) -> None:
    plan = tiny(small("cifar10-pseudo-labelled")).model_copy(update=change)
    with pytest.raises(error, match=word):
        prepare(plan, digits, CPU)
