"""`torchproof attack`: every attack by name, the file it writes, the re-check of that file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchproof.attack.catalogue import ATTACKS
from torchproof.cli import attack as command
from torchproof.core.threats import parse
from torchproof.nn import load_model

# One expression per name: a new name has to be added here.
EXPRESSIONS = {
    "FGSM": "FGSM",
    "PGD": "PGD(steps=3)",
    "MI-FGSM": "mi-fgsm(steps=3)",
    "NI-FGSM": "NI-FGSM(steps=3)",
    "VMI-FGSM": "vmi-fgsm(steps=3, samples=2)",
    "DI": "DI(MI-FGSM(steps=5), least=0.8)",
    "TI": "TI(DI(PGD(steps=5)), size=3)",
    "APGD": "APGD(steps=4, objective=Margin())",
    "APGD-CE": "apgd_ce(steps=4)",
    "APGD-DLR": "APGD-DLR(4)",
    "APGD-T": "apgd-t(steps=3, targets=2)",
    "FAB-T": "FAB-T(steps=3, targets=2)",
    "Square": "Square(queries=30)",
    "Regional": "Regional(steps=30, alpha=0.02)",
    "NES": "NES(queries=100, pairs=5)",
    "SPSA": "SPSA(queries=100, pairs=5)",
    "Joint-PGD": "joint-pgd(beta=10, steps=4, length=0.25)",
    "HopSkipJump": "HopSkipJump(queries=200, first=10)",
    "DeepFool": "DeepFool(steps=4, targets=2)",
    "CW": "CW(rounds=3, steps_per_round=8)",
    "DDN": "DDN(steps=12)",
    "FMN": "FMN(steps=8)",
    "Alternating-PGD": "Alternating-PGD(steps=4)",
    "MultiTargeted": "MultiTargeted(steps=4, targets=2)",
    "GAMA-PGD": "GAMA-PGD(steps=4)",
    "GAMA-FW": "GAMA-FW(steps=4)",
    "GAMA-MT": "GAMA-MT(steps=4, targets=2)",
    "MD": "MD(steps=6, change=3)",
    "MDMT": "MDMT(steps=6, change=3, targets=2)",
    "ODI": "ODI(steps=4, restarts=2)",
    "Restarts": "Restarts(PGD(steps=2, length=8/40), 2)",
    "EveryTarget": "EveryTarget(PGD(steps=2, objective=TargetedMargin()), 3)",
    "EOT": "EOT(PGD(steps=2), samples=2)",
    "Chain": "Chain(PGD(steps=2), Square(queries=20))",
}
LIMITS = {"CW": "l2:1.5", "DDN": "l2:1.5"}  # of attacks that do not know Linf
Hit = Callable[..., Any]


@pytest.fixture
def hit(cli: Callable[..., Any], trained: Path, tmp_path: Path) -> Hit:
    """`hit("PGD", threat="l2:0.5")` attacks 16 digits and writes x.npz."""

    def run(text: str, *options: object, threat: str = "linf:0.1", out: str = "x.npz") -> Any:
        given = ("--attack", text, "--threat", threat, "--n", 16, "--out", tmp_path / out)
        return cli("attack", trained, *given, *options)

    return run


def naive_length(delta: np.ndarray, norm: str) -> np.ndarray:
    flat = delta.reshape(len(delta), -1).astype(np.float64)
    order = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}[norm]
    return np.array([np.linalg.norm(row, order) for row in flat])


def require_sound(path: Path, run: Path, threat: str) -> dict[str, np.ndarray]:
    """The file says the truth: images in the ball and the box, broken means misclassified."""
    stored = dict(np.load(path))
    limits, model = parse(threat), load_model(str(run)).model
    length = naive_length(stored["x_adv"] - stored["x"], threat.split(":")[0])
    assert length.max() <= limits.eps * (1 + 1e-4) + 1e-12
    assert stored["x_adv"].min() >= 0 and stored["x_adv"].max() <= 1
    with torch.no_grad():
        clean, hit = (
            model(torch.tensor(stored[k])).argmax(1).numpy() == stored["y"] for k in ("x", "x_adv")
        )
    assert np.array_equal(clean, stored["clean"])
    assert not (stored["broken"] & hit).any()
    untouched = ~(stored["broken"] & stored["clean"])
    assert np.array_equal(stored["x"][untouched], stored["x_adv"][untouched])
    return stored


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_works_by_its_name(hit: Hit, trained: Path, tmp_path: Path, name: str) -> None:
    threat = LIMITS.get(name, "linf:0.2")
    answer = hit(EXPRESSIONS[name], threat=threat)
    assert answer.code == 0, answer.words
    stored = require_sound(tmp_path / "x.npz", trained, threat)
    assert stored["x"].shape == (16, 1, 8, 8)
    assert 100 * (1 - stored["broken"].mean()) == pytest.approx(
        float(answer.words.split("robust accuracy ")[1].split(" %")[0]), abs=0.01
    )
    assert (stored["broken"] & stored["clean"]).any()


def test_fewer_classes_than_targets_are_said(hit: Hit) -> None:
    answer = hit("APGD-T(steps=2, targets=50)", threat="linf:0.1")
    assert answer.code == 0
    assert "label: 10 classes: attacks at 50 wrong classes take the 9 there are" in answer.words


@pytest.mark.parametrize("threat", ["l2:0.8", "l1:4", "l0:6"])
def test_other_norms(hit: Hit, trained: Path, tmp_path: Path, threat: str) -> None:
    assert hit("PGD(steps=8)", threat=threat).code == 0
    assert require_sound(tmp_path / "x.npz", trained, threat)["broken"].any()


def test_what_the_probes_say_is_shown_with_their_cost(hit: Hit) -> None:
    """Doubts about the accuracy are told, but leave the images and the exit code alone."""
    answer = hit("PGD(steps=2, length=0.01, start=Zero())")
    assert answer.code == 0 and "verdict: unreliable" in answer.words
    assert "severe: single-step-wins:" in answer.words
    assert "probes behind the flags: 13 examples" in answer.words


def test_seed_and_batch_size(hit: Hit, tmp_path: Path) -> None:
    for out, options in (("a", ()), ("b", ("--batch-size", 5)), ("c", ("--seed", 1))):
        assert hit("PGD(steps=2)", *options, out=f"{out}.npz").code == 0
    a, b, c = (dict(np.load(tmp_path / f"{name}.npz")) for name in "abc")
    assert np.array_equal(a["broken"], b["broken"])
    assert np.abs(a["x_adv"] - b["x_adv"]).max() < 1e-5
    assert not np.array_equal(a["x_adv"], c["x_adv"])


def test_nothing_to_attack(
    cli: Callable[..., Any], trained: Path, npz: Callable[..., str], tmp_path: Path
) -> None:
    x = np.random.default_rng(0).random((20, 8, 8), dtype=np.float32)
    with torch.no_grad():
        said = load_model(str(trained)).model(torch.tensor(x)[:, None]).argmax(1).numpy()
    data = npz(x_test=x, y_test=(said + 1) % 10)
    given = ("--data", data, "--threat", "linf:0.1", "--out", tmp_path / "x.npz")
    answer = cli("attack", trained, *given)
    assert answer.code == 0 and "robust accuracy 0.00 %" in answer.words


@pytest.mark.parametrize("damage", ["clean again", "outside", "below", "nan"])
def test_the_recheck_reads_the_file(
    hit: Hit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """What is judged is what was written, not what is in memory."""
    write = command._write

    def tampered(path: Path, **arrays: torch.Tensor) -> None:
        write(path, **arrays)
        stored = dict(np.load(path))
        row = int((stored["broken"] & stored["clean"]).nonzero()[0][0])
        if damage == "clean again":
            stored["x_adv"][row] = stored["x"][row]
        elif damage == "outside":
            stored["x_adv"][row] = 1 - stored["x"][row].round()
        elif damage == "below":
            stored["x_adv"][row] = stored["x"][row] - 0.01  # inside the ball, outside the box
        else:
            stored["x_adv"][row, 0, 0, 0] = np.nan
        np.savez(path, **stored)

    assert hit("PGD(steps=4)").code == 0
    monkeypatch.setattr(command, "_write", tampered)
    answer = hit("PGD(steps=4)")
    assert answer.code == 1 and "re-check failed for 1 examples" in answer.words


def test_a_full_disk_keeps_the_file_that_was_there(
    hit: Hit, tmp_path: Path, full_disk: Callable[[int], Any]
) -> None:
    assert hit("FGSM").code == 0
    before = (tmp_path / "x.npz").read_bytes()
    with full_disk(1024):
        hit("PGD(steps=2)").refused("x.npz", "free some space")
    assert (tmp_path / "x.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_a_place_that_cannot_be_written_is_refused_before_the_attack(
    hit: Hit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "measure", lambda *_, **__: pytest.fail("the model was asked"))
    (tmp_path / "file").write_text("")
    (tmp_path / "d.npz").mkdir()
    hit("FGSM", out="file/x.npz").refused("file/x.npz", "could not be written")
    hit("FGSM", out="d.npz").refused("a folder")
    hit("FGSM", out="x.npy").refused("ends in .npz")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "d.npz"}


@pytest.mark.parametrize(
    ("text", "threat", "words"),
    [
        ("Pgdd", "linf:0.1", ["'Pgdd'", "did you mean", "PGD"]),
        ("Restarts(Pgdd(), 2)", "linf:0.1", ["'Pgdd'", "did you mean"]),
        ("Margin()", "linf:0.1", ["an attack", "torchproof list attacks"]),
        ("3", "linf:0.1", ["an attack"]),
        ("Square", "l0:3", ["Square", "L0", "L1 or L2 or Linf"]),
        ("FAB-T", "l0:3", ["FAB", "L0"]),
        ("PGD(steps=0)", "linf:0.1", ["steps = 0"]),
        ("PGD(steps='a')", "linf:0.1", ["steps = 'a'"]),
        ("PGD(step=3)", "linf:0.1", ["'step'", "steps: "]),
        ("PGD(length=-1)", "linf:0.1", ["length = -1"]),
        ("PGD(objective=3)", "linf:0.1", ["objective"]),
        ("PGD(start=3)", "linf:0.1", ["start"]),
        ("Restarts(3)", "linf:0.1", ["Restarts(3)"]),
        ("Restarts", "linf:0.1", ["missing", "attack"]),
        ("Restarts(PGD(), 0)", "linf:0.1", ["restarts = 0"]),
        ("EveryTarget(PGD)", "linf:0.1", ["targeted objective", "TargetedMargin"]),
        ("PGD(steps=3", "linf:0.1", ["never closed"]),
    ],
)
def test_attacks_that_cannot_be_meant(
    hit: Hit, tmp_path: Path, text: str, threat: str, words: list[str]
) -> None:
    hit(text, threat=threat).refused(*words)
    assert not any(tmp_path.iterdir())
