"""Models on disk: round trips, damaged and foreign files, names from elsewhere, no code run."""

from __future__ import annotations

import json
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from torchproof.core.errors import FileError, InputError
from torchproof.nn import Network, build, cards, fingerprint


def small(**options: Any) -> Network:
    """A network whose weights, and batch-norm statistics, are not those of a fresh one."""
    return build(
        "small-cnn",
        channels=2,
        size=8,
        classes=3,
        widths=(3, 4),
        hidden=5,
        batch_norm=True,
        **options,
    )


@pytest.fixture
def model() -> Network:
    made = small(mean=(0.1, 0.2), std=0.5, seed=1)
    made(torch.rand(8, 2, 8, 8))
    return made


@pytest.mark.parametrize("name", ["run", "weights.safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_is_bit_equal(
    tmp_path: Path, model: Network, name: str, dtype: torch.dtype
) -> None:
    path = tmp_path / "new" / name
    model = model.to(dtype)
    written = cards.save(model, path, {"training": {"epochs": 3}})
    before = torch.random.get_rng_state()
    loaded, card = cards.load(path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert card == written and card["training"] == {"epochs": 3}
    assert card["schema"] == "torchproof.model/1" and card["sha256"] == fingerprint(loaded)
    assert card["model"] == "small-cnn" and card["options"]["widths"] == [3, 4]
    assert not loaded.training and all(p.requires_grad for p in loaded.parameters())
    for key, value in model.state_dict().items():
        assert value.dtype == loaded.state_dict()[key].dtype, key
        assert torch.equal(value, loaded.state_dict()[key]), key
    x = torch.rand(4, 2, 8, 8, dtype=dtype)
    assert torch.equal(model.eval()(x), loaded(x))


def test_wrappers_leave_no_trace(tmp_path: Path, model: Network) -> None:
    compiled = nn.Module()  # what torch.compile gives, without the seconds its import takes
    compiled.add_module("_orig_mod", model)
    cards.save(nn.DataParallel(compiled), tmp_path)
    assert fingerprint(cards.load(tmp_path)[0]) == fingerprint(model)


def test_files_beside_each_other(tmp_path: Path, model: Network) -> None:
    cards.save(model, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["model.json", "model.safetensors"]
    card = json.loads((tmp_path / "model.json").read_text())
    assert card["options"]["mean"] == [0.1, 0.2] and card["options"]["std"] == 0.5


def test_an_interrupted_save_leaves_a_model_that_loads(
    tmp_path: Path, model: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards.save(model, tmp_path)
    old = fingerprint(model)
    other = small(seed=2)
    real = os.replace
    for dead, survives in ((".safetensors", old), (".json", fingerprint(other))):

        def fail(source: Any, target: Any, dead: str = dead) -> None:
            if str(target).endswith(dead):
                raise OSError(28, "No space left on device")
            real(source, target)

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(FileError, match="No space left"):
            cards.save(other, tmp_path)
        assert fingerprint(cards.load(tmp_path)[0]) == survives
        assert sorted(os.listdir(tmp_path)) == ["model.json", "model.safetensors"]


def test_damage_is_refused(tmp_path: Path, model: Network) -> None:
    cards.save(model, tmp_path)
    weights, card = tmp_path / "model.safetensors", tmp_path / "model.json"
    good, text = weights.read_bytes(), card.read_text()
    for length in (0, 4, 100, len(good) // 2, len(good) - 1):
        weights.write_bytes(good[:length])
        with pytest.raises(FileError, match=r"model\.safetensors"):
            cards.load(tmp_path)
    flipped = bytearray(good)
    flipped[-1] ^= 1  # in the last weight: everything still parses
    weights.write_bytes(bytes(flipped))
    with pytest.raises(FileError, match="fingerprint"):
        cards.load(tmp_path)
    weights.write_bytes(good)
    for damaged in ("", text[: len(text) // 2], "[]", '{"schema": "other/1"}', "\x00"):
        card.write_text(damaged)
        with pytest.raises(FileError, match=r"model\.json"):
            cards.load(tmp_path)
    card.write_text(json.dumps({**json.loads(text), "options": {"channels": 2}}))
    with pytest.raises(FileError, match="options of small-cnn"):
        cards.load(tmp_path)
    card.unlink()  # the header of the weights has it too
    assert fingerprint(cards.load(tmp_path)[0]) == fingerprint(model)


def test_what_a_card_may_not_be(tmp_path: Path, model: Network) -> None:
    with pytest.raises(InputError, match="JSON"):
        cards.save(model, tmp_path, {"training": {"loss": float("nan")}})
    with pytest.raises(InputError, match="JSON"):
        cards.save(model, tmp_path, {"training": torch.zeros(1)})
    with pytest.raises(InputError, match="safetensors"):
        cards.save(model, tmp_path / "model.pt")
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileError, match="check the path"):
        cards.load(tmp_path / "nowhere")
    save_file(cards.state_of(model), tmp_path / "bare.safetensors")
    with pytest.raises(FileError, match="without a card"):
        cards.load(tmp_path / "bare.safetensors")


def test_a_module_from_elsewhere_is_saved_but_not_rebuilt(tmp_path: Path) -> None:
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    cards.save(tied, tmp_path, {"model": "mine.py:net"})
    with pytest.raises(FileError, match=r"mine\.py:net"):
        cards.load(tmp_path)
    fresh = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    assert cards.load_state(fresh, cards.read_foreign(tmp_path / "model.safetensors")) == []
    assert fingerprint(fresh) == fingerprint(tied)


WRAPPED: dict[str, Any] = {
    "module.": lambda state: {f"module.{k}": v for k, v in state.items()},
    "_orig_mod.": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    "model.": lambda state: {f"model.{k}": v for k, v in state.items()},
    "attacker.model.": lambda state: {f"module.attacker.model.{k}": v for k, v in state.items()},
}


@pytest.mark.parametrize("prefix", sorted(WRAPPED))
@pytest.mark.parametrize("bare", [False, True])
def test_prefixes_are_stripped_and_said(
    model: Network, prefix: str, bare: bool, caplog: pytest.LogCaptureFixture
) -> None:
    source = model.net if bare else model
    fresh = small(mean=(0.1, 0.2), std=0.5, seed=9)
    with caplog.at_level(logging.INFO):
        said = cards.load_state(fresh, WRAPPED[prefix](source.state_dict()))
    assert fingerprint(fresh) == fingerprint(model)
    assert any(repr(prefix) in line for line in said)
    assert all(line in caplog.text for line in said)
    assert any("net." in line for line in said) == bare
    assert any("kept the normalising layer" in line for line in said) == bare


def test_nothing_to_say_about_a_network_s_own_names(model: Network) -> None:
    assert cards.load_state(small(seed=4), model.state_dict()) == []


def test_the_layout_of_robustness_and_of_robustbench(model: Network) -> None:
    bare, mean = model.net.state_dict(), torch.tensor([0.25, 0.75]).reshape(2, 1, 1)
    robustness = {"module.normalizer.new_mean": mean, "module.normalizer.new_std": mean + 1}
    robustness |= {"module.attacker.normalize.new_mean": mean}
    robustness |= {f"module.model.{k}": v for k, v in bare.items()}
    robustness |= {f"module.attacker.model.{k}": v for k, v in bare.items()}
    bench = {"normalize.mean": mean.flatten(), "normalize.std": mean.flatten() + 1}
    bench |= {f"model.{k}": v for k, v in bare.items()}
    for state in (robustness, bench):
        fresh = small(seed=3)
        cards.load_state(fresh, state)
        assert fresh.normalise.mean.flatten().tolist() == [0.25, 0.75]
        assert fresh.options["mean"] == [0.25, 0.75] and fresh.options["std"] == [1.25, 1.75]
        x = torch.rand(3, 2, 8, 8)
        expected = model.net.eval()((x - mean) / (mean + 1))
        torch.testing.assert_close(fresh.eval()(x), expected)


def test_trades_carries_a_block_it_never_uses() -> None:
    made, fresh = (
        build("wide-resnet", channels=1, size=8, classes=2, depth=10, width=1, seed=s)
        for s in (0, 1)
    )
    state = {f"module.{k}": v for k, v in made.net.state_dict().items()}
    state |= {k.replace("block1", "sub_block1"): v for k, v in state.items() if "block1" in k}
    said = cards.load_state(fresh, state)
    assert any("sub_block1" in line for line in said)
    assert fingerprint(fresh) == fingerprint(made)


def test_weights_that_do_not_fit_change_nothing(model: Network) -> None:
    state, first = dict(model.state_dict()), fingerprint(fresh := small(seed=3))
    wrong = {
        "lack net.fc2.bias": {k: v for k, v in state.items() if k != "net.fc2.bias"},
        "have besides extra": {**state, "extra": torch.zeros(1)},
        r"net.fc2.bias of shape \(4,\)": {**state, "net.fc2.bias": torch.zeros(4)},
        "two different": {**state, "module.net.fc2.bias": torch.ones(3)},
    }
    for message, bad in wrong.items():
        with pytest.raises(FileError, match=message):
            cards.load_state(fresh, bad)
        assert fingerprint(fresh) == first
    old = {k: v for k, v in state.items() if "num_batches_tracked" not in k}
    cards.load_state(fresh, old)
    assert torch.equal(fresh.net.fc2.bias, model.net.fc2.bias)


@pytest.mark.parametrize("entry", [None, "state_dict", "model_state_dict", "model", "net"])
def test_foreign_pt_files(tmp_path: Path, model: Network, entry: str | None) -> None:
    state = model.state_dict()
    path = tmp_path / "their.pt"
    torch.save(state if entry is None else {entry: state, "epoch": 3, "best": 0.5}, path)
    found = cards.read_foreign(path)
    fresh = small(seed=7)
    assert cards.load_state(fresh, found) == []
    assert fingerprint(fresh) == fingerprint(model)


class Evil:
    """Unpickled, it would make a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_is_refused_and_its_code_not_run(tmp_path: Path, model: Network) -> None:
    mark, path = tmp_path / "ran", tmp_path / "evil.pt"
    payloads: list[Any] = [Evil(mark), {"state_dict": {"w": torch.zeros(1)}, "x": Evil(mark)}]
    for payload in payloads:
        torch.save(payload, path)
        with pytest.raises(FileError, match="without running code"):
            cards.read_foreign(path)
        path.write_bytes(pickle.dumps(payload))  # what torch.save wrote before version 1.6, nearly
        with pytest.raises(FileError, match="without running code"):
            cards.read_foreign(path)
        assert not mark.exists()
    torch.save(model, path)  # a whole module, honest, but its class must be imported
    with pytest.raises(FileError, match="safetensors"):
        cards.read_foreign(path)
    pickle.loads(pickle.dumps(Evil(mark)))  # the payload does work where pickles are read
    assert mark.exists()


def test_files_that_hold_no_weights(tmp_path: Path, model: Network) -> None:
    path = tmp_path / "their.pt"
    torch.save(model.state_dict(), path)
    whole = path.read_bytes()
    for content in (b"", b"PK", b"not a checkpoint at all", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(FileError, match=r"their\.pt"):
            cards.read_foreign(path)
    holds: list[Any] = [
        torch.zeros(3),
        {},
        {"epoch": 3},
        {"state_dict": {}},
        {"net": {"a": "text"}},
    ]
    for payload in holds:
        torch.save(payload, path)
        with pytest.raises(FileError, match="a state dict"):
            cards.read_foreign(path)
    with pytest.raises(FileError, match="check the path"):
        cards.read_foreign(tmp_path / "nowhere.pt")


def test_half_precision_weights_take_the_dtype_of_the_model(model: Network) -> None:
    half: dict[str, Tensor] = {
        k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()
    }
    fresh = small(seed=5)
    cards.load_state(fresh, half)
    assert fresh.net.fc1.weight.dtype == torch.float32
    assert torch.equal(fresh.net.fc1.weight, half["net.fc1.weight"].float())
