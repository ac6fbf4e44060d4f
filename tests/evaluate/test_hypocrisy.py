"""Hypocritical risk: closed forms, exact identities, the ledger, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.catalogue import apgd, pgd
from torchproof.attack.hypocritical import hypocritical
from torchproof.attack.run import Run
from torchproof.attack.starts import Gaussian, Zero
from torchproof.core import keys
from torchproof.core.errors import FileError, InputError, ResumeError
from torchproof.core.norms import Linf
from torchproof.core.objectives import Hypocritical, Margin, Targeted
from torchproof.core.sites import Universal
from torchproof.core.threats import Region, Threat, parse
from torchproof.evaluate import Member, hypocrisy
from torchproof.evaluate.friends import HypocrisyRecord
from torchproof.evaluate.hypocrisy import friends, turned
from torchproof.evaluate.risks import Fate, Risks, Share
from torchproof.evaluate.sway import FOE

EPS = 0.06
THREAT = Threat(Linf(), EPS)


class Binary(nn.Module):
    """z = (0, w x + b)."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(12, generator=g, dtype=torch.float64))
        self.b = nn.Parameter(0.05 - 0.5 * self.w.detach().sum())

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1) @ self.w + self.b
        return torch.stack([torch.zeros_like(z), z], 1)


def data(n: int = 50) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = 0.3 + 0.4 * torch.rand(n, 1, 3, 4, generator=g, dtype=torch.float64)
    return x, torch.randint(2, (n,), generator=g)


def test_of_a_linear_model_every_risk_in_closed_form() -> None:
    """An answer can be changed within eps exactly where |w x + b| < eps |w|_1."""
    model, (x, y) = Binary(), data()
    z = (x.flatten(1) @ model.w + model.b).detach()
    right, near = (z > 0) == (y == 1), z.abs() < EPS * model.w.detach().abs().sum()
    found = hypocrisy(model, (x, y), THREAT)
    counts = {
        "clean_accuracy": (right, 50),
        "verification_accuracy": (right | near, 50),
        "natural_risk": (~right, 50),
        "adversarial_risk": (right & near, int(right.sum())),
        "hypocritical_risk": (~right & near, int((~right).sum())),
        "stability_risk": (near, 50),
        "stability_risk_on_errors": (~right & near, int((~right).sum())),
    }
    for name, (hits, of) in counts.items():
        share = found.record.risks[name]
        assert (share.hits, share.n) == (int(hits.sum()), of), name
        assert share.value == int(hits.sum()) / of
        assert share.ci95 is not None and share.ci95[0] <= share.value <= share.ci95[1]
    assert 0 < counts["hypocritical_risk"][0].sum() < (~right).sum()
    assert all(found.record.identities.values()) and found.record.verdict == "ok"
    assert [row.correct for row in found.rows] == right.tolist()
    assert [row.changed for row in found.rows] == near.tolist()
    assert [bool(row.befriended_by) for row in found.rows] == (~right & near).tolist()


def test_the_attacks_are_those_of_the_library() -> None:
    """Each column equals the attack on the errors alone; correct examples keep their images."""
    model, (x, y) = network(), images(16)
    found = hypocrisy(model, (x, y), THREAT, seed=5, slots=4)
    assert [a.name for a in found.record.attacks] == ["FGSM", "PGD-20", "C&W-100"]
    after, n = [], len(x)
    with torch.no_grad():
        before = model(x).argmax(1) == y
    wrong = (~before).nonzero()[:, 0]
    for member, column in zip(friends(THREAT), found.record.attacks, strict=True):
        run = Run(seed=keys.seed_of(5, member.name), slots=64, ids=wrong)
        alone = member.attack(model, x[wrong], y[wrong], run=run)
        friendly = torch.zeros(n, dtype=torch.bool).index_put((wrong,), alone.lost)
        after.append(before | friendly)
        won = [member.name in row.befriended_by.split(";") for row in found.rows]
        assert won == friendly.tolist()
        assert column.verification_accuracy.hits == int(after[-1].sum())
        assert column.hypocritical_risk.n == len(wrong)
        assert [column.forward, column.backward] == alone.spent.sum(0).tolist()
    union = torch.stack(after).any(0)
    assert found.record.risks["verification_accuracy"].hits == int(union.sum())
    assert found.moved is not None
    with torch.no_grad():
        now = model(found.moved).argmax(1) == y
    assert torch.equal(now, union) and torch.equal(found.moved[before], x[before])
    assert float((found.moved - x).abs().max()) <= EPS * (1 + 1e-6)
    assert 0 < int((union & ~before).sum()) < int((~before).sum())


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 4))
    with torch.no_grad():
        model[3].weight.mul_(4)
    return model.eval()


def images(n: int = 30) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    x = torch.rand(n, 1, 4, 4, generator=g)
    return x, torch.randint(4, (n,), generator=g)


def test_identities_hold_for_every_set_of_fates() -> None:
    fates = [Fate(c, f and not c, s) for c in (0, 1) for f in (0, 1) for s in (0, 1)]  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    for _ in range(200):
        some = [fates[i] for i in rng.integers(len(fates), size=rng.integers(1, 12))]
        risks = Risks.of(some)
        assert all(risks.identities.values())
        wrong = [f for f in some if not f.correct]
        assert risks.wrong == len(wrong) and risks.n == len(some)
        assert risks.befriended == len([f for f in wrong if f.befriended])
        assert risks.broken == len([f for f in some if f.correct and f.changed])
        assert risks.unstable == risks.broken + risks.swayed


def test_identities_notice_counts_that_do_not_agree() -> None:
    good = Risks(n=10, correct=4, broken=2, befriended=3, swayed=5, unstable=7)
    assert all(good.identities.values())
    assert not all(Risks(10, 4, 2, 3, 5, 6).identities.values())
    assert not all(Risks(10, 4, 2, 6, 5, 7).identities.values())


def test_a_share_of_nothing_has_no_value() -> None:
    assert Share.of(0, 0).value is None and Share.of(0, 0).ci95 is None
    low, high = Share.of(2, 8).ci95 or (0.0, 0.0)
    assert low == pytest.approx(0.0319, abs=1e-4) and high == pytest.approx(0.6509, abs=1e-4)


def test_a_perfect_model_has_no_hypocritical_risk(tmp_path: Path) -> None:
    model, (x, _) = network(), images()
    with torch.no_grad():
        y = model(x).argmax(1)
    found = hypocrisy(model, (x, y), THREAT, out=tmp_path)
    assert found.record.risks["hypocritical_risk"].value is None
    assert found.record.risks["verification_accuracy"].value == 1.0
    assert all(a.forward == 0 for a in found.record.attacks) and found.record.verdict == "ok"
    assert HypocrisyRecord.read(tmp_path) == found.record


def figures(found: Any) -> dict[str, Any]:
    """All but the clock's and the date's."""
    text = found.record.model_dump(exclude={"seconds", "date", "attacks"})
    rows = [a.model_dump(exclude={"seconds"}) for a in found.record.attacks]
    return {**text, "attacks": rows, "rows": found.rows}


@pytest.mark.parametrize("stage", ["clean", "PGD-20", FOE])
def test_a_killed_run_goes_on(tmp_path: Path, stage: str) -> None:
    model, (x, y) = network(), images()
    short = friends(THREAT)[:2]
    whole = hypocrisy(model, (x, y), THREAT, short, seed=3, slots=5, out=tmp_path / "whole")

    class Killed(Exception):
        """What ends the run."""

    def interrupt(state: Any) -> None:
        if state.stage == stage and state.done >= 5:
            raise Killed

    with pytest.raises(Killed):
        hypocrisy(model, (x, y), THREAT, short, seed=3, slots=5, out=tmp_path / "cut",
                  progress=interrupt)  # fmt: skip
    assert not (tmp_path / "cut" / "hypocrisy.json").exists()
    with pytest.raises(FileError):
        hypocrisy(model, (x, y), THREAT, short, seed=3, out=tmp_path / "cut")
    with pytest.raises(ResumeError, match="seed"):
        hypocrisy(model, (x, y), THREAT, short, seed=4, out=tmp_path / "cut", resume=True)
    ended = hypocrisy(model, (x, y), THREAT, short, seed=3, slots=9, out=tmp_path / "cut",
                      resume=True)  # fmt: skip
    assert figures(ended) == figures(whole)
    assert ended.moved is not None and whole.moved is not None
    assert torch.allclose(ended.moved, whole.moved, atol=1e-6)


def test_what_is_written_is_what_was_found(tmp_path: Path) -> None:
    model, (x, y) = network(), images()
    found = hypocrisy(model, (x, y), THREAT, n=20, out=tmp_path)
    stored = json.loads((tmp_path / "hypocrisy.json").read_text())
    assert stored["schema"] == "torchproof.hypocrisy/1" and stored["n"] == 20
    arrays = np.load(tmp_path / "hypocritical.npz")
    assert found.moved is not None
    assert np.array_equal(arrays["x_hyp"], found.moved.numpy())
    with torch.no_grad():
        hits = (model(torch.from_numpy(arrays["x_hyp"])).argmax(1).numpy() == arrays["y"]).sum()
    assert hits == stored["risks"]["verification_accuracy"]["hits"]
    lines = (tmp_path / "friends.csv").read_text().splitlines()
    assert len(lines) == 21 and lines[0].startswith("id,label,predicted,correct")


def test_images_that_are_gone_are_found_again(tmp_path: Path) -> None:
    model, (x, y) = network(), images()
    first = hypocrisy(model, (x, y), THREAT, out=tmp_path, images=False)
    assert first.moved is None and not (tmp_path / "hypocritical.npz").exists()
    again = hypocrisy(model, (x, y), THREAT, out=tmp_path, resume=True)
    assert again.moved is not None and again.rows == first.rows
    with torch.no_grad():
        right = (model(again.moved).argmax(1) == y).sum()
    assert int(right) == again.record.risks["verification_accuracy"].hits


def test_an_answer_that_is_not_given_twice_does_not_count() -> None:
    """Right while gradients are taken, wrong when asked again."""
    inner, (x, y) = network(), images()

    class TwoFaced(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            out: Tensor = inner(images)
            return out.flip(1) if torch.is_grad_enabled() else out

    found = hypocrisy(TwoFaced(), (x, y), THREAT, friends(THREAT)[1:2])
    assert found.record.unconfirmed > 0 and found.record.verdict == "unreliable"
    assert found.moved is not None
    with torch.no_grad():
        right = int((inner(found.moved).argmax(1) == y).sum())
    assert right == found.record.risks["verification_accuracy"].hits


def test_how_many_errors_reach_each_class_in_closed_form(tmp_path: Path) -> None:
    """Of two classes, the one that an error does not answer with is the right one."""
    model, (x, y) = Binary(), data()
    z = (x.flatten(1) @ model.w + model.b).detach()
    wrong, near = (z > 0) != (y == 1), z.abs() < EPS * model.w.detach().abs().sum()
    found = hypocrisy(model, (x, y), THREAT, every_class=True, out=tmp_path)
    for number, share in enumerate(found.record.classes):
        others = wrong & (y == number)
        assert (share.hits, share.n) == (int((others & near).sum()), int(others.sum()))
        assert 0 < share.hits < share.n
    assert len(found.record.classes) == 2 and found.record.verdict == "ok"
    assert hypocrisy(model, (x, y), THREAT).record.classes == []
    assert HypocrisyRecord.read(tmp_path) == found.record


def test_errors_are_moved_to_every_class_but_their_own(tmp_path: Path) -> None:
    """The shares against a loop over classes, whose attack knows nothing of ledgers."""
    model, (x, y) = network(), images()
    with torch.no_grad():
        answer = model(x).argmax(1)
    short = [Member("one", hypocritical(THREAT, 3))]
    found = hypocrisy(model, (x, y), THREAT, short, every_class=True, out=tmp_path, slots=7)
    classes, seen = model(x[:1]).shape[1], set()
    assert len(found.record.classes) == classes
    for number, share in enumerate(found.record.classes):
        rows = ((answer != y) & (answer != number)).nonzero()[:, 0]
        attack = pgd(THREAT, 20, 0.25, Targeted(), Gaussian(0.01))
        aim = torch.full((len(rows),), number)
        run = Run(seed=keys.seed_of(0, f"towards {number}"), ids=rows)
        naive = attack(model, x[rows], answer[rows], target=aim, run=run)
        assert (share.hits, share.n) == (int(naive.lost.sum()), len(rows))
        seen.add(share.hits)
    assert len(seen) > 1
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert all(line["image"] is None for line in lines if line["attack"].startswith("towards "))
    again = hypocrisy(model, (x, y), THREAT, short, every_class=True, out=tmp_path, resume=True)
    assert again.record.model_dump(exclude={"date"}) == found.record.model_dump(exclude={"date"})


def test_undefined_gradients_make_the_verdict_unreliable() -> None:
    class Rooted(Binary):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 0 * x[:, 0, 0, :1].sqrt()

    model, (x, y) = Rooted(), data()
    x[3:5, 0, 0, 0] = 0.0
    adversary = pgd(THREAT, 5, start=Zero())
    found = hypocrisy(model, (x, y), THREAT, friends(THREAT)[:1], adversary=adversary)
    assert found.record.undefined == 2 and found.record.verdict == "unreliable"


def test_out_of_time_is_said(tmp_path: Path) -> None:
    model, (x, y) = network(), images()
    cut = hypocrisy(model, (x, y), THREAT, out=tmp_path, max_seconds=1e-6)
    assert cut.record.unfinished == 30 and cut.record.verdict == "unreliable"
    ended = hypocrisy(model, (x, y), THREAT, out=tmp_path, resume=True)
    assert ended.record.unfinished == 0 and ended.record.verdict == "ok"


def test_any_attack_is_turned_around() -> None:
    model, (x, y) = network(), images()
    plain, done = pgd(THREAT, 5, objective=Margin()), hypocritical(THREAT, 5)
    assert turned(plain).objective == Hypocritical(Margin()) and turned(done) is done
    chosen = [Member("mine", plain), Member("APGD", apgd(THREAT, 5))]
    found = hypocrisy(model, (x, y), THREAT, chosen)
    assert [a.name for a in found.record.attacks] == ["mine", "APGD"]
    assert "Hypocritical(inner=Margin())" in found.record.attacks[0].settings
    assert found.record.attacks[0].hypocritical_risk.hits > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda m, d: hypocrisy(m, d, Region(THREAT, torch.ones(4, 4))),  # type: ignore[arg-type]
        lambda m, d: hypocrisy(m, d, Threat(Linf(), 0.1, site=Universal())),
        lambda m, d: hypocrisy(m, d, THREAT, []),
        lambda m, d: hypocrisy(m, d, THREAT, friends(THREAT)[:1] * 2),
        lambda m, d: hypocrisy(m, d, THREAT, [Member("clean", hypocritical(THREAT))]),
        lambda m, d: hypocrisy(m, d, THREAT, [Member("towards 1", hypocritical(THREAT))]),
        lambda m, d: hypocrisy(m, d, THREAT, friends(parse("linf:0.1"))),
        lambda m, d: hypocrisy(m, d, THREAT, adversary=pgd(parse("l2:1"))),
        lambda m, d: hypocrisy(m, d, THREAT, n=0),
        lambda m, d: hypocrisy(m, (d[0] * 255, d[1]), THREAT),
    ],
)
def test_refused(make: Any) -> None:
    with pytest.raises(InputError) as caught:
        make(network(), images())
    assert caught.value.given and caught.value.expected and caught.value.remedy
