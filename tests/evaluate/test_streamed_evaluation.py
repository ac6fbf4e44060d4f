"""An evaluation by chunks: every decision is that of one evaluation of all examples."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof import evaluate
from torchproof.attack.catalogue import pgd
from torchproof.core.errors import FileError, InputError, ResumeError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.evaluate.member import Member, Suite
from torchproof.evaluate.propagation import Propagation
from torchproof.evaluate.report import Report
from torchproof.evaluate.stream_merge import merge_streams
from torchproof.evaluate.streamed import evaluate_stream
from torchproof.evaluate.tally import StreamResult, Tally, folder_of
from torchproof.evaluate.together import held
from torchproof.report import render

THREAT = Threat(Linf(), 0.1)
WEIGHTS = torch.tensor([[1.0, -1.0, 0.5, 0.0], [-1.0, 1.0, 0.0, 0.5]])


def network() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    net[1].weight.data = WEIGHTS.clone()
    return net.eval()


def images(n: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(n, 1, 2, 2, generator=g)
    y = (x.flatten(1) @ WEIGHTS.T).argmax(1)
    return x, torch.where(torch.rand(n, generator=g) < 0.1, 1 - y, y)


@dataclass
class Chunks:
    """Images in memory that are handed out in chunks; asked: from which chunk on."""

    x: Tensor
    y: Tensor
    name: str = "images"
    asked: list[int] = field(default_factory=list)

    def chunks(self, size: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        self.asked.append(first)
        for i in range(first * size, len(self.x), size):
            yield self.x[i : i + size], self.y[i : i + size]


def examples(out: Path) -> list[object]:
    rows = (Report.load(folder).examples for folder in sorted((out / "chunks").iterdir()))
    return [row for part in rows for row in part]


def test_chunks_decide_as_one_evaluation_does(tmp_path: Path) -> None:
    x, y = images(70)
    whole = evaluate(network(), (x, y), THREAT, suite="quick", seed=3)
    told: list[int] = []
    found = evaluate_stream(
        network(), Chunks(x, y), THREAT, "quick", out=tmp_path, chunk=30, seed=3,
        progress=told.append,
    )  # fmt: skip
    assert examples(tmp_path) == list(whole.examples) and told == [30, 60, 70]
    for name in ("n", "clean_accuracy", "robust_accuracy", "robust_accuracy_ci95", "model_sha256"):
        assert getattr(found, name) == getattr(whole, name), name
    assert 0 < found.robust_accuracy < found.clean_accuracy < 1
    assert found.complete and found.chunks == 3 and found.data == "images"
    for one, all_ in zip(found.attacks, whole.attacks, strict=True):
        assert (one.name, one.broken, one.robust_accuracy) == (
            all_.name, all_.broken, all_.robust_accuracy,
        )  # fmt: skip
        assert (one.forward, one.backward) == (all_.forward, all_.backward)
    assert StreamResult.read(tmp_path) == found


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    x, y = images(50)
    calls = 0

    class Killed(Exception):
        pass

    def interrupt(done: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Killed

    with pytest.raises(Killed):
        evaluate_stream(
            network(), Chunks(x, y), THREAT, "quick", out=tmp_path, chunk=20, progress=interrupt
        )
    rest = Chunks(x, y)
    found = evaluate_stream(
        network(), rest, THREAT, "quick", out=tmp_path, chunk=20, resume=True
    )  # fmt: skip
    assert rest.asked[0] == 2 and found.complete and found.n == 50
    assert examples(tmp_path) == list(evaluate(network(), (x, y), THREAT, suite="quick").examples)


def test_an_evaluation_out_of_time_is_not_to_be_believed(tmp_path: Path) -> None:
    x, y = images(50)
    asked: Any = {"out": tmp_path, "chunk": 20}
    stopped = evaluate_stream(network(), Chunks(x, y), THREAT, "quick", max_seconds=1e-9, **asked)
    assert not stopped.complete and stopped.verdict == "unreliable" and stopped.n == 20
    assert "unfinished" in {flag.name for flag in stopped.flags}
    rest = evaluate_stream(
        network(), Chunks(x, y), THREAT, "quick", max_seconds=1e9, resume=True, **asked
    )
    assert rest.complete and rest.verdict == "ok"
    assert examples(tmp_path) == list(evaluate(network(), (x, y), THREAT, suite="quick").examples)


def test_a_flag_in_one_chunk_brings_the_reserve_to_all(tmp_path: Path) -> None:
    """Logits of 10^6 times the size: gradients of the cross-entropy vanish, and a flag says so."""
    x, y = images(40)
    net = network()
    net[1].weight.data *= 1e6
    suite = Suite((Member("PGD-2", pgd(THREAT, 2)),), reserve=(Member("PGD-5", pgd(THREAT, 5)),))
    found = evaluate_stream(net, Chunks(x, y), THREAT, suite, out=tmp_path, chunk=20)
    whole = evaluate(net, (x, y), THREAT, suite=suite)
    assert examples(tmp_path) == list(whole.examples)
    assert any(";PGD-5" in row.budget for row in whole.examples)
    assert {f.name for f in found.flags} >= {f.name for f in whole.flags if f.severity == "severe"}
    assert all(1 <= f.chunks <= 2 for f in found.flags) and found.verdict == whole.verdict


def test_memory_is_flat_over_chunks(tmp_path: Path) -> None:
    """Python's own memory, in which records are kept: that of one chunk, however many there are."""
    x, y = images(800)
    held: list[int] = []

    def note(done: int) -> None:
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])

    suite = Suite((Member("PGD-1", pgd(THREAT, 1)),))
    tracemalloc.start()
    found = evaluate_stream(
        network(), Chunks(x, y), THREAT, suite, out=tmp_path, chunk=200, slots=200, progress=note
    )
    tracemalloc.stop()
    assert found.n == 800 and len(held) == 4
    assert held[-1] - held[1] < 100_000  # the records of 200 examples alone are more than that


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    data = Chunks(*images(10))
    with pytest.raises(InputError, match="shard '2/2'"):
        evaluate_stream(network(), data, THREAT, "quick", out=tmp_path / "a", shard="2/2")
    with pytest.raises(InputError, match="chunk = 0"):
        evaluate_stream(network(), data, THREAT, "quick", out=tmp_path / "a", chunk=0)
    none = Chunks(torch.empty(0, 1, 2, 2), torch.empty(0).long())
    with pytest.raises(InputError, match="without examples"):
        evaluate_stream(network(), none, THREAT, "quick", out=tmp_path / "b")
    evaluate_stream(network(), data, THREAT, "quick", out=tmp_path / "c")
    with pytest.raises(FileError, match="which holds a run"):
        evaluate_stream(network(), data, THREAT, "quick", out=tmp_path / "c")
    with pytest.raises(ResumeError, match="seed was 0, is 1"):
        evaluate_stream(network(), data, THREAT, "quick", out=tmp_path / "c", seed=1, resume=True)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "result.json").write_text("{}")
    with pytest.raises(FileError, match="another kind"):
        evaluate_stream(network(), data, THREAT, "quick", out=tmp_path / "d")


def test_shards_merge_to_what_one_process_finds(tmp_path: Path) -> None:
    x, y = images(70)
    asked: Any = {"chunk": 20, "seed": 3, "verifier": Propagation("crown")}
    whole = evaluate_stream(network(), Chunks(x, y), THREAT, "quick", out=tmp_path / "w", **asked)
    shards = [tmp_path / "a", tmp_path / "b"]
    for number, out in enumerate(shards):
        part = evaluate_stream(
            network(), Chunks(x, y), THREAT, "quick", out=out, shard=f"{number}/2", **asked
        )
        assert part.chunks == 2 and part.n == (40, 30)[number]
        assert part.labels[0].startswith(f"shard {number}/2") and not whole.labels
    found = merge_streams(shards, tmp_path / "m")
    assert same(found) == same(whole) and examples(tmp_path / "m") == examples(tmp_path / "w")
    assert found.standing is not None and found.standing.certified > 0
    assert sum(found.standing.model_dump().values()) == found.n == 70
    with pytest.raises(InputError, match="every shard once"):
        merge_streams(shards[:1], tmp_path / "n")
    with pytest.raises(FileError, match="holds a run"):
        merge_streams(shards, tmp_path / "m")
    with pytest.raises(FileError, match=r"stream\.json"):
        merge_streams([tmp_path], tmp_path / "n")


def same(result: StreamResult) -> dict[str, Any]:
    """What may not differ."""
    content = result.model_dump(exclude={"date", "seconds", "command", "probes"})
    for attack in content["attacks"]:
        attack.pop("seconds")
    return content


def test_shards_with_and_without_the_reserve_are_not_merged(tmp_path: Path) -> None:
    x, y = images(40)
    loud = network()
    loud[1].weight.data *= 1e6  # gradients of the cross-entropy vanish, and a flag says so
    suite = Suite((Member("PGD-2", pgd(THREAT, 2)),), reserve=(Member("PGD-5", pgd(THREAT, 5)),))
    shards = [tmp_path / "a", tmp_path / "b"]
    for number, out in enumerate(shards):
        evaluate_stream(loud, Chunks(x, y), THREAT, suite, out=out, chunk=20, shard=f"{number}/2")
    for mark in (tmp_path / "b" / "chunks").glob("*/done-full"):
        mark.unlink()  # as if that shard had not asked for it
    with pytest.raises(InputError, match="b without the reserve"):
        merge_streams(shards, tmp_path / "m")


def test_processes_take_what_no_other_is_at(tmp_path: Path) -> None:
    """A chunk that another process holds is passed over, waited for, and done if that one dies."""
    x, y = images(60)
    told: list[int] = []
    lock = held(tmp_path / "chunks" / "000000")
    assert lock.__enter__()

    def note(done: int) -> None:
        told.append(done)
        if len(told) == 2:
            lock.__exit__(None, None, None)  # the other process dies

    found = evaluate_stream(
        network(), Chunks(x, y), THREAT, "quick", out=tmp_path, chunk=20, shared=True,
        progress=note,
    )  # fmt: skip
    assert told == [40, 60, 20] and found.complete
    decided = [row for i in range(3) for row in Report.load(folder_of(tmp_path, i)).examples]
    assert decided == list(evaluate(network(), (x, y), THREAT, suite="quick").examples)


def test_the_page_of_a_stream_tells_what_that_of_its_images_does(tmp_path: Path) -> None:
    x, y = images(70)
    evaluate_stream(network(), Chunks(x, y), THREAT, "quick", out=tmp_path / "s", chunk=30)
    evaluate(network(), (x, y), THREAT, suite="quick", out=tmp_path / "m")
    pages = [render([tmp_path / name], tmp_path / f"{name}.html").read_text() for name in "sm"]
    tables = [page[page.index("Accuracy by class") : page.index("Broken ex")] for page in pages]
    assert tables[0] == tables[1] and "Answers under attack" in tables[0]
    assert "FAILS" not in pages[0] and "70 rows" in pages[0] and "were not saved" in pages[0]


def test_what_chunks_say_is_summed(tmp_path: Path) -> None:
    """Counts in labels are added up, and a chunk of nothing but the target class is passed over."""
    x, y = images(60)
    order = y.argsort()
    found = evaluate_stream(
        network(), Chunks(x[order], y[order]), THREAT, "quick", out=tmp_path, chunk=10, target=0
    )
    own = int((y == 0).sum())
    assert found.n == 60 - own and own >= 10 and found.chunks == 6 - own // 10
    left = [label for label in found.labels if "left out" in label]
    assert [int(label.split()[0]) for label in left] == ([own % 10] if own % 10 else [])
    assert found.n > 20 and "few-examples" not in {flag.name for flag in found.flags}
    several = summed_labels("3 examples of their target class left out", 4)
    assert several == ["12 examples of their target class left out"]


def summed_labels(label: str, times: int) -> list[str]:
    tally = Tally()
    for _ in range(times):
        tally.label(label)
    return tally.said()
