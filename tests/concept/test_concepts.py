"""One concept from images to the record: splits, draws, averages, TCAV, ranked images; folders of
pictures.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from torchproof.concept import (
    Concept,
    Halves,
    Margin,
    Plan,
    average,
    concepts,
    draw,
    draw_random,
    examine,
    quality,
    read_pictures,
    ways,
)
from torchproof.concept.draws import ADVERSARIAL, LOGISTIC, PLAIN
from torchproof.core.errors import FileError, InputError


def halves(seed: int = 0) -> Halves:
    g = torch.Generator().manual_seed(1)
    concept = torch.rand(30, 40, generator=g) + torch.eye(40)[0] * 2
    return Halves.of(concept, torch.rand(90, 40, generator=g), 0.4, seed)


def test_nothing_is_on_both_sides_of_the_split() -> None:
    numbers = torch.arange(30.0)[:, None].expand(-1, 2), 100 + torch.arange(90.0)[:, None]
    split = Halves.of(numbers[0], numbers[1].expand(-1, 2), 0.4, seed=3)
    parts = [
        {round(float(v) * split.unit) for v in rows[:, 0]}
        for rows in (split.concept, split.concept_held, split.pool, split.pool_held)
    ]
    assert [len(p) for p in parts] == [18, 12, 54, 36]
    assert parts[0] | parts[1] == set(range(30)) and parts[2] | parts[3] == set(range(100, 190))
    every = torch.cat([split.concept, split.pool])
    assert float(every.square().mean()) == pytest.approx(1)
    others = Halves.of(numbers[0], numbers[1].expand(-1, 2), 0.4, seed=4)
    assert not torch.equal(split.concept, others.concept)
    drawn = split.drawn(20, 0, 1)
    assert len({float(v) for v in drawn[:, 0]}) == 20
    assert torch.equal(drawn, split.drawn(20, 0, 1))
    assert not torch.equal(drawn, split.drawn(20, 0, 2))


def test_draws_and_their_averages() -> None:
    split = halves()
    made = draw(split, ways(Margin(0.1)), draws=5, seed=2)
    again = draw(split, ways(Margin(0.1)), draws=3, seed=2)
    assert set(made) == {PLAIN, LOGISTIC, ADVERSARIAL}
    for name, cavs in again.items():  # more draws leave the first ones as they were
        assert all(torch.equal(a.vector, b.vector) for a, b in zip(cavs, made[name], strict=False))
    found = {one.name: one for one in examine(split, made, group=2)}
    ours = found[ADVERSARIAL]
    assert len(ours.each) == 5 and len(ours.averaged) == 2
    middle = average(made[ADVERSARIAL][2:4])
    assert ours.averaged[1] == quality(middle, split.concept_held, split.pool_held)
    assert ours.spread.recall == np.mean([q.recall for q in ours.each])
    assert all(a > b for a, b in zip(ours.margins, found[LOGISTIC].margins, strict=True))
    assert not ours.unreliable
    noisy = draw(split, ways(Margin(0.1), noise=3), draws=1, seed=2)
    assert not torch.equal(noisy[ADVERSARIAL][0].vector, made[ADVERSARIAL][0].vector)
    assert torch.equal(noisy[LOGISTIC][0].vector, made[LOGISTIC][0].vector)
    apart = draw_random(split, 4, n=1000, seed=2)
    assert len(apart) == 4
    cosines = [abs(float(a.vector @ made[LOGISTIC][0].vector)) for a in apart]
    assert float(made[PLAIN][0].vector @ made[LOGISTIC][0].vector) > max(cosines)


class Bright(nn.Module):
    """Class 1 where the left half is brighter than the right one, class 0 else."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        a = self.flat(x).view(-1, 4, 4)
        left, right = a[..., :2].mean((1, 2)), a[..., 2:].mean((1, 2))
        return torch.stack([right.square(), left.square()], 1)


def scene() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(150, 1, 4, 4, generator=g)
    x[:50, ..., :2] = 0.6 + 0.4 * x[:50, ..., :2]  # the concept: a bright left half
    labels = (x[110:, 0, :, :2].mean((1, 2)) > x[110:, 0, :, 2:].mean((1, 2))).long()
    return x[:50], x[50:110], x[110:], labels


def look() -> Concept:
    concept, random, images, labels = scene()
    plan = Plan(draws=4, group=2, margin=Margin(0.1))
    return concepts(Bright(), "flat", concept, random, images, labels, (0, 1), plan, shown=3)


def test_a_concept_from_images_to_the_record() -> None:
    found = look()
    _, _, images, labels = scene()
    assert (found.width, found.n_concept, found.n_concept_held) == (16, 33, 17)
    assert (found.n_random, found.n_random_held) == (33, 20)
    zero, one = found.tcav
    assert (zero.n, one.n) == (int((labels == 0).sum()), int((labels == 1).sum()))
    split = Halves.of(scene()[0].flatten(1), scene()[1].flatten(1))
    made = draw(split, ways(Margin(0.1)), 4, 33)
    for scores, cavs in (
        ((zero.scores, one.scores), made[PLAIN]),
        ((zero.random, one.random), draw_random(split, 4, 33)),
    ):  # the logit of a half grows with its sum, by a factor that is positive
        halves_of = [cav.vector.view(4, 4) for cav in cavs]
        assert scores[0] == tuple(float(v[:, 2:].sum() > 0) for v in halves_of)
        assert scores[1] == tuple(float(v[:, :2].sum() > 0) for v in halves_of)
    assert one.score == found.tcav_adversarial[1].score == 1 and one.tests == 2
    vector = torch.tensor(found.vector, dtype=torch.float64)
    scores = (images.flatten(1).double() / found.unit) @ vector
    scores += found.bias
    order = scores.argsort(descending=True).tolist()
    assert [s.row for s in found.most] == order[:3]
    assert [s.row for s in found.least] == order[::-1][:3]
    assert found.most[0].score == pytest.approx(float(scores.max()))
    assert any("17 concept images" in line for line in found.cautions)
    assert any("of 20 images a side" in line for line in found.cautions)  # half of 40, not 33
    assert not any("L-BFGS" in line for line in found.cautions)
    stored = json.loads(json.dumps(dataclasses.asdict(found)))
    assert stored["plan"]["margin"] == {"eps": 0.1, "side": "concept", "norm": "linf"}
    assert dataclasses.asdict(look()) == dataclasses.asdict(found)


def test_classifiers_that_did_not_converge_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["torchproof.concept.a_cav"]  # the package gives the function that name
    monkeypatch.setattr(module, "STEPS", 1)
    told = [line for line in look().cautions if "L-BFGS" in line]
    assert [line.split(":")[0] for line in told] == [LOGISTIC, ADVERSARIAL]
    assert all("4 of 4 draws" in line for line in told)


def test_what_cannot_be_meant_is_refused() -> None:
    concept, random, images, labels = scene()
    with pytest.raises(InputError, match="class 7"):
        concepts(Bright(), "flat", concept, random, images, labels, (7,))
    with pytest.raises(InputError, match="concept images"):
        concepts(Bright(), "flat", concept[:2], random, images, labels)
    with pytest.raises(InputError, match="per draw"):
        concepts(Bright(), "flat", concept, random, images, labels, plan=Plan(n=50))
    for wrong in ({"draws": 1}, {"noise": -1}, {"group": 0}):
        with pytest.raises(InputError):
            Plan(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="held_out"):
        Halves.of(torch.rand(9, 2), torch.rand(9, 2), 1.0)


def test_pictures_are_brought_to_the_size(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = (255, 51, 0)  # the middle, which is what is left
    Image.fromarray(wide).save(tmp_path / "b.png")
    Image.fromarray(np.full((5, 5), 102, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no picture")
    x = read_pictures(tmp_path, 3, 10, 10)
    assert x.shape == (2, 3, 10, 10) and torch.allclose(x[0], torch.tensor(0.4))
    expected = torch.tensor([1.0, 0.2, 0.0])[:, None, None].expand(3, 10, 10)
    assert torch.allclose(x[1], expected)
    assert read_pictures(tmp_path, 1, 4, 6).shape == (2, 1, 4, 6)
    (tmp_path / "c.png").write_bytes(b"broken")
    with pytest.raises(FileError, match=r"c\.png"):
        read_pictures(tmp_path, 3, 10, 10)
    with pytest.raises(FileError, match="no folder"):
        read_pictures(tmp_path / "none", 3, 10, 10)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="without pictures"):
        read_pictures(tmp_path / "empty", 3, 10, 10)
    with pytest.raises(InputError, match="2 channels"):
        read_pictures(tmp_path, 2, 10, 10)
