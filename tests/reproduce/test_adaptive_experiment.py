"""`reproduce adaptive`: verdicts on rows by hand, networks read back, a whole run of one tiny
defence.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.predictor import Beside, Declared, DefendedPredictor
from torchproof.adaptive.zoo import PLACES as ZOO_PLACES
from torchproof.adaptive.zoo import ZOO
from torchproof.attack.catalogue import chain, pgd
from torchproof.attack.untouched import forked
from torchproof.core.errors import FileError, ResumeError
from torchproof.core.matching import Matching
from torchproof.core.metrics import clopper_pearson
from torchproof.core.objectives import CrossEntropy, Margin
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import Threat, parse
from torchproof.core.unaware import Unaware
from torchproof.data import load
from torchproof.reproduce.adaptive import PARTS, measured
from torchproof.reproduce.adaptive_figures import TUNED, compact, groups, judge, rows
from torchproof.reproduce.adaptive_measures import bare, code, debugged, stronger
from torchproof.reproduce.adaptive_page import BROKE, PAGE, page
from torchproof.reproduce.adaptive_picture import picture
from torchproof.reproduce.adaptive_record import Attacked, Broken, Cell, Control, Debugged, Marks
from torchproof.reproduce.adaptive_subjects import Materials, Part, code_of, keep, restored, trained
from torchproof.reproduce.experiment import Outcome, Partial, Request, conclude

TINY = Part(train=500, calibration=100, tests=16, budget=100)


def marks(left: float, n: int = 100) -> Marks:
    return tuple(i < round(left * n) for i in range(n))


def debugging(robust: float, *flags: str) -> Debugged:
    return Debugged(
        clean=marks(0.95), robust=marks(robust), flags=flags, suspect=None, best="", found=16,
        problems=16, informative=True, passes=True, spent=0, seconds=0.0, code="",
    )  # fmt: skip


def cell(naive: float, adapt: float, hand: float, base: float, *flags: str) -> Cell:
    attacked = Attacked(
        clean=marks(0.95), naive=marks(naive), all=marks(hand), tried=(), seconds=0.0
    )
    bare = Attacked(clean=marks(0.97), naive=marks(base), all=marks(base), tried=(), seconds=0.0)
    return Cell(attacked, debugging(adapt, *flags), bare)


def one(name: str = "k-wta", *cells: Cell) -> Broken:
    mine = cells or (cell(0.8, 0.1, 0.02, 0.02, "random"),)
    return Broken(name, ("random", "all-rejected"), mine)


@pytest.mark.parametrize(
    ("hand", "base", "broken", "short"),
    [
        (0.02, 0.0, True, -0.08),
        (0.09, 0.0, True, -0.01),  # below 10 %
        (0.10, 0.0, False, 0.0),
        (0.11, 0.06, True, 0.0),  # 5 points above
        (0.12, 0.06, False, 0.01),
        (0.30, 0.10, False, 0.15),
    ],
)
def test_broken_is_5_points_above_the_base_or_below_10_percent(
    hand: float, base: float, broken: bool, short: float
) -> None:
    row = one("x", cell(0.9, 0.5, hand, base))
    assert row.broken == broken and row.short == pytest.approx(short)


def test_a_defence_forms_at_20_points() -> None:
    assert one("x", cell(0.22, 0.0, 0.0, 0.02)).formed
    flat = one("x", cell(0.21, 0.0, 0.0, 0.02))
    assert not flat.formed and "did not form" in flat.reading


def test_flags_count_at_most_seeds_and_right_ones_come_first() -> None:
    cells = [cell(0.8, 0.1, 0.0, 0.0, *flags) for flags in (("random", "x"), ("x",), ("x",))]
    row = one("x", *cells)
    assert row.hits == [1, 0, 0] and not row.flagged
    assert row.raised == [("random", "random (1/3)"), ("x", "x")]
    assert one("x", cells[0], cells[0], cells[1]).flagged


def test_adapt_is_near_at_10_points() -> None:
    assert one("x", cell(0.9, 0.12, 0.02, 0.0)).near
    assert not one("x", cell(0.9, 0.13, 0.02, 0.0)).near


def test_seeds_are_pooled_for_the_interval() -> None:
    row = one("x", cell(0.5, 0.1, 0.0, 0.0), cell(0.7, 0.1, 0.0, 0.0))
    assert row.share("naive") == pytest.approx(0.6)
    assert row.interval("naive") == clopper_pearson(120, 200)


def zoo(count: int, **changed: Cell) -> list[Broken]:
    names = list(ZOO_PLACES)[:count]
    return [one(name, changed[name]) if name in changed else one(name) for name in names]


def test_the_split_is_of_the_thirteen() -> None:
    assert set(TUNED) < set(ZOO_PLACES) and len(TUNED) == 6 and len(ZOO_PLACES) == 13
    split = groups(zoo(13, ecoc=cell(0.1, 0.1, 0.0, 0.0)))
    assert [len(mine) for mine in split.values()] == [12, 5, 7]


def test_shows_where_all_formed_are_broken() -> None:
    said, text = judge(zoo(8), {}, [])
    assert said == "shows" and "hand-made attacks take 8 of 8" in text
    assert (
        "a right flag on 8 of 8 (tuned on 4 of 4, judged once 4 of 4; aim 11 of 13, not met)"
        in text
    )
    assert "met)" in judge(zoo(13), {}, [])[1]


def test_does_not_show_where_one_stands_or_few_formed() -> None:
    said, text = judge(zoo(8, ecoc=cell(0.9, 0.5, 0.25, 0.02)), {}, [])
    assert said == "does not show at this scale" and "fall short for ecoc by 15.0 points" in text
    assert judge(zoo(6), {"temporal": "x"}, [])[0] == "does not show at this scale"
    flat = judge(zoo(8, ecoc=cell(0.1, 0.1, 0.0, 0.0), generative=cell(0.1, 0.1, 0.0, 0.0)), {}, [])
    assert "6 of 8 defences formed (did not: generative, ecoc)" in flat[1]


def test_contradicts_where_most_stand() -> None:
    strong = cell(0.9, 0.8, 0.7, 0.02)
    found = [one(name, strong) for name in list(ZOO_PLACES)[:8]]
    assert judge(found, {}, [])[0] == "contradicts"


def test_controls_and_missing_ones_are_told() -> None:
    loud = Control(name="b", threat="linf:0.3", debugged=debugging(0.9, "random"))
    calm = Control(name="a", threat="linf:0.3", debugged=debugging(0.9))
    assert calm.quiet and not loud.quiet
    missing = {"weakness": "ModuleNotFoundError: no"}
    text = judge(zoo(2), missing, [calm, loud])[1]
    assert "not built: weakness" in text
    assert "a: no flag, active test 16 of 16; b: random, active test 16 of 16" in text
    table = {row.what: row for row in rows(zoo(2), missing, [calm, loud])}
    assert table["weakness: built"].ours == (0.0,)
    assert table["k-wta: naive"].ours == (0.8,) and table["k-wta: naive"].setting == "broken"
    assert table["k-wta: hand-made"].ci95 == clopper_pearson(2, 100)
    assert table["b, linf:0.3: flags raised"].setting == "random"
    lines = compact(zoo(2), missing, [calm]).splitlines()
    assert lines[2] == "| k-wta | tuned on it | 80.0 | **random** | 10.0 | 2.0 | 2.0 | broken |"
    assert picture(zoo(2), missing).startswith(b"\x89PNG")


def test_attempts_on_the_base_know_of_no_detector() -> None:
    threat, rule = parse("linf:0.1"), Rejecting(CrossEntropy(), 0.5)
    for objective, left in (
        (Unaware(CrossEntropy(), rule), CrossEntropy()), (rule, CrossEntropy()),
        (Margin(), Margin()), (Matching((torch.zeros(1, 2),)), None),
    ):  # fmt: skip
        attack = pgd(threat, 2, objective=objective)
        plain = bare(Attempt("a", attack, on=nn.Identity())).attack
        assert bare(Attempt("a", attack, on=nn.Identity())).on is None
        objectives = [plain.objective]  # type: ignore[union-attr]
        assert left is None or objectives == [left]
        both = bare(Attempt("b", chain(attack, attack))).attack
        assert [part.objective for part in both.attacks] == 2 * objectives  # type: ignore[union-attr]


def test_a_threat_that_square_does_not_know_leaves_others() -> None:
    assert len(list(stronger(parse("linf:0.1")))) == 3
    assert 1 <= len(list(stronger(parse("l0:5")))) < 3


def test_a_refusal_of_adapt_is_no_flag_and_leaves_what_was_left() -> None:
    images = load("digits").take(8)
    before = cell(0.8, 0.1, 0.0, 0.0).attacked
    told = debugged(nn.Flatten(), images, parse("linf:0.1"), 0, 0, before=before)
    assert told.flags == () and told.robust == before.naive and "budget = 0" in told.refused
    row = Broken("k-wta", ("random",), (replace(cell(0.8, 0.1, 0.0, 0.0), debugged=told),))
    assert "adapt refused k-wta" in judge([row], {}, [])[1]
    assert "budget = 0" in {r.what: r for r in rows([row], {}, [])}["k-wta: adapt"].setting


class Levels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 3).round() / 3


class Far(nn.Module):
    """How far an image is from the mean of those it learnt."""

    def __init__(self, bank: Tensor) -> None:
        super().__init__()
        self.register_buffer("bank", bank)

    def forward(self, x: Tensor) -> Tensor:
        bank: Tensor = self.bank  # type: ignore[assignment]
        far: Tensor = (x - bank.mean(0)).flatten(1).norm(dim=1)
        return far


def train(material: Material, seed: int) -> tuple[DefendedPredictor, nn.Module]:
    """A few steps on a bank of images that is as long as the training set."""
    x, y = material.train.x, material.train.y
    with forked(seed, torch.device("cpu")):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        loss = nn.functional.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    defended = DefendedPredictor(
        net.eval(), preprocess={"levels": Levels()}, reject=Beside(Far(x)),
        declared=Declared(non_differentiable=True, rejects=True),
    )  # fmt: skip
    return defended.calibrated(material.calibration.x), net


def naive(defended: DefendedPredictor, threat: Threat, data: Material) -> Sequence[Attempt]:
    attack = pgd(threat, 5, objective=Unaware(CrossEntropy(), defended.rule))
    return (Attempt("PGD-5", attack),)


def adaptive(defended: DefendedPredictor, threat: Threat, data: Material) -> Sequence[Attempt]:
    assert defended.rule is not None
    attack = pgd(threat, 20, objective=replace(defended.rule, inner=Margin()))
    return (Attempt("BPDA", attack, on=defended.substituted("levels")),)


DEFENCE = Defence(
    name="levels", source="nobody", read="nothing", reconstructed="all", data="digits",
    threat="linf:0.15", flags=("zero-gradients",), why="rounding is flat", train=train,
    naive=naive, adaptive=adaptive,
)  # fmt: skip


def request(out: Path, said: list[str], resume: bool = False) -> Request:
    return Request(out, seeds=1, say=said.append, resume=resume)


def test_networks_are_read_back(tmp_path: Path) -> None:
    said: list[str] = []
    asked = request(tmp_path / "x", said)
    material = Materials(asked, TINY).of("digits", 0)
    pair = trained(asked, DEFENCE, material, 0, tmp_path)
    again = restored(DEFENCE, material, 0, tmp_path)
    x = material.test.x
    for name in ("logits", "reject"):
        assert torch.equal(pair[0](x)[name], again[0](x)[name])
    assert torch.equal(pair[1](x), again[1](x)) and pair[0].rule == again[0].rule
    assert not said
    pair[0].declared = Declared(random=True)  # as where a row declares what it measures
    keep(pair, material, 0, tmp_path)
    assert restored(DEFENCE, material, 0, tmp_path)[0].declared == Declared(random=True)
    stored = (tmp_path / "networks.safetensors").read_bytes()
    (tmp_path / "networks.safetensors").write_bytes(stored[:-64])
    trained(asked, DEFENCE, material, 0, tmp_path)
    assert len(said) == 1 and "trained again" in said[0]
    assert torch.equal(restored(DEFENCE, material, 0, tmp_path)[1](x), pair[1](x))


def test_answers_that_differ_are_refused(tmp_path: Path) -> None:
    asked = request(tmp_path / "x", [])
    material = Materials(asked, TINY).of("digits", 0)
    defended, base = train(material, 0)
    defended.networks.append(Constant(1.0))  # a number that no tensor holds
    keep((defended, base), material, 0, tmp_path)
    with pytest.raises(FileError, match="answers as it did"):
        restored(replace(DEFENCE, train=_with_constant), material, 0, tmp_path)


class Constant(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return self.value * x.flatten(1)[:, 20:30]


def _with_constant(material: Material, seed: int) -> tuple[DefendedPredictor, nn.Module]:
    defended, base = train(material, seed)
    defended.networks.append(Constant(5.0))
    return defended, base


def test_test_images_differ_between_seeds(tmp_path: Path) -> None:
    made = Materials(request(tmp_path, []), TINY)
    first, second = (made.of("digits", seed) for seed in (0, 1))
    assert not torch.equal(first.test.x, second.test.x)
    assert torch.equal(first.train.x, second.train.x)
    assert (
        len(first.train) == TINY.train and len(first.calibration) == 100 and len(first.test) == 16
    )
    big = Materials(request(tmp_path, []), PARTS["small"]).of("digits", 2)
    assert len(big.train) + len(big.calibration) == len(load("digits", split="train"))


@pytest.mark.slow
def test_a_whole_run(tmp_path: Path) -> None:
    said: list[str] = []
    mine = {"levels": DEFENCE}
    with pytest.raises(Partial):  # as a process that measures ahead
        measured(replace(request(tmp_path, said).part(0), say=said.append), TINY, mine, {})
    count = len(said)
    told = measured(request(tmp_path, said, resume=True), TINY, mine, {})
    assert not any("networks" in line for line in said[count:]), "they are read back"
    assert told.verdict == "does not show at this scale"  # one defence is not enough
    folder = tmp_path / f"levels-seed0-{code_of(DEFENCE)}"
    names = {file.name for file in folder.iterdir()}
    assert {"attacks.json", "base.json", f"adapt-{code()}.json", "networks.json"} <= names
    found = {row.what: row for row in told.rows}
    share = {kind: found[f"levels: {kind}"].mean for kind in ("clean", "naive", "hand-made")}
    assert share["hand-made"] <= share["naive"] <= share["clean"]
    assert found["levels: hand-made"].mean < share["naive"]  # rounding hides the gradient
    assert "zero-gradients" in found["levels: adapt"].setting
    attacks = json.loads((folder / "attacks.json").read_text())
    assert [step["name"] for step in attacks["tried"]] == ["PGD-5", "BPDA"]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert "levels" in (tmp_path / "zoo.md").read_text()
    assert Outcome.model_validate_json((tmp_path / "outcome.json").read_text()) == told
    said.clear()
    again = measured(request(tmp_path, said, resume=True), TINY, mine, {})
    assert again.rows == told.rows and not any("networks" in line for line in said)
    with pytest.raises(ResumeError):
        measured(request(tmp_path, said, resume=True), replace(TINY, tests=9), mine, {})


DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_the_zoo_knows_all_of_it() -> None:
    text = (DOCS / PAGE).read_text()
    assert set(BROKE) == set(ZOO_PLACES)
    for name, one in ZOO.items():
        told = [f"### {name}\n", *(f"`{flag}`" for flag in one.flags), one.read, one.reconstructed]
        stale = [words for words in told if words not in text]
        assert not stale, "run make results"


def test_the_page_shows_what_was_measured(tmp_path: Path) -> None:
    seen = Request(tmp_path / "results" / "adaptive", seeds=1)
    conclude(
        seen, name="adaptive", paper="p", claim="c", settings={},
        rows=rows(zoo(2), {"weakness": "no"}, []), judged=judge(zoo(2), {}, []), picture=b"",
    )  # fmt: skip
    text = page(tmp_path)
    assert "| k-wta | 95.0 | 80.0 | random | 10.0 | 2.0 | 2.0 | broken |" in text
    assert "| weakness | | | | | | | not built |" in text
