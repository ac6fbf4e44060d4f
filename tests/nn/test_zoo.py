"""Checkpoints in the layout of RobustBench's zoo: found, stripped, and never guessed at."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import FileError, InputError, UnknownName
from torchproof.nn import build, load_model
from torchproof.nn.robustbench import ZOO, in_zoo, load_zoo, options_of

X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def stored(tmp_path: Path, place: str, content: Any) -> Path:
    path = tmp_path / "models" / f"{place}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def bare(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the network alone, as other people's code names it."""
    return {k.removeprefix("net."): v for k, v in model.state_dict().items() if "norma" not in k}


def test_a_known_name_says_which_network_it_is(tmp_path: Path) -> None:
    net = build("resnet18", channels=3, size=32, classes=10, seed=1).eval()
    state = {f"module.{k}": v for k, v in bare(net).items()}
    path = stored(tmp_path, "cifar10/L2/Sehwag2021Proxy_R18", {"state_dict": state, "epoch": 3})
    loaded = load_model(str(path))
    assert loaded.name == "Sehwag2021Proxy_R18 (resnet18)" and not loaded.model.training
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(X), net(X))


def test_the_last_of_two_and_the_first_layer_of_the_table(tmp_path: Path) -> None:
    """A pre-activation network, against its layers written out one by one."""
    net = build("preact-resnet18", channels=3, size=32, classes=10, seed=2, final_norm=True)
    for name, buffer in net.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(3))
    state = bare(net)
    wrong = {k: torch.zeros_like(v) for k, v in state.items()}
    name = "cifar10/corruptions/Kireev2021Effectiveness_RLAT"
    loaded = load_zoo(stored(tmp_path, name, {"last": state, "best": wrong}))
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2471, 0.2435, 0.2616])
    x = (X - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(X), written_out(state, x), rtol=1e-4, atol=1e-4)


def written_out(p: dict[str, Tensor], x: Tensor) -> Tensor:
    """PreActResNet-18 with a final norm, shortcuts of the rectified input (Rice et al. 2020)."""

    def norm(x: Tensor, at: str) -> Tensor:
        spread = torch.sqrt(p[f"{at}.running_var"] + 1e-5)
        scale = p[f"{at}.weight"] / spread
        shift = p[f"{at}.bias"] - p[f"{at}.running_mean"] * scale
        return F.relu(x * scale[:, None, None] + shift[:, None, None])

    x = F.conv2d(x, p["conv1.weight"], padding=1)
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            at, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            out = norm(x, f"{at}.bn1")
            short = p.get(f"{at}.shortcut.0.weight")
            kept = x if short is None else F.conv2d(out, short, stride=stride)
            out = F.conv2d(out, p[f"{at}.conv1.weight"], stride=stride, padding=1)
            out = F.conv2d(norm(out, f"{at}.bn2"), p[f"{at}.conv2.weight"], padding=1)
            x = out + kept
    x = norm(x, "bn").mean((2, 3))
    return x @ p["linear.weight"].T + p["linear.bias"]


def test_a_network_of_ones_own_needs_its_architecture(tmp_path: Path) -> None:
    net = build("wide-resnet", channels=3, size=32, classes=100, depth=10, width=1, seed=0).eval()
    mu, sigma = torch.full((1, 3, 1, 1), 0.4), torch.full((1, 3, 1, 1), 0.2)
    state = {f"model.{k}": v for k, v in bare(net).items()} | {"mu": mu, "sigma": sigma}
    state["model.sub_block1.layer.0.conv1.weight"] = torch.zeros(1)  # TRADES' unused stage
    path = stored(tmp_path, "cifar100/Linf/Mine2026Net", state)
    loaded = load_zoo(path, architecture="WideResNet-10-1")
    with torch.no_grad():
        torch.testing.assert_close(loaded(X), net((X - 0.4) / 0.2))
    with pytest.raises(FileError, match="no network of that name") as caught:
        load_model(str(path))
    assert "load_zoo" in caught.value.remedy
    with pytest.raises(UnknownName, match="WideResNet-28-10"):
        load_zoo(path, architecture="WideResnet-28-10")
    with pytest.raises(FileError, match="weights that lack"):
        load_zoo(path, architecture="WideResNet-16-1")


def test_a_network_that_only_looks_the_same_is_refused(tmp_path: Path) -> None:
    net = build("preact-resnet18", channels=3, size=32, classes=10, width=4, seed=0)
    path = stored(tmp_path, "cifar10/Linf/Wong2020Fast", bare(net))
    with pytest.raises(FileError, match="shortcuts take the raw input"):
        load_zoo(path)


def test_no_file_runs_code(tmp_path: Path) -> None:
    path = tmp_path / "cifar10" / "Linf" / "Standard.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps({"state_dict": Path("x")}))
    with pytest.raises(FileError, match="without running code"):
        load_model(str(path))
    with pytest.raises(FileError, match="a file of weights"):
        load_model(str(path.with_name("Carmon2019Unlabeled.pt")))


def test_only_the_layout_of_the_zoo_is_taken(tmp_path: Path) -> None:
    assert in_zoo(Path("a/cifar10/Linf/N.pt")) and in_zoo(Path("cifar100/corruptions/N.pt"))
    for other in ("a/mnist/Linf/N.pt", "cifar10/linf/N.pt", "cifar10/Linf/N.pth", "N.pt"):
        assert not in_zoo(Path(other))
    with pytest.raises(InputError, match=r"cifar10/Linf/NAME\.pt"):
        load_zoo(tmp_path / "N.pt")


def test_every_name_of_the_table_has_a_network() -> None:
    assert {place.split("/")[0] for place in ZOO} == {"cifar10", "cifar100"}
    assert sum(map(len, ZOO.values())) > 60
    for names in ZOO.values():
        for architecture, (mean, std) in names.values():
            model, options = options_of(architecture)
            assert len(mean) == len(std) == 3 and min(std) > 0
            assert model != "wide-resnet" or (int(options["depth"]) - 4) % 6 == 0
    assert ZOO["cifar10/Linf"]["Rice2020Overfitting"][0] == "WideResNet-34-20"
    assert ZOO["cifar10/L2"]["Rice2020Overfitting"][0] == "PreActResNet-18-BN"
