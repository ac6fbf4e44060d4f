"""Instances of the verification competitions, decided by `torchproof.verify.decide`.

    python benchmarks/vnncomp.py [--benchmarks NAME ...] [--sample 12] [--timeout 60] [--resume]

A seeded sample of each benchmark of $TORCHPROOF_DATA/vnncomp. Every verdict is compared with the
known one (of witnesses that were run again, or of the tools' majority); a counterexample of ours
is run again by onnxruntime where that is installed. Exit code 1 where a verdict contradicts one.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import gzip
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tables import RESULTS, facts, markdown, store
from torch import nn

from torchproof.core.errors import TorchproofError
from torchproof.nn import load_model
from torchproof.verify import graph_of
from torchproof.verify.decide import decide
from torchproof.verify.vnnlib import Witness, read_property, recheck

DATA = Path(os.environ.get("TORCHPROOF_DATA", ".")) / "vnncomp"
SEED = 0
AIMS = {
    "acasxu": "95 %", "rl_benchmarks": "99 %", "safenlp": "99 %", "mnist_fc": "70 %",
    "reach_prob_density": "90 %", "collins_rul_cnn": "90 %", "oval21": "50 %",
    "cifar10_resnet": "50 % of resnet_2b", "marabou_cifar10": "90 % of sat",
}  # fmt: skip
"""What we set out to decide in 60 s, of all instances of a benchmark or of those named."""


def sample(benchmark: str, count: int) -> list[dict[str, str]]:
    with (DATA / "MANIFEST.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == benchmark]
    random.Random(f"{SEED} {benchmark}").shuffle(rows)
    return rows[:count]


def network(path: Path) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "network.onnx"
        plain.write_bytes(gzip.decompress(path.read_bytes()))
        return load_model(str(plain)).model.double().eval()


def run(row: dict[str, str], timeout: float) -> dict[str, Any]:
    """One instance: what it came to, and how long that took with reading and tracing."""
    started = time.monotonic()
    record: dict[str, Any] = {k: row[k] for k in ("benchmark", "onnx", "vnnlib")}
    record |= {"known": row["verdict"], "date": datetime.date.today().isoformat()}
    try:
        model, property_ = network(DATA / row["onnx"]), read_property(DATA / row["vnnlib"])
        rest = [n for n in model.shape[1:] if n is not None]
        graph = graph_of(model, torch.zeros(1, *rest, dtype=torch.float64))
        record["start_seconds"] = time.monotonic() - started
        found = decide(graph, rest, property_, timeout - record["start_seconds"])
    except TorchproofError as error:
        return record | {"verdict": "error", "by": str(error)[:300],
                         "seconds": time.monotonic() - started}  # fmt: skip
    record |= {"verdict": found.verdict, "by": found.by, "parts": found.parts,
               "seconds": time.monotonic() - started}  # fmt: skip
    if found.x is not None:
        x = found.x.flatten().numpy()
        with torch.no_grad():
            y = model(found.x[None]).flatten().numpy()
        checked = recheck(DATA / row["onnx"], property_, Witness.of(property_, x, y),
                          lambda point: model(torch.from_numpy(point).view(1, *rest)).detach()
                          .flatten().numpy())  # fmt: skip
        record |= {"witness": "stands" if checked.near else "falls", "checked_by": checked.by}
        record["verdict"] = "sat" if checked.near else "unknown"
    return record


def table(records: list[dict[str, Any]]) -> tuple[str, bool]:
    rows, sound = [], True
    for name in dict.fromkeys(r["benchmark"] for r in records):
        own = [r for r in records if r["benchmark"] == name]
        decided = [r for r in own if r["verdict"] in ("sat", "unsat")]
        against = [r for r in decided if {r["verdict"], r["known"]} == {"sat", "unsat"}]
        sound &= not against
        seconds = sorted(r["seconds"] for r in own)
        rows.append([name, len(own), len(decided), f"{100 * len(decided) / len(own):.0f} %",
                     AIMS.get(name, ""),
                     sum(r["verdict"] == "sat" for r in own), len(against),
                     seconds[len(seconds) // 2], seconds[-1]])  # fmt: skip
    head = ["benchmark", "instances", "decided", "share", "aim", "sat", "contradictions",
            "median seconds", "most seconds"]  # fmt: skip
    return markdown(head, rows), sound


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmarks", nargs="+", default=None)
    parser.add_argument("--sample", type=int, default=12)
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--out", default="vnncomp")
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with (DATA / "MANIFEST.csv").open(newline="") as file:
        known = dict.fromkeys(row["benchmark"] for row in csv.DictReader(file))
    kept, path = [], RESULTS / f"{given.out}.json"
    if given.resume and path.exists():
        kept = json.loads(path.read_text())["records"]
    done = {(r["onnx"], r["vnnlib"]) for r in kept}
    sound = table(kept)[1]
    for benchmark in given.benchmarks or known:
        for row in sample(benchmark, given.sample):
            if (row["onnx"], row["vnnlib"]) in done:
                continue
            record = run(row, given.timeout)
            kept.append(record)
            told = f"{record['verdict']} (known {record['known']}), {record['seconds']:.1f} s"
            print(benchmark, record["onnx"].split("/")[-1], told, flush=True)
        body, sound = table(kept)
        text = (
            f"# VNN-COMP instances\n\nA seeded sample of {given.sample} per benchmark, "
            f"{given.timeout:g} s each, one thread, reading and tracing included.\n\n{body}"
        )
        store(given.out, {"facts": facts({}, {}) | {"dtype": "float64"}, "records": kept}, text)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
