"""Trained gates taken over, frozen, by a deeper network and by one for other data; beside ReLU, and
beside frozen gates that were never trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.core.objectives import CrossEntropy
from torchproof.core.threats import parse
from torchproof.data import load
from torchproof.diagnose import gate_saturation
from torchproof.nn import activations_of, load_activations, load_model, save_activations
from torchproof.recipes import Comparison, Many, Plan, Table
from torchproof.recipes.comparison import Cell
from torchproof.recipes.many import CELL
from torchproof.reproduce.experiment import Request, Row, available
from torchproof.reproduce.subjects import seeded

# Rows of the study, and what else stands beside the networks that take gates over.
RELU, SPARTA, NAKED = "ReLU", "Sparta", "Sparta without AT"
TAKEN, FRESH = "gates taken over", "gates never trained"

DEEPER = "deeper network"
OTHER = {"mnist": ("fashion-mnist", "linf:0.1"), "cifar10": ("svhn", "linf:8/255")}
"""Data set -> where its gates go, and the threat there."""

IMAGES = 100  # whose gates are looked at


def transferred(request: Request, table: Table, found: Comparison) -> tuple[Row, ...]:
    """Rows of the networks that take gates over, how many tensors of the gates stayed as they were,
    and the share of saturated gates.
    """
    cells: dict[str, list[Cell]] = {}
    kept, of = [], []
    for seed in table.seeds:
        for line in carried(request, table, seed).lines:
            cells.setdefault(line.name, []).append(line.cells[seed])
        before = load_activations(_run(request, SPARTA, seed))
        same = _unchanged(before, _carried_to(request, seed), seed)
        kept.append(sum(same))
        of.append(len(same))
    rows = _naked(found)
    for name, each in cells.items():
        rows += _accuracies(name, each, table.evaluate.suite)
    rows.append(Row.share("tensors of the gates taken over, unchanged bit for bit", kept, of))
    return (*rows, *_saturation(request, table))


def carried(request: Request, table: Table, seed: int) -> Comparison:
    """The networks that take over the gates of a seed, trained and judged."""
    gates = {TAKEN: _run(request, SPARTA, seed), FRESH: _fresh(request, table, seed)}
    rows, out = _plans(request, table, gates), _carried_to(request, seed)
    again = Table(rows=rows, seeds=(seed,), evaluate=table.evaluate)
    done = Many(again, out, out.exists(), request.data_dir, say=request.say).run()
    assert done is not None  # nothing stops it
    return done


def carried_ahead(request: Request, table: Table) -> None:
    """`carried` for this process's own seeds, as far as their gates have been trained: other
    processes may be at them still.
    """
    for seed in request.own:
        if (_run(request, SPARTA, seed) / CELL).exists():
            carried(request, table, seed)


def _carried_to(request: Request, seed: int) -> Path:
    return request.out / "transfer" / f"seed{seed}"


def _run(request: Request, name: str, seed: int) -> Path:
    return request.out / "runs" / name / f"seed{seed}"


def _fresh(request: Request, table: Table, seed: int) -> Path:
    """A file of the gates that the network of this seed started from."""
    path = request.out / "fresh" / f"seed{seed}.safetensors"
    if not path.exists():
        save_activations(activations_of(seeded(request, table.rows[SPARTA], seed).model), path)
    return path


def _plans(request: Request, table: Table, gates: Mapping[str, Path]) -> dict[str, Plan]:
    """Name -> plan: ReLU and both kinds of gates in each place they go to."""
    plain, ours = table.rows[RELU], table.rows[SPARTA]
    made: dict[str, Plan] = {}
    for place in _places(request, ours):
        made[f"{place}, {RELU}"] = _moved(plain, place)
        for name, path in gates.items():
            plan = _moved(ours, place).model_copy(update={"activations": str(path)})
            made[f"{place}, {name}"] = plan
    return made


def _places(request: Request, plan: Plan) -> list[str]:
    """A deeper network, and the other data set, where it is there."""
    other, _ = OTHER.get(plan.data, ("", ""))
    return [DEEPER, other] if other and available(other, request) else [DEEPER]


def _moved(plan: Plan, place: str) -> Plan:
    """The plan with two blocks per stage for one, or ResNet-34 for ResNet-18; or on other data."""
    if place == DEEPER:
        model = plan.model.replace("resnet18(", "resnet34(")
        model = model.replace("resnet(", "resnet(blocks=(2, 2), ")
        return plan.model_copy(update={"model": model})
    data, threat = OTHER[plan.data]
    return plan.model_copy(update={"data": data, "threat": threat})


def _unchanged(before: Mapping[str, Tensor], out: Path, seed: int) -> list[bool]:
    """For each tensor of the gates in each network that took them over: is it as it was?"""
    same: list[bool] = []
    for folder in sorted(out.glob(f"*, {TAKEN}")):
        after = load_activations(folder / f"seed{seed}")
        same += [bool((after[name] == tensor).all()) for name, tensor in before.items()]
    return same


def _naked(found: Comparison) -> list[Row]:
    """PGD-20 on the network that was not trained against attacks."""
    cells = [cell for line in found.lines if line.name == NAKED for cell in line.cells.values()]
    of = [cell.n for cell in cells]
    hits = [round(cell.pgd * cell.n) for cell in cells]
    return [Row.share(f"{NAKED}: PGD-20", hits, of)]


def _accuracies(name: str, cells: list[Cell], suite: str) -> list[Row]:
    of = [cell.n for cell in cells]
    return [
        Row.share(f"{name}: clean", [round(c.clean * c.n) for c in cells], of),
        Row.share(f"{name}: {suite}", [len(c.standing) for c in cells], of),
    ]


def _saturation(request: Request, table: Table) -> list[Row]:
    """The share of |h| > 8, mean over the gates of a network, on images and under PGD-20."""
    rows: list[Row] = []
    for name in (SPARTA, NAKED):
        plan = table.rows[name]
        test = load(plan.data, data_dir=request.data_dir, split="test").take(IMAGES)
        found: dict[str, list[float]] = {"images": [], "images of PGD-20": []}
        for seed in table.seeds:
            model = load_model(str(_run(request, name, seed))).model.requires_grad_(False)
            attacked = _attacked(model, test.x, test.y, str(plan.threat))
            for each, x in zip(found.values(), (test.x, attacked), strict=True):
                shares = gate_saturation(model, x)
                each.append(sum(shares) / len(shares))
        rows += [
            Row.per_seed(f"{name}: saturated gates, {where}", each, IMAGES)
            for where, each in found.items()
        ]
    return rows


def _attacked(model: nn.Module, x: Tensor, y: Tensor, threat: str) -> Tensor:
    attack = Attack(parse(threat), CrossEntropy(), PGD(20, 0.25))
    value = attack(model, x, y, run=Run(patience=float("inf"))).value
    assert isinstance(value, Tensor)
    return x + value
