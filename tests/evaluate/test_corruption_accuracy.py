"""Accuracy under corruptions, on models whose answers can be worked out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from torchproof.core.errors import InputError, UnknownName
from torchproof.corrupt import CORRUPTIONS, corrupt
from torchproof.evaluate.corruptions import FILE, NOTE, corruptions


class Brighter(nn.Module):
    """Says 1 where the mean value is above a half, 0 elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1) - self.level
        return torch.stack([-mean, mean], 1)


@pytest.fixture
def even() -> tuple[Tensor, Tensor]:
    """Twenty even grey images from dark to bright, with their right labels."""
    values = (torch.arange(20) + 0.5) / 20
    return values[:, None, None, None].expand(20, 1, 8, 8).contiguous(), (values > 0.5).long()


def test_brightness_turns_those_that_it_lifts_over_the_threshold(
    even: tuple[Tensor, Tensor],
) -> None:
    result = corruptions(Brighter(), even, ["brightness"], (1, 2, 3, 4, 5))
    values = (np.arange(20) + 0.5) / 20
    expected = []
    for lift in (0.05, 0.10, 0.15, 0.20, 0.30):
        right = (np.minimum(values + lift, 1) > 0.5) == (values > 0.5)
        expected.append(right.mean())
    (row,) = result.kinds
    assert row.accuracies == pytest.approx(expected)
    assert row.mean == pytest.approx(np.mean(expected)) == result.mean_accuracy
    assert result.clean_accuracy == 1 and result.forward == 20 * 6
    hits = round(20 * expected[-1])
    test = stats.binomtest(hits, 20).proportion_ci(method="exact")
    assert row.intervals[-1] == pytest.approx((test.low, test.high), abs=1e-6)
    low, high = row.mean_ci95
    assert low < row.mean < high


def test_a_mean_is_over_images_and_versions() -> None:
    """Against a loop, one image and one version at a time."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(7, 3, 8, 8, generator=g), torch.randint(2, (7,), generator=g)
    model, kinds, strengths = Brighter(), ["gaussian_noise", "fog", "contrast"], [2, 5]
    result = corruptions(model, (x, y), kinds, strengths, seed=3)
    right = np.zeros((3, 2, 7))
    for k, kind in enumerate(kinds):
        for s, strength in enumerate(strengths):
            for i in range(7):
                ids = torch.tensor([i])
                version = corrupt(x[i : i + 1], kind, strength, seed=3, ids=ids)
                right[k, s, i] = model(version).argmax(1).item() == y[i].item()
    assert result.mean_accuracy == pytest.approx(right.mean())
    for row, of in zip(result.kinds, right, strict=True):
        assert row.accuracies == pytest.approx(of.mean(1)) and row.mean == pytest.approx(of.mean())


def test_batches_do_not_matter_and_the_model_stays_as_it_was() -> None:
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(), nn.Flatten(), nn.Linear(64, 3)).train()
    net[0].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    g = torch.Generator().manual_seed(0)
    data = torch.rand(9, 1, 8, 8, generator=g), torch.randint(3, (9,), generator=g)
    state = torch.random.get_rng_state()
    one, all_ = (corruptions(net, data, ["snow", "frost"], slots=s) for s in (2, 64))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.kinds == all_.kinds and one.mean_accuracy == all_.mean_accuracy
    assert net.training and not net[0].training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_all_kinds_by_default_and_the_file_says_what_it_is(
    even: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    told: list[str] = []
    result = corruptions(
        Brighter(), even, strengths=(1,), n=10, name="net", command="c",
        progress=lambda p: told.append(p.stage),
    )  # fmt: skip
    assert [row.kind for row in result.kinds] == list(CORRUPTIONS) and result.n == 10
    assert told[0] == "clean" and len(told) == 16
    content = json.loads(result.save(tmp_path / "out").read_text())
    assert (tmp_path / "out" / FILE).is_file()
    assert content["schema"] == "torchproof.corruptions/1" and content["note"] == NOTE
    assert content["model"] == "net" and content["mean_accuracy"] == result.mean_accuracy
    assert "CIFAR-10-C" in NOTE and set(content["versions"]) == {"torchproof", "torch", "python"}


@pytest.mark.parametrize(
    ("kinds", "strengths", "said"),
    [
        (["fogg"], (1,), "did you mean fog"),
        ([], (1,), "at least one"),
        (["fog", "fog"], (1,), "each once"),
        (["fog"], (), "each once"),
        (["fog"], (6,), "some of 1, 2, 3, 4, 5"),
        (["fog"], (1, 1), "each once"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    kinds: list[str], strengths: tuple[int, ...], said: str, even: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises((InputError, UnknownName)) as caught:
        corruptions(Brighter(), even, kinds, strengths)
    assert said in str(caught.value)
