"""Whitened tokens: of images that were fitted as if they had not been, and in units of normal ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_latents import seeded
from torch import Tensor

from detectors.blocks.tokens import as_tokens
from detectors.distances.gaussian import GaussianDetector
from detectors.distances.whitened import MIN_SPREAD, left_out
from detectors.probe import ProbeDetector

SPATIAL, FLAT = (4, 5, 6), (4,)
BOTH_SHAPES = pytest.mark.parametrize("shape", [SPATIAL, FLAT], ids=["spatial", "flat"])


def normal_latents(count: int, shape: tuple[int, ...] = SPATIAL, seed: int = 0) -> Tensor:
    """Channels that vary differently, together, and around other means at every position."""
    means = torch.randn(shape, generator=seeded(99))
    mixed = torch.randn(shape[0], shape[0], generator=seeded(98))
    noise = torch.randn(count, *shape, generator=seeded(seed))
    return means + torch.einsum("cd,nd...->nc...", mixed, noise)


def fitted(latents: Tensor) -> ProbeDetector:
    """A detector of whitened tokens; without anomalies to learn from, it is nothing else."""
    detector = ProbeDetector(tuple(latents.shape[1:]))
    detector.fit(latents, torch.ones(latents.shape[1]), 0)
    return detector


def mean_variance(tokens: Tensor) -> Tensor:
    """Over channels, of ``tokens (N, T, C)`` at every position, ``(T,)``."""
    return tokens.double().var(0).mean(1)


# --- images that were fitted ---


@pytest.mark.parametrize("count", [3, 6, 40])
@BOTH_SHAPES
def test_a_fitted_image_is_as_far_as_if_it_had_not_been(shape: tuple[int, ...], count: int) -> None:
    known = normal_latents(count, shape)
    found = left_out(fitted(known).whitened(known), count).norm(dim=2)
    for number in range(0, count, max(count // 6, 1)):
        others = torch.cat([known[:number], known[number + 1 :]])
        expected = fitted(others).whitened(known[number : number + 1]).norm(dim=2)[0]
        # One image less changes the divisor of a covariance, and the variance that it is shrunk towards.
        divisor = (count - 1) / (count - 2)
        level = mean_variance(as_tokens(others)) / mean_variance(as_tokens(known))
        ratio = (found[number] / expected).double().square()
        assert (ratio > level.clamp(max=divisor) * 0.999).all()
        assert (ratio < level.clamp(min=divisor) * 1.001).all()


def test_without_that_correction_fitted_images_seem_too_normal() -> None:
    known, new = normal_latents(12), normal_latents(400, seed=1)
    detector = fitted(known)
    fresh = detector.whitened(new).norm(dim=2).median()
    assert detector.whitened(known).norm(dim=2).median() < 0.9 * fresh
    corrected = left_out(detector.whitened(known), 12).norm(dim=2).median()
    assert float(corrected / fresh) == pytest.approx(1, abs=0.1)


def test_directions_of_fitted_tokens_stay() -> None:
    known = normal_latents(8)
    before = fitted(known).whitened(known)
    after = left_out(before, 8)
    torch.testing.assert_close(torch.cosine_similarity(before, after, dim=2), torch.ones(8, 30))
    assert (after.norm(dim=2) > before.norm(dim=2)).all()


# --- what is read ---


@BOTH_SHAPES
def test_inputs_are_distances_and_channels_in_units_of_normal_tokens(shape: tuple[int, ...]) -> None:
    known, new = normal_latents(60, shape), normal_latents(5, shape, seed=1)
    detector = fitted(known)
    tokens = detector.standardised(detector.normal_tokens(known))
    assert tokens.shape[1] == 5
    torch.testing.assert_close(tokens.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(tokens.std(0, correction=0), torch.ones(5))
    inputs, gaussian = detector.inputs(new), GaussianDetector(shape)
    gaussian.fit(known, torch.ones(4), 0)
    distances = inputs[..., 0] * detector.spread[0] + detector.centre[0]
    torch.testing.assert_close(distances, gaussian.distances(new))
    channels = inputs[..., 1:] * detector.spread[1:] + detector.centre[1:]
    torch.testing.assert_close(channels, gaussian.whitened(new))
    rows, columns = (5, 6) if shape == SPATIAL else (1, 1)
    maps = detector.input_maps(new)
    assert maps.shape == (5, 5, rows, columns)
    torch.testing.assert_close(as_tokens(maps), inputs)


def test_half_of_the_normal_tokens_are_typical_and_half_the_furthest() -> None:
    known = normal_latents(700)  # 21000 tokens, more than are kept
    found = fitted(known).normal_tokens(known)[:, 0].numpy()
    everything = left_out(fitted(known).whitened(known), 700).norm(dim=2).flatten().numpy()
    typical, hard = found[:-10_000], found[-10_000:]
    np.testing.assert_allclose(typical, everything[::3], rtol=1e-3)
    np.testing.assert_allclose(np.sort(hard), np.sort(everything)[-10_000:], rtol=1e-3)


def test_a_channel_that_never_varies_is_not_magnified_without_limit() -> None:
    known = normal_latents(60)
    known[:, 3] = 0.3
    detector, changed = fitted(known), known[:1].clone()
    changed[:, 3] += 1
    away = detector.whitened(changed)[..., 3]
    assert (away > 1).all(), "the Gaussian sees it"
    torch.testing.assert_close(detector.inputs(changed)[..., 4], away / MIN_SPREAD, atol=0.01, rtol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 3], ids=lambda count: f"{count} images")
@pytest.mark.parametrize("channels", [2, 40])
def test_fewer_images_than_channels_give_finite_inputs(count: int, channels: int) -> None:
    shape = (channels, 2, 3)
    known, new = normal_latents(count, shape), normal_latents(4, shape, seed=1)
    detector = fitted(known)
    assert detector.inputs(new).isfinite().all()
    assert detector.normal_tokens(known).isfinite().all()


def test_images_that_are_all_equal_give_finite_inputs() -> None:
    known = normal_latents(1).expand(6, -1, -1, -1)
    detector = fitted(known)
    torch.testing.assert_close(detector.inputs(known), torch.zeros(6, 30, 5), atol=1e-2, rtol=0)
    assert detector(normal_latents(3, seed=1)).score.isfinite().all()


def test_statistics_are_taken_as_they_were_found() -> None:
    known, new = normal_latents(40), normal_latents(5, seed=1)
    first, second = fitted(known), ProbeDetector(SPATIAL)
    found = first.statistics()
    second.take(found)
    assert torch.equal(second.inputs(new), first.inputs(new))
    second.take(fitted(normal_latents(40, seed=2)).statistics())
    assert torch.equal(first.statistics()["means"], found["means"]), "they are copies"
