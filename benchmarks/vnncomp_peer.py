"""alpha,beta-CROWN on the instances that `vnncomp.py` samples, beside what ours made of them.

    python benchmarks/vnncomp_peer.py --peer PATH [--python PYTHON] [--benchmarks NAME ...]

PATH: a checkout of Verified-Intelligence/alpha-beta-CROWN with its auto_LiRPA; PYTHON: an
interpreter in which it runs. Each instance is a process of its own on one thread, with the settings
that its authors entered the competition with, but one MIP solver instead of 32 and no CPLEX cuts.
Its clock starts when its modules are loaded, ours with the reading of the network.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from tables import RESULTS, facts, markdown, store
from vnncomp import DATA, sample

GRACE = 30.0  # seconds beyond its limit after which the process is ended
_22, _21 = "exp_configs/vnncomp22", "exp_configs/vnncomp21"
CONFIGS = {
    "test": (("", f"{_21}/test.yaml"),),
    "safenlp": (("", "exp_configs/vnncomp24/safenlp.yaml"),),
    "rl_benchmarks": (
        ("cartpole", f"{_22}/cartpole.yaml"),
        ("lunarlander", f"{_22}/lunarlander.yaml"),
        ("", f"{_22}/dubins-rejoin.yaml"),
    ),
    "acasxu": (("", f"{_21}/acasxu.yaml"),),
    "collins_rul_cnn": (("", "exp_configs/vnncomp23/collins-rul-cnn.yaml"),),
    "reach_prob_density": (
        ("gcas", f"{_22}/reach_probability_gcas.yaml"),
        ("", f"{_22}/reach_probability.yaml"),
    ),
    "mnist_fc": (("256x2", f"{_22}/mnistfc_small.yaml"), ("", f"{_22}/mnistfc.yaml")),
    "oval21": (("", f"{_21}/oval21.yaml"),),
    "marabou_cifar10": (("", f"{_21}/marabou_cifar10.yaml"),),
    "cifar10_resnet": (("", f"{_21}/cifar10-resnet.yaml"),),
}
"""Benchmark -> (part of the network's name, settings): those of the competition, first match."""


def settings(path: Path) -> str:
    """Those of the competition, with one MIP solver where it has many and without CPLEX's cuts."""
    stored = yaml.safe_load(path.read_text())
    if "mip" in stored.get("solver", {}):
        stored["solver"]["mip"]["parallel_solvers"] = 1
    stored.get("bab", {}).pop("cut", None)
    return yaml.safe_dump(stored)


def asked(row: dict[str, str], peer: Path, python: str, timeout: float) -> dict[str, Any]:
    """Its answer to an instance, and the seconds of the whole process."""
    record: dict[str, Any] = {k: row[k] for k in ("benchmark", "onnx", "vnnlib")}
    record["known"] = row["verdict"]
    config = next(c for part, c in CONFIGS[row["benchmark"]] if part in row["onnx"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for key, file in (("onnx", "network.onnx"), ("vnnlib", "property.vnnlib")):
            (folder / file).write_bytes(gzip.decompress((DATA / row[key]).read_bytes()))
        own = folder / "settings.yaml"
        own.write_text(settings(peer / "complete_verifier" / config))
        command = [
            python, "abcrown.py", "--config", str(own), "--device", "cpu",
            "--onnx_path", str(folder / "network.onnx"),
            "--vnnlib_path", str(folder / "property.vnnlib"),
            "--results_file", str(folder / "answer.txt"), "--timeout", str(timeout),
        ]  # fmt: skip
        one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        started = time.monotonic()
        with (folder / "log.txt").open("w") as log:
            try:
                subprocess.run(
                    command, cwd=peer / "complete_verifier", env={**os.environ, **one},
                    stdout=log, stderr=log, timeout=timeout + GRACE, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                log.write("\nended from outside\n")
        record["seconds"] = time.monotonic() - started
        answer = folder / "answer.txt"
        verdict = answer.read_text().split("\n")[0].strip() if answer.exists() else ""
        if verdict not in ("sat", "unsat", "timeout", "unknown"):
            last = (folder / "log.txt").read_text().strip().splitlines()[-1:]
            ended = record["seconds"] >= timeout
            record["by"] = "" if ended else " ".join(last).replace(name, "")[:200]
            verdict = "timeout" if ended else "error"
        record["verdict"] = verdict
    return record


def table(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """Per benchmark the instances that both were asked, and how many each decided."""
    mine = {(r["onnx"], r["vnnlib"]): r for r in ours}
    rows = []
    for name in dict.fromkeys(r["benchmark"] for r in theirs):
        pairs = [(mine[key], r) for r in theirs if r["benchmark"] == name
                 and (key := (r["onnx"], r["vnnlib"])) in mine]  # fmt: skip
        both = [tuple(r["verdict"] in ("sat", "unsat") for r in pair) for pair in pairs]
        seconds = [sorted(pair[i]["seconds"] for pair in pairs) for i in (0, 1)]
        rows.append([
            name, len(pairs), sum(a for a, _ in both), sum(b for _, b in both),
            sum(a and not b for a, b in both), sum(b and not a for a, b in both),
            sum({a["verdict"], b["verdict"]} == {"sat", "unsat"} for a, b in pairs),
            sum(b["verdict"] == "error" for _, b in pairs),
            *(each[len(each) // 2] if each else float("nan") for each in seconds),
        ])  # fmt: skip
    head = ["benchmark", "instances", "ours decides", "alpha,beta-CROWN decides", "ours alone",
            "it alone", "verdicts differ", "its errors", "our median seconds",
            "its median seconds"]  # fmt: skip
    return markdown(head, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--benchmarks", nargs="+", default=list(CONFIGS), choices=list(CONFIGS))
    parser.add_argument("--sample", type=int, default=12)
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--ours", default="vnncomp", help="the record of vnncomp.py")
    parser.add_argument("--out", default="vnncomp_peer")
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    ours = json.loads((RESULTS / f"{given.ours}.json").read_text())["records"]
    path, kept = RESULTS / f"{given.out}.json", []
    if given.resume and path.exists():
        kept = json.loads(path.read_text())["records"]
    done = {(r["onnx"], r["vnnlib"]) for r in kept}
    for benchmark in given.benchmarks:
        for row in sample(benchmark, given.sample):
            if (row["onnx"], row["vnnlib"]) in done:
                continue
            kept.append(asked(row, given.peer, given.python, given.timeout))
            told = f"{kept[-1]['verdict']} (known {row['verdict']}), {kept[-1]['seconds']:.1f} s"
            print(benchmark, row["onnx"].split("/")[-1], told, flush=True)
        text = (
            "# VNN-COMP instances, beside alpha,beta-CROWN\n\nThe sample of `vnncomp.py`, "
            f"{given.timeout:g} s each, one thread, CPU; its seconds include the start of its "
            "process, and its limit starts after that. One MIP solver, no CPLEX cuts.\n\n"
            + table(ours, kept)
        )
        store(given.out, {"facts": facts({}, {}), "records": kept}, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
