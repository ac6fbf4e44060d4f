"""Every recipe prepares: its names exist, its network fits its data, nothing has to be trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from torchproof.core.errors import InputError, TorchproofError, UnknownName
from torchproof.core.threats import parse
from torchproof.nn import build, cards
from torchproof.recipes import RECIPES, Plan, Table, prepare, recipe, run, small
from torchproof.train import (
    AT,
    AWP,
    EMA,
    FAT,
    FGSMAT,
    IAT,
    JSIGR,
    LGD,
    MART,
    RAT,
    SWA,
    TRADES,
    BoundaryGuided,
    LabelSmoothing,
    Settings,
    Standard,
    Sum,
    optimisers,
)

CPU = torch.device("cpu")
TAUGHT = ("cifar10-hat", "cifar10-hgd")  # recipes with a teacher
CONTINUED = (
    "cifar10-smoothadv-pretrained",
    "mnist-rat",
    "mnist-ladder",
    "cifar10-rat",
    "cifar10-ladder",
)  # recipes that start from trained weights
STREAMED = ("cifar10-generated", "cifar10-pseudo-labelled")  # recipes with extra data
SHAPES = {"mnist": (28, 28), "cifar10": (32, 32, 3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets of the shapes of MNIST and CIFAR-10, 20 images in each part."""
    path, g = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, shape in SHAPES.items():
        x = g.integers(0, 256, (20, *shape), dtype=np.uint8)
        y = np.arange(20) % 10
        np.savez(path / f"{name}.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return path


def _taught(plan: Plan, path: Path, data: Path) -> Plan:
    """A plan that names a teacher, weights to start from or a stream, with those that are there."""
    channels, size = {"cifar10": (3, 32)}.get(plan.data, (1, 28))
    if plan.labeller is not None:
        labeller = build("mlp", channels=channels, size=size, classes=10, hidden=(4,))
        cards.save(labeller, path / "labeller")
        plan = plan.model_copy(update={"labeller": str(path / "labeller")})
    if plan.extra is not None:
        return plan.model_copy(update={"extra": f"npz:{data / plan.data}.npz"})
    if plan.start is not None:
        first = prepare(plan.model_copy(update={"start": None}), data, CPU).model
        cards.save(first, path / "start")
        return plan.model_copy(update={"start": str(path / "start")})
    if plan.teacher is None:
        return plan
    teacher = build("mlp", channels=channels, size=size, classes=10, hidden=(4,))
    cards.save(teacher, path / "teacher")
    return plan.model_copy(update={"teacher": str(path / "teacher")})


@pytest.fixture(scope="module")
def answered() -> set[tuple[str, str, str | None]]:
    """The networks, as plans write them, that were asked already: many recipes share one."""
    return set()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_prepares(
    folder: Path, name: str, tmp_path: Path, answered: set[tuple[str, str, str | None]]
) -> None:
    """And has a small variant of the same method; those that need a stored standard network are
    told apart below.
    """
    plan = _taught(recipe(name).model_copy(update={"n": None}), tmp_path, folder)
    before = torch.get_rng_state()
    ready = prepare(plan, folder, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert ready.plan == plan and ready.threat == parse(str(plan.threat))
    x = ready.train.x[:2]
    network = (plan.model, plan.data, plan.start)
    if network not in answered:
        with torch.no_grad():
            logits = ready.model.eval()(x)
        assert logits.shape == (2, 10) and bool(logits.isfinite().all())
        answered.add(network)
    if ready.augment is not None:
        moved = ready.augment(ready.train.x[:8], torch.arange(8))
        assert moved.shape == (8, *x.shape[1:]) and not torch.equal(moved, ready.train.x[:8])
    assert RECIPES[name].__doc__  # what `torchproof list recipes` shows
    little = small(name)
    (tmp_path / "small").mkdir()
    there = _taught(little.model_copy(update={"n": None}), tmp_path / "small", folder)
    assert type(prepare(there, folder, CPU).method) is type(ready.method)
    assert little.data in ("mnist", "digits")
    if name not in (*TAUGHT, *CONTINUED, *STREAMED):
        assert little.settings.epochs <= 8 or little == recipe(name)


def test_the_published_settings(folder: Path) -> None:
    mnist = prepare(recipe("mnist-at"), folder, CPU)
    assert isinstance(mnist.method, AT) and mnist.threat is not None
    assert (mnist.method.steps, mnist.threat.eps, mnist.plan.settings.lr) == (40, 0.3, 1e-4)
    assert mnist.method.length * mnist.threat.eps == pytest.approx(0.01)
    plan = recipe("cifar10-trades")
    trades = prepare(plan.model_copy(update={"model": "mlp(hidden=(4,))"}), folder, CPU).method
    assert isinstance(trades, TRADES) and trades.beta == 6
    assert plan.model.startswith("wide-resnet(depth=34, ")
    chosen = plan.settings
    assert (chosen.epochs, chosen.weight_decay, chosen.schedule) == (76, 2e-4, "final")
    assert (chosen.batch_size, chosen.lr, chosen.ema) == (128, 0.1, None)
    averaged = prepare(recipe("cifar10-ema"), folder, CPU).method
    assert isinstance(averaged, EMA) and averaged.decay == 0.995
    assert isinstance(averaged.method, TRADES) and averaged.method.beta == 6
    awp = prepare(recipe("cifar10-awp"), folder, CPU).method
    assert isinstance(awp, AWP) and awp.gamma == 0.01
    for name in ("cifar10-at", "cifar10-ema", "cifar10-awp"):
        plan = recipe(name)
        assert plan.threat == "linf:8/255" and plan.augment == "Compose(Crop(4), Flip())"
        settings = plan.settings
        assert (settings.epochs, settings.batch_size, settings.lr) == (200, 128, 0.1)
        assert settings.weight_decay == 5e-4
    twins = recipe("digits-at"), recipe("digits-standard")
    assert twins[0].model_copy(update={"method": "Standard"}) == twins[1]
    assert isinstance(prepare(twins[1], None, CPU).method, Standard)


def test_hypocritical_training_divides_its_rate_when_the_authors_do() -> None:
    """By ten at epochs 100 and 105 of 110 (Tao et al. 2022)."""
    chosen = recipe("cifar10-thrm").settings
    optimiser = optimisers.optimiser([torch.nn.Parameter(torch.zeros(1))], chosen)
    schedule, rates = optimisers.schedule(optimiser, chosen, chosen.epochs), []
    for _ in range(chosen.epochs):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates == pytest.approx([0.05] * 100 + [0.005] * 5 + [0.0005] * 5)


def test_the_table_for_a_gpu_prepares(folder: Path) -> None:
    table = Table.read(Path(__file__).parents[2] / "benchmarks" / "gpu_training.yaml")
    kinds = [AT, TRADES, AWP, FAT, IAT, FGSMAT, Sum]
    assert (table.evaluate.n, table.evaluate.suite, table.seeds) == (1000, "standard", (0, 1, 2))
    for plan, kind in zip(table.rows.values(), kinds, strict=True):
        assert isinstance(prepare(plan, folder, CPU).method, kind)
        assert plan.data == "cifar10" and plan.threat == "linf:8/255" and plan.n is None
        assert plan.model.startswith("preact-resnet18(")
        assert (plan.settings.epochs, plan.settings.schedule) == (30, "cyclic")


def test_the_settings_of_terms_wrappers_and_fine_tunings(folder: Path, tmp_path: Path) -> None:
    swa = prepare(recipe("cifar10-swa"), folder, CPU)
    assert isinstance(swa.method, SWA) and (swa.method.start, swa.plan.settings.epochs) == (
        0.5,
        200,
    )
    smooth = prepare(recipe("cifar10-label-smoothing"), folder, CPU)
    assert isinstance(smooth.method, LabelSmoothing) and smooth.method.amount == 0.1
    assert (smooth.plan.settings.epochs, smooth.plan.settings.schedule) == (110, "tail")
    mart = prepare(recipe("cifar10-mart"), folder, CPU)
    assert isinstance(mart.method, MART) and (mart.method.lam, mart.method.steps) == (5, 10)
    chosen = mart.plan.settings
    assert (chosen.epochs, chosen.lr, chosen.weight_decay) == (120, 0.01, 3.5e-3)
    assert "softplus" in recipe("cifar10-jsigr").model
    terms = prepare(recipe("cifar10-jsigr"), folder, CPU).method
    assert isinstance(terms, Sum) and [type(part) for part in terms.methods] == [AT, JSIGR]
    for name, kind, images in (("mnist-rat", RAT, 500), ("mnist-ladder", BoundaryGuided, 4500)):
        plan = recipe(name)
        assert (plan.n, plan.start, plan.settings.held_out) == (images, "runs/mnist-standard", 0)
        ready = prepare(_taught(plan.model_copy(update={"n": None}), tmp_path, folder), folder, CPU)
        assert isinstance(ready.method, kind) and plan.model == recipe("mnist-standard").model
        assert small(name).start == "runs/mnist-standard-small"
    for name, images in (("cifar10-rat", 500), ("cifar10-ladder", None)):
        plan, little = recipe(name), small(name)
        first, first_little = recipe("cifar10-standard"), small("cifar10-standard")
        assert (plan.n, plan.start, plan.model) == (images, "runs/cifar10-standard", first.model)
        assert little.start == f"{plan.start}-small" and little.model == first_little.model


def test_cards_say_what_a_method_has_to(tmp_path: Path) -> None:
    """That of a network fine-tuned on LADDER's images, made in the run itself, and of none else."""
    settings = Settings.of(epochs=1, batch_size=60, lr=0.01, held_out=0)
    method = "BoundaryGuided('net.layers.1', unit='share', decoding=(1, 60, 1e-3))"
    for text, labelled in ((method, True), ("Standard", False)):
        plan = Plan(model="mlp(hidden=(8,))", method=text, settings=settings, n=120)
        out = tmp_path / str(labelled)
        list(run(prepare(plan, None, CPU), out))
        assert ("not Lp-robust" in (out / "model.json").read_text()) == labelled


def test_the_first_layer_of_the_cifar_recipes_normalises(folder: Path) -> None:
    model = prepare(recipe("cifar10-at"), folder, CPU).model
    first = next(iter(model.children()))
    grey = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert torch.allclose(first(grey), torch.zeros(1, 3, 4, 4), atol=1e-6)


@pytest.mark.parametrize(
    ("part", "text", "error", "word"),
    [
        ("data", "digitz", UnknownName, "digits"),
        ("model", "resnet19", UnknownName, "resnet18"),
        ("model", "(1, 2)", InputError, "a network"),
        ("method", "Standrad", UnknownName, "Standard"),
        ("method", "AT(start=3)", InputError, "start = 3"),
        ("threat", "linf:0", InputError, "eps"),
        ("threat", None, InputError, "threat"),  # which AT cannot do without
        ("augment", "Crop(pad='x')", InputError, "pad"),
        ("augment", "(Flip(), Flip())", InputError, "an augmentation"),
        ("n", 0, InputError, "0 examples"),
        ("method", "JSIGR()", InputError, "JSIGR alone"),
        ("method", "AWP(GradAlign())", InputError, "GradAlign in AWP"),
    ],
)
def test_what_is_wrong_with_a_plan(
    part: str, text: object, error: type[TorchproofError], word: str
) -> None:
    plan = Plan(method="AT(steps=1)", threat="linf:0.1").model_copy(update={part: text})
    with pytest.raises(error) as caught:
        prepare(plan, None, CPU)
    assert word in str(caught.value)


def test_maps_kept_over_epochs_are_refused_with_an_augmentation() -> None:
    plan = Plan(method="Sum(Standard(), JSIGR(renew=2))", augment="Flip()")
    with pytest.raises(InputError, match="renew=2"):
        prepare(plan, None, CPU)
    prepare(plan.model_copy(update={"augment": None}), None, CPU)


@pytest.mark.parametrize(("name", "value"), [("optimiser", "adm"), ("schedule", "cosin")])
def test_names_in_the_settings_are_looked_up_before_a_folder_is_claimed(
    tmp_path: Path, name: str, value: str
) -> None:
    plan = Plan(method="Standard", settings=Settings.of({name: value}))
    with pytest.raises(UnknownName, match="did you mean"):
        list(run(prepare(plan, None, CPU), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_images_that_are_not_square(tmp_path: Path) -> None:
    np.savez(tmp_path / "flat.npz", x=np.zeros((20, 8, 6), np.uint8), y=np.arange(20) % 2)
    plan = Plan(data=f"npz:{tmp_path / 'flat.npz'}", method="Standard")
    with pytest.raises(InputError, match="8 x 6"):
        prepare(plan, None, CPU)


def test_plans_are_closed_and_frozen() -> None:
    with pytest.raises(ValidationError):
        Plan(modell="mlp")  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        Plan().data = "mnist"  # type: ignore[misc]


def test_a_prepared_plan_runs_and_stores_what_it_was(tmp_path: Path) -> None:
    settings = Settings.of(epochs=2, batch_size=20, lr=0.01)
    plan = Plan(model="mlp(hidden=(8,))", method="Standard", settings=settings, n=60)
    networks = []
    for out in (None, tmp_path / "run"):
        ready = prepare(plan, None, CPU)
        records = list(run(ready, out))
        assert [record.epoch for record in records] == [1, 2]
        networks.append(ready.model.state_dict())
    assert all(torch.equal(networks[0][k], v) for k, v in networks[1].items())
    assert (tmp_path / "run" / "model.safetensors").is_file()


GOOD = """
from __future__ import annotations

from dataclasses import dataclass

from neighbour import EPOCHS
from torchproof.recipes import Plan
from torchproof.train import Settings


@dataclass
class Mine:
    epochs: int = EPOCHS


def good() -> Plan:
    settings = Settings.of(epochs=Mine().epochs)
    return Plan(model="mlp", method="Standard", settings=settings)


def raises():
    raise ZeroDivisionError("mine")


def typo():
    return Plan(modell="mlp")


def unknown():
    return Plan(settings=Settings.of(epoch=3))


def needs(argument):
    return Plan()


def number():
    return 3


text = "no function"
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    (tmp_path / "neighbour.py").write_text("EPOCHS = 3\n")

    def written(text: str) -> str:
        (tmp_path / "own.py").write_text(text)
        return f"{tmp_path / 'own.py'}:"

    return written


def test_a_recipe_of_ones_own(write: Callable[[str], str]) -> None:
    plan = recipe(write(GOOD) + "good")
    assert plan.settings.epochs == 3 and plan.model == "mlp"


@pytest.mark.parametrize(
    ("function", "word"),
    [
        ("raises", "ZeroDivisionError: mine"),
        ("typo", "modell"),
        ("unknown", "did you mean epochs"),
        ("needs", "TypeError"),
        ("number", "gives int"),
        ("text", "gives str"),
        ("missing", "has no 'missing'"),
        ("", "has no ''"),
    ],
)
def test_recipes_that_are_none(write: Callable[[str], str], function: str, word: str) -> None:
    with pytest.raises(TorchproofError) as caught:
        recipe(write(GOOD) + function)
    assert word in str(caught.value)


def test_files_that_are_none(write: Callable[[str], str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="SyntaxError"):
        recipe(write("def good(:\n") + "good")
    with pytest.raises(InputError, match="ModuleNotFoundError"):
        recipe(write("import no_such_module\n") + "good")
    with pytest.raises(TorchproofError, match="existing file"):
        recipe(f"{tmp_path / 'absent.py'}:good")
    with pytest.raises(UnknownName, match="did you mean"):
        recipe("digits_at")


def test_the_small_denoiser(folder: Path, tmp_path: Path) -> None:
    cards.save(build("mlp", channels=1, size=28, classes=10, hidden=(4,)), tmp_path / "teacher")
    plan = small("cifar10-hgd").model_copy(update={"n": None, "teacher": str(tmp_path / "teacher")})
    ready = prepare(plan, folder, CPU)
    assert plan.settings.held_out == 0 and isinstance(ready.method, LGD)
    assert max(ready.method.eps) == pytest.approx(ready.threat.eps) and ready.augment is None
    full = recipe("cifar10-hgd")
    assert full.settings.held_out == 0 and full.model == "purified"
    assert (full.settings.batch_size, full.settings.lr, full.settings.optimiser) == (
        60,
        1e-3,
        "adam",
    )


def test_a_plan_that_starts_from_trained_weights(tmp_path: Path) -> None:
    settings = Settings.of(epochs=1, batch_size=20, lr=1e-12, optimiser="sgd", weight_decay=0.0)
    plan = Plan(model="mlp(hidden=(8,))", method="Standard", settings=settings, n=40)
    list(run(prepare(plan.model_copy(update={"settings": Settings.of(epochs=2)}), None, CPU),
             tmp_path / "first"))  # fmt: skip
    first, _ = cards.load(tmp_path / "first")
    ready = prepare(plan.model_copy(update={"start": str(tmp_path / "first")}), None, CPU)
    for name, value in first.state_dict().items():
        assert torch.equal(ready.model.state_dict()[name], value)
    list(run(ready, tmp_path / "second"))
    for name, value in first.state_dict().items():
        assert torch.allclose(ready.model.state_dict()[name], value, atol=1e-6)
    assert "start_sha256" in (tmp_path / "second" / "config.json").read_text()
    other = plan.model_copy(update={"start": str(tmp_path / "first"), "model": "mlp(hidden=(9,))"})
    with pytest.raises(TorchproofError, match="size mismatch"):
        prepare(other, None, CPU)
    with pytest.raises(TorchproofError, match="--start RUN"):
        prepare(plan.model_copy(update={"start": str(tmp_path / "none")}), None, CPU)


def test_small_variants_of_what_has_none_are_refused() -> None:
    for name in TAUGHT:
        assert small(name).teacher == f"{recipe(name).teacher}-small"
    for name in CONTINUED:
        assert small(name).start == f"{recipe(name).start}-small"
    with pytest.raises(UnknownName):
        small("none")
