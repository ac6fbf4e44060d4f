"""Whole evaluations: AutoAttack itself beside our suites, network by network, seed by seed.

    python benchmarks/autoattack.py --autoattack PATH [--networks NAME:THREAT ...] [--resume]

AutoAttack's runs come from `autoattack_peer.py`, which keeps them; ours are kept beside them, and
with --resume only what is missing is measured. Every image that an evaluation calls adversarial is
judged again here. Required: `standard` within one example of AutoAttack everywhere at no more than
0.95 of its sample-evaluations; `thorough` at most 0.3 examples above it (means over the seeds) at
no more than a tenth, on networks with at least 20 robust examples and no red flag that calls the
full suite; `fast` at most a point above at no more than a twentieth, also after a flag. With
--resume a stored run counts as long as the package's source is what it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any

import torch
from autoattack_peer import CACHE, autoattack, cached, digest, judged, place
from subjects import NETWORKS, Subject, subject
from tables import facts, markdown, store

import torchproof
from torchproof.evaluate import SUITES, evaluate

OURS = ("standard", "thorough", "fast")
PACKAGES = ("core", "attack", "evaluate")  # what decides a result


def _source() -> str:
    """SHA-256 over the files of PACKAGES."""
    total, root = hashlib.sha256(), Path(torchproof.__file__).parent
    for path in sorted(p for name in PACKAGES for p in (root / name).rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return total.hexdigest()


SOURCE = _source()
# suite: (examples it may be above AutoAttack per seed, on average, share of its evaluations)
LIMITS = {"standard": (1.0, 1.0, 0.95), "thorough": (99.0, 0.3, 0.1), "fast": (99.0, 1.0, 0.05)}
# What a red flag about gradients calls.
RESERVES = {
    "thorough": "standard's members after a flag",
    "fast": "smoothed gradients after a flag",
}
FEWEST = 20  # robust examples from which on shares of evaluations are required


def ours(on: Subject, suite: str, seed: int, batch: int, resume: bool) -> dict[str, Any]:
    """One evaluation, measured or read back."""
    planned = SUITES[suite](on.threat)
    settings = [f"{m.name}: {m.settings}" for m in (*planned.members, *planned.reserve)]
    path = place(on, len(on.x), seed, CACHE, f"{suite}-")
    if resume and path.is_file():
        stored: dict[str, Any] = json.loads(path.read_text())
        same = stored.get("source", SOURCE) == SOURCE  # those of old have none: see the foot
        if same and stored["settings"] == settings and stored["model_sha256"] == digest(on):
            return stored
    began = process_time()
    report = evaluate(on.model, (on.x, on.y), on.threat, suite, seed=seed, slots=batch)
    seconds = process_time() - began
    assert report.adversarial is not None
    rows = [row for row, e in enumerate(report.examples) if e.status == "broken"]
    lost = judged(on, torch.tensor(rows, dtype=torch.int64), report.adversarial[rows])
    assert bool(lost.all()), f"{on.label}: an image called adversarial is none"
    found = {
        "network": on.label, "model_sha256": digest(on), "suite": suite, "seed": seed,
        "robust": sum(e.status == "robust" for e in report.examples),
        "broken_by": ["clean" if e.status == "misclassified" else e.broken_by
                      for e in report.examples],
        "attacks": [{"name": a.name, "broken": a.broken, "forward": a.forward,
                     "backward": a.backward} for a in report.attacks],
        "flags": [f"{f.name} ({f.severity})" for f in report.flags], "labels": list(report.labels),
        "forward": report.forward, "backward": report.backward, "seconds": seconds,
        "settings": settings, "source": SOURCE,
    }  # fmt: skip
    path.write_text(json.dumps(found) + "\n")
    return found


def one(on: Subject, seeds: Sequence[int], suites: Sequence[str], asked: Any) -> dict[str, Any]:
    """The record of one network."""
    theirs = []
    for seed in seeds:
        stored = cached(on, len(on.x), seed)
        if stored is None:
            stored = autoattack(on, seed, asked.batch)
            place(on, len(on.x), seed, CACHE).write_text(json.dumps(stored) + "\n")
        theirs.append(stored)
    runs = {"AutoAttack": theirs}
    for suite in suites:
        runs[suite] = [ours(on, suite, seed, asked.batch, asked.resume) for seed in seeds]
        print(on.label, suite, [r["robust"] for r in runs[suite]],
              [r["robust"] for r in theirs], flush=True)  # fmt: skip
    n = len(on.x)
    alive = [all(not r["broken_by"][i] for of in runs.values() for r in of) for i in range(n)]
    record: dict[str, Any] = {"network": on.label, "n": n, "union": sum(alive), "suites": {}}
    for name, of in runs.items():
        record["suites"][name] = summary(of, theirs) | {"ok": verdict(name, of, theirs)}
    record["differing"] = differing(runs, n)
    own = [r for name, of in runs.items() if name != "AutoAttack" for r in of]
    record["unsourced"] = sum("source" not in r for r in own)
    return record


def summary(of: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds."""
    spent = [r["forward"] + r["backward"] for r in of]
    base = [r["forward"] + r["backward"] for r in theirs]
    return {
        "robust": [r["robust"] for r in of],
        "evaluations": sum(spent) / len(of),
        "share": sum(spent) / sum(base),
        "per_robust": sum(spent) / max(sum(r["robust"] for r in of), 1),
        "seconds": sum(r["seconds"] for r in of) / len(of),
        "flags": sorted({flag for r in of for flag in r.get("flags", [])}),
        "full": any(" run after " in text for r in of for text in r.get("labels", [])),
    }


def verdict(
    name: str, of: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]
) -> bool | None:
    """Does the suite hold what is required of it? None for AutoAttack itself."""
    if name not in LIMITS:
        return None
    most, mean, share = LIMITS[name]
    above = [a["robust"] - b["robust"] for a, b in zip(of, theirs, strict=True)]
    found = summary(of, theirs)
    few = sum(r["robust"] for r in theirs) < FEWEST * len(theirs)
    waived = few if name == "fast" else few or found["full"]
    cheap = found["share"] <= share or (name != "standard" and waived)
    return max(above) <= most and sum(above) / len(above) <= mean and cheap


def differing(runs: dict[str, list[dict[str, Any]]], n: int) -> list[dict[str, Any]]:
    """Every example on which two runs disagree: who broke it, by what, with which seed."""
    out = []
    for i in range(n):
        by = {name: [r["broken_by"][i] for r in of] for name, of in runs.items()}
        if len({bool(b) for of in by.values() for b in of}) > 1:
            out.append({"example": i} | by)
    return out


def written(records: Sequence[dict[str, Any]], seeds: int) -> str:
    """The tables."""
    rows = []
    for r in records:
        for name, s in r["suites"].items():
            note = RESERVES[name] if s["full"] else ""
            rows.append([r["network"], name, ", ".join(map(str, s["robust"])), r["union"],
                         int(s["evaluations"]), s["share"], int(s["per_robust"]), s["seconds"],
                         "" if s["ok"] is None else s["ok"], note])  # fmt: skip
    head = ["network", "suite", "robust, per seed", "union", "evals", "share", "evals per robust"]
    text = f"""# Whole evaluations beside AutoAttack

The first {records[0]["n"]} test images, seeds 0 to {seeds - 1}. Robust: examples no attack broke,
seed by seed; `union`: examples that nothing broke in any run. Evaluations: forward plus backward
samples, means over the seeds; `share`: of AutoAttack's. `ok`: what
`benchmarks/README.md` requires is held.

"""
    text += markdown([*head, "CPU s", "ok", "note"], rows)
    text += "\n## Examples on which runs disagree\n\n"
    text += "Per seed, the attack that broke it; - for none.\n\n"
    names = list(records[0]["suites"])
    lines = [
        [r["network"], d["example"], *(", ".join(b or "-" for b in d[name]) for name in names)]
        for r in records for d in r["differing"]
    ]  # fmt: skip
    text += markdown(["network", "example", *names], lines)
    old = sum(r["unsourced"] for r in records)
    return text + (f"\n{old} runs of ours were stored before sources were noted.\n" if old else "")


def main() -> int:
    """0 when every suite holds its requirement on every network, 1 otherwise."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    ask.add_argument("--autoattack", type=Path, help="folder that holds the package autoattack")
    ask.add_argument("--networks", "--network", nargs="+", default=NETWORKS, metavar="NAME:THREAT")
    ask.add_argument("--suites", nargs="+", default=list(OURS), choices=list(SUITES))
    ask.add_argument("--n", type=int, default=100, help="first n test images")
    ask.add_argument("--seeds", type=int, default=3)
    ask.add_argument("--batch", type=int, default=128)
    ask.add_argument("--resume", action="store_true", help="keep our runs that are there already")
    ask.add_argument("--out", default="autoattack", help="name of the files in results/")
    asked = ask.parse_args()
    torch.set_num_threads(1)
    if asked.autoattack is not None:
        sys.path.insert(0, str(asked.autoattack))
    CACHE.mkdir(parents=True, exist_ok=True)
    seeds = range(asked.seeds)
    records = [one(subject(name, asked.n), seeds, asked.suites, asked) for name in asked.networks]
    text = written(records, asked.seeds)
    store(asked.out, {"facts": facts({}, {}), "records": records}, text)
    print(text)
    return 0 if all(s["ok"] is not False for r in records for s in r["suites"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
