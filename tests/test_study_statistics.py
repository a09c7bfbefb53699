"""The study of augmentation: differences, their intervals, and what is compared with what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.augmentation.collect import Row, Scores
from benchmarks.augmentation.comparisons import Drawn, compare_all, compare_pairs
from benchmarks.augmentation.plan import Planned
from benchmarks.augmentation.records import WHOLE, Outcome
from benchmarks.augmentation.statistics import over_seeds, over_seeds_and_images, resampled, widening
from detectors.metrics import image_AP, image_AUROC, paired_bootstrap

LABELS = np.repeat([0, 1], [30, 20])


def test_students_interval() -> None:
    found = over_seeds(np.array([1.0, 2.0, 3.0]))
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, -0.48414, 4.48414), abs=1e-4)
    assert not found.excludes_zero
    assert over_seeds(np.array([1.0, 1.0, 1.0])).excludes_zero
    few = over_seeds(np.array([1.0, 3.0]))
    assert (few.mean, few.low, few.high) == (2.0, None, None)
    assert not few.excludes_zero


@pytest.mark.parametrize(("name", "metric"), [("image_AUROC", image_AUROC), ("image_AP", image_AP)])
def test_one_seed_is_the_paired_bootstrap_over_images(name: str, metric: Any) -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 50)) + LABELS
    drawn = resampled(name, LABELS, one) - resampled(name, LABELS, other)
    found = over_seeds_and_images(np.array([metric(one, LABELS) - metric(other, LABELS)]), drawn[None])
    expected = paired_bootstrap(metric, LABELS, other, one)
    assert (found.mean, found.low, found.high) == pytest.approx(expected, abs=1e-12)


def test_a_difference_that_never_changes_has_no_width() -> None:
    found = over_seeds_and_images(np.full(5, 0.2), np.full((5, 100), 0.2))
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))


@pytest.mark.parametrize(("of_seeds", "of_images"), [(1.0, 0.0), (1.0, 3.0), (0.1, 3.0)])
def test_intervals_of_five_seeds_cover_what_they_promise(of_seeds: float, of_images: float) -> None:
    rng = np.random.default_rng(0)
    studies, seeds, images, covered = 300, 5, 40, 0
    for _ in range(studies):
        luck = rng.normal(scale=of_seeds, size=(seeds, 1)) + rng.normal(scale=of_images, size=images)
        values = luck + rng.normal(scale=0.5, size=(seeds, images))  # the true difference is 0
        chosen = rng.integers(images, size=(300, images))
        found = over_seeds_and_images(values.mean(1), values[:, chosen].mean(2))
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0 <= found.high
    assert 0.90 <= covered / studies <= 0.99


def test_plain_percentiles_of_five_seeds_would_be_too_narrow() -> None:
    assert widening(5) == pytest.approx(1.5836, abs=1e-3)
    assert widening(1) == 1
    assert 1 < widening(1000) < 1.01


def made_up(agent: str, seed: int, scores: Any, folder: str = "nowhere") -> Row:
    """A row whose scores are known."""
    run = Planned("scratch", "one_class", "phantom", agent, seed, "default", ())
    metrics = {"image_AUROC": {"with": image_AUROC(scores, LABELS), "without": 0.5}}
    row = Row(run, Outcome(WHOLE, folder), {"metrics": metrics})
    row.__dict__["scores"] = Scores(LABELS, scores, scores)
    return row


@given(seed=st.integers(0, 1000), seeds=st.integers(1, 6), ties=st.booleans())
def test_comparisons_turned_round_change_their_sign(seed: int, seeds: int, ties: bool) -> None:
    values = np.random.default_rng(seed).normal(size=(2, seeds, 50)) + LABELS
    values = values.round() if ties else values
    one = [made_up("a", i, scores) for i, scores in enumerate(values[0])]
    other = [made_up("b", i, scores) for i, scores in enumerate(values[1])]
    there = compare_pairs("image_AUROC", list(zip(one, other, strict=True)), Drawn())
    back = compare_pairs("image_AUROC", list(zip(other, one, strict=True)), Drawn())
    assert there is not None
    assert back is not None
    assert there[0] == back[0] == seeds
    ends = (there[1].mean, there[1].low, there[1].high)
    assert ends == pytest.approx((-back[1].mean, -(back[1].high or 0), -(back[1].low or 0)), abs=1e-9)


def test_a_variant_is_compared_with_its_default_seed_by_seed() -> None:
    noise = np.random.default_rng(0).normal(size=(3, 50))
    usual = [made_up("a", seed, 3 * LABELS + noise[seed]) for seed in (0, 1)]
    worse = [made_up("a", seed, LABELS + noise[seed]) for seed in (1, 2)]
    worse = [replace(row, run=replace(row.run, variant="less")) for row in worse]
    for row, seed in zip(worse, (1, 2), strict=True):
        row.__dict__["scores"] = Scores(LABELS, LABELS + noise[seed], LABELS + noise[seed])
    (found,) = compare_all([*usual, *worse])
    assert (found.variant, found.agent, found.against, found.seeds) == ("less", "a", "default", 1)
    expected = image_AUROC(LABELS + noise[1], LABELS) - image_AUROC(3 * LABELS + noise[1], LABELS)
    assert found.estimate.mean == pytest.approx(expected)
    assert found.estimate.mean < 0
    assert not compare_all(worse)
