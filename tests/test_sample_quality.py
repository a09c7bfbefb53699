"""Measures of generated samples tell good ones from bad ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

from latent_env.autoencoders.sample_features import (
    FEATURES,
    SampleClassifier,
    changed,
    features_of,
    train_classifier,
)
from latent_env.autoencoders.sample_quality import (
    evaluate_samples,
    frechet_distance,
    nearest_distances,
    precision_and_recall,
)


def blobs(count: int, seed: int, size: int = 16) -> torch.Tensor:
    """Images ``(N, 1, 16, 16)`` uint8 of a bright bar on a dark ground, no two equal."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(size)[None, :, None]
    columns = torch.arange(size)[None, None, :]
    left = torch.randint(3, 6, (count, 1, 1), generator=generator)
    top = torch.randint(1, 5, (count, 1, 1), generator=generator)
    inside = (columns >= left) & (columns < left + 4) & (rows >= top) & (rows < top + 9)
    noise = torch.randint(0, 40, (count, size, size), generator=generator)
    return (inside * 180 + noise)[:, None].to(torch.uint8)


def test_frechet_distance_is_that_of_the_formula() -> None:
    torch.manual_seed(0)
    some = torch.randn(400, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64)
    others = torch.randn(300, 5, dtype=torch.float64) + 0.5
    first, second = np.cov(some.numpy().T), np.cov(others.numpy().T)
    gap = float((some.mean(0) - others.mean(0)).square().sum())
    slow = gap + np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
    assert frechet_distance(some, others) == pytest.approx(slow, rel=1e-6)
    assert frechet_distance(some, some) == pytest.approx(0, abs=1e-8)
    shifted = frechet_distance(some, some + 2.0)
    assert shifted == pytest.approx(5 * 4.0)


def test_precision_and_recall_of_what_is_far_narrow_or_the_same() -> None:
    torch.manual_seed(0)
    real = torch.randn(200, 3, dtype=torch.float64)
    assert precision_and_recall(real, real) == (1.0, 1.0)
    assert precision_and_recall(real, real + 100) == (0.0, 0.0)
    precision, recall = precision_and_recall(real, 0.01 * real)  # all in one place: believable, not varied
    assert precision > 0.9
    assert recall < 0.2


def test_nearest_distances_are_those_of_a_slow_search() -> None:
    torch.manual_seed(0)
    images, known = torch.rand(4, 1, 8, 8), torch.rand(6, 1, 8, 8)
    slow = [min(float((image - other).square().mean().sqrt()) for other in known) for image in images]
    assert nearest_distances(images, known).tolist() == pytest.approx(slow, rel=1e-4)


def test_changes_are_all_different_and_the_first_is_none() -> None:
    image = torch.rand(1, 1, 16, 16)
    made = changed(image.expand(12, -1, -1, -1), torch.arange(12))
    assert torch.equal(made[0], image[0])
    assert len({tuple(each.flatten().tolist()) for each in made}) == 12


def test_measures_tell_good_samples_from_noise_and_copies() -> None:
    train, held_out = blobs(300, 0), blobs(200, 1)
    classifier = train_classifier(train, seed=0, steps=120)
    assert isinstance(classifier, SampleClassifier)
    again = train_classifier(train, seed=0, steps=120)
    floats = held_out[:8].float() / 255
    assert features_of(classifier, floats).shape == (8, FEATURES)
    assert torch.equal(features_of(classifier, floats), features_of(again, floats))

    good = evaluate_samples(classifier, blobs(200, 2).float() / 255, train, held_out)
    torch.manual_seed(0)
    noise = evaluate_samples(classifier, torch.rand(200, 1, 16, 16), train, held_out)
    copies = evaluate_samples(classifier, train[:200].float() / 255, train, held_out)
    assert good["sample_frechet"] < noise["sample_frechet"] / 5
    assert good["sample_frechet"] < 3 * good["sample_frechet_real"] + 0.1
    assert good["sample_precision"] > 0.7
    assert good["sample_recall"] > 0.7
    assert noise["sample_precision"] < 0.2
    assert copies["sample_copies"] == 1
    assert good["sample_copies"] < 0.2
