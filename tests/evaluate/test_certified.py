"""Certified accuracy, and the sandwich of certificates and attacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import FileError, InputError, ModelError, ResumeError, UnknownName
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import Threat
from torchproof.evaluate import Certificates, Propagation, certify, evaluate
from torchproof.evaluate.certificate import Proof


class Distance(nn.Module):
    """Two classes parted by the plane sum(x) = n / 2: the margin is 2 sum(x) - n."""

    def forward(self, x: Tensor) -> Tensor:
        s = x.flatten(1).sum(1)
        return torch.stack([s, x[0].numel() - s], 1)


def images(*levels: float) -> tuple[Tensor, Tensor]:
    x = torch.stack([torch.full((1, 2, 2), level) for level in levels])
    return x, (x.flatten(1).mean(1) < 0.5).long()


def test_certified_is_what_lies_far_from_the_boundary() -> None:
    x, y = images(0.9, 0.62, 0.58, 0.1, 0.45)
    y[4] = 1 - y[4]
    found = certify(Distance().eval(), (x, y), Threat(Linf(), 0.1))
    assert [row.status for row in found.examples] == [
        "certified", "certified", "undecided", "certified", "wrong"
    ]  # fmt: skip
    margins = [row.margin for row in found.examples]
    assert margins[4] is None  # no time is spent on what is wrong anyway
    assert margins[0] == pytest.approx(8 * (0.4 - 0.1)) and margins[2] == pytest.approx(-0.16)
    assert found.certified_accuracy == 3 / 5 and found.clean_accuracy == 4 / 5
    assert found.certified_accuracy_ci95[0] < 0.6 < found.certified_accuracy_ci95[1]


def test_margins_are_those_of_float64() -> None:
    """Half a float32 rounding from the boundary, on either side."""
    x, y = images(0.6)
    for eps, sure in ((0.1 - 1e-6, True), (0.1 + 1e-6, False)):
        found = certify(Distance().eval(), (x, y), Threat(Linf(), eps))
        assert (found.examples[0].status == "certified") is sure


def test_error_bounds_are_taken_off() -> None:
    x, y = images(0.9, 0.62, 0.58)
    about = Threat(Linf(), 0.1)
    found = certify(Distance().eval(), (x, y), about)
    assert found.sound and "less error_bound" in found.assumptions
    assert all(row.error_bound and 0 < row.error_bound < 1e-12 for row in found.examples)
    plain = certify(Distance().eval(), (x, y), about, sound=False)
    assert not plain.sound and "not accounted for" in plain.assumptions
    assert all(row.error_bound is None for row in plain.examples)
    for one, two in zip(found.examples, plain.examples, strict=True):
        assert one.status == two.status and one.margin == pytest.approx(two.margin, abs=1e-12)
    # what is positive by less than its error is not certified
    edge = certify(Distance().eval(), (x[:1], y[:1]), Threat(Linf(), 0.4 - 1e-17))
    row = edge.examples[0]
    assert row.margin is not None and row.error_bound is not None
    assert abs(row.margin) <= 1e-6 and (row.status == "certified") is (row.margin > row.error_bound)


def test_methods_and_operations_without_an_error_bound_have_none() -> None:
    x, y = images(0.9)
    found = certify(Distance().eval(), (x, y), Threat(Linf(), 0.1), "refine-zono")
    assert found.examples[0].error_bound is None and "not accounted for" in found.assumptions
    same = certify(Distance().eval(), (x, y), Threat(Linf(), 0.1), "deeppoly")
    assert same.examples[0].error_bound is not None  # crown under another name

    class Curved(Distance):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(super().forward(x))

    curved = certify(Curved().eval(), (x, y), Threat(Linf(), 0.1), "crown")
    assert curved.examples[0].error_bound is None and not curved.sound
    assert curved.examples[0].status == "certified"


def test_kept_read_and_resumed(tmp_path: Path) -> None:
    x, y = images(*torch.linspace(0, 1, 12).tolist())
    about = Threat(L2(), 0.2)
    whole = certify(Distance().eval(), (x, y), about, out=tmp_path / "a", slots=3)
    assert Certificates.read(tmp_path / "a") == whole
    with pytest.raises(FileError, match="resume=True"):
        certify(Distance().eval(), (x, y), about, out=tmp_path / "a")
    records = tmp_path / "a" / "records.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    again = certify(Distance().eval(), (x, y), about, out=tmp_path / "a", resume=True, slots=4)
    for one, two in zip(whole.examples, again.examples, strict=True):
        assert (one.id, one.status) == (two.id, two.status)
        assert one.margin == pytest.approx(two.margin, abs=1e-12)
    with pytest.raises(ResumeError, match="method"):
        certify(Distance().eval(), (x, y), about, "ibp", out=tmp_path / "a", resume=True)


def test_a_verifier_sees_that_weights_have_changed() -> None:
    """It keeps a copy of the network: what was certified is not what stands there now."""
    net, verifier = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval(), Propagation()
    x, about = torch.rand(1, 1, 2, 2), Threat(Linf(), 1e-3)
    y = net(x).argmax(1)
    assert verifier(net, x, y, about).certified.tolist() == [True]
    net[1].weight.data.neg_()
    net[1].bias.data.neg_()
    assert verifier(net, x, y, about).certified.tolist() == [False]
    assert verifier(net, x, 1 - y, about).certified.tolist() == [True]


class Shifted(nn.Module):
    """Has a buffer that is not stored, and more state than tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sign", torch.ones(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Distance()(x) * self.sign
        return out

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


def test_buffers_that_are_not_stored_count_as_well() -> None:
    net, verifier, about = Shifted().eval(), Propagation(), Threat(Linf(), 1e-3)
    x, y = images(0.8)
    assert verifier(net, x, 1 - y, about) is not None
    before = verifier.margins(net, x, y, about).sure
    net.sign.neg_()
    assert torch.allclose(verifier.margins(net, x, y, about).sure, -before, atol=0.02)


@pytest.mark.parametrize("label", [2, -1])
def test_labels_that_are_no_classes_are_refused(label: int) -> None:
    x, _ = images(0.3)
    with pytest.raises(InputError, match="classes 0 to 1"):
        Propagation().margins(Distance().eval(), x, torch.tensor([label]), Threat(Linf(), 0.1))


def test_the_sandwich() -> None:
    x, y = images(*torch.linspace(0.02, 0.98, 25).tolist())
    about = Threat(Linf(), 0.1)
    report = evaluate(Distance().eval(), (x, y), about, "quick", verifier=Propagation())
    proved = certify(Distance().eval(), (x, y), about)
    assert report.certified_accuracy == proved.certified_accuracy
    assert report.certified_accuracy <= report.robust_accuracy <= report.clean_accuracy
    # a linear network leaves nothing undecided
    assert report.certified_accuracy == report.robust_accuracy
    assert not any(flag.name == "certificate-refuted" for flag in report.flags)

    class Trusting(Propagation):
        """Certifies whatever it is asked."""

        def __call__(self, model: Any, x: Tensor, y: Tensor, threat: Any) -> Proof:
            return Proof(torch.ones(len(x), dtype=torch.bool), 1, 0)

    false = evaluate(Distance().eval(), (x, y), about, "quick", verifier=Trusting())
    assert any(flag.name == "certificate-refuted" for flag in false.flags)  # the name that counts


def test_what_cannot_be_certified_is_refused() -> None:
    x, y = images(0.1, 0.9)
    with pytest.raises(UnknownName, match="did you mean crown"):
        certify(Distance().eval(), (x, y), Threat(Linf(), 0.1), "crwn")
    with pytest.raises(InputError, match=r"nn\.Module"):
        certify(lambda x: Distance()(x), (x, y), Threat(Linf(), 0.1))

    class Sorted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).sort(1).values

    with pytest.raises(ModelError, match=r"sort at .*sort\(1\)"):
        certify(Sorted().eval(), (x, y), Threat(Linf(), 0.1))


def test_a_certified_network_is_certified(
    networks: Callable[[str], nn.Module], data_dir: Path
) -> None:
    """The network of Wong and Kolter 2018 on MNIST at 0.1: CROWN proves what was measured."""
    import numpy as np

    with np.load(data_dir / "mnist.npz") as file:
        x = torch.from_numpy(file["x_test"][:4]).permute(0, 3, 1, 2).float() / 255
        y = torch.from_numpy(file["y_test"][:4])
    found = certify(networks("mnist_kw_small"), (x, y), Threat(Linf(), 0.1), "crown")
    assert found.certified_accuracy == 1
    none = certify(networks("mnist_kw_small"), (x, y), Threat(Linf(), 0.1), "ibp")
    assert none.certified_accuracy == 0  # intervals alone prove nothing about it


def test_a_search_goes_on_until_it_decides_or_its_time_is_over() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(),
                        nn.Linear(12, 2)).eval()  # fmt: skip
    x = torch.rand(12, 1, 2, 2)
    with torch.no_grad():
        net[-1].bias -= net(x).mean(0)
    data, about = (x, net(x).argmax(1)), Threat(Linf(), 0.2)
    best = certify(net, data, about)
    found = certify(net, data, about, "cascade", timeout=20.0)
    assert (best.timeout, found.timeout) == (60.0, 20.0)
    assert found.certified_accuracy > best.certified_accuracy
    for one, two in zip(best.examples, found.examples, strict=True):
        assert two.status == "certified" or one.status != "certified"
    with pytest.raises(InputError, match=r"-1.0 seconds for each example"):
        certify(net, data, about, "cascade", timeout=-1.0)


def test_another_time_limit_is_another_run(tmp_path: Path) -> None:
    x, y = images(0.9, 0.62)
    run = tmp_path / "run"
    certify(Distance().eval(), (x, y), Threat(Linf(), 0.1), "cascade", timeout=5, out=run)
    with pytest.raises(ResumeError, match="timeout: 6 now, 5 stored"):
        certify(Distance().eval(), (x, y), Threat(Linf(), 0.1), "cascade", timeout=6, out=run,
                resume=True)  # fmt: skip
