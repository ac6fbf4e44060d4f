"""Values: the same few functions over tensors, dicts and dataclasses of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from torchproof.core.norms import L2
from torchproof.core.sets import Ball, Each, Product
from torchproof.core.values import expand, leaves, put, take, tree, where


@dataclass(frozen=True)
class Pair:
    first: Any
    second: Tensor
    name: str = "pair"
    none: Any = None


def numbers(rows: int, start: float = 0.0) -> Tensor:
    return torch.arange(rows * 6, dtype=torch.float64).reshape(rows, 2, 3) + start


def ball(rows: int, start: float = 0.0) -> Ball:
    d = numbers(rows, start)
    return Ball.of(L2(), torch.arange(1.0, rows + 1).double() + start, -d - 1, d + 1)


MAKERS = {
    "tensor": numbers,
    "dict": lambda n, s=0.0: {"": numbers(n, s), "w.weight": numbers(n, s + 1)[:, 0]},
    "dataclass": lambda n, s=0.0: Pair(numbers(n, s), numbers(n, s + 7)[:, 0, 0]),
    "nested": lambda n, s=0.0: Pair({"a": numbers(n, s)}, numbers(n, s + 9)),
    "ball": ball,
    "product": lambda n, s=0.0: Product({"a": ball(n, s), "b": ball(n, s + 1)}),
}
each_value = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(s, t) for s, t in zip(leaves(a), leaves(b), strict=True))


@each_value
def test_tree_maps_every_leaf_and_keeps_the_rest(make: Any) -> None:
    value = make(3)
    doubled = tree(lambda a, b: a + b, value, make(3))
    assert type(doubled) is type(value)
    for old, new in zip(leaves(value), leaves(doubled), strict=True):
        assert torch.equal(new, old * 2)
    assert same(value, make(3)), "the argument was changed"
    if isinstance(value, Pair):
        assert (doubled.name, doubled.none) == ("pair", None)


@each_value
@pytest.mark.parametrize("rows", [[2, 0], [1], [], [0, 0, 1]])
def test_take_picks_rows_of_every_leaf(make: Any, rows: list[int]) -> None:
    value, index = make(3), torch.tensor(rows, dtype=torch.int64)
    taken = take(value, index)
    for old, new in zip(leaves(value), leaves(taken), strict=True):
        assert torch.equal(new, torch.stack([old[r] for r in rows]) if rows else old[:0])
    mask = torch.tensor([True, False, True])
    assert same(take(value, mask), take(value, torch.tensor([0, 2])))


@each_value
def test_taken_rows_share_no_storage(make: Any) -> None:
    value = make(3)
    for leaf in leaves(take(value, torch.tensor([0, 1, 2]))):
        leaf.zero_()
    assert same(value, make(3))


@each_value
def test_put_writes_rows_in_place_and_no_others(make: Any) -> None:
    value, fresh = make(4), make(2, 100.0)
    pointers = [leaf.data_ptr() for leaf in leaves(value)]
    put(value, torch.tensor([3, 1]), fresh)
    assert [leaf.data_ptr() for leaf in leaves(value)] == pointers
    assert same(take(value, torch.tensor([3, 1])), fresh)
    assert same(take(value, torch.tensor([0, 2])), take(make(4), torch.tensor([0, 2])))


@each_value
def test_put_undoes_take(make: Any) -> None:
    value, rows = make(5), torch.tensor([4, 2])
    put(value, rows, take(make(5), rows))
    assert same(value, make(5))


def test_put_converts_to_the_type_of_the_buffer() -> None:
    buffer = torch.zeros(3, 2)
    put(buffer, torch.tensor([1]), torch.ones(1, 2, dtype=torch.float64))
    assert buffer.dtype == torch.float32 and buffer.sum() == 2


@each_value
def test_where_chooses_row_by_row(make: Any) -> None:
    mask = torch.tensor([True, False, True])
    chosen = where(mask, make(3), make(3, 50.0))
    assert same(take(chosen, mask), take(make(3), mask))
    assert same(take(chosen, ~mask), take(make(3, 50.0), ~mask))


def test_leaves_come_in_a_fixed_order_and_skip_what_is_no_tensor() -> None:
    pair = Pair({"b": torch.ones(1), "a": torch.zeros(1)}, torch.full((1,), 2.0))
    assert [float(leaf) for leaf in leaves(pair)] == [1.0, 0.0, 2.0]
    assert list(leaves(None)) == [] and list(leaves("word")) == []


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 1, 2, 3)])
def test_expand_multiplies_rows(shape: tuple[int, ...]) -> None:
    row, like = torch.arange(4.0), torch.ones(shape)
    scaled = expand(row, like) * like
    assert scaled.shape == shape
    assert torch.equal(scaled.reshape(4, -1)[:, 0], row)


# ---- sets are values too: their rows go with their problems


def test_each_is_the_inner_ball_member_by_member() -> None:
    """Two problems of three members: the same answers as six balls."""
    low = -torch.linspace(0.1, 1.0, 24).reshape(6, 4)
    inner = Ball.of(L2(), torch.linspace(0.2, 1.2, 6), low, -low.flip(0))
    each = Each(inner, 3)
    d = torch.linspace(-2, 2, 24).reshape(2, 3, 4)
    flat = d.reshape(6, 4)
    assert torch.equal(each.project(d).reshape(6, 4), inner.project(flat))
    assert torch.equal(each.maximiser(d).reshape(6, 4), inner.maximiser(flat))
    assert torch.allclose(each.support(d), inner.support(flat).reshape(2, 3).sum(1))
    assert torch.allclose(each.length(d), inner.length(flat).reshape(2, 3).amax(1))
    step = torch.tensor([0.1, 0.7])
    start, by_hand = each.zero(), inner.zero()
    stepped = inner.advance(by_hand, flat, step.repeat_interleave(3))
    assert torch.equal(each.advance(start, d, step).reshape(6, 4), stepped)
    inside = each.project(d)
    inside[1, 2] = 100.0
    assert each.inside(inside).tolist() == [True, False]


def test_members_of_each_start_at_different_points() -> None:
    one = torch.ones(6, 4)
    each = Each(Ball.of(L2(), torch.ones(6), -one, one), 3)
    for start in (each.sample, each.sphere, lambda key: each.gaussian(key, 0.1)):
        points = start(torch.tensor([1, 2])).reshape(6, 4)
        assert len({tuple(p.tolist()) for p in points}) == 6


def test_product_works_leaf_by_leaf() -> None:
    balls = {"a": ball(2), "b": ball(2, 3.0)}
    product = Product(dict(balls))
    d = {"a": numbers(2, -5.0) * 3, "b": numbers(2, 1.0) * 3}
    for name, part in balls.items():
        assert torch.equal(product.project(d)[name], part.project(d[name]))
        assert torch.equal(product.maximiser(d)[name], part.maximiser(d[name]))
    expected = sum(part.support(d[name]) for name, part in balls.items())
    assert torch.allclose(product.support(d), torch.as_tensor(expected))
    inside = product.project(d)
    assert product.inside(inside).tolist() == [True, True]
    inside["b"][0] = 1e3
    assert product.inside(inside).tolist() == [False, True]
    points = product.sample(torch.tensor([1, 2]))
    assert not torch.equal(points["a"], points["b"])


def test_within_closes_the_box_outside_the_mask() -> None:
    mask = torch.zeros(2, 2, 3, dtype=torch.bool)
    mask[:, 0, 1] = True
    closed = ball(2, 5.0).within(mask)
    for point in (closed.project(numbers(2, 1.0)), closed.maximiser(numbers(2, 1.0))):
        assert bool((point[~mask] == 0).all()) and bool((point[mask] != 0).all())


@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_inside_forgives_float_noise_and_no_more(dtype: torch.dtype, slack: float) -> None:
    one = torch.ones(1, 2, dtype=dtype)
    b = Ball.of(L2(), one[:, 0].clone(), -2 * one, 0.5 * one)
    point = torch.tensor([[-1.0, 0.0]], dtype=dtype)
    assert bool(b.inside(point * (1 + slack / 2)))
    assert not bool(b.inside(point * (1 + slack * 4)))
    edge = torch.tensor([[0.0, 0.5]], dtype=dtype)
    assert bool(b.inside(edge + slack / 2))
    assert not bool(b.inside(edge + slack * 4))
    assert not bool(b.inside(torch.full_like(point, torch.nan)))
