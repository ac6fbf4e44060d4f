"""The file of records by itself; what runs make of it is in tests/evaluate and tests/verify."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchproof.core.errors import FileError, ResumeError
from torchproof.core.journal import Journal, read_records, require_same

REMEDY = "do something about it"


def test_what_is_added_is_found_again_and_an_unfinished_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "records.jsonl"
    journal, found = Journal.open(path, REMEDY)
    assert found == []
    journal.add([{"id": 0}, {"id": 1, "image": None}])
    journal.sync()
    assert not journal.due
    journal.close()
    with path.open("ab") as stream:
        stream.write(b'{"crc":"00')
    journal, found = Journal.open(path, REMEDY)
    journal.add([{"id": 2}])
    journal.close()
    assert found == [{"id": 0}, {"id": 1, "image": None}]
    records, size = read_records(path)
    assert [record["id"] for record in records] == [0, 1, 2] and size == path.stat().st_size


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    journal, _ = Journal.open(path, REMEDY)
    with pytest.raises(FileError, match="another process is writing it"):
        Journal.open(path, REMEDY)
    journal.close()
    Journal.open(path, REMEDY)[0].close()


def test_a_folder_that_cannot_be_made_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(FileError, match=REMEDY):
        Journal.open(tmp_path / "file" / "records.jsonl", REMEDY)


def test_other_settings_are_named_and_long_ones_shortened() -> None:
    require_same({"seed": 1}, {"seed": 1})
    with pytest.raises(ResumeError, match=r"n: null now, 3 stored; seed: 2 now, 1 stored"):
        require_same({"seed": 1, "n": 3}, {"seed": 2})
    with pytest.raises(ResumeError, match=r"\.\.\."):
        require_same({"table": "a" * 500}, {"table": "b" * 500})
