"""Runs: records, resumption, refusals, other theories on stored counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import FileError, InputError, ModelError, ResumeError, UnknownName
from torchproof.core.journal import read_records
from torchproof.verify.smoothing import ABSTAIN, Ablation, Gaussian, Smoothing, certify

X = torch.rand(6, 1, 3, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])
QUICK = Smoothing(0.5, n0=20, n=200, alpha=0.01)


def linear(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).double()


class Killed(BaseException):
    """What a signal does: no handler of ours sees it."""


def timeless(path: Path) -> list[dict[str, Any]]:
    """The records of a folder in the order of the file, without what a clock said."""
    records, size = read_records(path / "records.jsonl")
    assert size == (path / "records.jsonl").stat().st_size
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records]


def test_a_constant_classifier_gets_the_largest_radius() -> None:
    def constant(x: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0, 0.0]]).expand(len(x), 3)

    for noise in ("gaussian", "laplace", "uniform"):
        smoothing = Smoothing(0.25, noise, n0=10, n=1000)
        log = smoothing(constant, X, torch.ones_like(Y)).log()
        assert log.radii == pytest.approx(smoothing.largest, rel=1e-12)
        assert log.acr == pytest.approx(smoothing.largest)
        assert (log.predictions == 1).all() and log.abstained == 0
    assert Smoothing(0.25).largest == pytest.approx(0.953, abs=5e-4)


def test_records_say_what_certify_says_of_separate_samples(tmp_path: Path) -> None:
    from torchproof.verify.smoothing.counting import class_counts

    ids = torch.tensor([4, 9, 1, 0, 7, 3])
    run = QUICK(linear(), X, Y, ids, 3, tmp_path / "run")
    first = class_counts(linear(), X, Gaussian(0.5), 20, ids, 3, "selection")
    then = class_counts(linear(), X, Gaussian(0.5), 200, ids, 3, "estimation")
    for row, record in enumerate(run.records):
        found = certify(first[row], then[row], Gaussian(0.5), 0.01)
        assert record["counts"] == then[row].tolist() and record["id"] == ids[row]
        assert record["prediction"] == found.prediction and record["radius"] == found.radius
        assert record["label"] == Y[row] and record["seconds"] >= 0
    lines = (tmp_path / "run" / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ids.tolist()  # plain JSON for others
    assert {ABSTAIN} < {r["prediction"] for r in run.records}


@pytest.mark.parametrize("cut", ["between", "within"])
def test_a_killed_run_resumes_to_the_same_records(tmp_path: Path, cut: str) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = QUICK(linear(), X, Y, out=whole)
    calls = 0

    class Mortal(nn.Sequential):
        def forward(self, x: Tensor) -> Any:
            nonlocal calls
            calls += 1
            if calls == 9:
                raise Killed
            return super().forward(x)

    with pytest.raises(Killed):
        QUICK(Mortal(*linear()), X, Y, out=parts)
    kept = timeless(parts)
    assert 0 < len(kept) < 6
    if cut == "within":
        with (parts / "records.jsonl").open("ab") as file:
            file.write(b'{"id":3,"label":0,"pred')
    told: list[tuple[int, int]] = []
    again = QUICK(
        linear(), X, Y, out=parts, resume=True, slots=33, progress=lambda *s: told.append(s)
    )
    assert timeless(parts) == timeless(whole) and told[-1] == (6, 6)
    assert (again.log().radii == expected.log().radii).all()
    # a run that is complete is read, not repeated
    before = (parts / "records.jsonl").read_bytes()
    QUICK(linear(), X, Y, out=parts, resume=True)
    assert (parts / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"smoothing": Smoothing(0.25, n0=20, n=200, alpha=0.01)}, "noise"),
        ({"smoothing": Smoothing(0.5, "laplace", n0=20, n=200, alpha=0.01)}, "Laplace"),
        ({"smoothing": Smoothing(0.5, n0=20, n=201, alpha=0.01)}, "n: 201"),
        ({"smoothing": Smoothing(0.5, n0=21, n=200, alpha=0.01)}, "n0: 21"),
        ({"smoothing": Smoothing(0.5, n0=20, n=200, alpha=0.02)}, "alpha"),
        ({"smoothing": Smoothing(0.5, n0=20, n=200, alpha=0.01, runner_up=True)}, "runner_up"),
        ({"seed": 1}, "seed"),
        ({"model": linear(1)}, "model_sha256"),
        ({"x": X.flip(0)}, "data_sha256"),
        ({"y": Y.flip(0)}, "data_sha256"),
        ({"ids": torch.arange(1, 7)}, "data_sha256"),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    given = {"smoothing": QUICK, "model": linear(), "x": X, "y": Y, "ids": None, "seed": 0}
    QUICK(linear(), X, Y, out=tmp_path)
    before = (tmp_path / "records.jsonl").read_bytes()
    smoothing, *rest = (given | change).values()
    with pytest.raises(ResumeError, match=said):
        smoothing(*rest, out=tmp_path, resume=True)
    assert (tmp_path / "records.jsonl").read_bytes() == before


def test_weights_of_any_type_are_fingerprinted(tmp_path: Path) -> None:
    def model(mean: float) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(9, 3)).bfloat16()
        assert isinstance(made[0].running_mean, Tensor)
        made[0].running_mean.fill_(mean)
        return made

    QUICK(model(0.25), X, Y, out=tmp_path)
    QUICK(model(0.25).train(), X, Y, out=tmp_path, resume=True)
    with pytest.raises(ResumeError, match="model_sha256"):
        QUICK(model(0.5), X, Y, out=tmp_path, resume=True)


def test_folders_that_hold_something_else(tmp_path: Path) -> None:
    QUICK(linear(), X, Y, out=tmp_path / "run")
    with pytest.raises(FileError, match="a new folder"):
        QUICK(linear(), X, Y, out=tmp_path / "run")
    path = tmp_path / "run" / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b'"label":1', b'"label":2'), *lines[2:]]))
    with pytest.raises(FileError, match="damaged in line 2 of 6"):
        QUICK(linear(), X, Y, out=tmp_path / "run", resume=True)
    (tmp_path / "run" / "settings.json").write_text("{")
    with pytest.raises(FileError, match=r"settings\.json"):
        QUICK(linear(), X, Y, out=tmp_path / "run", resume=True)
    with pytest.raises(FileError, match="records"):
        read_records(tmp_path / "none")


def test_stored_counts_under_other_theories() -> None:
    run = Smoothing(0.5, n0=50, n=2000)(linear(), X, Y)
    tight = run.log()
    for by in ("differential-privacy", "renyi", "hellinger", "hockey-stick"):
        log = run.log(by)
        assert (log.predictions == tight.predictions).all()
        assert (log.radii <= tight.radii * (1 + 1e-9)).all() and log.acr > 0
    assert (run.log(runner_up=True).radii != tight.radii).any()
    with pytest.raises(UnknownName, match="renyi"):
        run.log("reny")


def test_ablation_certifies_pixels() -> None:
    def bright(x: Tensor) -> Tensor:  # with a pixel to see, the class is certain
        z = x.flatten(1).sum(1) - 0.1
        return torch.stack([-z, z], 1)

    smoothing = Smoothing(None, Ablation(2, 9), n0=10, n=2000)
    log = smoothing(bright, torch.ones(2, 1, 3, 3), torch.tensor([1, 1])).log()
    # with r of 9 black, none of two kept ones is white for C(r, 2) of 36: half of them at r = 7
    assert (log.radii == smoothing.largest).all() and smoothing.largest == 2
    assert smoothing.kernel.norm == "l0"


def test_predictions() -> None:
    smoothing = Smoothing(0.5, n=300)
    found = smoothing.predict(linear(), X)
    assert found.shape == (6,) and found.dtype == torch.int64
    assert torch.equal(found, smoothing.predict(linear(), X, slots=17))
    sure = (found != ABSTAIN).numpy()
    log = Smoothing(0.5, n0=2000, n=2000)(linear(), X, Y).log()
    candidates = [r["candidate"] for r in Smoothing(0.5, n0=2000, n=2000)(linear(), X, Y).records]
    assert sure.sum() >= 3 and (found.numpy()[sure] == np.array(candidates)[sure]).all()
    assert len(log) == 6


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (("sigma", 0.0), InputError, "sigma"),
        (("sigma", float("nan")), InputError, "sigma"),
        (("sigma", None), InputError, "a Noise alone"),
        (("noise", "gauss"), UnknownName, "gaussian"),
        (("noise", Gaussian(0.5)), InputError, "a Noise alone"),
        (("n0", 0), InputError, "n0"),
        (("n", 1.5), InputError, "n = 1.5"),
        (("alpha", 1.5), InputError, "alpha"),
    ],
)
def test_settings_are_checked_when_made(given: tuple[str, Any], error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        Smoothing(**({"sigma": 0.5} | dict([given])))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"x": X * 255}, InputError, "divide by 255"),
        ({"y": Y + 5}, InputError, "label"),
        ({"ids": torch.zeros(6, dtype=torch.int64)}, InputError, "different"),
        ({"seed": -1}, InputError, "seed"),
        ({"slots": 0}, InputError, "slots"),
        ({"model": lambda x: x.flatten(1) * float("nan")}, ModelError, "NaN"),
    ],
)
def test_bad_input_is_refused_before_a_folder_is_made(
    tmp_path: Path, change: dict[str, Any], error: Any, said: str
) -> None:
    given = {"model": linear(), "x": X, "y": Y} | change
    with pytest.raises(error, match=said):
        QUICK(**given, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
