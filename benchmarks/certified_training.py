"""Certified training with a budget of half an hour a method, on all of MNIST.

    python benchmarks/certified_training.py --out FOLDER [--only METHOD ...] [--resume | --table]

One network for each method of METHODS and radius, small-cnn with its own widths, all 60,000
training images, one thread, seed 0. The epochs are set so that a method takes about half an hour of
one core for both radii together: the harder radius gets two thirds of them. Each network is
attacked with the suite `standard` on the first 1,000 test images; an image is certified by
intervals, else by CROWN-IBP, CROWN, and at last by branch and bound (`bab`, SECONDS each), which
is asked about images that the attack left standing only. Exit code 1 where an image is certified
and broken. What is finished in FOLDER is read back with --resume; --table tells of that alone.
Of a training that was cut off and went on, the minutes are not known.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from time import process_time
from typing import Any

import torch
from tables import facts, markdown, store

from torchproof import data as sets
from torchproof.core.metrics import clopper_pearson
from torchproof.core.threats import parse
from torchproof.data.dataset import Dataset
from torchproof.evaluate import certify, evaluate
from torchproof.nn import load_model
from torchproof.recipes import Plan, prepare, run
from torchproof.train import Settings

N, SUITE, SECONDS, SLOTS = 1000, "standard", 5.0, 32
EPOCHS = {"linf:0.1": 15, "linf:0.3": 30}
RAMP = "ramp=Ramp(0.02, 0.5)"
PGD = "steps=3, length=0.5"
METHODS = {
    "linf:0.1": {
        "IBP": f"IBP({RAMP}, widen=2)",
        "CROWN-IBP": f"CROWNIBP({RAMP}, widen=2, fused=True)",
        "SABR": f"Sum(SABR({RAMP}, lam=0.4, {PGD}), L1(1e-5))",
        "MTL-IBP": f"Sum(MTLIBP({RAMP}, alpha=0.2, {PGD}), L1(1e-5))",
    },
    "linf:0.3": {
        "IBP": f"IBP({RAMP}, widen=4/3)",
        "CROWN-IBP": f"CROWNIBP({RAMP}, widen=4/3, fused=True)",
        "SABR": f"Sum(SABR({RAMP}, lam=0.6, {PGD}), L1(1e-5))",
        "MTL-IBP": f"Sum(MTLIBP({RAMP}, alpha=0.3, {PGD}), L1(1e-5))",
    },
}
"""The widths of training radii are those of Gowal et al. 2019 and Zhang et al. 2020 (twice the
radius at 0.1, 4/3 at 0.3), lam that of Mueller et al. 2023, alpha our choice.
"""
PUBLISHED = {
    ("linf:0.1", "SABR"): 98.22,
    ("linf:0.3", "IBP"): 91.95,
    ("linf:0.3", "CROWN-IBP"): 92.98,
    ("linf:0.3", "SABR"): 93.40,
}
"""Certified accuracy of larger networks on all 10,000 images, leaderboard of the survey (Li, Xie
and Li 2023).
"""


def plan(threat: str, name: str) -> Plan:
    settings = Settings.of(
        epochs=EPOCHS[threat], batch_size=100, lr=5e-4, optimiser="adam", schedule="proved",
        weight_decay=0.0, clip=10.0, held_out=0,
    )  # fmt: skip
    method = METHODS[threat][name]
    return Plan(data="mnist", model="small-cnn", method=method, threat=threat, settings=settings)


def cell(threat: str, name: str, folder: Path, test: Dataset) -> dict[str, Any]:
    """Trains, attacks and certifies one network."""
    ready, whole = prepare(plan(threat, name), None, torch.device("cpu")), not folder.exists()
    began = process_time()
    for record in run(ready, folder, resume=folder.exists()):
        print(name, threat, "epoch", record.epoch, f"loss {record.loss:.3f}", flush=True)
    trained, about = process_time() - began, parse(threat)
    model = load_model(str(folder / "last.safetensors")).model
    out = folder / "attacked"
    report = evaluate(
        model, test, about, SUITE, seed=0, out=out, resume=out.exists(), save_adversarial=False,
        name=f"{name} {threat}",
    )  # fmt: skip
    robust = {e.id for e in report.examples if e.status == "robust"}
    by: dict[str, set[int]] = {}
    left = torch.arange(len(test))
    for method in ("ibp", "crown-ibp", "crown", "bab"):
        found = certify(
            model, test.subset(left), about, method, ids=left, slots=SLOTS, timeout=SECONDS,
            sound=method != "bab",
        )  # fmt: skip
        by[method] = {row.id for row in found.examples if row.status == "certified"}
        rest = {row.id for row in found.examples if row.status == "undecided"}
        left = torch.tensor(sorted(rest & robust if method == "crown" else rest))
        if not len(left):
            break
    sure = set().union(*by.values())
    return {
        "threat": threat, "method": name, "n": len(test), "epochs": EPOCHS[threat],
        "minutes": trained / 60 if whole else None,
        "clean": round(report.clean_accuracy * len(test)), "attacked": len(robust),
        "certified": len(sure), "broken": len(sure - robust),
        "by": {method: len(rows) for method, rows in by.items()},
    }  # fmt: skip


def table(records: list[dict[str, Any]]) -> str:
    rows = []
    for r in records:
        n, published = r["n"], PUBLISHED.get((r["threat"], r["method"]))
        low, high = clopper_pearson(r["certified"], n)
        gap = "" if published is None else f"{100 * r['certified'] / n - published:+.1f}"
        rows.append([
            r["threat"], r["method"], r["epochs"],
            "cut off" if r["minutes"] is None else f"{r['minutes']:.1f}",
            f"{100 * r['clean'] / n:.1f}", f"{100 * r['attacked'] / n:.1f}",
            f"{100 * r['certified'] / n:.1f}", f"{100 * low:.1f} to {100 * high:.1f}",
            f"{100 * (r['certified'] - r['by'].get('bab', 0)) / n:.1f}", r["broken"],
            "" if published is None else f"{published:.2f}", gap,
        ])  # fmt: skip
    head = ["threat", "method", "epochs", "CPU minutes", "clean, %", f"{SUITE}, %", "certified, %",
            "95 %", "without branch and bound, %", "certified, but broken", "published, %",
            "gap, points"]  # fmt: skip
    return (
        "# Certified training, half an hour a method\n\n"
        "MNIST, all training images, small-cnn, one seed; CPU minutes of the training; the first "
        f"{records[0]['n']:,} test images. Certified by intervals, CROWN-IBP, CROWN, and branch "
        f"and bound of {SECONDS:g} s. Published: larger networks, 10,000 images.\n\n"
        + markdown(head, rows)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=list(METHODS["linf:0.1"]))
    parser.add_argument("--n", type=int, default=N)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--table", action="store_true", help="train nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    test = sets.load("mnist", split="test").take(given.n)
    records: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for threat in EPOCHS:
        for name in given.only:
            folder = given.out / threat.replace(":", "-") / name
            kept = folder / "found.json"
            if kept.exists() and (given.resume or given.table):
                records.append(json.loads(kept.read_text()))
                continue
            if given.table:
                missing[f"{name} at {threat}"] = "not finished"
                continue
            records.append(cell(threat, name, folder, test))
            kept.write_text(json.dumps(records[-1]))
            print(json.dumps(records[-1]), flush=True)
    store("certified_training", {"facts": facts({}, missing), "records": records}, table(records))
    return 1 if any(r["broken"] for r in records) else 0


if __name__ == "__main__":
    sys.exit(main())
