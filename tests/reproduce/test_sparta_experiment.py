"""`reproduce sparta`: verdicts by hand, the controls, a whole run of tiny networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.nn import activations_of, build, load_activations
from torchproof.recipes.comparison import Cell, Line, line_of
from torchproof.reproduce import EXPERIMENTS, Request, Row, sparta_transfer
from torchproof.reproduce.experiment import Partial
from torchproof.reproduce.sparta import AS_MANY, judge, sparta_study, with_transfer
from torchproof.reproduce.sparta_transfer import NAKED, RELU, SPARTA, transferred
from torchproof.reproduce.study import DIGITS

SHOWS, NOT_HERE, AGAINST = "shows", "does not show at this scale", "contradicts"


def cells(robust: float, clean: float = 0.9, pgd: float = 0.5) -> dict[int, Cell]:
    made = Cell(
        n=1000, clean=clean, robust=robust, pgd=pgd, fgsm=0.5, loss=1, train_loss=1, train_pgd=0.5,
        standing=list(range(round(1000 * robust))), backward=4, seconds=1, epochs=1,
        catastrophic=0, overfitting=None, figures={}, flags=[],
    )  # fmt: skip
    return {0: made, 1: made}


def lines(ours: float, wide: float = 0.5, clean: float = 0.9, left: float = 0.0) -> dict[str, Line]:
    plain = cells(0.5)
    each = {
        RELU: plain,
        AS_MANY: cells(wide),
        SPARTA: cells(ours, clean),
        NAKED: cells(0, pgd=left),
    }
    return {name: line_of(name, "AT", found, plain) for name, found in each.items()}


def test_the_verdict_follows_its_thresholds() -> None:
    assert judge(lines(0.53), ())[0] == SHOWS
    assert "+3.0 points" in judge(lines(0.53), ())[1]
    assert judge(lines(0.5), ())[0] == NOT_HERE
    assert judge(lines(0.501), ())[0] == NOT_HERE  # one image of a thousand
    assert judge(lines(0.53, wide=0.54), ())[0] == NOT_HERE
    uneven = lines(0.53)  # +3 and +15 points: two seeds that far apart say little
    found = {0: cells(0.53)[0], 1: cells(0.65)[0]}
    uneven[SPARTA] = line_of(SPARTA, "AT", found, cells(0.5))
    assert judge(uneven, ())[0] == NOT_HERE
    assert judge(lines(0.53, clean=0.89), ())[0] == NOT_HERE
    assert judge(lines(0.45), ())[0] == AGAINST
    assert judge(lines(0.53, left=0.06), ())[0] == AGAINST


@pytest.mark.parametrize(
    ("taken", "before", "after"),
    [(0.6, SHOWS, SHOWS), (0.4, SHOWS, NOT_HERE), (0.6, NOT_HERE, NOT_HERE)],
)
def test_gates_taken_over_have_their_say(taken: float, before: Any, after: str) -> None:
    values = {"ReLU": 0.5, "gates taken over": taken, "gates never trained": 0.45}
    rows = [Row(what=f"deeper, {k}: fast", ours=(v,), n=100) for k, v in values.items()]
    verdict, text = with_transfer(before, "so", rows)
    assert verdict == after
    assert f"{100 * (taken - 0.5):+.1f} points against ReLU" in text


def operations(model: nn.Module, x: Tensor) -> int:
    """Multiplications of all convolutions for one image."""
    total = 0

    def count(module: nn.Module, args: Any, out: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += module.weight[0].numel() * out[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(x)
    return total


def test_the_wider_relu_network_costs_as_much() -> None:
    shape: dict[str, Any] = {"channels": 1, "size": 28, "classes": 10}
    x = torch.zeros(2, 1, 28, 28)
    ours = operations(build("resnet", **shape, width=8, activation="sparta"), x)
    wide = operations(build("resnet", **shape, width=9), x)
    assert "width=8" in str(sparta_study.rows[SPARTA]["model"])
    assert "width=9" in str(sparta_study.rows[AS_MANY]["model"])
    assert wide == pytest.approx(ours, rel=0.05)
    assert operations(build("resnet", **shape, width=8), x) < 0.85 * ours


@pytest.mark.slow
def test_a_tiny_run_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the digits, which have no other data set to go to; resumed, it gives the same figures."""
    monkeypatch.setattr(sparta_transfer, "IMAGES", 10)
    settings = {"epochs": 1, "batch_size": 50, "lr": 5e-3, "optimiser": "adam", "held_out": 20,
                "held_out_steps": 2, "weight_decay": 0.1}  # fmt: skip
    base = {**DIGITS, "method": "AT(steps=1)", "n": 70, "settings": settings}
    rows = {
        name: {**row, "model": str(row["model"]).replace("width=8", "width=2")}
        for name, row in sparta_study.rows.items()
        if name in (RELU, AS_MANY, SPARTA, NAKED)
    }
    study = dataclasses.replace(sparta_study, base=base, rows=rows, n=10)
    request = Request(tmp_path / "out", seeds=1, data_dir=tmp_path, say=lambda text: None)
    with pytest.raises(Partial):  # as a process that measures ahead
        study(dataclasses.replace(request, own=(0,)))
    made_at = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("cell.json")}
    assert len(made_at) == len(rows) + 3  # those that take gates over, and the ReLU beside them
    made = study(dataclasses.replace(request, resume=True))
    assert all(path.stat().st_mtime_ns == at for path, at in made_at.items())
    means = {row.what: row for row in made.rows}
    for kind in (RELU, "gates taken over", "gates never trained"):
        for what in ("clean", "fast"):
            assert means[f"deeper network, {kind}: {what}"].n == 10
    kept = means["tensors of the gates taken over, unchanged bit for bit"]
    assert kept.ours == (1.0,) and kept.n == 8
    stuck = [row for what, row in means.items() if "saturated gates" in what]
    assert len(stuck) == 4 and all(0 <= v <= 1 for row in stuck for v in row.ours)
    trained = load_activations(tmp_path / "out" / "runs" / SPARTA / "seed0")
    fresh = load_activations(tmp_path / "out" / "fresh" / "seed0.safetensors")
    assert not torch.equal(trained["stage1.h.pointwise.weight"], fresh["stage1.h.pointwise.weight"])
    folder = tmp_path / "out" / "transfer" / "seed0" / "deeper network, gates never trained"
    moved = load_activations(folder / "seed0")
    assert all(torch.equal(moved[name], tensor) for name, tensor in fresh.items())
    again = study(
        Request(tmp_path / "out", seeds=1, resume=True, data_dir=tmp_path, say=lambda text: None)
    )
    assert again.rows == made.rows and again.because == made.because
    assert "deeper network" in made.because
    assert "deeper network" in (tmp_path / "out" / "table.md").read_text()


def test_the_study_is_in_the_table() -> None:
    assert EXPERIMENTS["sparta"] is sparta_study and sparta_study.more is transferred
    assert not activations_of(build("resnet", channels=1, size=8, classes=2))


def test_where_gates_go_at_either_scale(tmp_path: Path) -> None:
    scales: tuple[tuple[Any, str, str], ...] = (
        ("small", "resnet(blocks=(2, 2), activation='sparta'", "fashion-mnist"),
        ("paper", "resnet34(activation='sparta'", "svhn"),
    )
    for scale, model, data in scales:
        request = Request(tmp_path, scale=scale, seeds=1, data_dir=tmp_path, say=lambda text: None)
        plan = sparta_study.table(request).rows[SPARTA]
        plan = plan.model_copy(update={"data": {"small": "mnist", "paper": "cifar10"}[scale]})
        assert sparta_transfer._moved(plan, "deeper network").model.startswith(model)
        moved = sparta_transfer._moved(plan, data)
        assert (moved.data, moved.model, moved.method) == (data, plan.model, plan.method)
