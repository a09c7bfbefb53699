"""Intervals of a mean difference over seeds, and over seeds and test images."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.metrics import ImageMetric, image_AP, image_AUROC, paired_bootstrap, resampled
from detectors.metrics.intervals import over_seeds, over_seeds_and_images, widening

LABELS = np.repeat([0, 1], [30, 20])


def test_students_interval() -> None:
    found = over_seeds(np.array([1.0, 2.0, 3.0]))
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, -0.48414, 4.48414), abs=1e-4)
    assert not found.excludes_zero
    assert over_seeds(np.array([1.0, 1.0, 1.0])).excludes_zero
    few = over_seeds(np.array([1.0, 3.0]))
    assert (few.mean, few.low, few.high) == (2.0, None, None)
    assert not few.excludes_zero


@pytest.mark.parametrize("metric", [image_AUROC, image_AP])
def test_one_seed_is_the_paired_bootstrap_over_images(metric: ImageMetric) -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 50)) + LABELS
    drawn = resampled(metric, LABELS, one) - resampled(metric, LABELS, other)
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
