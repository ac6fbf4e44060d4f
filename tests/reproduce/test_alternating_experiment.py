"""`reproduce alternating`: the toy table against a loop in numpy, figures and verdict on hand-made
blocks, and a whole run of tiny networks.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from torchproof.core.errors import FileError, InputError, ResumeError, UnknownName
from torchproof.data import load
from torchproof.reproduce import EXPERIMENTS, Outcome, Request
from torchproof.reproduce.alternating_figures import (
    CLAIMED,
    PUBLISHED,
    SETTING,
    SINGLE,
    Block,
    gain,
    judge,
    rows,
)
from torchproof.reproduce.alternating_toy import BEST, EXPECTED, agrees, toy
from torchproof.reproduce.packed import packed

experiment = sys.modules[EXPERIMENTS["alternating"].__module__]
Array = Any

# ---- the toy problem, with gradients worked out by hand

W = np.array([[0.3, -0.3], [1.0, -0.01], [-0.25, 0.75]])
X = np.array([-0.45, -0.8])


def slope(loss: str, z: Array) -> Array:
    """d loss / d z for the label 0."""
    other = 1 + int(np.argmax(z[1:]))
    if loss == "CE":
        p = np.exp(z - z.max())
        p /= p.sum()
        return p - np.array([1.0, 0.0, 0.0])
    top = np.zeros(3)
    top[other], top[0] = 1.0, -1.0
    if loss == "CW":
        return top
    order = np.argsort(-z)
    spread = np.zeros(3)
    spread[order[0]], spread[order[2]] = 1.0, -1.0
    wide = z[order[0]] - z[order[2]] + 1e-12
    return top / wide - (z[other] - z[0]) * spread / wide**2


def table_line(name: str) -> tuple[int | None, float]:
    d, best, first = np.zeros(2), -math.inf, None
    parts = name.split("-")
    for step in range(51):
        z = W @ (X + d)
        margin = z[1:].max() - z[0]
        best = max(best, margin)
        if margin > 0 and first is None:
            first = step
        loss = parts[min(step * len(parts) // 50, len(parts) - 1)]
        g = W.T @ slope(loss, z)
        d = d + 0.35 * g / np.linalg.norm(g)
        d *= min(1.0, 0.7 / np.linalg.norm(d))
    return first, float(best)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_toy_table_exactly(name: str) -> None:
    wanted, found = table_line(name), toy(name)
    assert found[0] == wanted[0] and found[1] == pytest.approx(wanted[1], abs=1e-9)
    assert agrees(name, found) and agrees(name, wanted)
    assert not agrees(name, (found[0], found[1] + 2e-3))
    assert not agrees(name, (7, found[1]))


def test_cross_entropy_then_margin_reaches_the_best_there_is() -> None:
    angle = np.linspace(0, 2 * math.pi, 200_001)
    z = W @ (X[:, None] + 0.7 * np.stack([np.cos(angle), np.sin(angle)]))
    best = float((z[1:].max(0) - z[0]).max())
    assert best == pytest.approx(BEST, abs=1e-4)
    assert toy("CE-CW")[1] == pytest.approx(best, abs=1e-6) and toy("CE")[1] < best - 0.04


# ---- figures


def block(network: str, seed: int, **left: int) -> Block:
    """100 images, 80 correct; CE leaves 60 standing, CW 50, DLR 52, and what is given."""
    counts = {"CE": 60, "CW": 50, "DLR": 52, "CE-CW": 49, "CE-DLR": 49} | {
        name.replace("_", "-"): n for name, n in left.items()
    }
    standing = {name: list(range(n)) for name, n in counts.items()}
    return Block(network=network, seed=seed, n=100, correct=80, standing=standing)


RIGHT = dict(EXPECTED)


@pytest.mark.parametrize(
    ("blocks", "verdict"),
    [
        ([block("a", 0), block("b", 0)], "shows"),
        ([block("a", 0), block("b", 0, CE_CW=51)], "does not show at this scale"),  # no gain
        ([block("a", 0, CE_DLR=50)], "does not show at this scale"),
        ([block("a", 0, CE_DLR=51), block("b", 0, CE_DLR=50)], "does not show at this scale"),
        ([block("a", 0, CE_DLR=51)], "contradicts"),  # a whole point above
        ([block("a", 0, CE=40)], "contradicts"),  # CE is the best single loss now
        ([block("a", 0, CE_CW=10, CE_DLR=51)], "contradicts"),
    ],
)
def test_the_verdict(blocks: list[Block], verdict: str) -> None:
    found, because = judge(blocks, RIGHT)
    assert found == verdict
    assert "the toy table is exact" in because
    assert judge(blocks, RIGHT | {"CE-CW": (3, 0.2372)})[0] == "contradicts"
    assert "another for CE-CW" in judge(blocks, RIGHT | {"CE-CW": (2, 0.24)})[1]


def test_the_best_single_loss_is_best_on_the_mean_and_words_say_where() -> None:
    blocks = [block("a", 0, CE=47), block("b", 0), block("c", 0, CE_CW=51)]
    because = judge(blocks, RIGHT)[1]
    assert "best single loss, CW, leaves 50.00 %" in because
    assert "CE-CW 49.67 % (+0.33 points lower; lower on 2, higher on 1 networks)" in because


def test_the_table_against_a_plain_count() -> None:
    blocks = [block("a", 0), block("a", 1, CE_CW=47), block("b", 0), block("b", 1)]
    table = {row.what: row for row in rows(blocks, RIGHT)}
    mean = table["mean of 2 networks: CE-CW"]
    assert mean.ours == pytest.approx((0.49, 0.48)) and mean.n == 400
    exact = stats.binomtest(49 + 47 + 49 + 49, 400).proportion_ci(method="exact")
    assert mean.ci95 == pytest.approx((exact.low, exact.high))
    assert mean.published == PUBLISHED["CE-CW"] and mean.setting == SETTING
    below = table["CE-CW below CW, the best single loss"]
    assert below.ours == pytest.approx((0.01, 0.02)) and below.n == 400
    gains = [0.01, 0.03, 0.01, 0.01]
    half = stats.t.ppf(0.975, 3) * np.std(gains, ddof=1) / 2
    assert below.ci95 == pytest.approx((0.015 - half, 0.015 + half))
    assert below.published == pytest.approx(0.28637 - 0.27795)
    strict = {row.what: row for row in rows([*blocks, block("c", 0, CE=45)], RIGHT)}
    row = strict["CE-CW below each network's best single loss"]
    assert row.ours == pytest.approx((-0.02 / 3, 0.02)) and row.n == 500
    assert table["a: clean"].ours == (0.8, 0.8) and table["b: DLR"].ours == (0.52, 0.52)
    assert table["toy, CE-CW: best margin"].ours == (0.2372,)
    assert gain(blocks, "CE-CW", "CE") == pytest.approx(0.115)


def test_published_figures_show_the_published_effect() -> None:
    best = min(PUBLISHED[name] for name in SINGLE)
    assert all(PUBLISHED[name] < best - 0.008 for name in CLAIMED)
    assert "CIFAR-100" in SETTING and "8/255" in SETTING


# ---- a whole run

READER = """
import torch
from torch import nn

def names():
    return ["one", "two"]

def load(name):
    g = torch.Generator().manual_seed(len(name) + ord(name[0]))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=g) * 0.3
    return net
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with two untrained networks for the bundled digits, and a setting for them."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "networks.py").write_text(READER)
    subjects = tuple(experiment.Subject(name, "digits", "linf:0.2") for name in ("one", "two"))
    attacks = (*((name, "constant") for name in (*SINGLE, *CLAIMED)), ("CE-CW", "MD"))
    monkeypatch.setattr(experiment, "STEPS", 10)
    monkeypatch.setitem(experiment.SETTINGS, "small", experiment.Setting(40, subjects, attacks))
    return folder


def figures(out: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((out / "outcome.json").read_text())
    return {name: value for name, value in stored.items() if not name.endswith("seconds")}


@pytest.mark.slow
def test_a_run_and_its_resumption(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Callable[[Request], Outcome] = EXPERIMENTS["alternating"]
    said: list[str] = []
    whole = run(Request(tmp_path / "a", seeds=2, data_dir=tiny, say=said.append))
    assert (
        len(said) == 4
        and Outcome.model_validate_json((tmp_path / "a" / "outcome.json").read_text()) == whole
    )
    assert (tmp_path / "a" / "picture.png").read_bytes().startswith(b"\x89PNG")
    table = {row.what: row for row in whole.rows}
    digits = load("digits", split="test")
    for seed in range(2):
        x, y = digits.x[40 * seed : 40 * seed + 40], digits.y[40 * seed : 40 * seed + 40]
        right = float((packed("one", tiny)(x).argmax(1) == y).double().mean())
        assert table["one linf:0.2: clean"].ours[seed] == pytest.approx(right)
    for name in (*SINGLE, *CLAIMED, "CE-CW, MD steps"):
        shares = table[f"one linf:0.2: {name}"].ours
        assert all(s <= c for s, c in zip(shares, table["one linf:0.2: clean"].ours, strict=True))
    for name, line in EXPECTED.items():
        assert table[f"toy, {name}: best margin"].mean == pytest.approx(line[1], abs=1e-3)

    made, count = experiment.alternating_pgd, iter(range(100))

    def interrupted(*args: Any) -> Any:
        if next(count) == 9:
            raise KeyboardInterrupt
        return made(*args)

    monkeypatch.setattr(experiment, "alternating_pgd", interrupted)
    request = Request(tmp_path / "b", seeds=2, data_dir=tiny, resume=True, say=said.append)
    with pytest.raises(KeyboardInterrupt):
        run(request)
    assert len(list((tmp_path / "b" / "blocks").iterdir())) == 1
    monkeypatch.setattr(experiment, "alternating_pgd", made)
    run(request)
    assert figures(tmp_path / "a") == figures(tmp_path / "b")
    with pytest.raises(ResumeError, match="seeds"):
        run(Request(tmp_path / "b", seeds=1, data_dir=tiny, resume=True))
    (next((tmp_path / "b" / "blocks").iterdir())).write_text("[]")
    with pytest.raises(FileError, match="remove that file"):
        run(request)


def test_without_the_data_nothing_is_begun(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Callable[[Request], Outcome] = EXPERIMENTS["alternating"]
    (tiny / "networks.py").unlink()
    with pytest.raises(FileError, match="TORCHPROOF_DATA"):
        run(Request(tmp_path / "out", data_dir=tiny))
    monkeypatch.delenv("TORCHPROOF_DATA", raising=False)
    with pytest.raises(FileError, match="without a data folder"):
        run(Request(tmp_path / "out"))
    monkeypatch.undo()
    with pytest.raises(FileError, match="looked for in"):
        run(Request(tmp_path / "out", data_dir=tiny))
    assert not (tmp_path / "out").exists()


def test_too_few_images_for_the_seeds(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row numbers"):
        EXPERIMENTS["alternating"](Request(tmp_path / "out", seeds=100, data_dir=tiny))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import nothing_of_this_name", FileError),
        ("load = 3\ndef names(): return []", FileError),
        (READER.replace('["one", "two"]', "[]"), UnknownName),
        (READER.replace("64, 16", "'a', 16"), FileError),
    ],
)
def test_readers_that_do_not_read(
    text: str, error: type[Exception], tiny: Path, tmp_path: Path
) -> None:
    (tiny / "networks.py").write_text(text)
    with pytest.raises(error):
        packed("one", tiny)


def test_the_scales_name_real_networks(data_dir: Path) -> None:
    assert len(experiment.SETTINGS["small"].subjects) >= 6
    for setting in experiment.SETTINGS.values():
        assert set(SINGLE) | set(CLAIMED) <= {name for name, size in setting.attacks}
    listed = json.loads((data_dir / "networks" / "index.json").read_text())
    for subject in experiment.SETTINGS["paper"].subjects:
        assert listed[subject.network]["dataset"] == subject.data
    x = load("mnist", data_dir=data_dir).x[:4]
    with torch.no_grad():
        assert packed("mnist_madry_tiny", data_dir)(x).shape == (4, 10)
