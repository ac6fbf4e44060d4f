"""`thorough` beside published robust accuracies: TRADES' MNIST network, Linf 0.3.

    python benchmarks/published.py [--n 1000] [--resume]

The figures of others are for all 10,000 test images; with fewer, ours has the wider interval.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import process_time

from subjects import subject
from tables import facts, markdown, store

from torchproof.evaluate import evaluate

LABEL = "mnist_trades:linf:0.3"
PUBLISHED = [  # on all 10,000 test images, percent
    ("clean", 99.48), ("AutoAttack", 92.81), ("A3 (Liu et al. 2022)", 92.71),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--runs", type=Path, default=Path("runs/published"))
    given = parser.parse_args()
    on = subject(LABEL, given.n)
    began = process_time()
    report = evaluate(
        on.model, (on.x, on.y), on.threat, "thorough", seed=given.seed, out=given.runs,
        resume=given.resume, save_adversarial=False,
    )  # fmt: skip
    result = report.result
    low, high = result.robust_accuracy_ci95
    evals = result.forward + result.backward
    robust = sum(e.status == "robust" for e in report.examples)
    ours = [
        [f"clean, first {given.n}", f"{100 * result.clean_accuracy:.2f}", "", "", ""],
        [f"`thorough`, first {given.n}, seed {given.seed}", f"{100 * result.robust_accuracy:.2f}",
         f"{100 * low:.2f} to {100 * high:.2f}", f"{evals:,}", f"{evals / max(robust, 1):,.0f}"],
    ]  # fmt: skip
    others = [[f"{name}, published, all 10,000", f"{v:.2f}", "", "", ""] for name, v in PUBLISHED]
    flags = ", ".join(f.name for f in result.flags) or "none"
    text = (
        f"# {LABEL} beside published figures\n\n"
        + markdown(["", "accuracy, %", "95 %", "evals", "per robust example"], [*ours, *others])
        + f"\nVerdict {result.verdict}; red flags: {flags}. Evaluations: forward plus backward "
        f"samples. CPU seconds of this run: {process_time() - began:.0f}.\n"
    )
    store("published", {"facts": facts({}, {}), "result": result.model_dump(mode="json")}, text)


if __name__ == "__main__":
    main()
