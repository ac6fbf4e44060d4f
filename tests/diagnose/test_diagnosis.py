"""Several diagnostics of one network: the record, resuming, and what does not apply."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from torchproof.backdoor.titrate import Titration
from torchproof.core.errors import FileError, InputError, ResumeError, UnknownName
from torchproof.core.fingerprints import fingerprint
from torchproof.core.threats import parse
from torchproof.diagnose.diagnosis import Diagnosis, diagnose
from torchproof.diagnose.parts import PARTS, Images, Part, Sets, Subject


def subject(seed: int = 0, model: nn.Module | None = None) -> Subject:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = model or nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        x, y = torch.rand(120, 1, 4, 4), torch.arange(120) % 3
    return Subject(net.eval(), Sets(Images(x[:100], y[:100]), Images(x[100:], y[100:])),
                   parse("linf:0.05"))  # fmt: skip


def test_every_number_is_there_again(tmp_path: Path) -> None:
    about = subject()
    before = fingerprint(about.model)
    found = diagnose(about, about={"model": "m"}, out=tmp_path)
    assert fingerprint(about.model) == before and about.model.training is False
    again = Diagnosis.read(tmp_path)
    assert again.model_dump_json() == found.model_dump_json()
    assert again.schema_version == "torchproof.diagnosis/1"
    measured = {**found.parts}
    assert {*measured, *found.refused} == set(PARTS)
    assert not found.refused
    for name, part in measured.items():
        result = part.result(name)
        assert isinstance(result, PARTS[name].kind)
        assert PARTS[name].reading(result) == part.reading
    x, y = about.sets.test
    assert found.clean_accuracy == float((about.model(x).argmax(1) == y).double().mean())
    titration = measured["titration"].result("titration")
    assert isinstance(titration, Titration) and sum(titration.histogram[0]) == len(x)


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about, names = subject(), ("prunability", "titration")

    def broken(subject: Subject) -> Titration:
        raise KeyboardInterrupt

    dying: Part[Titration] = replace(PARTS["titration"], measure=broken)
    with monkeypatch.context() as patch:
        patch.setitem(PARTS, "titration", dying)
        with pytest.raises(KeyboardInterrupt):
            diagnose(about, names, out=tmp_path)
    with pytest.raises(FileError, match="a new folder"):
        diagnose(about, names, out=tmp_path)
    with pytest.raises(ResumeError, match="seed"):
        diagnose(replace(about, seed=1), names, out=tmp_path, resume=True)
    said: list[str] = []
    found = diagnose(about, names, out=tmp_path, resume=True, say=said.append)
    assert len(said) == 1 and said[0].startswith("titration")
    whole = diagnose(about, names)
    assert {n: p.result(n) for n, p in found.parts.items()} == {
        n: p.result(n) for n, p in whole.parts.items()
    }


def test_what_does_not_apply_is_said() -> None:
    class Still(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :3]

    found = diagnose(subject(model=Still()), ("flatness", "titration"))
    assert list(found.parts) == ["titration"]
    assert "weights" in found.refused["flatness"] or "parameters" in found.refused["flatness"]


def test_images_that_it_was_not_trained_on_are_noticed() -> None:
    wrong = subject()
    train = Images(wrong.sets.train.x, (wrong.model(wrong.sets.train.x).argmax(1) + 1) % 3)
    found = diagnose(replace(wrong, sets=Sets(train, wrong.sets.test)), ("titration",))
    assert found.train_accuracy == 0 and "hardly trained on them" in found.notes[0]


def test_bad_names() -> None:
    with pytest.raises(UnknownName, match="diagnostic"):
        diagnose(subject(), ("flat",))
    with pytest.raises(InputError, match="no diagnostic"):
        diagnose(subject(), ())


def test_two_classes_learnt_imperfectly_are_no_alarm() -> None:
    about = subject()
    x = about.sets.train.x

    class First(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x.mean((1, 2, 3)), x.amax((1, 2, 3)) / 2], 1)

    net = First().eval()
    y = net(x).argmax(1)
    y[:1] = 1 - y[:1]
    learnt = replace(about, model=net, sets=Sets(Images(x, y), Images(x, y)))
    found = diagnose(learnt, ("titration",))
    assert found.train_accuracy == 1 - 1 / len(x) and found.notes == ()


def test_labels_that_the_network_does_not_have() -> None:
    about = subject()
    train = Images(about.sets.train.x, about.sets.train.y + 1)
    with pytest.raises(InputError, match="labels up to 3 for a network of 3 classes"):
        diagnose(replace(about, sets=Sets(train, about.sets.test)), ("titration",))


def test_batch_norm_is_spoken_of() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    found = diagnose(subject(model=net), ("flatness",))
    assert "running statistics of the unmoved network" in found.parts["flatness"].reading
