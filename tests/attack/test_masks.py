"""Masks against naive loops, and their independence of company, order and floating type."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.masks import (
    Boxes,
    Centre,
    Frame,
    Given,
    Mask,
    Patches,
    Salient,
    Scattered,
    image_keys,
)
from torchproof.core.errors import InputError

NO_MODEL = nn.Identity()
RULES: dict[str, Mask] = {
    "centre": Centre(3),
    "frame": Frame(4),
    "scattered": Scattered(0.4, seed=1),
    "boxes": Boxes(3, count=2),
    "patches": Patches(2, count=3, seed=2),
    "salient": Salient(3),
    "given": Given(torch.eye(6, 7) > 0),
}


def images(n: int = 5, channels: int = 2, height: int = 6, width: int = 7) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, height, width), generator=g).float() / 255


def network() -> nn.Module:
    g = torch.Generator().manual_seed(3)
    linear = nn.Linear(2 * 6 * 7, 4)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(linear.weight.shape, generator=g))
        linear.bias.zero_()
    return nn.Sequential(nn.Flatten(), linear, nn.Tanh()).eval()


@pytest.mark.parametrize(
    ("mask", "share"),
    [(Centre(90), 0.161), (Centre(120), 0.287), (Centre(150), 0.448),
     (Frame(204), 0.171), (Frame(190), 0.281), (Frame(166), 0.451)],
)  # fmt: skip
def test_the_published_squares_and_frames(mask: Mask, share: float) -> None:
    x = torch.zeros(2, 3, 224, 224)
    chosen = mask(NO_MODEL, x)
    assert chosen.shape == (1, 1, 224, 224) and chosen.dtype == torch.bool
    assert abs(float(chosen.double().mean()) - share) < 6e-4
    inner = chosen if isinstance(mask, Centre) else ~chosen
    edge = mask.edge if isinstance(mask, Centre) else mask.inner  # type: ignore[attr-defined]
    first = (224 - edge) // 2
    by_hand = torch.zeros(224, 224, dtype=torch.bool)
    for i in range(first, first + edge):
        by_hand[i, first : first + edge] = True
    assert torch.equal(inner[0, 0], by_hand)


def test_scattered_pixels_have_the_share_asked_for() -> None:
    x = images(40, 1, 16, 16)
    chosen = Scattered(0.3, seed=5)(NO_MODEL, x)
    mean = float(chosen.double().mean())
    assert abs(mean - 0.3) < 5 * (0.3 * 0.7 / chosen.numel()) ** 0.5
    assert not torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen, Scattered(0.3, seed=6)(NO_MODEL, x))


def squares_that_fit(mask: Tensor, edge: int) -> Tensor:
    """The union of all squares of that edge that lie inside the mask, by brute force."""
    union = torch.zeros_like(mask)
    for i in range(mask.shape[0] - edge + 1):
        for j in range(mask.shape[1] - edge + 1):
            if bool(mask[i : i + edge, j : j + edge].all()):
                union[i : i + edge, j : j + edge] = True
    return union


def test_boxes_are_squares_and_reach_every_place() -> None:
    x, edge = images(300, 1), 3
    chosen = Boxes(edge, count=2, seed=1)(NO_MODEL, x)[:, 0]
    for mask in chosen[:50]:
        assert torch.equal(squares_that_fit(mask, edge), mask)
        assert edge**2 <= int(mask.sum()) <= 2 * edge**2
    assert bool(chosen.any(0).all()), "no box ever reaches some pixel"
    assert len({tuple(m.flatten().tolist()) for m in chosen}) > 50


def test_patches_are_distinct_cells_of_the_grid() -> None:
    chosen = Patches(2, count=4, seed=3)(NO_MODEL, images(60))[:, 0]
    assert set(chosen.flatten(1).sum(1).tolist()) == {16}
    assert not bool(chosen[:, :, 6].any()), "what the grid leaves over stays closed"
    cells = chosen[:, :, :6].reshape(-1, 3, 2, 3, 2)
    assert torch.equal(cells.all(4).all(2), cells.any(4).any(2)), "a cell is open or closed"
    assert bool(chosen[:, :, :6].any(0).all())


def test_the_salient_square_by_brute_force() -> None:
    model, x, edge = network(), images(), 3
    chosen = Salient(edge)(model, x)
    for image, mask in zip(x, chosen, strict=True):
        live = image[None].clone().requires_grad_()
        p = model(live).softmax(1)
        (grad,) = torch.autograd.grad(p.max().log(), live)
        saliency = grad[0].abs().sum(0)
        sums = {
            (i, j): float(saliency[i : i + edge, j : j + edge].sum())
            for i in range(6 - edge + 1)
            for j in range(7 - edge + 1)
        }
        i, j = max(sums, key=sums.__getitem__)
        by_hand = torch.zeros(6, 7, dtype=torch.bool)
        by_hand[i : i + edge, j : j + edge] = True
        assert torch.equal(mask[0], by_hand)
    assert len({tuple(m.flatten().tolist()) for m in chosen}) > 1


@pytest.mark.parametrize("name", RULES)
def test_company_order_and_type_change_nothing(name: str) -> None:
    model, x, rule = network(), images(), RULES[name]
    whole = rule(model, x).expand(5, -1, -1, -1)
    assert whole.dtype == torch.bool and whole.shape == (5, 1, 6, 7)
    for row in (4, 1):
        alone = rule(model, x[row : row + 1])
        assert torch.equal(alone[0], whole[row])
    if name != "salient":  # whose network has a type of its own
        assert torch.equal(rule(model, x.double()).expand(5, -1, -1, -1), whole)


def test_saliency_leaves_the_model_as_it_was(watch: Any) -> None:
    model = network().train()
    seen = watch(model)
    Salient(3)(model, images())
    seen.check()


def test_masks_of_single_images_find_their_images() -> None:
    x = images()
    masks = torch.zeros(5, 1, 6, 7, dtype=torch.bool)
    for i in range(5):
        masks[i, 0, i] = True
    rule = Given.each(x, masks)
    order = torch.tensor([3, 0, 4, 3])
    assert torch.equal(rule(NO_MODEL, x[order].double()), masks[order])
    with pytest.raises(InputError, match="without a mask"):
        rule(NO_MODEL, 1 - x)
    twice = torch.cat([x, x[:1]])
    with pytest.raises(InputError, match="twice"):
        Given.each(twice, torch.cat([masks, masks[1:2]]))
    Given.each(twice, torch.cat([masks, masks[:1]]))


def test_the_key_of_an_image_is_that_of_its_bytes() -> None:
    x = images(50)
    own = image_keys(x)
    assert len(set(own.tolist())) == 50 and own.dtype == torch.int64
    assert torch.equal(own, image_keys(x.double() + 1e-4))
    moved = x.clone()
    moved[0, 0, 0, 0] = (moved[0, 0, 0, 0] * 255 + (-1 if moved[0, 0, 0, 0] > 0.5 else 1)) / 255
    changed = image_keys(moved) != own
    assert bool(changed[0]) and not bool(changed[1:].any())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Centre(0),
        lambda: Frame(-1),
        lambda: Boxes(2, count=0),
        lambda: Patches(0),
        lambda: Salient(True),
        lambda: Scattered(0.0),
        lambda: Scattered(1.5),
        lambda: Centre(7)(NO_MODEL, images()),
        lambda: Patches(3, count=5)(NO_MODEL, images()),
        lambda: Salient(9)(network(), images()),
        lambda: Given.each(images(), torch.ones(4, 1, 6, 7)),
    ],
)
def test_refused(make: Any) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.given and caught.value.expected and caught.value.remedy
