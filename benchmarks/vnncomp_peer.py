"""alpha,beta-CROWN on the instances that `vnncomp.py` samples, beside what ours made of them.

    python benchmarks/vnncomp_peer.py --peer PATH [--python PYTHON] [--benchmarks NAME ...]

PATH: a checkout of Verified-Intelligence/alpha-beta-CROWN with its auto_LiRPA; PYTHON: an
interpreter in which it runs. Each instance is a process of its own on one thread, with the settings
that its authors entered the competition with, but one MIP solver instead of 32 and no CPLEX cuts.
Its clock starts when its modules are loaded, ours with the reading of the network; what either
takes from the start of its process to the answer to the smallest instance is measured apart. Exit
code 1 where it decides more of a benchmark, or a verdict of either contradicts the other's or the
known one.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import signal
import statistics
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
        record["seconds"] = _run(command, peer / "complete_verifier", folder, timeout)
        answer = folder / "answer.txt"
        verdict = answer.read_text().split("\n")[0].strip() if answer.exists() else ""
        if verdict not in ("sat", "unsat", "timeout", "unknown"):
            last = (folder / "log.txt").read_text().strip().splitlines()[-1:]
            ended = record["seconds"] >= timeout
            record["by"] = "" if ended else " ".join(last).replace(name, "")[:200]
            verdict = "timeout" if ended else "error"
        record["verdict"] = verdict
    return record


def _run(command: list[str], where: Path, folder: Path, timeout: float) -> float:
    """Seconds of a process on one thread, ended with all that it started when it is late."""
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    started = time.monotonic()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, cwd=where, env={**os.environ, **one}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(timeout + GRACE)
        except subprocess.TimeoutExpired:
            log.write("\nended from outside\n")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return time.monotonic() - started


def starts(peer: Path, python: str, rounds: int = 3) -> dict[str, float]:
    """Median seconds of whole processes that answer the smallest instance, in turn."""
    row = next(r for r in sample("test", 99) if "nano" in r["onnx"])
    took: dict[str, list[float]] = {"ours": [], "its": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for key, file in (("onnx", "network.onnx"), ("vnnlib", "property.vnnlib")):
                (folder / file).write_bytes(gzip.decompress((DATA / row[key]).read_bytes()))
            command = [sys.executable, "-m", "torchproof", "verify", "--timeout", "60",
                       "--onnx", "network.onnx", "--vnnlib", "property.vnnlib"]  # fmt: skip
            took["ours"].append(_run(command, folder, folder, 60.0))
        took["its"].append(asked(row, peer, python, 60.0)["seconds"])
    return {name: statistics.median(seconds) for name, seconds in took.items()}


def decided(record: dict[str, Any]) -> bool:
    return record["verdict"] in ("sat", "unsat")


def opposed(*verdicts: str) -> bool:
    return {"sat", "unsat"} <= set(verdicts)


def table(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> tuple[str, bool]:
    """Per benchmark the instances that both were asked and that it could read, and how many each
    decided; whether ours decides no fewer, without a contradiction.
    """
    mine, rows, good = {(r["onnx"], r["vnnlib"]): r for r in ours}, [], True
    for name in dict.fromkeys(r["benchmark"] for r in theirs):
        own = [r for r in theirs if r["benchmark"] == name]
        pairs = [(mine[key], r) for r in own if r["verdict"] != "error"
                 and (key := (r["onnx"], r["vnnlib"])) in mine]  # fmt: skip
        both = [(decided(a), decided(b)) for a, b in pairs]
        against = sum(opposed(a["verdict"], b["verdict"]) or opposed(b["verdict"], b["known"])
                      for a, b in pairs)  # fmt: skip
        counts = [sum(pair[i] for pair in both) for i in (0, 1)]
        good &= counts[0] >= counts[1] and not against
        middle = [statistics.median(pair[i]["seconds"] for pair in pairs) if pairs else "–"
                  for i in (0, 1)]  # fmt: skip
        rows.append([
            name, len(own), len(own) - len(pairs), len(pairs), *counts,
            sum(a and not b for a, b in both), sum(b and not a for a, b in both), against, *middle,
        ])  # fmt: skip
    head = ["benchmark", "instances", "it cannot read", "compared", "ours decides", "it decides",
            "ours alone", "it alone", "contradictions", "our median seconds",
            "its median seconds"]  # fmt: skip
    return markdown(head, rows), good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--benchmarks", nargs="+", default=list(CONFIGS), choices=list(CONFIGS))
    parser.add_argument("--sample", type=int, default=12)
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--ours", default="vnncomp", help="the record of vnncomp.py")
    parser.add_argument("--out", default="vnncomp_peer")
    parser.add_argument("--note", default="", help="what is to be known of its installation")
    parser.add_argument("--version", default="not given", help="commits of it and of auto_LiRPA")
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
        save(given, ours, kept, None)
    return 0 if save(given, ours, kept, starts(given.peer, given.python)) else 1


def save(
    given: argparse.Namespace, ours: list[dict[str, Any]], theirs: list[dict[str, Any]],
    start: dict[str, float] | None,
) -> bool:  # fmt: skip
    """Stores what is known so far; is ours no worse?"""
    body, good = table(ours, theirs)
    text = (
        "# VNN-COMP instances, beside alpha,beta-CROWN\n\nThe sample of `vnncomp.py`, "
        f"{given.timeout:g} s each, one thread, CPU. Its seconds include the start of its process, "
        "and its limit begins after that; ours begin with the reading of the network. The settings "
        "are those of its authors, with one MIP solver instead of 32 and without CPLEX's cuts. "
        f"{given.note}\n\n{body}"
    )
    if start is not None:
        text += (
            "\nThe smallest instance, from the start of the process: ours "
            f"{start['ours']:.1f} s, its {start['its']:.1f} s (medians of 3, in turn).\n"
        )
    about = facts({"alpha,beta-CROWN": given.version}, {}) | {"dtype": "float64 (it: float32)"}
    store(given.out, {"facts": about, "records": theirs, "start": start}, text)
    return good


if __name__ == "__main__":
    sys.exit(main())
