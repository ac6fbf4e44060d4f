"""Memory and speed of streams: an epoch, an evaluation by chunks, and shards of webdataset.

    python benchmarks/stream.py [--train 1000000] [--evaluate 1000000] [--shards 20000]

One thread. Examples are made from their numbers (1 x 2 x 2 pixels, a linear model), so that what is
measured is the machinery: memory is the resident size of the process after a tenth of the examples,
and the most that it grew afterwards.
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tables import facts, markdown, store
from torch import Tensor, nn

from torchproof.attack.catalogue import pgd
from torchproof.core.threats import parse
from torchproof.data.shards import shards
from torchproof.data.stream import Stream
from torchproof.evaluate.member import Member, Suite
from torchproof.evaluate.streamed import evaluate_stream
from torchproof.train import Settings, Standard, fit

PARTS, CHUNK, BATCH = 20, 2000, 10_000


class Row(NamedTuple):
    """CPU seconds, MB at a tenth, and MB that it grew by afterwards at most."""

    what: str
    examples: int
    seconds: float
    resident: float
    grew: float


@dataclass(frozen=True)
class Numbers:
    """Images worked out from their numbers, with the half that is brighter as the label."""

    count: int
    name: str = "numbers"
    parts: int = PARTS

    def __len__(self) -> int:
        return self.count

    def walk(self, part: int) -> Iterator[int]:
        return iter(range(part * self.count // PARTS, (part + 1) * self.count // PARTS))

    def read(self, handles: Sequence[int]) -> tuple[Tensor, Tensor]:
        bits = torch.tensor(handles)[:, None] * torch.tensor([7919, 104729, 1299709, 15485863])
        x = (bits % 1009).float() / 1009
        return x.view(-1, 1, 2, 2), (x[:, :2].sum(1) > x[:, 2:].sum(1)).long()


class Memory:
    """Looks at the resident size of this process; needs /proc."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.started = time.process_time()

    def look(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.seen.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)

    def row(self, what: str, examples: int) -> Row:
        seconds, first = time.process_time() - self.started, len(self.seen) // 10
        grew = max(self.seen[first:]) - self.seen[first]
        return Row(what, examples, seconds, self.seen[first], grew)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


def training(count: int) -> Row:
    memory, source = Memory(), Numbers(count)
    how = Settings.of(epochs=1, batch_size=BATCH, lr=0.5, weight_decay=0.0)

    def look() -> bool:
        memory.look()
        return False

    list(fit(linear(), Stream(source, held=source.read(range(1000))), Standard(), how, stop=look))
    return memory.row(f"plain training, batches of {BATCH:,}", count)


def evaluation(count: int) -> Row:
    memory, threat = Memory(), parse("linf:0.05")
    suite = Suite((Member("PGD-1", pgd(threat, 1)),))
    with tempfile.TemporaryDirectory() as folder:
        evaluate_stream(
            linear().eval(), Stream(Numbers(count)), threat, suite, out=Path(folder) / "run",
            chunk=CHUNK, slots=CHUNK, progress=lambda done: memory.look(),
        )  # fmt: skip
    return memory.row(f"evaluation, clean and PGD-1, chunks of {CHUNK:,}", count)


def tar(path: Path, count: int) -> None:
    """Grey pictures of 32 x 32, as PNG."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    with tarfile.open(path, "w") as file:
        for number in range(count):
            for suffix, content in (("png", out.getvalue()), ("cls", b"1")):
                info = tarfile.TarInfo(f"{number:07d}.{suffix}")
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))


def reading(count: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        for number in range(4):
            tar(Path(folder) / f"{number}.tar", count // 4)
        source = shards(f"{folder}/*.tar", count=count)
        walked = Memory()
        for part in range(source.parts):
            for place, _ in enumerate(source.walk(part)):
                if place % 100 == 0:
                    walked.look()
        rows = [walked.row("shards: headers alone", len(source))]
        memory = Memory()
        for _ in Stream(source, buffer=1000).batches(100, 0, 0):
            memory.look()
        return [*rows, memory.row("shards: an epoch, 32 x 32 PNG decoded", len(source))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=1_000_000)
    parser.add_argument("--evaluate", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=20_000)
    parser.add_argument("--out", default="stream")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [training(given.train // 10), training(given.train), evaluation(given.evaluate)]
    rows += reading(given.shards)
    head = ["what", "examples", "CPU seconds", "MB at a tenth", "MB it grew by"]
    text = (
        "# Streams\n\nMemory is the resident size of the process after a tenth of the examples, "
        "and the most that it grew by afterwards.\n\n" + markdown(head, [list(row) for row in rows])
    )
    store(given.out, {"facts": facts({}, {}), "rows": [row._asdict() for row in rows]}, text)


if __name__ == "__main__":
    main()
