"""Measures of a generated set: coverage, duplicates, effective rank."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agents.diversity import MOST_SAMPLES, describe_set
from agents.rollout import Augmented

INNER = 0.7


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(delta: Tensor, labels: Tensor | None = None) -> Augmented:
    """A set in which nothing but Δz ``(N, *latent_shape)`` and labels matters."""
    count = len(delta)
    labels = torch.ones(count, dtype=torch.int64) if labels is None else labels
    nothing = torch.zeros(count)
    numbers = nothing.long()
    return Augmented(
        *(nothing, nothing, nothing, labels, numbers, delta, nothing, numbers - 1, nothing.bool()[:, None])
    )


def describe(delta: Tensor, inner: float = INNER) -> dict[str, float]:
    return describe_set(made(delta), inner)


def random_perturbations(count: int, shape: tuple[int, int, int], places: int, seed: int = 0) -> Tensor:
    """Changes of one token each, among the first ``places`` of a grid, 1 to 3 inner radii long."""
    generator = torch.Generator().manual_seed(seed)
    channels, rows, columns = shape
    change = torch.zeros(count, channels, rows * columns)
    directions = torch.nn.functional.normalize(torch.randn(count, channels, generator=generator), dim=1)
    lengths = INNER * (1 + 2 * torch.rand(count, 1, generator=generator))
    where = torch.randint(places, (count,), generator=generator)
    change[torch.arange(count), :, where] = directions * lengths
    return change.view(count, *shape)


@settings(max_examples=30)
@given(
    copies=st.integers(0, 20),
    others=st.integers(2, 30),
    shape=st.sampled_from([(3,), (100,), (4, 3, 3), (16, 4, 4)]),
    seed=st.integers(0, 1000),
)
def test_exact_duplicates_are_counted(copies: int, others: int, shape: tuple[int, ...], seed: int) -> None:
    apart = drawn(others, *shape, seed=seed)
    apart.view(others, -1)[:, 0] += 10 * INNER * torch.arange(others)  # none is near another
    delta = torch.cat([apart, apart[:1].expand(copies, *shape)])
    delta = delta[torch.randperm(len(delta), generator=torch.Generator().manual_seed(seed))]
    expected = (copies + 1) / len(delta) if copies else 0.0
    assert describe(delta)["duplicates"] == pytest.approx(expected)


@pytest.mark.parametrize(("apart", "expected"), [(0.09, 1.0), (0.11, 0.0)])
@pytest.mark.parametrize("dimensions", [3, 500])
def test_the_same_means_nearer_than_a_tenth_of_the_radius(
    dimensions: int, apart: float, expected: float
) -> None:
    centres = 50 * drawn(40, dimensions)
    aside = torch.nn.functional.normalize(drawn(40, dimensions, seed=1), dim=1)
    delta = torch.cat([centres, centres + apart * INNER * aside])
    assert describe(delta)["duplicates"] == expected


@settings(max_examples=20)
@given(shape=st.sampled_from([(5,), (300,), (8, 4, 4)]), seed=st.integers(0, 1000), shift=st.floats(-3, 3))
def test_one_direction_has_rank_one(shape: tuple[int, ...], seed: int, shift: float) -> None:
    direction, amounts = drawn(*shape, seed=seed), drawn(50, seed=seed + 1) + shift
    delta = amounts.view(-1, *[1] * len(shape)) * direction
    assert describe(delta)["effective_rank"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("dimensions", "expected"), [(6, 6), (40, 40), (70, 64), (1000, 64)])
def test_isotropic_noise_has_the_rank_of_its_space(dimensions: int, expected: int) -> None:
    rank = describe(drawn(3000, dimensions))["effective_rank"]
    assert 0.95 * expected < rank <= expected


@settings(max_examples=20)
@given(scale=st.floats(0.01, 100), seed=st.integers(0, 100))
def test_units_dont_matter(scale: float, seed: int) -> None:
    delta = INNER * drawn(60, 4, 2, 2, seed=seed)
    assert describe(scale * delta, scale * INNER) == pytest.approx(describe(delta), rel=1e-3)


def test_coverage_falls_with_positions_left_out() -> None:
    shape = (8, 4, 4)
    found = [describe(random_perturbations(2000, shape, places))["coverage"] for places in (1, 4, 8, 16)]
    assert found == sorted(found)
    assert found[3] > 1.5 * found[2] > 2 * found[1]
    assert found[0] < 0.1


def test_coverage_falls_when_all_perturbations_are_one() -> None:
    broad = random_perturbations(1000, (8, 4, 4), 16)
    narrow = broad[:10].repeat(100, 1, 1, 1)
    found = describe(narrow)
    assert found["coverage"] < describe(broad)["coverage"] / 4
    assert found["duplicates"] == 1


@settings(max_examples=20)
@given(seed=st.integers(0, 100), shape=st.sampled_from([(3,), (40,), (8, 3, 3)]), scale=st.floats(0, 5))
def test_more_samples_never_cover_less(seed: int, shape: tuple[int, ...], scale: float) -> None:
    delta = scale * drawn(60, *shape, seed=seed)
    found = [describe(delta[:count])["coverage"] for count in (1, 10, 30, 60)]
    assert found == sorted(found)
    assert 0 <= found[0] <= found[-1] <= 1


def test_a_dense_set_covers_all_of_a_small_space() -> None:
    assert describe(2 * INNER * drawn(4000, 2))["coverage"] > 0.95


def test_only_anomalies_are_measured() -> None:
    delta, labels = drawn(40, 6), torch.arange(40) % 2
    assert describe_set(made(delta, labels), INNER) == describe(delta[labels == 1])


def test_nothing_is_nothing() -> None:
    zero = {"coverage": 0.0, "duplicates": 0.0, "effective_rank": 0.0}
    assert describe(torch.zeros(0, 6)) == zero
    assert describe_set(made(drawn(5, 6), torch.zeros(5, dtype=torch.int64)), INNER) == zero
    assert describe(torch.zeros(3, 6)) == pytest.approx({**zero, "duplicates": 1.0}, abs=1e-6)
    one = describe(drawn(1, 6))
    assert one["duplicates"] == one["effective_rank"] == 0


def test_of_large_sets_evenly_spaced_samples_are_measured() -> None:
    delta = drawn(2 * MOST_SAMPLES - 1, 3)
    assert describe(delta) == describe(delta[::2])
