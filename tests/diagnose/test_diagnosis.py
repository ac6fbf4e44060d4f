"""Several diagnostics of one network: the record, resuming, and what does not apply."""

from __future__ import annotations

import html
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from torchproof.backdoor.titrate import Titration
from torchproof.core import keys
from torchproof.core.errors import FileError, InputError, ResumeError, UnknownName
from torchproof.core.fingerprints import fingerprint
from torchproof.core.threats import parse
from torchproof.diagnose.diagnosis import Diagnosis, diagnose
from torchproof.diagnose.parts import PARTS, USUAL, Part
from torchproof.diagnose.readings import read_tails, read_track
from torchproof.diagnose.subject import Images, Sets, Subject
from torchproof.diagnose.tail_index import TailIndex, TailTrack, tail_index, tails
from torchproof.report.diagnosis import render_diagnosis

GRID = (-1.0, -0.5, 0.0, 0.5, 1.0)
FEW = {"RADII": (0.1, 0.5), "NEAR_RADII": (0.1, 0.5), "LINE": GRID, "GRID": GRID}


def subject(seed: int = 0, model: nn.Module | None = None) -> Subject:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = model or nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        x, y = torch.rand(120, 1, 4, 4), torch.arange(120) % 3
    return Subject(net.eval(), Sets(Images(x[:100], y[:100]), Images(x[100:], y[100:])),
                   parse("linf:0.05"))  # fmt: skip


@dataclass(frozen=True)
class Whole:
    """Everything measured of one network, at few radii, and where it is stored."""

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
    with pytest.MonkeyPatch.context() as patch:
        for name, radii in FEW.items():
            patch.setattr(f"torchproof.diagnose.parts.{name}", radii)
        found = diagnose(about, tuple(PARTS), about=how, out=out)
    return Whole(about, before, found, out)


@pytest.mark.slow
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


@pytest.fixture
def laid_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where labels go, which is half of what a picture costs, is worked out for its first format
    and kept for the other one.
    """
    render = Figure.savefig

    def savefig(self: Figure, *args: Any, **more: Any) -> None:
        render(self, *args, **more)
        self.set_layout_engine("none")

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.mark.slow
@pytest.mark.usefixtures("laid_out_once")
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
    assert page.count("data:image/png;base64,") == len(drawn) == 16


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


def test_tail_readings_speak_of_exact_zeros() -> None:
    """Noise of which half the numbers are zeros, once."""
    noise = keys.normal(keys.mix("zeros", torch.arange(60)), 0, (600,))
    whole = tails(noise - noise.mean(0))
    some = tails(torch.where(torch.arange(600) < 300, 0.0, noise - noise.mean(0)))
    assert whole.zeros == 0 and some.zeros == 0.5 and some.pooled.alpha < 0.7 * some.filtered.alpha
    text = read_tails(TailIndex(some, (), 20))
    assert f"reads alpha = {some.pooled.alpha:.2f} (50.0 % of the numbers are exactly zero" in text
    assert f"without them {some.filtered.alpha:.2f})" in text
    assert f"covariance and no zeros it reads {some.correlated.alpha:.2f}" in text
    assert "zero" not in read_tails(TailIndex(whole, (), 20)) and "arger batches" not in text
    track = read_track(TailTrack((0, 5), (whole, some), ()))
    assert "from less than 0.1 % to 50.0 % of the numbers are exactly zero" in track
    assert f"from {whole.filtered.alpha:.2f} to {some.filtered.alpha:.2f})" in track
    assert "zero" not in read_track(TailTrack((0, 5), (whole, whole), ()))


def test_the_batch_of_gradients_is_asked_for(whole: Whole) -> None:
    about = subject()
    x, y = about.sets.train
    twice = Images(torch.cat([x, 1 - x]), torch.cat([y, y]))
    about = replace(about, sets=Sets(twice, about.sets.test))
    assert whole.found.parts["tail-index"].result("tail-index").batch_size == 1  # of 100 images
    wide = replace(about, gradient_batch=2)
    found = PARTS["tail-index"].measure(wide)
    own = tail_index(about.model, *about.sets.train, 2, layers=False).overall
    assert found.batch_size == 2 and found.overall == own
    assert wide.settings()["gradient_batch"] == 2 and "gradient_batch" not in about.settings()
    refused = diagnose(replace(about, gradient_batch=50), ("tail-index",)).refused["tail-index"]
    assert "2500 images" in refused and "batch_size" not in refused
    with pytest.raises(InputError, match="gradient_batch = 0"):
        replace(about, gradient_batch=0)


class Steady(nn.Module):
    """Answers the same whatever it is asked."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[0.0, 9.0, 0.0]]).expand(len(x), 3) + 0 * x.flatten(1)[:, :1]


def test_where_no_answer_changes_none_is_named() -> None:
    found = diagnose(subject(model=Steady()), ("titration",)).parts["titration"]
    assert found.result("titration").target() is None
    assert "no answer changes with confidence" in found.reading
    assert "most often" not in found.reading


class Loose(nn.Module):
    """Layers in another order than they run, a parameter outside of all, and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(8, 3), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.last(self.scale * self.first(x.flatten(1)).relu())
        return answer


def test_layers_that_are_left_out_are_named_and_no_product_is_told() -> None:
    loose = subject(model=Loose())
    for about in (loose, replace(loose, layers=("last", "first"))):
        found = diagnose(about, ("layers",)).parts["layers"]
        layers = found.result("layers")
        assert [layer.name for layer in layers.chain] == ["first", "last"]
        assert layers.omitted == ("scale",) and "left out" in found.reading
        assert ": scale (" in found.reading and "multiply" not in found.reading
    one = diagnose(replace(loose, layers=("last",)), ("layers",)).parts["layers"]
    assert one.result("layers").omitted == ("scale", "first")
    plain = diagnose(subject(), ("layers",)).parts["layers"]
    assert plain.result("layers").omitted == () and "bounds multiply to" in plain.reading


def test_the_local_bound_is_no_larger_than_the_global_one(whole: Whole) -> None:
    found = whole.found.parts["local-bound"].result("local-bound")
    bound = whole.found.parts["lipschitz"].result("lipschitz").bound[0]
    pairs = zip(found.attacked_so_far, found.bound, strict=True)
    assert all(low <= high * (1 + 1e-9) <= bound * (1 + 2e-9) for low, high in pairs)
    assert found.bound[0] < 0.99 * bound


def test_the_plane_of_the_worst_direction(whole: Whole) -> None:
    plane = whole.found.parts["worst-plane"].result("worst-plane")
    middle = len(plane.radii) // 2
    assert plane.axes == ("random", "adversarial") and plane.radii[middle] == 0
    along = max(plane.losses[middle])
    text = whole.found.parts["worst-plane"].reading
    assert f"to {along:.3f} along the adversarial one" in text
    assert along > max(row[middle] for row in plane.losses)


@pytest.mark.parametrize("kept", [True, False])
def test_batch_norm_is_spoken_of(kept: bool) -> None:
    norm = nn.BatchNorm1d(8, track_running_stats=kept)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), norm, nn.Linear(8, 3))
    found = diagnose(subject(model=net), ("flatness",)).parts["flatness"].reading
    assert ("running statistics of the unmoved network" in found) is kept
    assert ("without running statistics" in found) is not kept
