"""AutoAttack's own standard evaluation, stage by stage, kept in a cache so that it runs once.

    python benchmarks/autoattack_peer.py --autoattack PATH [--networks ...] [--seeds 3]

Each answer is a file of `results/autoattack/`, named by the network, the threat, n and the seed,
and tied to the weights by their hash. Only evaluations inside the attacks, the clean pass and the
forward pass that judges each returned point are counted: AutoAttack's own checks of the model are
left out.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
from pathlib import Path
from time import process_time
from typing import Any

import torch
from counting import TOLERANCE
from subjects import NETWORKS, Subject, subject
from torch import Tensor, nn

from torchproof.core.fingerprints import model_sha256
from torchproof.core.norms import name_of

STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
CACHE = Path(__file__).parent / "results" / "autoattack"
_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


class Tally(nn.Module):
    """The model, counting samples forward and samples backward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forward_samples = self.backward_samples = 0
        self.training = model.training  # not .train(), which would reset frozen parts

    def forward(self, x: Tensor) -> Any:
        self.forward_samples += len(x)
        out = self.model(x)
        if out.requires_grad:
            out.register_hook(self._returned)
        return out

    def _returned(self, grad: Tensor) -> None:
        self.backward_samples += len(grad)


def cached(on: Subject, n: int, seed: int, cache: Path = CACHE) -> dict[str, Any] | None:
    """The stored answer for this network, threat, n and seed; None where there is none."""
    path = place(on, n, seed, cache)
    if not path.is_file():
        return None
    stored: dict[str, Any] = json.loads(path.read_text())
    if stored["model_sha256"] != digest(on):
        raise SystemExit(f"{path} is about other weights; delete it to measure again")
    return stored


def digest(on: Subject) -> str:
    """Identifies the weights."""
    found = model_sha256(on.model)
    assert found is not None
    return found


def place(on: Subject, n: int, seed: int, cache: Path, prefix: str = "") -> Path:
    """The file of one run."""
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in on.label)
    return cache / f"{prefix}{name}-{n}-{seed}.json"


def autoattack(on: Subject, seed: int, batch: int) -> dict[str, Any]:
    """Runs the four stages on what is left, and judges every returned point here."""
    package = importlib.import_module("autoattack")
    counted = Tally(on.model)
    threat = on.threat
    standing = on.correct()
    broken_by = ["" if ok else "clean" for ok in standing.tolist()]
    stages = []
    for stage in STAGES:
        rows = standing.nonzero()[:, 0]
        if not len(rows):
            break
        with torch.random.fork_rng(devices=[]):
            attack = package.AutoAttack(
                counted, norm=_NORMS[name_of(threat.norm)], eps=threat.eps, seed=seed,
                verbose=False, version="custom", attacks_to_run=[stage], device="cpu",
            )  # fmt: skip
            points, spent, seconds = _stage(attack, counted, stage, on, rows, batch)
        lost = judged(on, rows, points)
        standing[rows[lost]] = False
        for row in rows[lost].tolist():
            broken_by[row] = stage
        stages.append(
            {"stage": stage, "attacked": len(rows), "broken": int(lost.sum()),
             "forward": spent[0] + len(rows), "backward": spent[1], "seconds": seconds}
        )  # fmt: skip
    file = sys.modules["autoattack.autopgd_base"].__file__
    assert file is not None
    source = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]
    return {
        "network": on.label, "model_sha256": digest(on), "n": len(on.x), "seed": seed,
        "batch": batch, "robust": int(standing.sum()), "broken_by": broken_by, "stages": stages,
        "forward": len(on.x) + sum(s["forward"] for s in stages),
        "backward": sum(s["backward"] for s in stages),
        "seconds": sum(s["seconds"] for s in stages),
        "source": f"autopgd_base.py sha256 {source}",
        "torch": torch.__version__,
    }  # fmt: skip


def _stage(
    attack: Any, counted: Tally, stage: str, on: Subject, rows: Tensor, batch: int
) -> tuple[Tensor, tuple[int, int], float]:
    """The points one stage returns, with the evaluations and CPU seconds inside it."""
    member = {
        "apgd-ce": attack.apgd, "apgd-t": attack.apgd_targeted,
        "fab-t": attack.fab, "square": attack.square,
    }[stage]  # fmt: skip
    perturb = member.perturb
    spent, seconds = [0, 0], [0.0]

    def watched(x: Tensor, y: Tensor) -> Tensor:
        forward, backward, began = counted.forward_samples, counted.backward_samples, process_time()
        points: Tensor = perturb(x, y)
        spent[0] += counted.forward_samples - forward
        spent[1] += counted.backward_samples - backward
        seconds[0] += process_time() - began
        return points

    member.perturb = watched
    points = attack.run_standard_evaluation(on.x[rows], on.y[rows], bs=batch)
    return points, (spent[0], spent[1]), seconds[0]


@torch.no_grad()
def judged(on: Subject, rows: Tensor, points: Tensor) -> Tensor:
    """(B,) which points are adversarial: in ball and box, misclassified."""
    x, threat = on.x[rows], on.threat
    away = threat.norm.length(points - x) > threat.eps * (1 + 1e-5) + TOLERANCE
    beyond = torch.maximum(-points, points - 1).flatten(1).amax(1) > TOLERANCE
    return (on.model(points).argmax(1) != on.y[rows]) & ~away & ~beyond


def main() -> int:
    """Fills the cache; what is there already is left alone."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    ask.add_argument("--autoattack", type=Path, required=True, help="folder of its source")
    ask.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME:THREAT")
    ask.add_argument("--n", type=int, default=100, help="first n test images")
    ask.add_argument("--seeds", type=int, default=3)
    ask.add_argument("--batch", type=int, default=128)
    asked = ask.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(asked.autoattack))
    CACHE.mkdir(parents=True, exist_ok=True)
    for seed in range(asked.seeds):
        for name in asked.networks:
            on = subject(name, asked.n)
            if cached(on, asked.n, seed) is None:
                answer = autoattack(on, seed, asked.batch)
                place(on, asked.n, seed, CACHE).write_text(json.dumps(answer) + "\n")
                print(name, seed, answer["robust"], answer["forward"], answer["backward"],
                      f"{answer['seconds']:.0f} s", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
