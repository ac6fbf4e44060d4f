"""The libraries themselves, where they load: agreement on a linear model; AutoAttack's source."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.compare import LIBRARIES, compare
from torchproof.compare.library import Plan
from torchproof.core.errors import FileError
from torchproof.core.norms import L1, L2, Linf
from torchproof.core.threats import Threat, parse


@pytest.mark.parametrize(("name", "norm"), [("pgd", "linf"), ("pgd", "l2"), ("fgsm", "linf"),
                                            ("apgd-ce", "l2"), ("deepfool", "linf")])  # fmt: skip
def test_the_real_libraries_agree_on_a_linear_model_or_say_why_not(
    name: str, norm: str, model: Any, data: tuple[Tensor, Tensor]
) -> None:
    weight = model.weight.detach().numpy() / np.sqrt(1 + model.norm.eps)
    x, y = data
    top = x.flatten(1).numpy() @ weight * np.where(y.numpy() == 1, 1, -1)
    dual = np.abs(weight).sum() if norm == "linf" else np.linalg.norm(weight)
    needed = np.sort(top[top > 0] / dual)  # the radius that breaks each example
    widest = 5 + np.diff(needed[5:20]).argmax()
    eps = float(needed[widest : widest + 2].mean())  # half-way, so that rounding decides nothing
    threat = parse(f"{norm}:{eps}")
    found = compare(model, data, threat, name, steps=None if name == "fgsm" else 20, n=30)
    assert {r.name for r in found.libraries} == set(LIBRARIES)
    for record in found.libraries:
        if record.status != "ok":
            assert record.status in ("not loaded", "not offered"), (record.name, record.reason)
            assert record.reason
        elif name != "deepfool":  # which overshoots, perhaps out of the ball
            assert record.broken == widest + 1, record.name
    if name != "deepfool":
        assert found.libraries[0].name == "torchproof" and found.libraries[0].status == "ok"


@pytest.fixture
def without_autoattack() -> Iterator[None]:
    """Whatever is called autoattack is forgotten inside, and remembered afterwards."""

    def loaded() -> dict[str, Any]:
        return {k: m for k, m in sys.modules.items() if k.split(".")[0] == "autoattack"}

    before = loaded()
    for name in before:
        del sys.modules[name]
    yield
    for name in loaded():
        del sys.modules[name]
    sys.modules.update(before)


IDLE = """
class {}:
    def __init__(self, predict, norm="Linf", n_queries=9, **more):
        self.predict = predict

    def perturb(self, x, y):
        self.predict(x)
        return x
"""


@pytest.mark.usefixtures("without_autoattack")
def test_a_source_of_autoattack_is_taken_from_its_folder(
    model: nn.Module, data: Any, tmp_path: Path
) -> None:
    """A package that has AutoAttack's names and does nothing."""
    with pytest.raises(FileError, match="the folder that holds the folder autoattack"):
        compare(model, data, parse("linf:0.04"), "square", ["autoattack"], autoattack=tmp_path)
    folder = tmp_path / "autoattack"
    folder.mkdir()
    files = {
        "__init__": ["AutoAttack"],
        "square": ["SquareAttack"],
        "fab_pt": ["FABAttack_PT"],
        "autopgd_base": ["APGDAttack", "APGDAttack_targeted"],
    }
    for name, classes in files.items():
        (folder / f"{name}.py").write_text("".join(IDLE.format(made) for made in classes))
    before = list(sys.path)
    found = compare(model, data, parse("linf:0.04"), "square", ["autoattack"], autoattack=tmp_path)
    (record,) = found.libraries
    assert record.status == "ok" and record.broken == 0, record.reason
    assert record.version is not None and record.version.startswith("source ")
    assert record.settings is not None and "n_queries=5000" in record.settings
    assert (record.forward, record.backward) == (29, 0) and sys.path == before


def test_a_plan_speaks_every_librarys_language() -> None:
    plans = [
        Plan("apgd-t", Threat(norm(), 1.5), 5, 0, 8, torch.device("cpu")) for norm in (Linf, L2, L1)
    ]
    assert [p.order for p in plans] == [np.inf, 2, 1]
    assert [p.label for p in plans] == ["Linf", "L2", "L1"]
    assert all(p.targets == 4 and p.count == 100 and p.stride == 0.025 for p in plans)
