"""Stored evaluations of linear classifiers on real digits, written in the layout of result.json."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier

Array = NDArray[Any]
Write = Callable[..., Path]


def interval(hits: int, n: int) -> list[float]:
    """Clopper and Pearson's interval through the quantiles of the beta distribution."""
    low = 0.0 if hits == 0 else float(beta.ppf(0.025, hits, n - hits + 1))
    high = 1.0 if hits == n else float(beta.ppf(0.975, hits + 1, n - hits))
    return [low, high]


@dataclass(frozen=True)
class Digits:
    """Real 8x8 digits and a linear classifier; `attacked` is one exact L-inf step on the margin."""

    x: Array  # (N, 64) in [0, 1]
    y: Array  # (N,)
    weight: Array  # (10, 64)
    bias: Array  # (10,)

    def answer(self, x: Array) -> Array:
        answer: Array = (x @ self.weight.T + self.bias).argmax(1)
        return answer

    def attacked(self, eps: float) -> Array:
        """(N, 64): the best point towards the class whose margin falls most, box kept."""
        found, worst = self.x.copy(), np.full(len(self.x), np.inf)
        own = self.weight[self.y]
        for target in range(10):
            step = -eps * np.sign(own - self.weight[target])
            moved = np.clip(self.x + step, 0, 1)
            logits = moved @ self.weight.T + self.bias
            rows = np.arange(len(self.y))
            margin = np.where(self.y == target, np.inf, logits[rows, self.y] - logits[rows, target])
            better = margin < worst
            found[better], worst[better] = moved[better], margin[better]
        return found


@cache
def linear(alpha: float, n: int = 60) -> Digits:
    """A ridge classifier; a large `alpha` gives the more robust one."""
    data = load_digits()
    x, y = data.data / 16, data.target
    fitted = RidgeClassifier(alpha=alpha).fit(x[n:], y[n:])
    return Digits(x[:n], y[:n], fitted.coef_, fitted.intercept_)


def rows_of(digits: Digits, weak: Array, strong: Array) -> list[dict[str, object]]:
    """The rows of examples.csv: broken by the first attack that changes a correct answer."""
    clean, first, last = (digits.answer(x) for x in (digits.x, weak, strong))
    rows: list[dict[str, object]] = []
    for i, label in enumerate(digits.y):
        correct = bool(clean[i] == label)
        by = (
            ""
            if not correct
            else "pgd"
            if first[i] != label
            else "apgd"
            if last[i] != label
            else ""
        )
        status = "misclassified" if not correct else "broken" if by else "robust"
        rows.append(
            {
                "id": i,
                "label": int(label),
                "clean": correct,
                "status": status,
                "broken_by": by,
                "budget": "pgd" if by == "pgd" else "pgd;apgd",
                "forward": 21,
                "backward": 20,
                "predicted": int(clean[i]),
                "adversarial": int({"pgd": first, "apgd": last}.get(by, clean)[i]),
            }
        )
    return rows


def result_of(rows: list[dict[str, object]], eps: float, eps_text: str) -> dict[str, Any]:
    n = len(rows)
    clean = sum(bool(row["clean"]) for row in rows)
    broken = {name: sum(row["broken_by"] == name for row in rows) for name in ("pgd", "apgd")}
    robust = clean - sum(broken.values())
    attacks = [
        {
            "name": name,
            "settings": f"steps={steps}, objective=margin",
            "robust_accuracy": left / n,
            "broken": broken[name],
            "forward": 12345 + steps,
            "backward": 11111 + steps,
            "seconds": 1.25,
        }
        for name, steps, left in (("pgd", 20, clean - broken["pgd"]), ("apgd", 100, robust))
    ]
    return {
        "schema": "torchproof.evaluation/1",
        "date": "2024-05-01T12:00:00+00:00",
        "model": "ridge",
        "model_sha256": "ab" * 32,
        "data": "digits",
        "data_sha256": "cd" * 32,
        "n": n,
        "threat": {"norm": "linf", "eps": eps, "eps_text": eps_text},
        "suite": "standard",
        "seed": 7,
        "device": "cpu",
        "dtype": "float32",
        "quantised": False,
        "clean_accuracy": clean / n,
        "robust_accuracy": robust / n,
        "robust_accuracy_ci95": interval(robust, n),
        "certified_accuracy": None,
        "attacks": attacks,
        "forward": sum(attack["forward"] for attack in attacks) + n,
        "backward": sum(attack["backward"] for attack in attacks),
        "seconds": 3.5,
        "examples": "examples.csv",
        "flags": [],
        "labels": [],
        "verdict": "ok",
        "versions": {"torchproof": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        "command": "torchproof evaluate runs/ridge --data digits --threat linf:0.1 --seed 7",
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(name, eps=..., alpha=..., images=..., **changes)`: the folder of an evaluation."""

    def stored(
        name: str,
        *,
        eps: float = 0.1,
        eps_text: str = "",
        alpha: float = 1.0,
        images: bool = True,
        examples: bool = True,
        **changes: object,
    ) -> Path:
        digits = linear(alpha)
        strong = digits.attacked(eps)
        weak = digits.attacked(eps / 2)
        rows = rows_of(digits, weak, strong)
        folder = tmp_path / name
        folder.mkdir()
        record = {**result_of(rows, eps, eps_text or f"{eps:g}"), "model": name, **changes}
        (folder / "result.json").write_text(json.dumps(record))
        if examples:
            with (folder / "examples.csv").open("w", newline="") as file:
                table = csv.DictWriter(file, list(rows[0]))
                table.writeheader()
                table.writerows(rows)
        if images:
            by = np.array([row["broken_by"] for row in rows])[:, None]
            x_adv = np.where(by == "pgd", weak, np.where(by == "apgd", strong, digits.x))
            shape = (-1, 1, 8, 8)
            np.savez(
                folder / "adversarial.npz",
                x=digits.x.reshape(shape).astype(np.float32),
                x_adv=x_adv.reshape(shape).astype(np.float32),
                y=digits.y,
                id=np.arange(len(digits.y)),
            )
        return folder

    return stored


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    """A made-up training record that overfits after its twelfth epoch."""
    path = tmp_path / "metrics.jsonl"
    lines = []
    for epoch in range(1, 21):
        rise = 1 - math.exp(-epoch / 4)
        robust = round(130 * (0.1 + 0.6 * rise - 0.01 * max(0, epoch - 12))) / 130
        record = {
            "epoch": epoch,
            "step": 10 * epoch,
            "loss": 2.3 - 1.4 * rise,
            "lr": 0.1 * (1 + math.cos(math.pi * epoch / 20)) / 2,
            "held_out": 130,
            "clean": round(130 * (0.1 + 0.85 * rise)) / 130,
            "robust": robust,
            "attack": "PGD-10, linf:0.1",
            "best_epoch": min(epoch, 12),
            "collapsed": False,
            "forward": 1000,
            "backward": 900,
            "seconds": 0.9,
        }
        lines.append(json.dumps(record))
    path.write_text("\n".join(lines) + "\n")
    return path
