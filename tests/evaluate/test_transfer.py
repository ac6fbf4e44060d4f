"""The transfer matrix against a computation by hand, and what it does not depend on."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.catalogue import apgd_t, chain, fgsm, mi_fgsm, pgd, square
from torchproof.attack.combine import Restarts
from torchproof.attack.hop_skip_jump import hop_skip_jump
from torchproof.attack.starts import Zero
from torchproof.core.errors import InputError
from torchproof.core.metrics import clopper_pearson
from torchproof.core.norms import L2, Linf
from torchproof.core.sites import Universal
from torchproof.core.threats import Threat
from torchproof.evaluate.transfer import LAST, WORST, Transfer, transfer

EPS = 0.1
LINF = Threat(Linf(), EPS)


class Linear(nn.Module):
    """Two classes, told apart by the sign of <w, x> + b."""

    def __init__(self, w: list[float], b: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1) @ self.w + self.b
        return torch.stack([-z, z], 1)


MODELS = {
    "a": Linear([1.0, -2.0, 0.5, 1.0], -0.3).eval(),
    "b": Linear([1.0, -1.0, 1.0, 0.2], -0.6).eval(),
    "c": Linear([-1.0, 2.0, 1.5, -0.5], -0.8).eval(),
}


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(60, 1, 2, 2, generator=g, dtype=torch.float64)
    y = (x.flatten(1) @ torch.tensor([1.0, -1.0, 1.0, 0.2]).double() > 0.6).long()
    return x, y


def by_hand(x: Tensor, y: Tensor) -> dict[tuple[str, str], tuple[int, int]]:
    """(n, fooled) of each pair: every pixel goes eps against the source's weight, inside [0, 1]."""
    weights = {k: (m.w.tolist(), m.b.item()) for k, m in MODELS.items()}

    def says(name: str, image: list[float]) -> int:
        w, b = weights[name]
        return int(sum(a * v for a, v in zip(w, image, strict=True)) + b > 0)

    counts = {}
    for source in MODELS:
        for victim in MODELS:
            n = fooled = 0
            for image, label in zip(x.flatten(1).tolist(), y.tolist(), strict=True):
                if says(source, image) != label or says(victim, image) != label:
                    continue
                away = -1 if label else 1
                moved = [
                    min(max(v + EPS * away * (1 if a > 0 else -1), 0.0), 1.0)
                    for a, v in zip(weights[source][0], image, strict=True)
                ]
                n, fooled = n + 1, fooled + (says(victim, moved) != label)
            counts[source, victim] = (n, fooled)
    return counts


@pytest.mark.parametrize(
    "attack",
    [fgsm(LINF), pgd(LINF, 6, length=0.5), mi_fgsm(LINF, 4, length=0.5), apgd_t(LINF, 8, 1)],
    ids=["fgsm", "pgd", "mi", "apgd-t"],
)
def test_the_matrix_is_that_of_a_hand_computation(attack: Any, images: Any) -> None:
    """Against linear models all these end in the same corner."""
    x, y = images
    found, expected = transfer(MODELS, images, attack), by_hand(x, y)
    for source in MODELS:
        for victim in MODELS:
            cell = found.cell(source, victim)
            assert (cell.n, cell.fooled) == expected[source, victim]
            assert cell.rate == cell.fooled / cell.n
            assert cell.ci95 == clopper_pearson(cell.fooled, cell.n)
    assert any(0 < e[1] < e[0] for (s, v), e in expected.items() if s != v)
    with torch.no_grad():
        clean = tuple(int((m(x).argmax(1) == y).sum()) for m in MODELS.values())
    assert found.clean == clean and found.missed == (0, 0, 0), "no transfer beats the corner"
    off = [expected[s, v][1] / expected[s, v][0] for s in MODELS for v in MODELS if s != v]
    assert found.mean == pytest.approx(sum(off) / 6)
    assert all(f > 0 for f in found.forward)


def same(a: Transfer, b: Transfer) -> bool:
    return (a.cells, a.missed, a.clean, a.forward) == (b.cells, b.missed, b.clean, b.forward)


def test_no_cell_depends_on_slots_or_on_the_other_models(images: Any) -> None:
    attack = pgd(LINF, 3, length=0.2)
    whole = transfer(MODELS, images, attack, seed=4)
    for slots in (1, 7):
        assert same(whole, transfer(MODELS, images, attack, seed=4, slots=slots))
    pair = transfer({k: MODELS[k] for k in ("c", "a")}, images, attack, seed=4)
    for source in "ac":
        for victim in "ac":
            assert pair.cell(source, victim) == whole.cell(source, victim)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    x, y = images
    mixed = transfer(MODELS, (x[order], y[order]), attack, seed=4, ids=order)
    assert same(whole, mixed)


def test_nobody_leaves_early(images: Any) -> None:
    """Attacks go on after the source is fooled: every image costs the same."""
    found = transfer(MODELS, images, pgd(LINF, 5, start=Zero()))
    assert found.forward == tuple(5 * c for c in found.clean), "the last iterate is not asked about"
    assert found.backward == found.forward


@pytest.mark.parametrize(
    ("attack", "kept"),
    [
        (pgd(LINF), LAST), (Restarts(pgd(LINF, 2), 2), WORST), (apgd_t(LINF, 4, 1), WORST),
        (square(LINF, 30), WORST), (hop_skip_jump(Threat(L2(), 0.3), 120, first=5), WORST),
    ],
    ids=["pgd", "restarts", "apgd-t", "square", "hop"],
)  # fmt: skip
def test_what_is_kept_of_a_search(attack: Any, kept: str, images: Any) -> None:
    found = transfer(MODELS, images, attack)
    assert found.about["kept"] == kept
    assert any(cell.fooled for row in found.cells for cell in row if cell.source == cell.victim)


def test_a_victim_that_only_transfer_fools_is_reported(images: Any) -> None:
    """A model that hides its gradient stands against its own attack, not against others'."""

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = MODELS["b"]

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x.detach()) + 0.0 * x.sum()
            return out

    models = {"b": MODELS["b"], "hidden": Hidden().eval()}
    found = transfer(models, images, fgsm(LINF))
    white = found.cell("b", "b")
    assert found.cell("hidden", "hidden").fooled == 0 < white.fooled
    assert found.cell("b", "hidden").fooled == white.fooled
    assert found.missed == (0, white.fooled)


def test_a_model_that_is_never_right(images: Any) -> None:
    models = {"a": MODELS["a"], "never": Linear([0.0] * 4, -1.0).eval()}
    x, _ = images
    found = transfer(models, (x[:5], torch.ones(5, dtype=torch.int64)), fgsm(LINF))
    cell = found.cell("a", "never")
    assert cell.n == 0 and cell.rate is None and cell.ci95 == (0.0, 1.0)
    assert found.clean[1] == 0 and found.forward[1] == 0 and found.mean is None
    json.dumps(found.to_json(), allow_nan=False)


def test_what_is_saved(images: Any, tmp_path: Path) -> None:
    found = transfer(MODELS, images, mi_fgsm(LINF, 2), n=40, data_name="dots", seed=3)
    found.save(tmp_path / "matrix")
    stored = json.loads((tmp_path / "matrix" / "transfer.json").read_text())
    assert stored["schema"] == "torchproof.transfer/1"
    assert (stored["n"], stored["seed"], stored["data"]) == (40, 3, "dots")
    assert stored["threat"] == "linf:0.1" and "MomentumPGD" in stored["attack"]
    assert [m["name"] for m in stored["models"]] == ["a", "b", "c"]
    with (tmp_path / "matrix" / "transfer.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == len(stored["cells"]) == 9
    for row, entry in zip(rows, stored["cells"], strict=True):
        cell = found.cell(row["source"], row["victim"])
        assert (int(row["n"]), int(row["fooled"])) == (cell.n, cell.fooled)
        assert entry["ci95"] == list(cell.ci95) and float(row["rate"]) == cell.rate


def test_refusals(images: Any) -> None:
    with pytest.raises(InputError, match="at least two"):
        transfer({"a": MODELS["a"]}, images, fgsm(LINF))
    with pytest.raises(InputError, match="a chain stops"):
        transfer(MODELS, images, chain(fgsm(LINF), pgd(LINF)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="perturbation of each input"):
        transfer(MODELS, images, pgd(Threat(Linf(), 0.1, site=Universal())))
    with pytest.raises(InputError, match="two of a, b, c"):
        transfer(MODELS, images, fgsm(LINF)).cell("a", "d")
    with pytest.raises(InputError, match="n = 0"):
        transfer(MODELS, images, fgsm(LINF), n=0)
