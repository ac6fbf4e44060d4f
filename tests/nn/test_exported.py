"""Exported programs: the same answers as torch's own reader, and nothing in the file is run."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import FileError, ModelError
from torchproof.nn import build, load_model

Edit = Callable[[dict[str, bytes]], None]


class Various(nn.Module):
    """In-place steps, constants, several answers of one step, sizes that depend on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(64, 6)
        self.shift = torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0, -6.0])

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.act(self.bn(self.conv(x.mul(1).sub_(0.5)))))
        first, second = h.chunk(2, 1)
        h = torch.cat([second.sigmoid(), first.tanh()], 1).view(x.size(0), -1)
        top = torch.nn.functional.max_pool2d(x, 4).flatten(1).max(1).values
        return self.fc(h) * self.shift + top[:, None] + torch.ones(x.size(0), 6)


def exported(model: nn.Module, path: Path, batch: int | None, decompose: bool = False) -> Path:
    """`model` for images (B, 2, 8, 8) in a .pt2 file, for a fixed batch or any."""
    example = torch.rand(batch or 2, 2, 8, 8)
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model.eval(), (example,), dynamic_shapes=shapes)
    torch.export.save(program.run_decompositions({}) if decompose else program, path)
    return path


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    model = Various()
    for values in model.parameters():
        nn.init.normal_(values, std=0.5, generator=torch.Generator().manual_seed(1))
    model(torch.rand(16, 2, 8, 8))
    return model.eval()


@pytest.fixture(scope="module")
def archive(trained: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(trained, tmp_path_factory.mktemp("pt2") / "net.pt2", None)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # of torch's run_decompositions
@pytest.mark.parametrize(
    ("batch", "decompose"), [(None, False), (1, False), (4, False), (None, True), (4, True)]
)
def test_answers_and_gradients_are_the_model_s(
    tmp_path: Path, trained: nn.Module, batch: int | None, decompose: bool
) -> None:
    loaded = load_model(str(exported(trained, tmp_path / "net.pt2", batch, decompose)))
    assert loaded.name == "net.pt2" and len(loaded.sha256) == 64 and not loaded.card
    x = torch.rand(6, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    kept = x.clone()
    logits, expected = loaded.model(x.requires_grad_()), trained(x)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(x, kept)  # in-place steps reach no caller
    for before, after in zip(
        torch.autograd.grad(expected.square().sum(), x),
        torch.autograd.grad(logits.square().sum(), x),
        strict=True,
    ):
        torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)
    for n in (1, 3, 5):
        torch.testing.assert_close(loaded.model(x[:n]), expected[:n], rtol=1e-4, atol=1e-5)


def test_weights_keep_their_names_and_follow_the_model(archive: Path, trained: nn.Module) -> None:
    model = load_model(str(archive)).model
    found = {k.removeprefix("steps.weights."): v for k, v in model.named_parameters()}
    assert found.keys() == dict(trained.named_parameters()).keys()
    assert all(torch.equal(found[k], v) for k, v in trained.named_parameters())
    assert all(v.requires_grad for v in found.values())
    assert model.double()(torch.rand(2, 2, 8, 8, dtype=torch.float64)).dtype == torch.float64


def test_it_can_be_copied_and_called_with_other_weights(archive: Path) -> None:
    model = load_model(str(archive)).model
    copied, x = copy.deepcopy(model), torch.rand(3, 2, 8, 8)
    assert torch.equal(copied(x), model(x))
    shifted = {k: v + 0.1 for k, v in model.named_parameters()}
    other = torch.func.functional_call(model, shifted, (x,))
    with torch.no_grad():
        for values in copied.parameters():
            values.add_(0.1)
    torch.testing.assert_close(other, copied(x))
    assert not torch.allclose(other, model(x))


def test_torch_s_own_reader_agrees(archive: Path) -> None:
    x = torch.rand(5, 2, 8, 8)
    expected = torch.export.load(archive).module()(x)
    torch.testing.assert_close(load_model(str(archive)).model(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["small-cnn", "preact-resnet18"])
def test_networks_of_the_table_survive_export(tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {} if name == "small-cnn" else {"width": 2}
    model = build(name, channels=2, size=8, classes=3, mean=0.5, std=0.2, seed=0, **options).eval()
    loaded = load_model(str(exported(model, tmp_path / "net.pt2", None)))
    x = torch.rand(3, 2, 8, 8)
    torch.testing.assert_close(loaded.model(x), model(x), rtol=0, atol=0)


def test_images_of_another_shape_are_refused(archive: Path) -> None:
    model = load_model(str(archive)).model
    with pytest.raises(ModelError, match=r"\(B, 2, 8, 8\)"):
        model(torch.rand(2, 3, 8, 8))
    with pytest.raises(ModelError, match=r"\(2, 2, 9, 9\)"):
        model(torch.rand(2, 2, 9, 9))


def edited(source: Path, target: Path, edit: Edit) -> Path:
    """The archive with its members, by their names below the top folder, changed by `edit`."""
    with zipfile.ZipFile(source) as old:
        members = {i.filename.partition("/")[2]: old.read(i) for i in old.infolist()}
    edit(members)
    with zipfile.ZipFile(target, "w") as new:
        for name, content in members.items():
            new.writestr(f"net/{name}", content)
    return target


def program(change: Callable[[dict[str, Any]], None]) -> Edit:
    """An edit of the JSON of the graph."""

    def edit(members: dict[str, bytes]) -> None:
        tree = json.loads(members["models/model.json"])
        change(tree)
        members["models/model.json"] = json.dumps(tree).encode()

    return edit


def node(tree: dict[str, Any], index: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = tree["graph_module"]["graph"]["nodes"][index]
    return found


def test_code_in_symbolic_sizes_and_guards_is_not_run(archive: Path, tmp_path: Path) -> None:
    """torch's own reader evaluates these texts; here they are not even looked at."""
    mark = tmp_path / "ran"
    code = f"__import__('os').mkdir({str(mark)!r})"

    def change(tree: dict[str, Any]) -> None:
        values = tree["graph_module"]["graph"]
        for meta in values["tensor_values"].values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code
        for value in values["sym_int_values"].values():
            value["as_expr"]["expr_str"] = code
        tree["guards_code"] = [code]

    path = edited(archive, tmp_path / "evil.pt2", program(change))
    x = torch.rand(3, 2, 8, 8)
    assert torch.equal(load_model(str(path)).model(x), load_model(str(archive)).model(x))
    assert not mark.exists()
    with pytest.raises(BaseException):  # noqa: B017  the threat is real: torch's reader runs it
        torch.export.load(path)
    assert mark.exists()


def pickled(members: dict[str, bytes]) -> None:
    name = "data/weights/model_weights_config.json"
    config = json.loads(members[name])
    config["config"]["fc.weight"]["use_pickle"] = True
    members[name] = json.dumps(config).encode()


def out_of_bounds(members: dict[str, bytes]) -> None:
    name = "data/weights/model_weights_config.json"
    config = json.loads(members[name])
    config["config"]["fc.weight"]["tensor_meta"]["storage_offset"] = {"as_int": 100_000}
    members[name] = json.dumps(config).encode()


def compiled(members: dict[str, bytes]) -> None:
    del members["models/model.json"]
    members["data/aotinductor/model/model.so"] = b"\x7fELF"


def rename(target: str) -> Edit:
    return program(lambda tree: node(tree).update(target=target))


REFUSED: list[tuple[Edit, str]] = [
    (pickled, "fc.weight pickled"),
    (out_of_bounds, "out of bounds"),
    (compiled, "compiled code"),
    (lambda members: members.pop("models/model.json") and None, "without models/model.json"),
    (lambda members: members.pop("data/weights/weight_0") and None, "weight_0"),
    (lambda members: members.update({"models/model.json": b"{"}), "JSONDecodeError"),
    (program(lambda tree: tree["schema_version"].update(major=99)), "schema 99"),
    (rename("torch.ops.aten.from_file.default"), "from_file"),
    (rename("torch.ops.aten.relu.__class__"), "__class__"),
    (rename("torch.ops.aten.add.out"), "add.out"),
    (rename("torch.ops.higher_order.cond"), "cond"),
    (rename("torch.hub.load"), r"torch\.hub\.load"),
    (rename("os.system"), r"os\.system"),
    (
        program(
            lambda tree: node(tree)["inputs"].append({"name": "f", "arg": {"as_operator": "x"}})
        ),
        "as_operator",
    ),
    (
        program(lambda tree: tree["graph_module"]["graph"]["nodes"].reverse()),
        "before",
    ),
    (
        program(
            lambda tree: tree["graph_module"]["signature"]["output_specs"].append({"token": {}})
        ),
        "logits out",
    ),
]


@pytest.mark.parametrize(("edit", "word"), REFUSED)
def test_what_is_refused(archive: Path, tmp_path: Path, edit: Edit, word: str) -> None:
    path = edited(archive, tmp_path / "bad.pt2", edit)
    with pytest.raises(FileError, match=word):
        load_model(str(path))


def test_training_mode_is_refused(tmp_path: Path) -> None:
    class Drops(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.dropout(x.flatten(1), 0.5, True)

    with pytest.raises(FileError, match="eval mode"):
        load_model(str(exported(Drops(), tmp_path / "train.pt2", None)))


def test_truncated_and_foreign_archives(archive: Path, tmp_path: Path) -> None:
    whole, path = archive.read_bytes(), tmp_path / "cut.pt2"
    for content in (b"", b"PK\x03\x04", whole[: len(whole) // 2], whole[:-30], b"hello"):
        path.write_bytes(content)
        with pytest.raises(FileError, match=r"cut\.pt2"):
            load_model(str(path))
    flipped = bytearray(whole)
    flipped[whole.index(b"data/weights/weight_0") + 120] ^= 255  # in the raw numbers
    path.write_bytes(bytes(flipped))
    with pytest.raises(FileError, match=r"cut\.pt2"):
        load_model(str(path))
    torch.save({"w": torch.zeros(1)}, path)
    with pytest.raises(FileError, match=r"without models/model\.json"):
        load_model(str(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("net/models/model.json", b" " * 1_000_000)
    with pytest.raises(FileError, match="compressed"):
        load_model(str(path))
    with pytest.raises(FileError, match="check the path"):
        load_model(str(tmp_path / "nowhere.pt2"))


def test_the_table_names_operators_that_exist() -> None:
    from torchproof.nn.aten import OPERATORS

    assert [name for name in sorted(OPERATORS) if not hasattr(torch.ops.aten, name)] == []
