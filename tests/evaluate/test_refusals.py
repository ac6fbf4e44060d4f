"""What an evaluation refuses, before it has asked or written anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.catalogue import averaged, nes, pgd, square
from torchproof.core.errors import InputError, ModelError, UnknownName
from torchproof.core.norms import L0, L2, Linf, Norm
from torchproof.core.sites import Input, Latent
from torchproof.core.threats import Free, Relative, Threat
from torchproof.evaluate import Member, evaluate


@pytest.fixture
def refused(net: nn.Module, blobs: Any, tmp_path: Path) -> Any:
    """`refused(error, text, ...)`: evaluating with these changes raises and leaves no file."""

    def check(error: type[Exception], text: str, **more: Any) -> None:
        given = {"model": net, "data": blobs, "threat": Threat(Linf(), 0.1), "suite": "quick"}
        with pytest.raises(error, match=text):
            evaluate(**(given | {"out": tmp_path / "out"} | more))
        assert not (tmp_path / "out").exists()

    return check


def test_images(refused: Any, blobs: Any) -> None:
    x, y = blobs
    refused(InputError, "uint8", data=((x * 255).to(torch.uint8), y))
    refused(InputError, "int64", data=((x * 255).long(), y))
    refused(InputError, r"images from 0 to 255", data=(x * 255, y))
    refused(InputError, "images from -1", data=(x * 2 - 1, y))
    refused(InputError, "NaN", data=(x.clone().index_fill_(0, torch.tensor([7]), torch.nan), y))
    refused(InputError, "empty set", data=(x[:0], y[:0]))
    refused(InputError, "shape", data=(x[:, 0], y))
    refused(InputError, "data of type", data=x)


def test_labels(refused: Any, blobs: Any) -> None:
    x, y = blobs
    refused(
        InputError, "label 4 at example 5", data=(x, y.clone().index_fill_(0, torch.tensor([5]), 4))
    )
    refused(InputError, "label -1", data=(x, y - 1))
    refused(InputError, "labels of torch.int32", data=(x, y.int()))
    refused(InputError, "labels of torch.float64", data=(x, y.double()))
    refused(InputError, r"labels of shape \(59,\)", data=(x, y[1:]))


class Answering(nn.Module):
    """A model whose answer is spoilt."""

    def __init__(self, inner: nn.Module, spoil: Any) -> None:
        super().__init__()
        self.inner, self.spoil = inner, spoil

    def forward(self, x: Tensor) -> Any:
        return self.spoil(self.inner(x), x)


def test_answers(refused: Any, net: nn.Module) -> None:
    def model(spoil: Any) -> nn.Module:
        return Answering(net, spoil)

    refused(ModelError, "NaN or infinite logits", model=model(lambda z, x: z / 0))
    refused(ModelError, "logits of shape", model=model(lambda z, x: z[:1]))
    refused(ModelError, "logits of shape", model=model(lambda z, x: z[:, None]))
    refused(ModelError, "logits of shape", model=model(lambda z, x: z[:, :1]))
    refused(ModelError, "torch.int64", model=model(lambda z, x: z.argmax(1)))
    refused(ModelError, "tuple", model=model(lambda z, x: (z, x)))


def test_nan_logits_of_one_image_are_found(
    net: nn.Module, blobs: Any, threat: Threat, tmp_path: Path
) -> None:
    worst = blobs.x[33]

    def spoil(z: Tensor, x: Tensor) -> Tensor:
        return z.where(~(x == worst).flatten(1).all(1, keepdim=True), torch.nan)

    with pytest.raises(ModelError, match=r"NaN or infinite logits for 1 of 10 images.*row 3"):
        evaluate(Answering(net, spoil), blobs, threat, "quick", slots=10, out=tmp_path)
    records = (tmp_path / "records.jsonl").read_text().splitlines()
    assert len(records) == 30  # what was found before is kept


def test_weights(refused: Any, net: nn.Module) -> None:
    broken = nn.Sequential(net, nn.Linear(4, 4).double())
    with torch.no_grad():
        broken[1].weight[0, 0] = torch.nan
    refused(ModelError, "1.weight", model=broken)


def test_settings(refused: Any, blobs: Any) -> None:
    refused(UnknownName, "did you mean standard or rand", suite="standart")
    refused(UnknownName, "fast, quick, rand, standard, thorough", suite="zzz")
    refused(InputError, "n = 0", n=0)
    refused(InputError, "n = 61", n=61)
    refused(InputError, "n = True", n=True)
    refused(InputError, "slots = 0", slots=0)
    refused(InputError, "max_seconds", max_seconds=0)
    refused(InputError, "max_seconds", max_seconds=float("nan"))
    refused(InputError, "seed", seed=1.5)
    refused(InputError, "0 <= i < k", shard="2/2")
    refused(InputError, "0 <= i < k", shard="first")
    refused(InputError, "at least one in it", shard="60/61")
    refused(InputError, "different int64 numbers", ids=torch.zeros(60, dtype=torch.int64))
    refused(InputError, "different int64 numbers", ids=torch.arange(59))
    refused(InputError, "no threat", threat=[])
    refused(InputError, "8-bit", threat=Threat(Linf(), 0.5 / 255), quantised=True)


@pytest.mark.parametrize("wrap", [lambda a: a, averaged], ids=["alone", "of averages"])
def test_differences_that_vanish_in_the_rounding(refused: Any, wrap: Any) -> None:
    """Two images that are the same in 8 bits have the same loss: the estimate would be zero."""
    small = Member("NES", wrap(nes(Threat(Linf(), 0.1), 200)))
    refused(InputError, r"sigma = 0\.001, quantised.*sigma=0\.008", suite=[small], quantised=True)


def test_estimates_over_two_grey_levels_find_what_gradients_find(
    net: nn.Module, blobs: Any
) -> None:
    threat = Threat(Linf(), 0.1)
    attacks = {"PGD": pgd(threat, 20), "NES": nes(threat, 1000, sigma=0.008)}
    held = {
        name: evaluate(net, blobs, threat, [Member(name, attack)], quantised=True).robust_accuracy
        for name, attack in attacks.items()
    }
    assert held["PGD"] < 0.8 and held["NES"] <= held["PGD"] + 0.05


def test_threats_that_cannot_be_served(refused: Any, net: nn.Module) -> None:
    with pytest.raises(InputError, match=r"Square.*L0"):
        square(Threat(L0(), 3))
    refused(InputError, "bounded perturbation of each input", threat=Relative(0.01))
    refused(InputError, "bounded perturbation of each input", threat=Free(Input()))
    refused(InputError, "bounded perturbation", threat=Threat(L2(), 1.0, Latent("1")))
    refused(InputError, "the threat str 'linf:0.1'.*Threat", threat="linf:0.1")
    refused(InputError, r"box \[-1, 2\].*first layer", threat=Threat(Linf(), 0.3, low=-1, high=2))
    with pytest.raises(InputError, match=r"Square at the site Weights"):
        square(Relative(0.01))


def test_suites_name_the_norms_they_serve(refused: Any) -> None:
    class Strange(Linf):
        pass

    norm: Norm = Strange()
    refused(
        InputError,
        "standard for the norm strange.*suite='quick'",
        threat=Threat(norm, 0.1),
        suite="standard",
    )


def test_own_members_must_be_about_the_threat(refused: Any, threat: Threat) -> None:
    other = Threat(Linf(), 0.5)
    refused(InputError, "attack on linf:0.1", suite=[Member("mine", pgd(other))])
    refused(InputError, "no name twice", suite=[Member("mine", pgd(threat))] * 2)
    refused(InputError, "at least one", suite=[])
    for name in ("clean", "recheck it", "one;two"):
        refused(InputError, "a name of its own", suite=[Member(name, pgd(threat))])


def squeezed(z: Tensor, x: Tensor) -> Tensor:
    """The classes alone, for a single image."""
    return z.squeeze(0)


def spread(z: Tensor, x: Tensor) -> Tensor:
    """Scaled by statistics of the batch, which one image has not."""
    if len(x) == 1:
        raise ValueError("Expected more than 1 value per channel")
    return (z - z.mean(0)) / (1 + z.std(0))


def flattened(z: Tensor, x: Tensor) -> Tensor:
    """Another number of classes for a single image."""
    return z if len(x) > 1 else z[:, :2]


class Inplace(nn.Module):
    """A network that normalises in place, and so writes to its caller's images."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        x -= 0.1
        return self.inner(x)


def test_models_that_write_to_their_input(refused: Any, net: nn.Module, blobs: Any) -> None:
    """They are refused, and the caller's images are as they were."""
    before = blobs.x.clone()
    refused(ModelError, "changes the images it is given", model=Inplace(net))
    assert torch.equal(blobs.x, before)


@pytest.mark.parametrize("n", [1, 2, 60])
@pytest.mark.parametrize(
    ("spoil", "why"),
    [(squeezed, r"shape \(4,\)"), (spread, "more than 1 value"), (flattened, "2 logits")],
)
def test_models_that_fail_for_one_image(
    refused: Any, net: nn.Module, spoil: Any, why: str, n: int
) -> None:
    """At once, and not when the queue has drained to one example."""
    if n == 1 and spoil is flattened:
        return  # nobody asks this model about two images
    words = rf"answers two images, and fails for one \(.*{why}"
    refused(ModelError, words, model=Answering(net, spoil), n=n)


def test_models_for_one_image_only(net: nn.Module, blobs: Any) -> None:
    """With one example, none is asked about two."""

    def first(z: Tensor, x: Tensor) -> Tensor:
        return z[:1]

    assert evaluate(Answering(net, first), blobs, Threat(Linf(), 0.1), "quick", n=1).n == 1
