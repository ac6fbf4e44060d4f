"""Properties of the competition: a sample is read, and stored witnesses violate theirs."""

from __future__ import annotations

import csv
import gzip
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from torchproof.nn.onnx_graph import read_onnx
from torchproof.verify.vnnlib import Witness, read_property, recheck, violated

# inputs, outputs, cases, rows of the last one
SHAPES = {
    "acasxu": {(5, 5, 1, 1), (5, 5, 1, 4), (5, 5, 2, 3), (5, 5, 3, 2), (5, 5, 4, 1), (5, 5, 8, 1)},
    "cifar10_resnet": {(3072, 10, 9, 1)},
    "collins_rul_cnn": {(400, 1, 1, 2), (800, 1, 1, 2)},
    "marabou_cifar10": {(3072, 10, 1, 9)},
    "mnist_fc": {(784, 10, 9, 1)},
    "oval21": {(3072, 10, 9, 1)},
    "reach_prob_density": {(3, 3, 1, 5), (5, 5, 1, 5), (14, 14, 1, 2)},
    "safenlp": {(30, 2, 1, 1)},
    "test": {(1, 1, 1, 1), (5, 5, 1, 4)},
}
SHAPES["rl_benchmarks"] = {(4, 2, 1, 1), (8, 4, 1, 1), *((8, 8, n, 6) for n in (1, 13, 15))}


def manifest(data_dir: Path) -> list[dict[str, str]]:
    with (data_dir / "vnncomp" / "MANIFEST.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def evenly(rows: list[dict[str, str]], number: int) -> list[dict[str, str]]:
    assert len(rows) >= number
    return [rows[i * len(rows) // number] for i in range(number)]


def test_a_sample_of_all_properties_is_read(data_dir: Path) -> None:
    rows = evenly(manifest(data_dir), 40)
    assert len({row["benchmark"] for row in rows}) >= 8
    start = time.process_time()
    for row in rows:
        found = read_property(data_dir / "vnncomp" / row["vnnlib"])
        shape = (found.inputs, found.outputs, len(found.cases), len(found.cases[-1].rows))
        assert shape in SHAPES[row["benchmark"]] | {(8, 8, 1, n) for n in range(1, 7)}
        assert found.infeasible == 0
        assert all((case.low <= case.high).all() for case in found.cases)
    assert time.process_time() - start < 10


def test_the_two_boxes_of_property_6(data_dir: Path) -> None:
    found = read_property(data_dir / "vnncomp" / "acasxu" / "vnnlib" / "prop_6.vnnlib.gz")
    assert [len(group) for group in found.boxes()] == [4, 4]
    left, right = (group[0] for group in found.boxes())
    assert left.low[1] == 0.11140846 and left.high[1] == 0.499999896
    assert right.low[1] == -0.499999896 and right.high[1] == -0.11140846
    rows = [case.rows.tolist() for case in found.cases[:4]]
    assert rows == [[[-1.0, *(float(i == j) for j in range(1, 5))]] for i in range(1, 5)]


def test_stored_witnesses_violate_their_properties(data_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    root = data_dir / "vnncomp"
    rows = [r for r in manifest(data_dir) if r["verdict"] == "sat" and r["witness"]]
    for row in evenly(rows, 20):
        model = tmp_path / "model.onnx"
        model.write_bytes(gzip.decompress((root / row["onnx"]).read_bytes()))
        x = np.array(gzip.decompress((root / row["witness"]).read_bytes()).split(), dtype=float)
        spec = read_property(root / row["vnnlib"])
        with torch.no_grad():
            network = read_onnx(model)
            y = network(torch.tensor(x, dtype=torch.float32)[None]).double().numpy()
        assert violated(spec, x, y, input_atol=1e-6, output_atol=1e-5), row
        far = x + 2 * (spec.cases[0].high - spec.cases[0].low).max() + 1.0
        assert not violated(spec, far, y)
        pytest.importorskip("onnxruntime")
        found = recheck(root / row["onnx"], spec, Witness.of(spec, x, y))
        assert found.near and found.stated and found.gap < 1e-4, row
