"""A folder of settings and records; what runs make of it is in tests/verify."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path

import pytest

from torchproof.core.errors import FileError, ResumeError
from torchproof.core.notes import Notes


def opened(folder: Path | None, resume: bool = False, schema: str = "one/1", n: int = 3) -> Notes:
    return Notes.open(schema, itemgetter("id"), {"n": n}, folder, resume)


def test_records_are_found_again_by_their_keys(tmp_path: Path) -> None:
    notes = opened(tmp_path)
    notes.add({"id": 4, "radius": 0.5})
    notes.close()
    again = opened(tmp_path, resume=True)
    again.close()
    assert again.records == {4: {"id": 4, "radius": 0.5}}


def test_without_a_folder_they_are_in_memory_alone() -> None:
    notes = opened(None)
    notes.add({"id": 1})
    notes.close()
    assert notes.records == {1: {"id": 1}}


def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="files are locked on POSIX only")
    first = opened(tmp_path)
    with pytest.raises(FileError, match="another process"):
        opened(tmp_path, resume=True)
    first.close()
    opened(tmp_path, resume=True).close()


def test_what_is_not_this_run(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with pytest.raises(FileError, match="a new folder"):
        opened(tmp_path)
    with pytest.raises(ResumeError, match="n: 4 now, 3 stored"):
        opened(tmp_path, resume=True, n=4)
    with pytest.raises(FileError, match=r"of another schema.*the settings of a two/1"):
        opened(tmp_path, resume=True, schema="two/1")
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(FileError, match=r"settings\.json"):
        opened(tmp_path, resume=True)
