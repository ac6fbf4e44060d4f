"""The page of all results: every row from stored JSON, marks where an experiment was edited."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchproof.core.errors import FileError
from torchproof.reproduce import EXPERIMENTS, results
from torchproof.reproduce.collected import stored
from torchproof.reproduce.fingerprint import fingerprint
from torchproof.reproduce.places import PLACES
from torchproof.reproduce.systems import SYSTEMS

ROOT = Path(__file__).parents[2]
SOURCES = {
    "one": '"""Says."""\nfrom torchproof.reproduce.two import rate\nN = 3  # images\n'
    'def run(x):\n    """Runs."""\n    return rate(x)\n'
    "def picture(x) -> bytes:\n    return b'a'\n",
    "two": "def rate(x):\n    return x / 2\n",
}


def of(**changed: str) -> str:
    texts = {**SOURCES, **changed}
    return fingerprint("one", lambda path: texts.get(path.removesuffix(".py")))


def test_the_fingerprint_sees_what_decides_figures_and_nothing_else() -> None:
    same = SOURCES["one"].replace("# images", "# pictures").replace("Says", "Tells")
    same = same.replace("b'a'", "b'b'").replace('"""Runs."""', '"""Goes."""')
    assert of() == of(one=same) == of(three="x = 1\n")
    assert of() != of(one=SOURCES["one"].replace("N = 3", "N = 4"))
    assert of() != of(two="def rate(x):\n    return x / 3\n")


def test_every_experiment_has_a_module_with_a_fingerprint() -> None:
    assert set(EXPERIMENTS) == set(PLACES)
    found = {name: fingerprint(module) for name, (module, _) in PLACES.items()}
    assert len(set(found.values())) == len({module for module, _ in PLACES.values()})


def test_the_page_of_results_is_what_the_stored_experiments_say() -> None:
    folder = ROOT / "docs" / "results"
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert page == results.page(folder), "run `make results`"
    for number, system in enumerate(SYSTEMS, 1):
        assert f"| {number}. {system.title}: " in page
    for name in EXPERIMENTS:
        if (folder / name / "outcome.json").exists():
            assert f"[{name}]({name}/table.md) | **{stored(folder / name).verdict}**" in page


def test_a_result_that_other_code_made_is_marked(tmp_path: Path) -> None:
    folder = tmp_path / "madry"
    old = stored(ROOT / "docs" / "results" / "madry")
    for code, mark in (
        (fingerprint(PLACES["madry"][0]), "|  |"),
        ("0" * 16, "| edited since |"),
        ("", "| code not recorded |"),
    ):
        old.model_copy(update={"code": code}).write(folder)
        row = next(line for line in results.page(tmp_path).splitlines() if "[madry]" in line)
        assert row.endswith(mark)


def test_a_damaged_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "awp").mkdir()
    (tmp_path / "awp" / "outcome.json").write_text("{")
    with pytest.raises(FileError, match="awp"):
        results.page(tmp_path)
