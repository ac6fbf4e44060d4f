"""APGD-CE and APGD-T (9 targets) against AutoAttack's own: robust examples, seed by seed.

    python benchmarks/parity.py --autoattack PATH

Only correctly classified images are attacked, by both; every returned point is judged here. The
requirement: on at least three networks, ours leaves at most one example more than AutoAttack, for
each seed and on average.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from attacks import Measured, measure
from contenders import OURS, Field, contenders
from subjects import Subject, subject
from tables import facts, markdown, store

THEIRS = "AutoAttack"
NETWORKS = (
    "cnn_a_adv:linf:2/255 resnet2b_adv:linf:2/255 mnist_fast_pgd:linf:0.3 oval_base_kw:linf:2/255"
)
ATTACKS = ("APGD-CE", "APGD-T")
# Networks on which each attack must match, and by how many examples ours may be above.
NEEDED, ALLOWED = 3, 1


def attackable(name: str, n: int) -> tuple[Subject, list[int]]:
    """The network with the first n test images it classifies correctly, and their positions."""
    on = subject(name, 4 * n)
    rows = on.correct().nonzero()[:n, 0]
    if len(rows) < n:
        raise SystemExit(f"{name}: {len(rows)} of {4 * n} images are correct, {n} are needed")
    return Subject(on.name, on.threat, on.model, on.x[rows], on.y[rows]), rows.tolist()


def pair(ours: Measured, theirs: Measured, positions: list[int]) -> dict[str, Any]:
    """One seed: counts, and the test images that only one of the two left standing."""
    survived = [{positions[i] for i in run.survivors} for run in (ours, theirs)]
    return {
        "seed": ours.seed,
        "ours": ours.robust,
        "theirs": theirs.robust,
        "only_ours_robust": sorted(survived[0] - survived[1]),
        "only_theirs_robust": sorted(survived[1] - survived[0]),
        "evaluations": [ours.forward, ours.backward],
        "their_evaluations": [theirs.forward, theirs.backward],
        "seconds": [ours.seconds, theirs.seconds],
        "outside": [ours.outside, theirs.outside],
    }


def one(
    field: Field, attack: str, on: Subject, positions: list[int], seeds: Sequence[int], batch: int
) -> dict[str, Any]:
    """The record of one network and attack over all seeds; `positions` are those of the images."""
    has = field.offering(attack)
    pairs = []
    for seed in seeds:
        ours, theirs = (measure(has[name], on, seed, batch) for name in (OURS, THEIRS))
        pairs.append(pair(ours, theirs, positions))
    above = [p["ours"] - p["theirs"] for p in pairs]
    return {
        "network": on.label,
        "attack": attack,
        "attacked": len(positions),
        "last": positions[-1],
        "seeds": pairs,
        "mean_above": sum(above) / len(above),
        "most_above": max(above),
        "ok": max(above) <= ALLOWED and sum(above) / len(above) <= ALLOWED,
    }


def written(records: Sequence[dict[str, Any]]) -> str:
    """The table; robust counts per seed as ours / theirs."""
    rows = []
    for r in records:
        counts = ", ".join(f"{p['ours']}/{p['theirs']}" for p in r["seeds"])
        alone = [
            sum(len(p[f"only_{who}_robust"]) for p in r["seeds"]) for who in ("ours", "theirs")
        ]
        spent = [sum(sum(p[f]) for p in r["seeds"]) // len(r["seeds"])
                 for f in ("evaluations", "their_evaluations")]  # fmt: skip
        seconds = [sum(p["seconds"][i] for p in r["seeds"]) / len(r["seeds"]) for i in (0, 1)]
        row = [r["network"], r["attack"], counts, *alone, *spent]
        rows.append([*row, spent[0] / spent[1], *seconds, r["ok"]])
    first = records[0]
    text = f"""# Parity with AutoAttack

The first {first["attacked"]} test images that are classified correctly. Robust examples, ours and
AutoAttack's, for seeds {_seeds(first)}; evaluations are forward plus backward samples, means over
the seeds. `only ours` counts examples that ours left standing and AutoAttack broke at the same
seed, over all seeds. `ok`: at most {ALLOWED} above, per seed and on average.

"""
    head = ["network", "attack", "robust", "only ours", "only theirs", "ours, evals"]
    return text + markdown([*head, "theirs, evals", "ratio", "CPU s", "theirs, CPU s", "ok"], rows)


def _seeds(record: dict[str, Any]) -> str:
    return ", ".join(str(p["seed"]) for p in record["seeds"])


def main() -> int:
    """0 when each attack matches on enough networks, 1 otherwise."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    ask.add_argument("--networks", nargs="+", default=NETWORKS.split(), metavar="NAME:THREAT")
    ask.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=ATTACKS)
    ask.add_argument("--n", type=int, default=100, help="first n correctly classified test images")
    ask.add_argument("--seeds", type=int, default=3)
    ask.add_argument("--batch", type=int, default=128)
    ask.add_argument("--autoattack", type=Path, help="folder that holds the package autoattack")
    ask.add_argument("--out", default="parity", help="name of the files in results/")
    asked = ask.parse_args()
    torch.set_num_threads(1)
    field = contenders(asked.autoattack)
    if THEIRS in field.missing:
        raise SystemExit(f"{THEIRS} cannot be loaded: {field.missing[THEIRS]}")
    records = []
    for name in asked.networks:
        on, positions = attackable(name, asked.n)
        for attack in asked.attacks:
            records.append(one(field, attack, on, positions, range(asked.seeds), asked.batch))
            r = records[-1]
            print(r["network"], attack, [(p["ours"], p["theirs"]) for p in r["seeds"]], flush=True)
    store(asked.out, {"facts": facts(field.versions, {}), "records": records}, written(records))
    good = {a: sum(r["ok"] for r in records if r["attack"] == a) for a in asked.attacks}
    return 0 if all(count >= NEEDED for count in good.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
