"""The files of a ledger: what is cut off, what is made again, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchproof.core.errors import FileError, ResumeError
from torchproof.core.journal import decode, encode, read_records
from torchproof.core.threats import Threat
from torchproof.evaluate import Member, Report, evaluate

Go = Callable[..., Report]


@pytest.mark.parametrize("cut", [1, 2, 40, 100])
def test_truncated_last_line(
    go: Go, undisturbed: Report, same: Any, tmp_path: Path, cut: int
) -> None:
    path = tmp_path / "undisturbed" / "records.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    same(go(out=path.parent, resume=True), undisturbed)
    assert path.read_bytes().splitlines()[:-1] == content.splitlines()[:-1]
    assert len(read_records(path)[0]) == content.count(b"\n")


def test_damaged_last_line_is_made_again(
    go: Go, undisturbed: Report, same: Any, tmp_path: Path
) -> None:
    path = tmp_path / "undisturbed" / "records.jsonl"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    same(go(out=path.parent, resume=True), undisturbed)


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_damage_elsewhere_is_refused_naming_the_line(
    go: Go, undisturbed: Report, tmp_path: Path, at: float
) -> None:
    path = tmp_path / "undisturbed" / "records.jsonl"
    content = bytearray(path.read_bytes())
    place = int(at * len(content))
    content[place] ^= 1
    path.write_bytes(content)
    line = bytes(content[:place]).count(b"\n") + 1
    with pytest.raises(FileError, match=f"damaged in line {line} of"):
        go(out=path.parent, resume=True)
    assert path.read_bytes() == content  # refused, and nothing touched


def test_images_lost_in_a_power_cut_are_made_again(
    go: Go, undisturbed: Report, same: Any, tmp_path: Path
) -> None:
    path = tmp_path / "undisturbed" / "images.bin"
    path.write_bytes(bytes(path.stat().st_size))
    same(go(out=path.parent, resume=True), undisturbed)
    path.unlink()
    same(go(out=path.parent, resume=True), undisturbed)


def test_every_line_survives_encoding_and_no_flipped_bit_does() -> None:
    record = {"id": 3, "attack": "PGD é", "score": -0.1, "image": None, "lost": True}
    line = encode(record).removesuffix(b"\n")
    assert decode(line) == record
    assert {"crc", *record} == set(json.loads(line))
    for byte in range(len(line)):
        for bit in (0, 3, 7):
            damaged = bytearray(line)
            damaged[byte] ^= 1 << bit
            assert decode(bytes(damaged)) is None


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"seed": 1}, "seed: 1 now, 0 stored"),
        ({"n": 50}, "data_sha256.*n: 50 now, 60 stored"),
        ({"quantised": True}, "quantised: true now, false stored"),
        ({"model_sha256": "0" * 64}, "model_sha256"),
        ({"shard": "0/2"}, "shard"),
        ({"ids": torch.arange(60) + 1}, "ids"),
    ],
)
def test_resume_with_other_settings_is_refused(
    go: Go, undisturbed: Report, tmp_path: Path, more: dict[str, Any], named: str
) -> None:
    before = {p: p.read_bytes() for p in (tmp_path / "undisturbed").iterdir()}
    with pytest.raises(ResumeError, match=named):
        go(out=tmp_path / "undisturbed", resume=True, **more)
    assert {p: p.read_bytes() for p in (tmp_path / "undisturbed").iterdir()} == before


def test_other_attacks_and_threats_are_other_settings(
    net: nn.Module, blobs: Any, threat: Threat, short: list[Member], tmp_path: Path
) -> None:
    evaluate(net, blobs, threat, short[:1], out=tmp_path, n=4)
    with pytest.raises(ResumeError, match="attacks"):
        evaluate(net, blobs, threat, short[:2], out=tmp_path, n=4, resume=True)
    wider = Threat(threat.norm, 0.2)
    with pytest.raises(ResumeError, match="threats"):
        evaluate(net, blobs, wider, "quick", out=tmp_path, n=4, resume=True)


def test_a_folder_in_use_or_taken_is_refused(
    go: Go, undisturbed: Report, tmp_path: Path, net: nn.Module
) -> None:
    with pytest.raises(FileError, match="resume=True"):
        go(out=tmp_path / "undisturbed")

    class Nested(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if (tmp_path / "run" / "records.jsonl").exists():
                go(out=tmp_path / "run", resume=True)
            out: torch.Tensor = net(x)
            return out

    with pytest.raises(FileError, match="another process is writing"):
        go(Nested(), out=tmp_path / "run")


def test_damaged_settings_are_refused(go: Go, undisturbed: Report, tmp_path: Path) -> None:
    path = tmp_path / "undisturbed" / "settings.json"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(FileError, match=r"settings\.json, which is damaged"):
        go(out=path.parent, resume=True)
    path.unlink()
    with pytest.raises(FileError, match="no settings"):
        go(out=path.parent, resume=True)
