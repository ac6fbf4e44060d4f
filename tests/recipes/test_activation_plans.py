"""Plans that take trained activations over: what is stored, what a resumed run compares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from torchproof.core.errors import FileError, InputError, ResumeError
from torchproof.nn import activations_of, build, cards, load_model, save_activations
from torchproof.recipes import Plan, prepare, recipe, run, small
from torchproof.recipes.plan import network
from torchproof.train import Settings

CPU = torch.device("cpu")
MODEL = "resnet(width=4, activation='sparta')"


def plan(path: Path | None, model: str = MODEL) -> Plan:
    settings = Settings.of(epochs=1, batch_size=30, lr=0.05, held_out=20, seed=3)
    return Plan(
        model=model, method="Standard", n=80, settings=settings,
        activations=None if path is None else str(path),
    )  # fmt: skip


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    """The activations of a network that is in no fresh state."""
    source = build("resnet", channels=1, size=8, classes=10, width=4, activation="sparta", seed=1)
    with torch.no_grad():
        for p in source.parameters():
            p.add_(0.1)
    save_activations(activations_of(source), tmp_path / "gates.safetensors")
    cards.save(source, tmp_path / "source")
    return tmp_path / "gates.safetensors"


def test_a_plan_takes_activations_over(gates: Path, tmp_path: Path) -> None:
    wanted = activations_of(load_model(str(tmp_path / "source")).model)
    for path in (gates, tmp_path / "source"):
        model = prepare(plan(path), None, CPU).model
        assert all(torch.equal(t, wanted[name]) for name, t in activations_of(model).items())
    deeper = "resnet(width=4, blocks=(2, 3), activation='sparta')"
    ready = prepare(plan(gates, deeper), None, CPU)
    fresh = network(deeper, ready.train, 3)
    other = {n for n, p in ready.model.named_parameters() if p.requires_grad}
    assert all(torch.equal(fresh.get_parameter(n), ready.model.get_parameter(n)) for n in other)
    list(run(ready, tmp_path / "out"))
    made = load_model(str(tmp_path / "out")).model  # from its card and its weights alone
    assert all(torch.equal(t, wanted[name]) for name, t in activations_of(made).items())
    trained = made.get_parameter("net.conv1.weight")
    assert not torch.equal(trained, fresh.get_parameter("net.conv1.weight"))


def test_a_resumed_run_compares_the_activations(gates: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    list(run(prepare(plan(gates), None, CPU), out))
    info = json.loads((out / "config.json").read_text())["info"]
    assert info["plan"]["activations"] == str(gates) and len(info["activations_sha256"]) == 64
    list(run(prepare(plan(gates), None, CPU), out, resume=True))
    fresh = prepare(plan(None), None, CPU).model
    save_activations(activations_of(fresh), gates)
    with pytest.raises(ResumeError, match="activations_sha256"):
        list(run(prepare(plan(gates), None, CPU), out, resume=True))
    with pytest.raises(ResumeError, match=r"plan\.activations"):
        list(run(prepare(plan(None), None, CPU), out, resume=True))


def test_plans_whose_activations_do_not_fit(gates: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stage1"):
        prepare(plan(gates, "resnet(width=4)"), None, CPU)
    with pytest.raises(FileError, match="absent"):
        prepare(plan(tmp_path / "absent.safetensors"), None, CPU)


def test_the_recipe() -> None:
    made = recipe("cifar10-sparta")
    settings = made.settings
    assert (settings.lr, settings.weight_decay, settings.epochs) == (0.1, 5e-4, 110)
    assert (settings.optimiser, settings.schedule) == ("sgd", "tail")
    assert "resnet18(activation='sparta'" in made.model and "steps=10" in made.method
    assert "activation='sparta'" in small("cifar10-sparta").model
