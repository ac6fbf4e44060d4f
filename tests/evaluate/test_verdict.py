"""Red flags, re-checks, the record on disk, and what an evaluation leaves behind: nothing."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.catalogue import pgd, square
from torchproof.attack.starts import Zero
from torchproof.core.fingerprints import data_sha256, fingerprint, model_sha256
from torchproof.core.metrics import clopper_pearson
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import Threat
from torchproof.evaluate import Member, Progress, Report, evaluate

KEYS = (
    "schema date model model_sha256 data data_sha256 n threat suite seed device dtype quantised "
    "target clean_accuracy robust_accuracy robust_accuracy_ci95 certified_accuracy standing "
    "rejection_rate attacks forward backward per_robust_example seconds probes examples flags "
    "labels verdict versions command"
)
ATTACK_KEYS = "name settings robust_accuracy broken forward backward seconds"
COLUMNS = (
    "id label clean status broken_by budget forward backward predicted adversarial certificate"
)


def flag(report: Report, name: str) -> Any:
    """The one flag of that name."""
    (found,) = [flag for flag in report.flags if flag.name == name]
    return found


def test_probabilities_are_flagged(net: nn.Module, blobs: Any, threat: Threat) -> None:
    report = evaluate(nn.Sequential(net, nn.Softmax(1)), blobs, threat, "quick")
    assert flag(report, "probabilities").severity == "severe"
    assert report.verdict == "unreliable" and "gradient masking suspected" in report.labels
    plain = evaluate(net, blobs, threat, "quick")
    assert plain.flags == [] and plain.verdict == "ok" and plain.labels == []


class Noisy(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(F.dropout(x, 0.2, training=True))
        return out


def test_a_random_model_is_flagged(net: nn.Module, blobs: Any, threat: Threat) -> None:
    report = evaluate(Noisy(net), blobs, threat, "quick")
    assert "of 60 images" in flag(report, "random").evidence
    assert report.verdict == "unreliable"


class Stairs(torch.autograd.Function):
    """Rounds to 32 levels, with no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 32).round() / 32

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return torch.zeros_like(grad)


class Stepped(Noisy):
    def forward(self, x: Tensor) -> Tensor:
        rounded: Any = Stairs.apply(x)
        out: Tensor = self.inner(rounded)
        return out


def test_zero_gradients_are_flagged(net: nn.Module, blobs: Any, threat: Threat) -> None:
    report = evaluate(Stepped(net), blobs, threat, "quick")
    assert "60 of 60" in flag(report, "zero-gradients").evidence
    assert report.verdict == "unreliable"


class Precise(nn.Module):
    """Answers anything under autocast, and rightly outside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.inner(x)
        return -z if torch.is_autocast_enabled("cpu") else z


def test_evaluations_run_outside_autocast(
    net: nn.Module, blobs: Any, threat: Threat, short: list[Member]
) -> None:
    plain = evaluate(net, blobs, threat, short[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = evaluate(Precise(net), blobs, threat, short[:2])
    assert [row.status for row in report.examples] == [row.status for row in plain.examples]
    assert not any(f.name == "recheck-failed" for f in report.flags)


def test_what_breaks_only_without_gradients_is_flagged(
    net: nn.Module, blobs: Any, threat: Threat
) -> None:
    """Gradients that lead nowhere: the model's own, times zero, but for a trace of noise."""

    class Masked(Noisy):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x.detach())
            return out + 1e-9 * x.flatten(1).sum(1, keepdim=True)

    seeing, blind = (
        Member("PGD", pgd(threat, 5, start=Zero())),
        Member("Square", square(threat, 200)),
    )
    report = evaluate(Masked(net), blobs, threat, [seeing, blind])
    assert flag(report, "gradient-free-wins").severity == "severe"
    assert report.verdict == "unreliable" and "gradient masking suspected" in report.labels


class TwoFaced(nn.Module):
    """Answers wrongly whenever it is asked for gradients."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.inner(x)
        return -z if torch.is_grad_enabled() else z


def test_what_fails_its_recheck_is_not_broken(
    net: nn.Module, blobs: Any, threat: Threat, short: list[Member]
) -> None:
    report = evaluate(TwoFaced(net), blobs, threat, short[:2])
    lying = flag(report, "recheck-failed")
    assert lying.severity == "severe" and report.verdict == "unreliable"
    clean = [row for row in report.examples if row.clean]
    assert report.robust_accuracy > 0.9  # the attacks "won" at once, at random starts
    assert all(row.budget == "PGD;APGD-T" for row in clean if row.status == "robust")
    for row, image, label in zip(report.examples, report.adversarial, blobs.y, strict=True):
        wrong = int(net(image[None]).argmax()) != int(label)
        assert wrong == (row.status in ("broken", "misclassified"))


def test_broken_images_hold_in_an_independent_check(
    net: nn.Module, blobs: Any, threat: Threat, short: list[Member], tmp_path: Path
) -> None:
    report = evaluate(net, blobs, threat, short, out=tmp_path)
    with np.load(tmp_path / "adversarial.npz") as stored:
        x, x_adv = (torch.from_numpy(stored[name]) for name in ("x", "x_adv"))
        assert stored["id"].tolist() == list(range(60)) and stored["y"].tolist() == blobs.y.tolist()
    assert torch.equal(x, blobs.x) and torch.equal(x_adv, report.adversarial)
    assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
    for row, image, clean in zip(report.examples, x_adv, x, strict=True):
        answer = int(net(image[None]).argmax())
        assert answer == row.adversarial
        assert (answer != row.label) == (row.status in ("broken", "misclassified"))
        moved = float((image - clean).abs().max())
        assert (0 < moved <= 0.1 + 1e-9) if row.status == "broken" else moved == 0


@pytest.mark.parametrize("norm", [Linf(), L2()])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_quantised_images_survive_saving(
    net: nn.Module, blobs: Any, tmp_path: Path, norm: Any, kind: torch.dtype
) -> None:
    eps = 20 / 255 if isinstance(norm, Linf) else 0.4
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Linear(12, 4)).to(kind)
    model.load_state_dict(net.state_dict())
    data = (blobs.x.to(kind), blobs.y)
    report = evaluate(model, data, Threat(norm, eps), "quick", quantised=True, out=tmp_path)
    raw = np.fromfile(tmp_path / "images.bin", dtype=np.uint8).reshape(60, 1, 6, 6)
    with np.load(tmp_path / "adversarial.npz") as stored:
        eight = stored["x_adv_uint8"]
    broken = [row for row in report.examples if row.status == "broken"]
    assert len(broken) > 5 and not report.flags
    for row in broken:
        assert (raw[row.id] == eight[row.id]).all()
        image = torch.from_numpy(eight[row.id]).to(kind) / 255
        assert int(model(image[None]).argmax()) != row.label
        delta = image.double() - torch.from_numpy((blobs.x[row.id] * 255).round().numpy()) / 255
        size = delta.abs().max() if isinstance(norm, Linf) else delta.square().sum().sqrt()
        assert 0 < float(size) <= eps * (1 + 1e-6)
    assert report.quantised and report.labels == []


def test_quantised_images_that_were_not_bytes_are_rounded_and_said_so(
    net: nn.Module, blobs: Any
) -> None:
    data = ((blobs.x * 16).round() / 16, blobs.y)
    report = evaluate(net, data, Threat(Linf(), 0.1), "quick", quantised=True)
    assert any("rounded to 8 bits" in label for label in report.labels)
    levels = report.adversarial * 255
    assert float((levels - levels.round()).abs().max()) < 1e-9


class Slow(nn.Module):
    def __init__(self, inner: nn.Module, seconds: float) -> None:
        super().__init__()
        self.inner, self.seconds = inner, seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        out: Tensor = self.inner(x)
        return out


@pytest.mark.parametrize("limit", [0.05, 0.4])
def test_max_seconds_stops_and_says_what_is_missing(
    net: nn.Module, blobs: Any, threat: Threat, short: list[Member], tmp_path: Path, same: Any,
    limit: float,
) -> None:  # fmt: skip
    named = {"out": tmp_path, "model_sha256": model_sha256(net), "name": "net", "slots": 8}
    started = time.monotonic()
    stopped = evaluate(Slow(net, 0.01), blobs, threat, short, max_seconds=limit, **named)
    assert time.monotonic() - started < limit + 5.0
    left = [row for row in stopped.examples if row.status == "unfinished"]
    evidence = flag(stopped, "unfinished").evidence
    assert left and stopped.verdict == "unreliable"
    assert f"{len(left)} of 60 examples" in evidence and "Square on" in evidence
    full = evaluate(net, blobs, threat, short, name="net")
    finished = {row.id: row for row in stopped.examples if row.status != "unfinished"}
    assert all(row == finished.get(row.id, row) for row in full.examples)
    same(evaluate(net, blobs, threat, short, resume=True, **named), full)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(1), nn.Dropout(0.5)
        self.out = nn.Linear(36, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.drop(self.norm(x)).flatten(1))
        return out


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_touched(blobs: Any, threat: Threat, short: list[Member], fails: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Layers().double().train()
    model.drop.eval()
    model.out.bias.requires_grad_(False)
    model.out.weight.grad = torch.ones_like(model.out.weight)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    random = torch.random.get_rng_state()

    def progress(step: Progress) -> None:
        if fails and step.stage != "clean":
            raise KeyboardInterrupt

    try:
        evaluate(model, blobs, threat, short, progress=progress)
        assert not fails
    except KeyboardInterrupt:
        assert fails
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert not model.out.bias.requires_grad and model.out.weight.requires_grad
    assert torch.equal(model.out.weight.grad, torch.ones_like(model.out.weight))
    assert model.norm.weight.grad is None


def test_the_hash_of_the_data_is_that_of_what_was_evaluated(net: nn.Module, blobs: Any) -> None:
    """The hash that came with a whole set says nothing about its first ten images."""
    given = {"suite": [Member("one", pgd(Threat(Linf(), 0.1), 1))], "data_sha256": "ab" * 32}
    some, every = (evaluate(net, blobs, Threat(Linf(), 0.1), n=n, **given) for n in (10, None))
    assert some.data_sha256 == data_sha256(blobs.x[:10], blobs.y[:10])
    assert every.data_sha256 == "ab" * 32


def test_result_json_keeps_its_contract(
    net: nn.Module, blobs: Any, threat: Threat, short: list[Member], tmp_path: Path
) -> None:
    report = evaluate(net, blobs, threat, short, out=tmp_path, data_name="blobs", command="do it")
    stored = json.loads((tmp_path / "result.json").read_text())
    assert list(stored) == KEYS.split()
    assert stored["schema"] == report.schema == "torchproof.evaluation/1"
    assert stored["threat"] == {"norm": "linf", "eps": 0.1, "eps_text": "0.1"}
    assert (stored["data"], stored["command"], stored["device"]) == ("blobs", "do it", "cpu")
    assert stored["model_sha256"] == fingerprint(net) and stored["certified_accuracy"] is None
    assert stored["data_sha256"] == data_sha256(*blobs)
    rows = report.examples
    correct, broken = (sum(r.status == s for r in rows) for s in ("misclassified", "broken"))
    correct = 60 - correct
    assert stored["clean_accuracy"] == correct / 60
    assert stored["robust_accuracy"] == (correct - broken) / 60
    assert stored["robust_accuracy_ci95"] == list(clopper_pearson(correct - broken, 60))
    assert stored["forward"] == 60 + sum(a["forward"] for a in stored["attacks"])
    assert stored["backward"] == sum(a["backward"] for a in stored["attacks"])
    left = correct
    for attack in stored["attacks"]:
        assert list(attack) == ATTACK_KEYS.split()
        left -= attack["broken"]
        assert attack["robust_accuracy"] == left / 60
    header = (tmp_path / "examples.csv").read_text().splitlines()[0]
    assert header.split(",") == COLUMNS.split()
    loaded = Report.load(tmp_path)
    assert loaded.examples == rows and loaded.result == report.result


def test_images_need_not_be_kept(
    net: nn.Module, blobs: Any, threat: Threat, short: list[Member], tmp_path: Path
) -> None:
    report = evaluate(net, blobs, threat, short, out=tmp_path, save_adversarial=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "examples.csv", "records.jsonl", "result.json", "settings.json"
    ]  # fmt: skip
    assert report.adversarial is not None  # returned all the same
    again = evaluate(net, blobs, threat, short, out=tmp_path, save_adversarial=False, resume=True)
    assert again.examples == report.examples and again.adversarial is None
    kept = evaluate(net, blobs, threat, short, out=tmp_path, resume=True)
    torch.testing.assert_close(kept.adversarial, report.adversarial, rtol=0, atol=1e-9)
    assert kept.examples == report.examples


def test_progress_counts_up_to_the_end(net: nn.Module, blobs: Any, threat: Threat) -> None:
    seen: list[Progress] = []
    report = evaluate(net, blobs, threat, "quick", slots=8, progress=seen.append)
    stages = list(dict.fromkeys(step.stage for step in seen))
    assert stages == ["clean", "PGD-20-margin", "PGD-20-CE", "probes"]
    for stage in stages:
        steps = [step for step in seen if step.stage == stage]
        assert all(a.done < b.done for a, b in itertools.pairwise(steps))
        assert steps[-1].done == steps[-1].total
    last = [step for step in seen if step.stage == "PGD-20-CE"][-1]
    assert last.broken == report.attacks[-1].broken


def test_a_plain_function_can_be_evaluated(net: nn.Module, blobs: Any, threat: Threat) -> None:
    def model(x: Tensor) -> Tensor:
        out: Tensor = net(x)
        return out

    report = evaluate(model, blobs, threat, "quick")
    assert report.examples == evaluate(net, blobs, threat, "quick").examples
    assert report.model == "model" and report.model_sha256 is None
