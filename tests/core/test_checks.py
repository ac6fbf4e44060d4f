"""Everything that must be refused is refused, with what was given, expected and to be done."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.core.checks import check, check_images, check_labels, check_logits, check_weights
from torchproof.core.errors import InputError, ModelError


def images(*values: float) -> Tensor:
    """One 1x2x2 image per value, with that value in one pixel and 0.5 elsewhere."""
    x = torch.full((len(values), 1, 2, 2), 0.5)
    x[:, 0, 1, 0] = torch.tensor(values)
    return x


LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_good_data_passes(dtype: torch.dtype) -> None:
    x, y = images(0.0, 1.0).to(dtype), LABELS.clone()
    x_before, y_before = x.clone(), y.clone()
    check(x, y)
    check(x, y, classes=2)
    check(x.requires_grad_(), y)
    assert torch.equal(x, x_before) and torch.equal(y, y_before)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((2, 1, 2, 2), np.float32), "numpy.ndarray"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.int64), "torch.int64"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.bool), "torch.bool"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.complex64), "complex64"),
        (torch.zeros(2, 2, 2), "(2, 2, 2)"),
        (torch.zeros(0, 1, 2, 2), "empty"),
        (torch.zeros(2, 1, 0, 2), "empty"),
        (images(0.5, 1.001), "1.001"),
        (images(-1e-7, 0.5), "-1e-07"),
        (images(255.0, 0.0), "255"),
        (images(0.5, float("nan")), "NaN or infinity in 1 of 2 images"),
        (images(float("inf"), 0.5), "NaN or infinity in 1 of 2 images"),
        (images(float("-inf"), float("nan")), "NaN or infinity in 2 of 2 images"),
        (images(-5.0, float("nan")), "image 1"),
    ],
)
def test_bad_images_are_refused(x: Tensor, says: str) -> None:
    with pytest.raises(InputError) as caught:
        check(x, LABELS)
    assert says in str(caught.value)
    with pytest.raises(InputError):
        check_images(x)


@pytest.mark.parametrize(
    ("y", "says"),
    [
        ([0, 1], "list"),
        (torch.tensor([0.0, 1.0]), "float32"),
        (torch.tensor([0, 1], dtype=torch.int32), "int32"),
        (torch.tensor([False, True]), "bool"),
        (torch.tensor([0]), "(1,)"),
        (torch.tensor([[0], [1]]), "(2, 1)"),
        (torch.tensor(0), "()"),
        (torch.tensor([0, -1]), "label -1 at example 1"),
        (torch.tensor([2, 0]), "label 2 at example 0"),
    ],
)
def test_bad_labels_are_refused(y: Tensor, says: str) -> None:
    with pytest.raises(InputError) as caught:
        check(images(0.0, 1.0), y, classes=2)
    assert says in str(caught.value)
    with pytest.raises(InputError):
        check_labels(y, 2, classes=2)


def test_the_number_of_classes_is_optional() -> None:
    check(images(0.0, 1.0), torch.tensor([0, 999]))
    with pytest.raises(InputError, match="no labels"):
        check_labels(LABELS[:0], 0)
    with pytest.raises(InputError, match="0 or more"):
        check(images(0.0, 1.0), torch.tensor([0, -3]))


@pytest.mark.parametrize(
    ("logits", "classes", "says"),
    [
        (torch.zeros(2, 3), 4, "(2, 3)"),
        (torch.zeros(3, 3), 3, "(3, 3)"),
        (torch.zeros(2), None, "(2,)"),
        (torch.zeros(2, 1), None, "(2, 1)"),
        (torch.zeros(2, 3, 1), 3, "(2, 3, 1)"),
        (torch.zeros(2, 3, dtype=torch.int64), 3, "int64"),
        ((torch.zeros(2, 3),), 3, "tuple"),
        ({"logits": torch.zeros(2, 3)}, 3, "dict"),
        (torch.tensor([[0.0, 1.0], [0.0, float("nan")]]), 2, "1 of 2 images"),
        (torch.tensor([[float("inf"), 1.0], [float("-inf"), 0.0]]), 2, "2 of 2 images"),
    ],
)
def test_bad_logits_are_refused(logits: Tensor, classes: int | None, says: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_logits(logits, 2, classes)
    assert says in str(caught.value)


def test_good_logits_pass() -> None:
    logits = torch.tensor([[1e30, -1e30, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    before = logits.detach().clone()
    check_logits(logits, 2)
    check_logits(logits, 2, 3)
    check_logits(logits.half().clamp(-9, 9), 2, 3)
    assert torch.equal(logits, before) and logits.grad is None


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["0.weight", "1.bias"])
def test_weights_that_are_not_finite_are_refused(name: str, value: float) -> None:
    model = network()
    check_weights(model)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[1] = value
    with pytest.raises(ModelError, match=name):
        check_weights(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_statistics_that_would_silence_a_layer_are_refused(value: float) -> None:
    model = network()
    model.get_buffer("1.running_var")[0] = value
    with pytest.raises(ModelError, match=r"1\.running_var"):
        check_weights(model)


def test_masks_and_plain_functions_pass() -> None:
    model = network()
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    check_weights(model)
    check_weights(lambda x: x.flatten(1))
    model.get_buffer("mask")[0] = float("nan")  # the check did look at it
    with pytest.raises(ModelError, match="mask"):
        check_weights(model)


def test_many_bad_tensors_are_counted_not_listed() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(4)))
    for parameter in model.parameters():
        nn.init.constant_(parameter, float("nan"))
    with pytest.raises(ModelError, match="and 5 more"):
        check_weights(model)
