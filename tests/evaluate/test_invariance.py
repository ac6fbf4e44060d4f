"""Decisions do not depend on batch size, order, sharding or memory; a union is the worst case."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.catalogue import pgd
from torchproof.attack.masks import Boxes, Given, Salient
from torchproof.attack.regional import Regions
from torchproof.core.errors import FileError, InputError, ResumeError
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import Region, Threat
from torchproof.evaluate import Member, Report, evaluate, merge


@pytest.fixture(scope="module")
def whole(
    request: pytest.FixtureRequest, blobs: Any, threat: Threat, short: list[Member]
) -> Report:
    return evaluate(request.getfixturevalue("_fitted"), blobs, threat, short)


def decided(report: Report) -> dict[int, tuple[Any, ...]]:
    """Everything that was decided about each example, cost included."""
    return {
        row.id: (row.status, row.broken_by, row.budget, row.forward, row.backward)
        for row in report.examples
    }


@pytest.mark.parametrize(("slots", "n"), [(1, 6), (7, 60), (128, 14)])
def test_batch_size(
    net: nn.Module,
    blobs: Any,
    threat: Threat,
    short: list[Member],
    whole: Report,
    slots: int,
    n: int,
) -> None:
    report = evaluate(net, blobs, threat, short, slots=slots, n=n)
    assert report.examples == whole.examples[:n]
    torch.testing.assert_close(report.adversarial, whole.adversarial[:n], rtol=0, atol=1e-9)


@pytest.mark.parametrize("slots", [13])
def test_order(
    net: nn.Module, blobs: Any, threat: Threat, short: list[Member], whole: Report, slots: int
) -> None:
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    data = (blobs.x[order], blobs.y[order])
    report = evaluate(net, data, threat, short, ids=order, slots=slots)
    assert [row.id for row in report.examples] == order.tolist()
    assert decided(report) == decided(whole)
    torch.testing.assert_close(report.adversarial, whole.adversarial[order], rtol=0, atol=1e-9)


def test_another_seed_asks_otherwise(
    net: nn.Module, blobs: Any, threat: Threat, short: list[Member], whole: Report
) -> None:
    assert decided(evaluate(net, blobs, threat, short, seed=1)) != decided(whole)


def test_float32_differs_only_where_it_says_so(blobs: Any, net: nn.Module) -> None:
    single, threat = copy.deepcopy(net).float(), Threat(Linf(), 0.1)
    data = (blobs.x.float(), blobs.y)
    sizes = (1, 7, 128)
    reports = [evaluate(single, data, threat, "quick", slots=slots, n=8) for slots in sizes]
    for row in zip(*(report.examples for report in reports), strict=True):
        notes = [f.evidence for r in reports for f in r.flags if f.name == "float-noise"]
        noted = any(str(row[0].id) in note for note in notes)
        assert noted or len({(e.status, e.broken_by) for e in row}) == 1


@pytest.mark.parametrize("count", [3])
def test_shards_merge_to_the_one_process_result(
    net: nn.Module, blobs: Any, threat: Threat, short: list[Member], whole: Report, same: Any,
    tmp_path: Path, count: int,
) -> None:  # fmt: skip
    folders = [tmp_path / str(i) for i in range(count)]
    for i, folder in enumerate(folders):
        part = evaluate(net, blobs, threat, short, shard=f"{i}/{count}", out=folder, slots=5 + i)
        assert [row.id for row in part.examples] == list(range(60))[i::count]
        assert any("shard" in label for label in part.labels)
    merged = merge(folders[::-1], tmp_path / "merged")
    same(merged, whole)
    same(Report.load(tmp_path / "merged"), whole)
    stored = json.loads((tmp_path / "merged" / "result.json").read_text())
    assert stored["robust_accuracy"] == whole.robust_accuracy


def test_merge_refuses_what_is_no_whole(
    net: nn.Module, blobs: Any, threat: Threat, short: list[Member], tmp_path: Path
) -> None:
    def shard(name: str, text: str, **more: Any) -> Path:
        evaluate(net, blobs, threat, short[:1], shard=text, out=tmp_path / name, **more)
        return tmp_path / name

    first, second = shard("a", "0/2"), shard("b", "1/2")
    with pytest.raises(InputError, match="every shard once"):
        merge([first])
    with pytest.raises(InputError, match="every shard once"):
        merge([first, first])
    with pytest.raises(InputError, match=r"differs from .* in seed"):
        merge([first, shard("c", "1/2", seed=5)])
    (second / "result.json").unlink()
    with pytest.raises(FileError, match="resume=True"):
        merge([first, second])
    with pytest.raises(FileError, match="no settings"):
        merge([first, tmp_path])
    with pytest.raises(InputError, match="folders"):
        merge([])
    evaluate(net, blobs, threat, short[:1], out=tmp_path / "whole")
    with pytest.raises(InputError, match=r"holds the whole evaluation.*nothing to merge"):
        merge([tmp_path / "whole"], tmp_path / "m")
    assert not (tmp_path / "m").exists()
    with pytest.raises(FileError, match="no settings"):  # what is missing, before where it is to go
        merge([tmp_path / "nowhere"], tmp_path / "whole")


class Small(nn.Module):
    """A machine with room for `limit` examples."""

    def __init__(self, inner: nn.Module, limit: int, error: Exception) -> None:
        super().__init__()
        self.inner, self.limit, self.error, self.largest = inner, limit, error, 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.limit:
            raise self.error
        self.largest = max(self.largest, len(x))
        out: Tensor = self.inner(x)
        return out


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_out_of_memory_halves_the_batch(
    net: nn.Module, blobs: Any, threat: Threat, short: list[Member], whole: Report, same: Any,
    tmp_path: Path, error: Exception,
) -> None:  # fmt: skip
    model = Small(net, 13, error)
    report = evaluate(
        model, blobs, threat, short, slots=48, out=tmp_path,
        model_sha256=whole.model_sha256, name=whole.model,
    )  # fmt: skip
    same(report, whole)
    assert model.largest == 12  # 48, 24, 12


def test_no_room_for_one_example_is_an_error(
    net: nn.Module, blobs: Any, threat: Threat, short: list[Member], whole: Report, same: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    class Late(Small):
        def forward(self, x: Tensor) -> Tensor:
            self.limit -= 0 if len(x) > 2 else 1
            return super().forward(x)

    named = {"model_sha256": whole.model_sha256, "name": whole.model, "out": tmp_path}
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(
            Late(net, 16, torch.OutOfMemoryError("out of memory")), blobs, threat, short, **named
        )
    same(evaluate(net, blobs, threat, short, resume=True, **named), whole)


def test_a_union_is_the_worst_of_its_threats(net: nn.Module, blobs: Any) -> None:
    threats = [Threat(Linf(), 0.06), Threat(L2(), 0.4)]
    single = [decided(evaluate(net, blobs, threat, "quick")) for threat in threats]
    report = evaluate(net, blobs, threats, "quick")
    assert report.threat.eps_text == "linf:0.06 + l2:0.4"
    assert [part.norm for part in report.threat.union] == ["linf", "l2"]
    assert [a.name for a in report.attacks][::3] == ["PGD-20-margin linf:0.06", "PGD-20-CE l2:0.4"]
    differing = 0
    for row in report.examples:
        parts = [one[row.id][0] for one in single]
        differing += parts[0] != parts[1]
        worst = "broken" if "broken" in parts else parts[0]
        assert row.status == worst
    assert differing > 0  # otherwise the union would show nothing
    first, second = (a.broken for a in report.attacks[::2])
    assert first > 0 and second > 0


def test_a_region_confines_changes(net: nn.Module, blobs: Any) -> None:
    mask = torch.zeros(1, 6, 6, dtype=torch.bool)
    mask[:, :3] = True
    report = evaluate(net, blobs, Region(Threat(Linf(), 0.3), mask), "quick")
    changed = (report.adversarial != blobs.x).any(0)
    assert report.attacks[0].broken > 5
    assert bool(changed[mask].any()) and not bool(changed[~mask].any())
    assert report.labels == ["changes confined to a region"]


@pytest.mark.parametrize("mask", [Boxes(3), Salient(3)])
def test_each_image_keeps_to_its_own_region(net: nn.Module, blobs: Any, mask: Any) -> None:
    """Also where the mask reads the pixels or asks the network, which the re-check must repeat."""
    inside = Regions(Threat(Linf(), 0.6), mask)
    report = evaluate(net, blobs, inside, "quick", n=30)
    x, allowed = blobs.x[:30], mask(net, blobs.x[:30]).expand_as(blobs.x[:30])
    changed = report.adversarial != x
    assert report.attacks[0].broken > 3 and "recheck-failed" not in {f.name for f in report.flags}
    assert bool(changed[allowed].any()) and not bool(changed[~allowed].any())
    assert report.labels == [f"changes confined to the region {mask}"]
    assert not bool((allowed == allowed[:1]).all())  # they do differ
    equal = replace(inside, mask=replace(mask))
    own = [Member("PGD", pgd(equal, 2))]
    assert evaluate(net, blobs, inside, own, n=4).attacks[0].name == "PGD"


def test_given_masks_identify_an_evaluation(net: nn.Module, blobs: Any, tmp_path: Path) -> None:
    x = blobs.x[:6]
    masks = torch.zeros(6, 1, 6, 6, dtype=torch.bool)
    masks[:, :, :2] = True
    for given in (masks, ~masks):
        inside = Regions(Threat(Linf(), 0.3), Given.each(x, given))
        if given is masks:
            report = evaluate(net, (x, blobs.y[:6]), inside, "quick", out=tmp_path)
            assert report.labels == ["changes confined to a region of each image"]
        else:
            with pytest.raises(ResumeError, match="threats"):
                evaluate(net, (x, blobs.y[:6]), inside, "quick", out=tmp_path, resume=True)
