"""Members that are run on some examples only, the reserve, and averaged predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.catalogue import apgd_ce, apgd_t, averaged, pgd, square
from torchproof.attack.combine import Attack
from torchproof.attack.nes import nes
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.objectives import Margin, TargetedMargin
from torchproof.core.threats import Threat
from torchproof.evaluate import Member, Nearest, Report, Suite, evaluate, merge, together
from torchproof.evaluate.averaged import Averaged
from torchproof.evaluate.certificate import Proof
from torchproof.evaluate.flags import MASKING
from torchproof.evaluate.member import CLEAN, reads_gradients

SMALL = Threat(Linf(), 0.02)


def first(threat: Threat) -> Member:
    return Member("first", pgd(threat, 3, objective=Margin()))


def test_nearest_reads_the_best_margin_of_all_members_before() -> None:
    history = {
        CLEAN: {"margin": -2.0},
        "a": {"score": -1.5},
        "b": {"score": -0.9},
        "c": {"score": None},
    }
    assert Nearest(0.5)(history) and Nearest(0.46)(history) and not Nearest(0.44)(history)
    assert not Nearest(0.99)({CLEAN: {"margin": -2.0}}) and Nearest(1.0)({CLEAN: {"margin": -2.0}})


def test_a_member_is_run_on_its_examples_alone(net: nn.Module, blobs: Any) -> None:
    members = [first(SMALL), Member("near", pgd(SMALL, 5), who=Nearest(0.6))]
    report = evaluate(net, blobs, SMALL, members)
    x, y = blobs
    with torch.no_grad():
        z = net(x)
    others = z.scatter(1, y[:, None], -torch.inf).amax(1)
    clean = (z.gather(1, y[:, None])[:, 0] - others).tolist()
    scores = Attack(SMALL, Margin(), PGD(3))
    ran = {row.id for row in report.examples if "near" in row.budget.split(";")}
    stood = {row.id for row in report.examples if row.clean and row.broken_by != "first"}
    assert ran and ran < stood, "some examples, not all"
    # the ledger is not open to a test: ask the same attack again, with the member's own seed
    found = scores(net, x, y, run=Run(seed=keys.seed_of(0, "first")))
    for i in stood:
        assert (i in ran) == (-float(found.score[i]) <= 0.6 * clean[i])
    near = report.attacks[1]
    assert near.forward <= 6 * len(ran) and near.backward <= 5 * len(ran)


def test_an_aimed_member_attacks_the_class_that_came_nearest(net: nn.Module, blobs: Any) -> None:
    asked: list[Tensor] = []

    class Spying(TargetedMargin):
        def loss(self, out: Tensor, goal: Any) -> Tensor:
            asked.append(goal.target.clone())
            return super().loss(out, goal)

    every = Member("every", apgd_t(SMALL, 5))
    aimed = Member("aimed", Attack(SMALL, Spying(), PGD(1)), aim="every")
    report = evaluate(net, blobs, SMALL, [every, aimed], slots=60)
    left = [row.id for row in report.examples if "aimed" in row.budget.split(";")]
    x, y = blobs
    found = every.attack(
        net, x[left], y[left], run=Run(seed=keys.seed_of(0, "every"), ids=torch.tensor(left))
    )
    assert torch.equal(asked[0], found.by[:, 0])


@pytest.mark.parametrize(
    "members",
    [
        lambda: [Member("a", apgd_t(SMALL, 3)), Member("b", pgd(SMALL, 3), aim="a")],
        lambda: [Member("b", Attack(SMALL, TargetedMargin(), PGD(3)), aim="a")],
        lambda: [Member("b", pgd(SMALL, 3), who=Nearest(0))],
    ],
)
def test_refusals(net: nn.Module, blobs: Any, members: Any) -> None:
    with pytest.raises(InputError):
        evaluate(net, blobs, SMALL, members())


def test_estimates_are_no_gradients() -> None:
    assert reads_gradients(pgd(SMALL)) and reads_gradients(averaged(pgd(SMALL), 2))
    assert not reads_gradients(square(SMALL)) and not reads_gradients(nes(SMALL, 60))
    assert not reads_gradients(averaged(nes(SMALL, 60), 2))


# ---- suites


@pytest.mark.slow
def test_thorough_is_as_strong_as_full_runs_and_cheaper(net: nn.Module, blobs: Any) -> None:
    threat = Threat(Linf(), 0.08)
    members = [Member("CE", apgd_ce(threat)), Member("T", apgd_t(threat))]
    data = blobs.x[5:13], blobs.y[5:13]
    full, lean, quick = (
        evaluate(net, data, threat, suite) for suite in (members, "thorough", "fast")
    )
    assert 5 <= round(full.robust_accuracy * 8) < 8
    assert lean.robust_accuracy <= full.robust_accuracy
    assert quick.robust_accuracy <= full.robust_accuracy + 1 / 16
    # what `standard` spends on a robust example of four classes: CE, T and FAB at three, Square
    budget = 201 + 2 * (3 * 201 + 1) + 5000
    assert lean.per_robust_example is not None and quick.per_robust_example is not None
    assert lean.per_robust_example <= budget / 4 and quick.per_robust_example <= budget / 8


def test_thorough_does_not_depend_on_company(net: nn.Module, blobs: Any, tmp_path: Path) -> None:
    x, y = blobs.x[5:11], blobs.y[5:11]
    threat = Threat(Linf(), 0.08)
    whole = evaluate(net, (x, y), threat, "thorough", slots=16)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3))
    mixed = {"data": (x[order], y[order]), "ids": order, "slots": 2}
    for i in range(2):
        more = {"shard": f"{i}/2", "out": tmp_path / str(i), **mixed}
        evaluate(net, threat=threat, suite="thorough", **more)
    joined = merge([tmp_path / "0", tmp_path / "1"])
    by_id = {row.id: vars(row) for row in joined.examples}
    assert by_id == {row.id: vars(row) for row in whole.examples}


class Stairs(nn.Module):
    """Rounds its input, so that gradients vanish; a straight pass keeps the network asked."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x * 40).round() / 40 + 0 * x)  # type: ignore[no-any-return]


def test_an_alarm_calls_the_reserve(net: nn.Module, blobs: Any, tmp_path: Path) -> None:
    threat = Threat(Linf(), 0.08)
    suite = Suite((first(threat),), reserve=(Member("Square", square(threat, 60)),))
    calm = evaluate(net, blobs, threat, suite, n=20)
    assert [a.name for a in calm.attacks] == ["first"]
    model = Stairs(net).eval()
    report = evaluate(model, blobs, threat, suite)
    assert {f.name for f in report.flags if f.severity == "severe"} & MASKING
    assert [a.name for a in report.attacks] == ["first", "Square"] and report.attacks[1].broken > 0
    assert any("Square run after" in text for text in report.labels)
    asked = evaluate(net, blobs, threat, suite, n=20, full=True)
    assert [a.name for a in asked.attacks] == ["first", "Square"]
    assert any("on request" in text for text in asked.labels)
    for i in range(3):
        evaluate(model, blobs, threat, suite, shard=f"{i}/3", out=tmp_path / str(i))
    joined = merge([tmp_path / str(i) for i in range(3)])
    assert [vars(row) for row in joined.examples] == [vars(row) for row in report.examples]


@pytest.mark.parametrize("masked", [True, False])
def test_processes_that_share_a_run_call_the_reserve_together(
    net: nn.Module, blobs: Any, tmp_path: Path, masked: bool
) -> None:
    """All parts run it or none does, as one process would, in parts too small to tell alone."""
    threat = Threat(Linf(), 0.08)
    suite = Suite((first(threat),), reserve=(Member("Square", square(threat, 60)),))
    model = Stairs(net).eval() if masked else net
    x, y = blobs.x[:12], blobs.y[:12]
    together.begin(tmp_path, len(x), 2, resume=False)

    def one(shard: str, folder: Path, full: bool | None) -> Report:
        return evaluate(model, (x, y), threat, suite, shard=shard, out=folder, resume=True,
                        full=full)  # fmt: skip

    assert together.evaluation(tmp_path, one, lambda: False, full=False)
    joined, whole = merge(together.folders(tmp_path)), evaluate(model, (x, y), threat, suite)
    assert [a.name for a in joined.attacks] == [a.name for a in whole.attacks]
    assert len(whole.attacks) == 1 + masked
    assert [vars(row) for row in joined.examples] == [vars(row) for row in whole.examples]


# ---- randomised models


class Noisy(nn.Module):
    """Adds noise to the logits in every pass."""

    def __init__(self, net: nn.Module, sigma: float) -> None:
        super().__init__()
        self.net, self.sigma = net, sigma

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.net(x)
        return z + self.sigma * torch.randn(z.shape, dtype=z.dtype)


def test_averaged_is_the_log_of_the_mean_prediction() -> None:
    answers = [torch.tensor([[1.0, 0.0, -2.0]]), torch.tensor([[-1.0, 3.0, 0.5]])]
    calls = iter(answers)
    got = Averaged(lambda x: next(calls), 2)(torch.zeros(1, 1))
    expected = torch.stack([z.softmax(1) for z in answers]).mean(0).log()
    torch.testing.assert_close(got, expected)


def test_averaging_leaves_frozen_parts_in_their_modes() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    net[1].eval()
    whole = Averaged(net, 2)
    assert whole.training and net[0].training and not net[1].training


@pytest.mark.slow
def test_rand_counts_every_draw(net: nn.Module, blobs: Any) -> None:
    torch.random.default_generator.manual_seed(0)
    report = evaluate(Noisy(net, 0.05).eval(), blobs, Threat(Linf(), 1e-6), "rand", n=4)
    ce = report.attacks[0]
    alive = sum(row.clean for row in report.examples)
    assert alive and ce.forward == alive * 101 * 20 and ce.backward == alive * 100 * 20
    assert report.forward == 4 * 20 + sum(a.forward for a in report.attacks)


def test_rand_breaks_a_noisy_model(net: nn.Module, blobs: Any) -> None:
    threat = Threat(Linf(), 0.25)
    sure = evaluate(net, blobs, threat, [Member("CE", pgd(threat, 20))], n=16)
    rand = evaluate(Noisy(net, 0.05).eval(), blobs, threat, "rand", n=16)
    assert sure.robust_accuracy < 0.3 and rand.robust_accuracy < 0.4


@pytest.mark.slow
def test_rand_goes_on_after_a_lucky_draw(net: nn.Module, blobs: Any) -> None:
    """The first average that is wrong may be luck: the worst point of the whole run is re-checked,
    and one that a second average refutes is no reason to believe nothing."""
    rand = evaluate(Noisy(net, 0.2).eval(), blobs, Threat(Linf(), 0.1), "rand", n=20)
    ce, alive = rand.attacks[0], sum(row.clean for row in rand.examples)
    assert ce.broken > 2 and ce.forward == alive * 101 * 20
    assert {flag.name: flag.severity for flag in rand.flags}["recheck-failed"] == "warning"
    assert rand.verdict == "ok"


# ---- certificates


class Every:
    """Certifies the examples given, whatever the truth; costs three forwards and one backward."""

    __name__ = "every"

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, model: Any, x: Tensor, y: Tensor, threat: Any) -> Proof:
        sure = torch.zeros(len(x), dtype=torch.bool)
        sure[: round(len(x) * self.share)] = True
        return Proof(sure, 3, 1)


def test_certified_examples_get_quick_alone(net: nn.Module, blobs: Any) -> None:
    tiny = Threat(Linf(), 1e-6)
    report = evaluate(net, blobs, tiny, "quick", n=20, verifier=Every(0.5), slots=20)
    alive = [row for row in report.examples if row.clean]
    sure, rest = alive[: round(len(alive) * 0.5)], alive[round(len(alive) * 0.5) :]
    assert {row.budget for row in sure} == {"check PGD-20-margin;check PGD-20-CE"}
    assert {row.budget for row in rest} == {"PGD-20-margin;PGD-20-CE"}
    assert {(row.forward, row.backward) for row in alive} == {(1 + 3 + 42, 1 + 40)}
    assert report.certified_accuracy == len(sure) / 20
    assert not any(flag.name == "certificate-refuted" for flag in report.flags)
    assert [r.certificate for r in sure] == ["certified"] * len(sure)
    assert [r.certificate for r in rest] == ["undecided"] * len(rest)
    wrong = 20 - len(alive)
    assert sum(row.certificate == "misclassified" for row in report.examples) == wrong
    assert report.standing.model_dump() == {
        "certified": len(sure), "broken": 0, "undecided": len(rest), "contradicted": 0,
        "misclassified": wrong, "unfinished": 0,
    }  # fmt: skip
    plain = evaluate(net, blobs, tiny, "quick", n=5)
    assert plain.certified_accuracy is None and plain.standing is None
    assert {row.certificate for row in plain.examples} == {""}


def test_a_broken_certificate_is_a_red_alarm(net: nn.Module, blobs: Any) -> None:
    threat = Threat(Linf(), 0.2)
    report = evaluate(net, blobs, threat, "quick", n=20, verifier=Every(1.0))
    flag = next(flag for flag in report.flags if flag.name == "certificate-refuted")
    assert flag.severity == "severe" and report.verdict == "unreliable"
    held = sum(row.status == "robust" for row in report.examples)
    assert report.certified_accuracy == held / 20 < report.clean_accuracy
    fallen = [row for row in report.examples if row.status == "broken"]
    assert fallen and {row.certificate for row in fallen} == {"contradicted"}
    assert report.standing.contradicted == len(fallen) and report.standing.broken == 0
    with pytest.raises(InputError, match="one threat"):
        evaluate(net, blobs, [threat, SMALL], "quick", n=5, verifier=Every(1.0))
