"""Probes: who is asked, what it costs, closed forms on linear models; nothing stops them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.cases import Cases, Point
from torchproof.attack.catalogue import averaged, nes, pgd, square
from torchproof.attack.starts import Zero
from torchproof.core.norms import L2, Linf
from torchproof.core.objectives import Margin
from torchproof.core.threats import Region, Threat
from torchproof.evaluate import Member, Progress, Report, evaluate, merge
from torchproof.evaluate.course import Clock
from torchproof.evaluate.subject import examples_of, sharded
from torchproof.evaluate.watched import Watched
from torchproof.report import render
from torchproof.report.numbers import count


def records(folder: Path, name: str = "probes") -> dict[int, dict[str, Any]]:
    """The stored records of that name by example."""
    lines = (json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines())
    return {record["id"]: record for record in lines if record["attack"] == name}


def test_the_sample_is_fixed_bounded_and_the_same_in_shards() -> None:
    ids = torch.randperm(500, generator=torch.Generator().manual_seed(0)) * 7
    data = (torch.rand(500, 1, 2, 2), torch.zeros(500, dtype=torch.int64))
    whole = examples_of(data, None, ids, "some", "")
    chosen = {int(ids[row]) for row in whole.first(32)}
    assert len(chosen) == 32 and chosen < {int(ids[row]) for row in whole.first(128)}
    parts = [sharded(whole, f"{i}/3") for i in range(3)]
    assert chosen == {int(part.ids[row]) for part in parts for row in part.first(32)}
    order = torch.arange(499, -1, -1)
    turned = examples_of((data[0][order], data[1]), None, ids[order], "some", "")
    assert chosen == {int(turned.ids[row]) for row in turned.first(32)}
    few = examples_of((data[0][:5], data[1][:5]), None, None, "some", "")
    assert few.first(32) == [0, 1, 2, 3, 4]


class Line(nn.Module):
    """Two classes, logits (0, <w, x> - b)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        w = torch.linspace(-1, 1, int(torch.tensor(shape).prod()), dtype=torch.float64)
        self.w, self.b = nn.Parameter(w.reshape(shape)), 0.1

    def forward(self, x: Tensor) -> Tensor:
        z = (x * self.w).flatten(1).sum(1) - self.b
        return torch.stack([torch.zeros_like(z), z], 1)


@pytest.fixture
def line() -> tuple[Line, tuple[Tensor, Tensor]]:
    """The linear model, and inner images with its own answers as labels."""
    model = Line((1, 4, 4))
    g = torch.Generator().manual_seed(2)
    x = 0.4 + 0.2 * torch.rand(30, 1, 4, 4, dtype=torch.float64, generator=g)
    return model, (x, model(x).argmax(1))


def test_closed_forms_on_a_linear_model(line: Any, tmp_path: Path) -> None:
    model, (x, y) = line
    threat, steps = Threat(Linf(), 0.02), 4
    attack = pgd(threat, steps, length=0.01, objective=Margin(), start=Zero())
    report = evaluate(model, (x, y), threat, [Member("slow", attack)], out=tmp_path)
    gap = model(x).diff(dim=1)[:, 0].abs()
    reach = 0.02 * model.w.abs().sum()
    standing = {row.id for row in report.examples if row.status == "robust"}
    found = records(tmp_path)
    assert set(found) == set(range(30)) and 0 < int((gap < reach).sum()) < len(standing)
    for i, record in found.items():
        assert record["single"] == bool(gap[i] < reach) and not record["misled"]
        assert record["rough"] == pytest.approx(1, abs=1e-6)
        assert record["noise"] == 0 or gap[i] < reach
        assert ("late" in record) == (i in standing)
        if i in standing:
            assert record["beyond"] and record["steps"] == 8
            assert record["longer"] == bool(gap[i] < 8 * 0.01 * reach)
            # equal steps uphill: the second half of eight brings half of the way
            half = None if record["longer"] else pytest.approx(0.5, abs=1e-9)
            assert record["late"] == half
    broken = int((gap < reach).sum()) - 30 + len(standing)
    (flag,) = [f for f in report.flags if f.name == "single-step-wins"]
    assert f" {broken} of {len(standing)} " in flag.evidence


def test_costs_are_bounded_and_counted_apart(
    net: nn.Module, blobs: Any, threat: Threat, tmp_path: Path
) -> None:
    dear = {
        "long": pgd(threat, 500),
        "EOT": averaged(pgd(threat, 40), 7),
        "NES": nes(threat, queries=400),
    }
    for name, attack in dear.items():
        folder = tmp_path / name
        report = evaluate(net, blobs, threat, [Member(name, attack)], n=20, out=folder)
        found, clean = records(folder), records(folder, "clean")
        assert report.probes.examples == len(found) == report.clean_accuracy * 20
        for record in found.values():
            assert record["forward"] + record["backward"] <= 36 + 41 + 402
            assert "late" not in record or record["late"] is None or name == "long"
        forward = sum(r["forward"] for r in found.values()) + 3 * len(clean)
        backward = sum(r["backward"] for r in found.values()) + 2 * len(clean)
        assert (report.probes.forward, report.probes.backward) == (forward, backward)
        assert report.forward == 20 + report.attacks[0].forward


def test_the_page_shows_what_they_cost(
    net: nn.Module, blobs: Any, threat: Threat, tmp_path: Path
) -> None:
    probes = evaluate(net, blobs, threat, "quick", n=20, out=tmp_path).probes
    page = render([tmp_path], tmp_path / "report.html").read_text()
    assert f"about {probes.examples} examples" in page and "not counted below" in page
    assert f">{count(probes.forward)}</td>" in page and f">{count(probes.backward)}</td>" in page


def test_each_threat_of_a_union_is_probed(
    net: nn.Module, blobs: Any, threat: Threat, tmp_path: Path
) -> None:
    both = [threat, Threat(L2(), 0.4)]
    report = evaluate(net, blobs, both, "quick", out=tmp_path, n=30)
    first, second = records(tmp_path), records(tmp_path, "probes 2")
    assert set(first) == set(second) and len(first) == report.probes.examples
    assert any(first[i]["single"] != second[i]["single"] for i in first)
    assert report.flags == []


def test_a_region_is_not_left(net: nn.Module, blobs: Any, tmp_path: Path) -> None:
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[2:4, 2:4] = True
    threat = Region(Threat(Linf(), 0.1), mask)
    evaluate(net, blobs, threat, "quick", n=20, out=tmp_path)
    found = records(tmp_path).values()
    assert all(record["beyond"] is None for record in found if "beyond" in record)


class Shaky(nn.Module):
    """NaN for pictures whose first pixel is white."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.inner(x)
        return torch.where(x[:, 0, 0, :1] > 0.99, torch.nan, z)


def test_what_a_probe_cannot_ask_is_held_against_that_example(
    net: nn.Module, blobs: Any, tmp_path: Path
) -> None:
    threat = Threat(Linf(), 0.05)
    x = blobs.x.clamp(0.05, 0.9)
    report = evaluate(Shaky(net), (x, blobs.y), threat, "quick", out=tmp_path)
    found = records(tmp_path)
    failed = {i for i, record in found.items() if "failed" in record}
    assert 0 < len(failed) < len(found)
    assert all(found[i]["failed"] == ["beyond"] for i in failed)
    (flag,) = [f for f in report.flags if f.name == "undefined-gradients"]
    assert flag.severity == "note" and f"ids {min(failed)}" in flag.evidence
    assert report.verdict == "ok"


class Rooted(nn.Module):
    """A root whose slope at 0 is infinite, times 0."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.inner(x)
        return z + 0 * x[:, 0, 0, :1].sqrt()


def test_undefined_gradients_are_flagged(net: nn.Module, blobs: Any, threat: Threat) -> None:
    black = {i for i in range(60) if float(blobs.x[i, 0, 0, 0]) == 0}
    assert 0 < len(black) < 60
    report = evaluate(Rooted(net), blobs, threat, [Member("Square", square(threat, 50))])
    (flag,) = [f for f in report.flags if f.name == "undefined-gradients"]
    assert flag.severity == "severe" and report.verdict == "unreliable"
    assert flag.evidence.endswith(f"ids {', '.join(map(str, sorted(black)))}")


def test_an_attack_that_meets_undefined_gradients_goes_on_and_says_so(
    net: nn.Module, blobs: Any, threat: Threat, tmp_path: Path
) -> None:
    """Black corners are held against their own examples: these are attacked in all other pixels."""
    steps = 3
    attack = pgd(threat, steps, start=Zero(), objective=Margin())
    report = evaluate(Rooted(net), blobs, threat, [Member("PGD", attack)], out=tmp_path)
    stored, black = records(tmp_path, "PGD"), blobs.x[:, 0, 0, 0] == 0
    met = {i: r["undefined"] for i, r in stored.items() if "undefined" in r}
    assert set(met) == {i for i in stored if black[i]} and len(met) < len(stored)
    # the corner's gradient is undefined at each step, as it never moves
    lost = {i for i in met if stored[i]["lost"]}
    assert {met[i] for i in set(met) - lost} == {steps}
    assert 0 < len(lost) < len(met), "the other pixels must have broken some"
    (flag,) = [f for f in report.flags if f.name == "undefined-gradients"]
    assert flag.severity == "severe" and report.verdict == "unreliable"
    about = f"in {sum(met.values()):,} questions about {len(met)} examples"
    assert about in flag.evidence


def test_undefined_gradients_of_one_example_leave_the_others_alone(
    net: nn.Module, blobs: Any, threat: Threat, tmp_path: Path
) -> None:
    """The records of all other examples are those of the network without the root."""
    members = [Member("PGD", pgd(threat, 3, start=Zero()))]
    sound, shaken = tmp_path / "sound", tmp_path / "shaken"
    evaluate(net, blobs, threat, members, out=sound)
    evaluate(Rooted(net), blobs, threat, members, out=shaken)
    one, two = records(sound, "PGD"), records(shaken, "PGD")
    kept = [i for i in two if "undefined" not in two[i]]
    assert 0 < len(kept) < len(two)
    for i in kept:
        assert one[i]["score"] == pytest.approx(two[i]["score"], abs=1e-9)
        assert one[i]["lost"] == two[i]["lost"] and one[i]["forward"] == two[i]["forward"]


def test_a_run_killed_while_probing_ends_the_same(
    net: nn.Module, blobs: Any, threat: Threat, short: list[Member], same: Any, interrupted: Any,
    killed: Any, tmp_path: Path, go: Any, once: tuple[Path, Report],
) -> None:  # fmt: skip
    calls = [0]

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls[0] += 1
            out: Tensor = net(x)
            return out

    go(Counted())
    for back in (5, 60):
        folder = tmp_path / str(back)
        with pytest.raises(killed):
            go(interrupted(net, calls[0] - back), out=folder)
        same(go(out=folder, resume=True), once[1])


def test_time_up_before_the_probes(
    net: nn.Module, blobs: Any, threat: Threat, tmp_path: Path, monkeypatch: Any, same: Any
) -> None:
    whole = evaluate(net, blobs, threat, "quick", name="net")
    up = [False]

    def tell(step: Progress) -> None:
        up[0] |= step.stage == "PGD-20-CE" and step.done == step.total

    with monkeypatch.context() as patched:
        patched.setattr(Clock, "over", lambda self: up[0])
        cut = evaluate(net, blobs, threat, "quick", progress=tell, out=tmp_path, name="net")
    assert [f.name for f in cut.flags] == ["unprobed"] and cut.verdict == "ok"
    assert cut.examples == whole.examples and cut.probes.examples == 0
    same(evaluate(net, blobs, threat, "quick", out=tmp_path, name="net", resume=True), whole)


def test_shards_probe_what_one_run_does(
    net: nn.Module, blobs: Any, threat: Threat, tmp_path: Path, same: Any
) -> None:
    data, attack = (blobs.x, blobs.y), [Member("tiny", pgd(threat, 3, 0.01, start=Zero()))]
    whole = evaluate(net, data, threat, attack, name="net")
    folders = [tmp_path / str(i) for i in range(2)]
    for i, folder in enumerate(folders):
        evaluate(net, data, threat, attack, name="net", shard=f"{i}/2", out=folder, slots=3 + i)
    merged = merge(folders, tmp_path / "merged")
    assert {f.name for f in merged.flags} >= {"incomplete-optimisation", "single-step-wins"}
    same(merged, whole)


def test_only_images_of_8_bits_win_a_quantised_evaluation(line: Any, tmp_path: Path) -> None:
    model, (x, y) = line
    x = (x * 255).round() / 255
    y = model(x).argmax(1)
    threat = Threat(Linf(), 2.5 / 255)
    attack = [Member("one", pgd(threat, 1, 0.01, Margin(), Zero()))]
    evaluate(model, (x, y), threat, attack, quantised=True, out=tmp_path)
    reach = 2 / 255 * model.w.abs().sum()  # two whole grey levels
    gap = model(x).diff(dim=1)[:, 0].abs()
    found = records(tmp_path)
    assert all(record["single"] == bool(gap[i] < reach) for i, record in found.items())
    assert {bool(gap[i] < reach) for i in found} == {True, False}


def test_the_diary_of_a_search(blobs: Any, threat: Threat) -> None:
    allowed = threat.set(lambda x: x, blobs.x[:2])
    cases = Cases(blobs.x[:2], blobs.y[:2], blobs.y[:2], allowed, torch.tensor([7, 9]))
    scores = torch.tensor([[-4.0, -4.0], [-2.0, -3.0], [-3.0, -2.0], [-1.0, -0.5], [-2.0, -1.0]])
    zero = torch.zeros_like(blobs.x[:2])
    beyond = zero.clone()
    beyond[0] = 5.0
    point = Point(torch.zeros(2), torch.zeros(2), torch.tensor([True, False]), None, (1, 0))
    watch = Watched()
    for row in scores:
        told = replace_score(point, row)
        watch.over(lambda *asked, told=told: told)(cases, beyond, False, torch.zeros(2))
    assert not watch.won(7) and not watch.won(9)  # outside the set
    assert watch.late(7, 4) == pytest.approx(1 / 3) and watch.late(9, 4) == pytest.approx(1.5 / 3.5)
    assert watch.late(7, 6) is None and watch.late(8, 4) is None
    watch.over(lambda *asked: point)(cases, zero, False, torch.zeros(2))
    assert watch.won(7) and not watch.won(9)


def replace_score(point: Point, score: Tensor) -> Point:
    return point._replace(score=score)
