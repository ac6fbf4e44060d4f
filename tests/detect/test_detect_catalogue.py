"""Every detector by its name, and with the settings of its paper."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from torchproof import detect
from torchproof.core.errors import InputError, UnknownName
from torchproof.detect.catalogue import DETECTORS, PUBLISHED, recipe
from torchproof.detect.detector import Detector

NAMES = ("kd-bu", "lid", "nss", "feature-squeezing", "magnet", "dnr", "sfad", "nic")


def test_the_eight() -> None:
    assert tuple(DETECTORS) == NAMES and len(DETECTORS) == 8
    for name, made in DETECTORS.items():
        assert issubclass(made, Detector) and made.name.lower() == name
        assert made.__doc__ and made.source
        assert isinstance(made(), Detector)
    assert {name for name in NAMES if DETECTORS[name].supervised} == {"kd-bu", "lid", "nss"}


def test_recipes_from_text() -> None:
    name, made = recipe("lid(k=25)")
    assert name == "lid" and made.k == 25  # type: ignore[attr-defined]
    assert recipe("LID", "cifar10")[1].k == 30  # type: ignore[attr-defined]
    assert recipe("lid(k=12)", "cifar10")[1].k == 12  # type: ignore[attr-defined]
    assert recipe("kd_bu")[0] == "kd-bu"
    assert recipe("sfad", "fashion-mnist") == recipe("sfad", "mnist") != recipe("sfad")
    for data, table in PUBLISHED.items():
        for detector, settings in table.items():
            made = recipe(detector, data)[1]
            assert {key: getattr(made, key) for key in settings} == settings
    with pytest.raises(UnknownName, match="magnet"):
        recipe("magnets")
    with pytest.raises(InputError, match="wrong arguments"):
        recipe("lid(neighbours=3)")


@pytest.mark.slow
def test_nothing_is_read_before_it_is_asked_for() -> None:
    code = (
        "import sys; from torchproof.detect.catalogue import DETECTORS; 'nic' in DETECTORS; "
        "list(DETECTORS); found = [m for m in sys.modules if m.startswith('torchproof.detect.')]; "
        "assert 'torchproof.detect.nic' not in found and 'sklearn' not in sys.modules, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_the_bench_knows_the_bench() -> None:
    for path in Path(detect.__file__).parent.rglob("*.py"):
        if path.parent.name != "bench":
            assert "torchproof.detect.bench" not in path.read_text(encoding="utf-8"), path
