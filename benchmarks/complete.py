"""Certified accuracy by branch and bound, and what it costs.

    python benchmarks/complete.py [--networks NAME ...] [--n 20] [--timeout 120] [--resume]

Trained networks of $TORCHPROOF_DATA in float64, one thread: the first n images of each, decided by
`torchproof.verify.decide` (search, CROWN, alpha-CROWN, branch and bound). An image is certified
where no other class can win in the set, broken where an input that does is found and run again.
Reading and tracing of the network are not counted. Exit code 1 where a certified image is broken by
a separate PGD attack.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from subjects import Subject, subject
from tables import RESULTS, facts, markdown, store
from torch import Tensor

from torchproof.attack.catalogue import pgd
from torchproof.core.metrics import clopper_pearson
from torchproof.verify import graph_of
from torchproof.verify.decide import answered
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.question import Question

DATA = Path(os.environ.get("TORCHPROOF_DATA", "."))
SUBJECTS = {
    # network: threat, on the 200 images of the SDP tables?, published certified accuracy in %
    "mnist_cnn_a_adv": ("linf:0.3", True, "70.5, beta-CROWN, all 200"),
    "mnist_kw_small": ("linf:0.1", False, "94.18, its own dual, all 10,000"),
    "mnist_colt_0.1": ("linf:0.1", False, "97.1, COLT, all 10,000"),
    "mnist_eran_convsmall": ("linf:0.12", False, ""),
    "mnist_mlp_6x100": ("linf:0.026", False, ""),
}
CURVE = (1, 3, 10, 30, 60, 120)


def examples(name: str, n: int) -> Subject:
    """A network in float64 and its images."""
    threat, sdp, _ = SUBJECTS[name]
    found = subject(f"{name}:{threat}", n)
    x, y = found.x, found.y
    if sdp:
        folder = DATA / "certification"
        x = torch.from_numpy(np.load(folder / "sdp_mnist_x.npy")[:n]).permute(0, 3, 1, 2)
        y = torch.from_numpy(np.load(folder / "sdp_mnist_y.npy")[:n])
    return replace(found, model=found.model.double(), x=x.double().contiguous(), y=y)


def run(about: Subject, graph: Graph, x: Tensor, y: Tensor, timeout: float) -> dict[str, Any]:
    """One image x (1, C, H, W)."""
    model, threat = about.model, about.threat
    logits = model(x)
    if int(logits.argmax()) != int(y):
        return {"status": "wrong", "by": "clean", "parts": 0, "seconds": 0.0}
    started, box = time.monotonic(), InputSet.of(x, threat).box()
    rows = rows_of(y, logits.shape[1])[0].double()
    none = torch.zeros(1, dtype=x.dtype)
    questions = [Question(box.lower[0], box.upper[0], row[None], none) for row in rows]
    answer, how = answered(graph, questions, timeout)
    status = {"unsat": "certified", "sat": "broken"}.get(answer.verdict, "undecided")
    seconds = time.monotonic() - started
    if answer.x is not None and int(model(answer.x.view_as(x)).argmax()) == int(y):
        margin = float((model(answer.x.view_as(x)) @ rows.T).min())
        status = "broken" if margin <= 0 else "undecided"  # a tie counts against the network
    attacked = pgd(threat, 40, 0.05)(model, x, y)
    return {"status": status, "by": how, "parts": answer.parts, "seconds": seconds,
            "pgd": bool(attacked.lost[0])}  # fmt: skip


def table(records: list[dict[str, Any]]) -> tuple[str, bool]:
    lines, sound = [], True
    for name in dict.fromkeys(r["network"] for r in records):
        own = [r for r in records if r["network"] == name]
        count = {s: sum(r["status"] == s for r in own) for s in
                 ("certified", "broken", "undecided", "wrong")}  # fmt: skip
        sound &= not any(r["status"] == "certified" and r.get("pgd") for r in own)
        low, high = clopper_pearson(count["certified"], len(own))
        sure = [r["seconds"] for r in own if r["status"] == "certified"]
        curve = [f"{100 * sum(s <= t for s in sure) / len(own):.0f}" for t in CURVE]
        seconds = sorted(r["seconds"] for r in own if r["status"] != "wrong")
        lines.append([
            name, own[0]["threat"], len(own), f"{100 * count['certified'] / len(own):.0f} %",
            f"{100 * low:.0f} to {100 * high:.0f}", count["broken"], count["undecided"],
            count["wrong"], " / ".join(curve), seconds[len(seconds) // 2], SUBJECTS[name][2],
        ])  # fmt: skip
    head = ["network", "threat", "images", "certified", "95 %", "broken", "undecided", "wrong",
            f"certified % within {' / '.join(map(str, CURVE))} s", "median seconds",
            "published, %"]  # fmt: skip
    return markdown(head, lines), sound


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--timeout", type=float, default=120.0)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path, records = RESULTS / "complete.json", []
    if given.resume and path.exists():
        records = json.loads(path.read_text())["records"]
    done = {(r["network"], r["id"]) for r in records}
    sound = table(records)[1]
    for name in given.networks:
        about = examples(name, given.n)
        graph = graph_of(about.model, about.x[:1])
        for i in range(len(about.x)):
            if (name, i) in done:
                continue
            one = slice(i, i + 1)
            found = run(about, graph, about.x[one], about.y[one], given.timeout)
            records.append({"network": name, "id": i, "threat": SUBJECTS[name][0], **found})
            print(name, i, found["status"], found["by"], f"{found['seconds']:.1f} s", flush=True)
            body, sound = table(records)
            text = (
                "# Branch and bound on trained networks\n\n"
                f"The first images of each, at most {given.timeout:g} s each, one thread, float64, "
                f"bounds without an account of rounding.\n\n{body}"
            )
            store("complete", {"facts": facts({}, {}) | {"dtype": "float64"}, "records": records},
                  text)  # fmt: skip
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
