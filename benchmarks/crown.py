"""Linear bounds beside auto_LiRPA's: seconds, and how tight they are.

    python benchmarks/crown.py --peer PATH

Three convolutional networks, the same images, the same box (clipped to [0, 1]), the same nine
margins, one thread, float32; both without the time to trace the network. CROWN is the same method
on both sides. alpha-CROWN is not: auto_LiRPA optimises the slopes of all bounds, in the middle too,
for the margins, together; torchproof those of each bound for itself (`alpha-crown-full`), or of the
margins alone (`alpha-crown`). Rounds are interleaved, medians of CPU seconds are shown.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from subjects import Subject, subject
from tables import facts, markdown, store
from torch import Tensor

from torchproof.verify import bounded, graph_of
from torchproof.verify.inputs import rows_of

NETWORKS = ["mnist_kw_small:linf:0.1", "mnist_cnn_a_adv:linf:0.3", "cnn_a_adv:linf:2/255"]
METHODS = {"crown": "CROWN", "alpha-crown": "alpha-CROWN", "alpha-crown-full": "alpha-CROWN"}
"""Ours, and which of theirs it is compared with."""

LIMITS = {"crown": 0.6, "alpha-crown-full": 0.5}  # of the peer's time
LOSS = 1e-4  # of a margin, where the method is the same
Run = Callable[[], tuple[float, Tensor]]
"""Seconds, and lower bounds (N, 9) of the margins."""


def ours(about: Subject, method: str) -> Run:
    graph = graph_of(about.model, about.x)

    def run() -> tuple[float, Tensor]:
        began = process_time()
        found = bounded(graph, about.x, about.y, about.threat, method)
        return process_time() - began, found.lower

    return run


def theirs(about: Subject, method: str, peer: Any) -> Run:
    low, high = ((about.x + side * about.eps).clamp(0, 1) for side in (-1, 1))
    classes = about.model(about.x[:1]).shape[1]
    rows = rows_of(about.y, classes).to(about.x)

    def made() -> Any:
        options = {"conv_mode": "patches", "verbosity": 0}
        return peer.BoundedModule(about.model, about.x, bound_opts=options)

    kept = made() if method == "CROWN" else None  # slopes are optimised from the start each time

    def run() -> tuple[float, Tensor]:
        model = made() if kept is None else kept
        ball = peer.PerturbationLpNorm(norm=float("inf"), x_L=low, x_U=high)
        x = peer.BoundedTensor(about.x, ball)
        began = process_time()
        with torch.set_grad_enabled(method != "CROWN"):
            lower, _ = model.compute_bounds(x=(x,), C=rows, method=method, bound_upper=False)
        return process_time() - began, lower.detach()

    return run


def timed(runs: dict[str, Run], rounds: int) -> dict[str, tuple[float, Tensor]]:
    """Median seconds and the bounds of each, in turn."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    found: dict[str, Tensor] = {}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds, found[name] = run()
            took[name].append(seconds)
    return {name: (median(took[name]), found[name]) for name in runs}


def compared(about: Subject, peer: Any, rounds: dict[str, int]) -> list[dict[str, Any]]:
    """A row for each of our methods."""
    found: dict[str, tuple[float, Tensor]] = {}
    for method in dict.fromkeys(METHODS.values()):
        runs = {name: ours(about, name) for name, same in METHODS.items() if same == method}
        runs[method] = theirs(about, method, peer)
        if method == "CROWN":
            for run in runs.values():
                run()  # the first call pays for what is kept, on both sides
        found |= timed(runs, rounds[method])
    return [_row(about, name, found[name], found[same]) for name, same in METHODS.items()]


def _row(
    about: Subject, name: str, mine: tuple[float, Tensor], peers: tuple[float, Tensor]
) -> dict[str, Any]:
    (seconds, lower), (other_seconds, other) = mine, peers
    share, worst = seconds / other_seconds, float((lower - other).min())
    means = float(lower.mean()), float(other.mean())
    ok = share <= LIMITS.get(name, 1.0)
    if name == "crown":
        ok = ok and worst >= -LOSS
    if name == "alpha-crown-full":
        ok = ok and means[0] >= means[1]
    return {
        "network": about.label,
        "method": name,
        "seconds": seconds,
        "peer_seconds": other_seconds,
        "share": share,
        "mean_margin": means[0],
        "peer_mean_margin": means[1],
        "worst_difference": worst,
        "verified": int((lower.amin(1) > 0).sum()),
        "peer_verified": int((other.amin(1) > 0).sum()),
        "ok": ok,
    }


def written(rows: list[dict[str, Any]], n: int, rounds: dict[str, int]) -> str:
    text = f"# Linear bounds beside auto_LiRPA\n\n{n} images of each set, nine margins each, the "
    text += "threat clipped to [0, 1], one thread. CPU seconds without tracing, medians of "
    text += f"{rounds['CROWN']} (CROWN) and {rounds['alpha-CROWN']} (alpha-CROWN, 20 iterations) "
    text += "interleaved rounds: ours / theirs. Difference: the least of ours - theirs over all "
    text += "margins. auto_LiRPA has one alpha-CROWN, which optimises every bound; it stands "
    text += "beside both of ours.\n\n"
    head = ["network", "method", "seconds", "share", "mean margin", "difference", "verified", "ok"]
    cells = [
        [r["network"], r["method"], f"{r['seconds']:.3g} / {r['peer_seconds']:.3g}", r["share"],
         f"{r['mean_margin']:.5f} / {r['peer_mean_margin']:.5f}", r["worst_difference"],
         f"{r['verified']} / {r['peer_verified']}", r["ok"]]
        for r in rows
    ]  # fmt: skip
    text += markdown(head, cells)
    text += f"\nok: a share of the time of at most {LIMITS['crown']} with no margin lower by more "
    text += f"than {LOSS:g} (crown), of at most {LIMITS['alpha-crown-full']} with a mean margin as "
    text += "high (alpha-crown-full), of at most 1 (alpha-crown).\n"
    return text


def main() -> int:
    """0 when every row is ok, 1 otherwise."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    ask.add_argument("--peer", type=Path, required=True, help="folder that holds auto_LiRPA")
    ask.add_argument("--networks", nargs="+", default=NETWORKS)
    ask.add_argument("--n", type=int, default=16)
    ask.add_argument("--rounds", type=int, default=5, help="of CROWN")
    ask.add_argument("--alpha-rounds", type=int, default=1, help="of alpha-CROWN")
    ask.add_argument("--out", default="crown", help="name of the files in results/")
    asked = ask.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(asked.peer))
    warnings.simplefilter("ignore")
    import auto_LiRPA as peer

    rounds = {"CROWN": asked.rounds, "alpha-CROWN": asked.alpha_rounds}
    rows = []
    for text in asked.networks:
        about = subject(text, asked.n)
        about.model.requires_grad_(False)
        rows += compared(about, peer, rounds)
        print(*rows[-3:], sep="\n", file=sys.stderr)
    record = {"facts": facts({"auto_LiRPA": peer.__version__}, {}), "rows": rows}
    store(asked.out, record, written(rows, asked.n, rounds))
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
