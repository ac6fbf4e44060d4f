"""A checker of certificates that shares no code with what makes them: NumPy and nothing else.

    python check.py proof.json

It replays in float64, with everything that is rounded paid for, that the margins over the set are
at least what is claimed. Each interval claimed before a ReLU has to follow from those before it, by
intervals or linear bounds walked back; so do margins, also part by part. Exit code 0: confirmed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

A = np.ndarray[Any, Any]
Layer = tuple[str, A, A]  # "affine": W, b; "mul", "div", "add": a vector, nothing; "relu"
NONSENSE = (LookupError, TypeError, ValueError, StopIteration, RecursionError, zlib.error)
TINY, NONE = 1e-280, np.zeros(0)


class Rejected(Exception):
    """The certificate does not prove what it says."""


def lost(n: int) -> float:
    """2 n u / (1 - n u): twice what a sum of n products loses, as a share of their sizes."""
    return 2 * n * 2.0**-53 / (1 - n * 2.0**-53)


def unpacked(text: str, kind: str, rows: int) -> A:
    """(rows, n) numbers."""
    numbers = np.frombuffer(zlib.decompress(base64.b64decode(text)), kind)
    return numbers.astype(float).reshape(rows, -1)


def matrix(layer: dict[str, Any], w: A, shape: tuple[int, ...]) -> tuple[A, tuple[int, ...]]:
    """The matrix (outputs, inputs) of a dense or convolutional layer; the shape of its answer."""
    if layer["kind"] == "dense":
        return w, (len(w),)
    (channels, *size), (many, per, *kernel) = shape, w.shape
    step, pad, gap = (layer[k] for k in ("stride", "padding", "dilation"))
    rows, cols = ((size[i] + 2 * pad[i] - gap[i] * (kernel[i] - 1) - 1) // step[i] + 1
                  for i in (0, 1))  # fmt: skip
    full = np.zeros((many, rows, cols, channels, *size))
    for o, r, c, i, j in np.ndindex(many, rows, cols, *kernel):
        y, x = r * step[0] - pad[0] + i * gap[0], c * step[1] - pad[1] + j * gap[1]
        if 0 <= y < size[0] and 0 <= x < size[1]:
            first = o // (many // layer["groups"]) * per
            full[o, r, c, first : first + per, y, x] = w[o, :, i, j]
    return full.reshape(many * rows * cols, -1), (many, rows, cols)


def network(net: dict[str, Any], folder: Path) -> list[Layer]:
    """Its layers, from the file of weights, whose digest has to be that of the certificate."""
    with (folder / net["weights"]).open("rb") as file:
        stored, layers = dict(np.load(file, allow_pickle=False)), list[Layer]()
    digest, read, shape = hashlib.sha256(json.dumps(net["input"]).encode()), [], tuple(net["input"])
    for layer in net["layers"]:
        w, b = (stored[layer[k]].astype("<f8") if k in layer else NONE for k in ("weight", "bias"))
        said = [layer, [a.shape for k, a in (("weight", w), ("bias", b)) if k in layer]]
        digest.update(json.dumps(said, sort_keys=True).encode() + w.tobytes() + b.tobytes())
        read.append((layer, w, b))
    if digest.hexdigest() != net["sha256"]:
        raise Rejected("the weights are not those that it is about")
    for layer, w, b in read:
        if layer["kind"] in ("dense", "conv"):
            w, shape = matrix(layer, w, shape)
            layers.append(("affine", w, b.repeat(len(w) // len(b)) if len(b) else np.zeros(len(w))))
        elif layer["kind"] in ("relu", "mul", "div", "add"):
            layers.append((layer["kind"], w.ravel(), NONE))
        else:
            raise Rejected(f"a layer that is not known: {layer['kind']}")
    return layers


class Example:
    """One input's set, walked forward."""

    def __init__(self, layers: list[Layer], of: dict[str, Any], about: dict[str, Any]) -> None:
        self.layers, self.norm, self.eps = layers, about["norm"], float(about["eps"])
        self.x, low, high = np.array(of["input"], float).ravel(), about["low"], about["high"]
        if not np.all((self.x >= low) & (self.x <= high) & (self.eps >= 0) & (of["label"] >= 0)):
            raise Rejected("an input outside the box, a radius or a label below 0")
        reach = np.inf if self.norm == "l0" else self.eps
        self.lo = np.maximum(np.nextafter(self.x - reach, -np.inf), low)
        self.hi = np.minimum(np.nextafter(self.x + reach, np.inf), high)
        self.doubt, self.reach = list[A](), dict[int, A]()  # price of |entries|; the largest
        self.lines, self.ranges = dict[int, tuple[A, A, A]](), dict[int, tuple[A, A]]()
        claims, z = iter(of["bounds"]), (self.lo, self.hi)
        for i, (kind, w, b) in enumerate(layers):
            if kind == "relu":
                z = self.confirm(i, next(claims), z)
                z = self.ranges[i] = (np.maximum(z[0], 0), np.maximum(z[1], 0))
            else:
                z = self.move(kind, w, b, *z)
        if next(claims, None) is not None:
            raise Rejected("more bounds than ReLUs")

    def move(self, kind: str, w: A, b: A, low: A, high: A) -> tuple[A, A]:
        size = np.maximum(abs(low), abs(high))
        if kind == "affine":
            total = abs(w) @ size + abs(b)
            middle, half = w @ ((low + high) / 2) + b, abs(w) @ ((high - low) / 2)
            noise = 2 * lost(2 * w.shape[1] + 16) * total + TINY
            self.doubt.append(lost(len(w) + 4) * total)
            return middle - half - noise, middle + half + noise
        change = {"mul": np.multiply, "div": np.divide, "add": np.add}[kind]
        total = abs(w) + size if kind == "add" else change(size, abs(w))
        self.doubt.append(lost(len(total) + 4) * total)
        ends = change(low, w), change(high, w)
        return np.nextafter(np.minimum(*ends), -np.inf), np.nextafter(np.maximum(*ends), np.inf)

    def confirm(self, i: int, claim: dict[str, Any], z: tuple[A, A]) -> tuple[A, A]:
        """The claimed interval before the ReLU of layer i, if it follows; draws lines from it."""
        low, high, slope = (
            np.array(claim[k], float).reshape(z[0].shape) for k in ("lower", "upper", "slope")
        )
        for sign, open_ in ((1, ~(low <= z[0])), (-1, ~(high >= z[1]))):
            for part in np.array_split(np.flatnonzero(open_), 1 + open_.sum() // 512):
                rows, own = sign * np.eye(len(low))[part], self.slopes_of(claim, part, sign)
                if not np.all(self.least(rows, i, own) >= sign * (low if sign > 0 else high)[part]):
                    raise Rejected(f"bounds before layer {i} do not follow")
        crossing = (low < 0) & (high > 0)
        up = np.where(crossing, high, 1.0) / np.where(crossing, high - low, 1.0)
        up = np.where(crossing, np.clip(up, 0, 1), low >= 0)
        at = np.maximum(-up * low, (1 - up) * high) * (1 + lost(4)) + TINY
        at = np.where(crossing, at, 0.0)
        self.lines[i] = (np.where(crossing, np.clip(slope, 0, 1), up), up, at)
        size = self.reach[i] = np.maximum(abs(low), abs(high))
        self.doubt.append(lost(len(low) + 4) * (size + at))
        return low, high

    def slopes_of(self, claim: dict[str, Any], part: A, sign: int) -> dict[int, A]:
        """Slopes of the lower lines of the layers before for entries that the claim has some for,
        and as they were drawn for others.
        """
        if not (claim.get("rows") and self.lines and len(part)):
            return {}
        entries = claim["rows"]["entries"]
        levels = unpacked(claim["rows"]["levels"], "u1", 2 * len(entries)) / 255
        where = {entry: k + (sign < 0) * len(entries) for k, entry in enumerate(entries)}
        usual = np.concatenate([low for low, _, _ in self.lines.values()])
        whole = np.stack([levels[where[j]] if j in where else usual for j in part.tolist()])
        return self.by_layer(whole)

    def by_layer(self, whole: A) -> dict[int, A]:
        """Slopes (rows, units of all layers so far), layer by layer."""
        ends = np.cumsum([len(low) for low, _, _ in self.lines.values()])
        if whole.shape[1] != ends[-1]:
            raise Rejected("slopes of another network")
        return dict(zip(self.lines, np.split(whole, ends[:-1], 1), strict=True))

    def least(
        self, rows: A, end: int, slopes: dict[int, A] | None = None, stop: int = -1,
        sides: dict[int, A] | None = None,
    ) -> A:  # fmt: skip
        """What <row, z> is at least, z the answer of layer end - 1, whose rows walk back to the
        input, or to the interval after the ReLU of layer `stop`; sides: per layer (2, rows, units)
        signs, 0 where open, and multipliers w >= 0: <row, z> >= <row, z> - sign w z there.
        """
        value, error = np.zeros(len(rows)), np.full(len(rows), TINY)
        for i in reversed(range(stop + 1, end)):
            (kind, w, b), error = self.layers[i], error + abs(rows) @ self.doubt[i]
            if kind == "affine":
                value, rows = value + rows @ b, rows @ w
            elif kind == "relu":
                low, up, at = self.lines[i]
                if slopes:
                    low = np.where(at > 0, np.clip(slopes[i], 0, 1), low)
                if sides:
                    sign, at = sides[i][0], np.where(sides[i][0] == 0, at, 0.0)
                    low, up = (np.where(sign == 0, line, sign > 0) for line in (low, up))
                value, rows = (value + (np.minimum(rows, 0) * at).sum(1),
                               np.where(rows > 0, rows * low, rows * up))  # fmt: skip
                if sides:
                    rows = rows - sides[i][0] * np.maximum(sides[i][1], 0)
                    error = error + lost(2) * abs(rows) @ self.reach[i]
            elif kind == "add":
                value = value + rows @ w
            else:
                rows = rows * w if kind == "mul" else rows / w
            error = error + lost(2) * abs(value)
        low, high = self.ranges[stop] if stop >= 0 else (self.lo, self.hi)
        size = np.maximum(abs(low), abs(high))
        part = np.maximum(rows, 0) @ low + np.minimum(rows, 0) @ high
        if stop < 0 and self.norm != "linf":
            size, part = size + abs(self.x) + self.eps, np.maximum(part, self.ball(rows))
        value, error = value + part, error + abs(rows) @ (lost(4 * len(size) + 64) * size)
        return np.asarray(value - error - lost(4) * abs(value))

    def ball(self, rows: A) -> A:
        """<row, x + d> for the worst d of an l0, l1 or l2 ball in the box; for l1 and l2 by weak
        duality: any multiplier gives a bound.
        """
        near, far = self.lo - self.x, self.hi - self.x
        gain, reach = np.maximum(-rows * near, -rows * far), np.where(rows > 0, -near, far)
        if self.norm == "l0":
            off = np.sort(gain, 1)[:, ::-1][:, : int(self.eps)].sum(1)
        elif self.norm == "l1":
            order = np.argsort(-abs(rows), 1)
            spent = np.cumsum(np.take_along_axis(reach, order, 1), 1) >= self.eps
            last = np.take_along_axis(abs(rows), order, 1)[range(len(rows)), spent.argmax(1)]
            price = np.where(spent.any(1), last, 0.0)[:, None]
            off = (np.maximum(abs(rows) - price, 0) * reach).sum(1) + self.eps * price[:, 0]
        elif self.norm == "l2":
            power = np.zeros((len(rows), 1))
            for step in 32 * 0.5 ** np.arange(40):
                t = np.exp(power)
                short = (np.clip(-rows * t, near, far) ** 2).sum(1, keepdims=True) < self.eps**2
                power += np.where(short, step, -step)
            d = np.clip(-rows * t, near, far)
            off = (-rows * d - d**2 / (2 * t)).sum(1) + self.eps**2 / (2 * t[:, 0])
        else:
            raise Rejected(f"a norm that is not known: {self.norm}")
        return np.asarray(rows @ self.x - off)


def covers(parts: list[dict[tuple[int, int], int]]) -> bool:
    """Is every pattern of signs in one of the parts?"""
    if not parts or not all(parts):
        return bool(parts)
    ((unit, _),) = Counter(unit for part in parts for unit in part).most_common(1)
    halves = ([{u: s for u, s in part.items() if u != unit} for part in parts
               if part.get(unit, sign) == sign] for sign in (1, -1))  # fmt: skip
    return all(covers(half) for half in halves)


def by_parts(example: Example, row: A, leaves: list[dict[str, Any]]) -> float:
    """What <row, logits> is at least, the least of what it is in parts that cover the set."""
    units = [{(int(k), int(j)): int(s) for k, j, s in leaf["splits"]} for leaf in leaves]
    if not covers(units) or {s for part in units for s in part.values()} - {1, -1}:
        raise Rejected("parts that leave something out")
    if not np.isfinite([w for leaf in leaves for w in leaf["weights"]]).all():
        raise Rejected("multipliers that are no numbers")
    relus, found = list(example.lines), [np.inf]
    for some in (leaves[k : k + 256] for k in range(0, len(leaves), 256)):
        sides = {i: np.zeros((2, len(some), len(example.reach[i]))) for i in relus}
        for n, leaf in enumerate(some):
            for (k, j, sign), weight in zip(leaf["splits"], leaf["weights"], strict=True):
                sides[relus[k]][:, n, j] = sign, weight
        slopes = example.by_layer(np.concatenate([unpacked(f["slopes"], "<f4", 1) for f in some]))
        rows = np.repeat(row[None], len(some), 0)
        found += example.least(rows, len(example.layers), slopes, sides=sides).tolist()
    return float(np.min(found))  # NaN where one of them is


def margins(example: Example, part: dict[str, Any], rows: A) -> A:
    """What they are at least, by the bounds and slopes of one part of an entry."""
    relus, own, end = list(example.lines), part["slopes"] or [], len(example.layers)
    slopes = {i: np.array(s, float) for i, s in zip(relus, own, strict=bool(own))}
    found = example.least(rows, end, slopes)
    if relus:
        found = np.maximum(found, example.least(rows, end, stop=relus[-1]))
    for t, leaves in enumerate(part.get("leaves") or []):
        found[t] = np.maximum(found[t], by_parts(example, rows[t], leaves) if leaves else -np.inf)
    return found


def check_example(layers: list[Layer], of: dict[str, Any], about: dict[str, Any]) -> None:
    """Raises Rejected where a claim does not follow; every part is a proof by itself."""
    unit, found = np.eye(int(of["classes"])), []
    rows = unit[[of["label"]]] - np.delete(unit, of["label"], 0)
    for part in of.get("parts", [of]):
        example = Example(layers, of | {"bounds": part["bounds"]}, about)
        found.append(margins(example, part, rows))
    margin, error = (np.array(of[k], float).reshape(len(rows)) for k in ("margin", "error_bound"))
    if not np.all((np.max(found, 0) >= margin - error) & (margin - error > 0)):
        raise Rejected("the margins do not follow")


def check(path: Path) -> list[tuple[Any, str]]:
    """Each example's id and "confirmed", or why not."""
    proof, told = json.loads(path.read_text()), []
    try:
        if proof["schema"] != "torchproof.proof/3":
            raise Rejected("another kind of file")
        layers = network(proof["network"], path.parent)
    except Rejected as reason:
        return [(None, str(reason))]
    for of in proof["examples"]:
        try:
            check_example(layers, of, proof["set"])
            told.append((of["id"], "confirmed"))
        except (Rejected, *NONSENSE) as reason:
            told.append((of["id"], f"rejected: {reason}"))
    return told


if __name__ == "__main__":
    verdicts = check(Path(sys.argv[1]))
    print("\n".join(f"example {name}: {verdict}" for name, verdict in verdicts))
    sys.exit(0 if verdicts and all(v == "confirmed" for _, v in verdicts) else 1)
