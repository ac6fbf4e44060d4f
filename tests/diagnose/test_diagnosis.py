"""Several diagnostics of one network: the record, resuming, and what does not apply."""

from __future__ import annotations

import html
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from torchproof.backdoor.titrate import Titration
from torchproof.core.errors import FileError, InputError, ResumeError, UnknownName
from torchproof.core.fingerprints import fingerprint
from torchproof.core.threats import parse
from torchproof.diagnose.diagnosis import Diagnosis, diagnose
from torchproof.diagnose.parts import PARTS, USUAL, Part
from torchproof.diagnose.subject import Images, Sets, Subject
from torchproof.report.diagnosis import render_diagnosis


def subject(seed: int = 0, model: nn.Module | None = None) -> Subject:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = model or nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        x, y = torch.rand(120, 1, 4, 4), torch.arange(120) % 3
    return Subject(net.eval(), Sets(Images(x[:100], y[:100]), Images(x[100:], y[100:])),
                   parse("linf:0.05"))  # fmt: skip


@dataclass(frozen=True)
class Whole:
    """Everything measured of one network, and where it is stored."""

    about: Subject
    before: str
    found: Diagnosis
    out: Path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    plain, out = subject(), tmp_path_factory.mktemp("whole")
    along = ((3, plain.model), (9, subject(1).model))
    about = replace(plain, layers=("1", "3"), checkpoints=along)
    before = fingerprint(about.model)
    how = {"model": "a <b>model</b>", "data": "d", "threat": "t", "command": "c", "versions": {}}
    return Whole(about, before, diagnose(about, tuple(PARTS), about=how, out=out), out)


def test_every_number_is_there_again(whole: Whole) -> None:
    about, found = whole.about, whole.found
    assert fingerprint(about.model) == whole.before and about.model.training is False
    again = Diagnosis.read(whole.out)
    assert again.model_dump_json() == found.model_dump_json()
    assert again.schema_version == "torchproof.diagnosis/1"
    assert set(found.parts) == set(PARTS) > set(USUAL) and not found.refused
    for name, part in found.parts.items():
        result = part.result(name)
        assert isinstance(result, PARTS[name].kind)
        assert PARTS[name].reading(result) == part.reading
    x, y = about.sets.test
    assert found.clean_accuracy == float((about.model(x).argmax(1) == y).double().mean())
    titration = found.parts["titration"].result("titration")
    assert isinstance(titration, Titration) and sum(titration.histogram[0]) == len(x)


def test_what_is_measured_when_named(whole: Whole) -> None:
    about, parts = whole.about, whole.found.parts
    track, chain = (parts[name].result(name) for name in ("tail-track", "layers"))
    assert track.steps == (3, 9) and track.tails[0].pooled != track.tails[1].pooled
    weight = about.model[1].weight.detach().double()  # type: ignore[index]
    exact = float(torch.linalg.matrix_norm(weight, 2))  # type: ignore[arg-type]
    first, second = chain.chain
    assert (first.name, second.name) == ("1", "3")
    assert 0.98 * exact <= first.attacked <= exact <= first.bound * (1 + 1e-9)
    curves = parts["prunings"].result("prunings").curves
    assert [c.by for c in curves] == ["magnitude", "normalised", "random", "perturbation"]
    assert curves[0] == parts["prunability"].result("prunability")
    planes = parts["landscape"].result("landscape")
    middle = len(planes.plane.radii) // 2
    assert planes.clean_plane.radii == planes.plane.radii
    assert planes.clean_plane.losses[middle][middle] < planes.plane.losses[middle][middle]
    with pytest.raises(ResumeError, match="checkpoints"):
        diagnose(replace(about, checkpoints=()), out=whole.out, resume=True)


def test_the_page_shows_every_part(whole: Whole) -> None:
    page = render_diagnosis(whole.found, whole.out).read_text()
    assert "a &lt;b&gt;model&lt;/b&gt;" in page and "http" not in page.split("<body>")[1]
    for name, part in whole.found.parts.items():
        assert f"<h2>{part.title[0].upper()}{part.title[1:]}</h2>" in page, name
        assert part.reading.split(";")[0][1:] in html.unescape(page), name
    drawn = {path.stem for path in whole.out.glob("*.png")}
    assert drawn == {path.stem for path in whole.out.glob("*.svg")}
    assert {name.split("-")[0] for name in drawn} >= {n.split("-")[0] for n in PARTS} - {
        "baselines"
    }
    assert page.count("data:image/png;base64,") == len(drawn) == 14


def test_layers_and_checkpoints_that_cannot_be_meant() -> None:
    about = subject()
    with pytest.raises(UnknownName, match="layer"):
        replace(about, layers=("fc",))
    with pytest.raises(InputError, match="each step once"):
        replace(about, checkpoints=((2, about.model), (1, about.model)))
    other = nn.Sequential(nn.Flatten(), nn.Linear(16, 9))
    with pytest.raises(InputError, match="step 4, whose parameters are others"):
        replace(about, checkpoints=((4, other),))
    assert "--checkpoints" in diagnose(about, ("tail-track",)).refused["tail-track"]


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
