"""Keyed random numbers: pure functions of the key, bit-identical row by row, of good quality."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from torchproof.core import keys

Draw = Callable[[Tensor, int, int], Tensor]

DRAWS: dict[str, Draw] = {
    "uniform": lambda k, t, s: keys.uniform(k, t, (2, 3, 5), s),
    "uniform64": lambda k, t, s: keys.uniform(k, t, (7,), s, torch.float64),
    "uniform scalar": lambda k, t, s: keys.uniform(k, t, (), s),
    "normal": lambda k, t, s: keys.normal(k, t, (3, 5), s),
    "normal64": lambda k, t, s: keys.normal(k, t, (9,), s, torch.float64),
    "integers": lambda k, t, s: keys.integers(k, t, 1000, (4,), s),
    "signs": lambda k, t, s: keys.signs(k, t, (33,), s),
}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
KEYS = keys.mix(0, "test", torch.arange(64))
CRITICAL = 1e-4  # significance: keyed numbers never change, so a passing test always passes


@each_draw
def test_a_row_does_not_depend_on_its_company(draw: Draw) -> None:
    together = draw(KEYS, 3, 1)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(KEYS[order], 3, 1), together[order])
    for rows in (slice(5, 6), slice(10, 17), slice(0, 63)):
        assert torch.equal(draw(KEYS[rows], 3, 1), together[rows])


@each_draw
def test_a_step_of_its_own_for_every_row(draw: Draw) -> None:
    """Jobs are at different steps: a tensor of steps gives each row what its own step gives."""
    steps = torch.arange(64) % 5
    mixed = draw(KEYS, steps, 0)  # type: ignore[arg-type]
    for row in range(0, 64, 9):
        assert torch.equal(mixed[row], draw(KEYS[row : row + 1], int(steps[row]), 0)[0])


@each_draw
def test_key_step_and_stream_all_matter(draw: Draw) -> None:
    first = draw(KEYS, 0, 0).double()
    for other in (draw(KEYS, 1, 0), draw(KEYS, 0, 1), draw(KEYS.flip(0), 0, 0)):
        assert float((first == other).double().mean()) < 0.6


@each_draw
def test_arguments_and_the_global_state_stay_as_they_were(draw: Draw) -> None:
    before, key, state = KEYS.clone(), KEYS.clone(), torch.get_rng_state()
    draw(key, 0, 0)
    assert torch.equal(key, before) and torch.equal(torch.get_rng_state(), state)


@each_draw
def test_no_keys_give_no_rows(draw: Draw) -> None:
    assert len(draw(KEYS[:0], 0, 0)) == 0


@each_draw
def test_numbers_live_where_the_keys_live(draw: Draw) -> None:
    """On a device without data all that can go wrong is mixing devices, as it would on a GPU."""
    assert draw(torch.zeros(3, dtype=torch.int64, device="meta"), 0, 0).device.type == "meta"


def test_mixing_travels_with_its_parts() -> None:
    ids = torch.zeros(3, dtype=torch.int64, device="meta")
    assert keys.mix(0, "start", ids).device.type == "meta"
    assert keys.mix(ids, 1).device.type == "meta"


def test_shape_and_dtype() -> None:
    u = keys.uniform(KEYS, 0, (2, 3, 5))
    assert u.shape == (64, 2, 3, 5) and u.dtype == torch.float32
    assert keys.normal(KEYS, 0, (3,), dtype=torch.float64).dtype == torch.float64
    assert keys.integers(KEYS, 0, 5, (2,)).dtype == torch.int64
    assert keys.signs(KEYS, 0, (2,), dtype=torch.float64).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_is_open_and_uniform(dtype: torch.dtype) -> None:
    u = keys.uniform(keys.mix(1, torch.arange(1000)), 0, (300,), dtype=dtype)
    assert float(u.min()) > 0 and float(u.max()) < 1
    counts = torch.histc(u.double().flatten(), 256, 0, 1)
    assert stats.chisquare(counts.numpy()).pvalue > CRITICAL
    n = u.numel()
    for power, mean, deviation in ((1, 1 / 2, 1 / 12), (2, 1 / 3, 4 / 45), (3, 1 / 4, 9 / 112)):
        error = float((u.double() ** power).mean()) - mean
        assert abs(error) < 4.5 * (deviation / n) ** 0.5


def test_every_position_of_a_row_is_uniform() -> None:
    """Two floats come from each hash: both halves must be sound."""
    u = keys.uniform(keys.mix(2, torch.arange(20_000)), 0, (6,))
    for column in u.T:
        assert stats.kstest(column.numpy(), "uniform").pvalue > CRITICAL


def test_normal_moments_and_distribution() -> None:
    z = keys.normal(keys.mix(3, torch.arange(2000)), 0, (51,), dtype=torch.float64).flatten()
    n = len(z)
    moments = ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0))
    for power, mean, variance in moments:
        assert abs(float((z**power).mean()) - mean) < 4.5 * (variance / n) ** 0.5
    assert stats.kstest(z.numpy(), "norm").pvalue > CRITICAL
    assert bool(keys.normal(KEYS, 0, (999,)).isfinite().all())


def test_integers_are_fair_and_below_their_bound() -> None:
    i = keys.integers(keys.mix(4, torch.arange(5000)), 0, 7, (10,))
    assert int(i.min()) == 0 and int(i.max()) == 6
    assert stats.chisquare(torch.bincount(i.flatten()).numpy()).pvalue > CRITICAL
    high = torch.arange(1, 65)
    each = keys.integers(KEYS, 0, high, (200,))
    assert bool((each < high[:, None]).all()) and bool((each >= 0).all())
    assert bool((each[0] == 0).all())


def test_signs_are_fair_and_never_zero() -> None:
    s = keys.signs(keys.mix(5, torch.arange(1000)), 0, (100,))
    assert bool((s.abs() == 1).all())
    assert abs(float(s.mean())) < 4.5 / s.numel() ** 0.5


def noise(a: Tensor, b: Tensor) -> float:
    """The correlation of two samples, in standard deviations of what chance gives."""
    a, b = a.double().flatten(), b.double().flatten()
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1].abs()) * len(a) ** 0.5


def test_rows_steps_streams_and_halves_are_not_correlated() -> None:
    key = keys.mix(6, torch.arange(2001))
    u = keys.uniform(key, 0, (50,))
    assert noise(u[1:], u[:-1]) < 4.5, "neighbouring rows"
    assert noise(u, keys.uniform(key, 1, (50,))) < 4.5, "neighbouring steps"
    assert noise(u, keys.uniform(key, 0, (50,), stream=1)) < 4.5, "neighbouring streams"
    assert noise(keys.uniform(key, 1, (50,)), keys.uniform(key, 0, (50,), stream=1)) < 4.5
    assert noise(u[:, 1:], u[:, :-1]) < 4.5, "neighbouring numbers"
    assert noise(u[:, :25], u[:, 25:]) < 4.5, "the two halves of a hash"
    assert noise(u, keys.uniform(keys.mix(7, torch.arange(2001)), 0, (50,))) < 4.5, "seeds"


def test_mix_tells_apart_what_differs() -> None:
    many = torch.cat([keys.mix(s, w, torch.arange(500)) for s in range(4) for w in ("a", "b")])
    assert len(many.unique()) == len(many)
    assert int(keys.mix(1, 2)) != int(keys.mix(2, 1))
    assert int(keys.mix(0)) != int(keys.mix(0, 0))
    assert torch.equal(keys.mix(5, torch.tensor([-1])), keys.mix(5, -1))


def test_mix_broadcasts() -> None:
    grid = keys.mix(0, torch.arange(3)[:, None], torch.arange(2))
    assert grid.shape == (3, 2)
    assert int(grid[2, 1]) == int(keys.mix(0, 2, 1))


def crc32(word: str) -> int:
    """The checksum of ISO 3309, bit by bit."""
    remainder = 0xFFFFFFFF
    for byte in word.encode():
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder >> 1) ^ (0xEDB88320 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF


@pytest.mark.parametrize("word", ["", "start", "augment", "Größe"])
def test_purposes_are_stable_over_processes(word: str) -> None:
    """Stored results are resumed by other processes: no hash that is salted per process."""
    assert keys.purpose(word) == crc32(word)


def splitmix(state: int) -> int:
    """One output of the published generator, in Python's whole numbers."""
    z = state & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return z ^ (z >> 31)


def test_the_hash_is_splitmix64() -> None:
    golden = 0x9E3779B97F4A7C15
    for parts in ((0,), (1, 2), (123456789, 2**62, 7)):
        key = 0
        for part in parts:
            key = splitmix(key * 3 + part + golden)
        assert int(keys.mix(*parts)) % 2**64 == key


def test_seeds_suit_torch_generators() -> None:
    seeds = [keys.seed_of(s, "step", t) for s in range(20) for t in range(20)]
    assert len(set(seeds)) == 400
    assert all(0 <= s < 2**63 for s in seeds)
    torch.Generator().manual_seed(max(seeds))


@pytest.mark.parametrize("n", [0, 1, 2, 10, 1000])
def test_permutations_permute(n: int) -> None:
    order = keys.permutation(n, 3, "order", 0)
    assert torch.equal(order.sort().values, torch.arange(n))
    assert torch.equal(order, keys.permutation(n, 3, "order", 0))
    if n > 9:
        assert not torch.equal(order, keys.permutation(n, 3, "order", 1))


def test_permutations_put_everything_everywhere() -> None:
    first = torch.stack([keys.permutation(5, s)[0] for s in range(2000)])
    assert stats.chisquare(torch.bincount(first, minlength=5).numpy()).pvalue > CRITICAL


def test_one_generator_in_three_forms() -> None:
    """Numbers, arrays and tensors, of which other devices know the last only."""

    class Elsewhere(Tensor):
        """Not worked out as an array."""

    rows = KEYS.clone()
    want = keys._scramble(rows.clone().as_subclass(Elsewhere)).as_subclass(Tensor)
    assert torch.equal(keys._scramble(rows), want)
    for parts in ((), (0,), (-1, "words", 2**63 - 1), (True, 7, "")):
        key = torch.zeros(1, dtype=torch.int64)
        for part in parts:
            number = keys.purpose(part) if isinstance(part, str) else part
            key = keys._scramble((key * 3 + number + keys._GOLDEN).as_subclass(Elsewhere))
        assert int(keys.mix(*parts)) == int(key)
        assert keys.seed_of(*parts) == int(key) & (2**63 - 1)
