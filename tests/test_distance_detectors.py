"""Detectors that measure distances: nearest neighbours anywhere, at the same position, and Gaussians."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_latents import seeded
from scipy.spatial.distance import mahalanobis
from torch import Tensor

from detectors.blocks.tokens import TOP_TOKENS, as_tokens
from detectors.distances.base import DistanceDetector
from detectors.distances.coreset import greedy_coreset
from detectors.distances.gaussian import SHRINKAGE, GaussianDetector
from detectors.distances.knn import KnnDetector
from detectors.distances.positional_knn import PositionalKnnDetector
from latent_common.errors import UserError
from latent_common.image_source import ImageSource
from latent_env.data.placement import StreamedImages
from latent_env.worlds.artifacts import load_detector, save_detector

CPU = torch.device("cpu")
SPATIAL, FLAT = (4, 5, 6), (4,)
ONES = torch.ones(4)

MAKERS: dict[str, Callable[[Sequence[int]], DistanceDetector]] = {
    "knn": lambda shape: KnnDetector(shape, bank=100),
    "knn_random": lambda shape: KnnDetector(shape, bank=100, coreset=False),
    "positional_knn": PositionalKnnDetector,
    "gaussian": GaussianDetector,
}
EVERY_DETECTOR = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
BOTH_SHAPES = pytest.mark.parametrize("shape", [SPATIAL, FLAT], ids=["spatial", "flat"])


def normal_latents(count: int, shape: tuple[int, ...] = SPATIAL, seed: int = 0) -> Tensor:
    """Latents that are similar: every position has its own token, and images vary a little, in few ways."""
    places = torch.randn(shape, generator=seeded(99))
    ways = torch.randn(2, *shape, generator=seeded(98))
    generator = seeded(seed)
    much = torch.randn(count, 2, generator=generator)
    noise = torch.randn(count, *shape, generator=generator)
    return places + 0.3 * torch.einsum("nk,k...->n...", much, ways) + 0.1 * noise


def fitted(detector: DistanceDetector, latents: ImageSource, seed: int = 0) -> DistanceDetector:
    detector.fit(latents, torch.ones(latents.shape[1]), seed)
    return detector


def nearest_distances(tokens: Tensor, others: Tensor) -> Tensor:
    """By brute force: how far each of tokens ``(n, C)`` is from the nearest of ``others (m, C)``."""
    return (tokens[:, None] - others[None]).norm(dim=2).amin(1)


# --- nearest neighbours anywhere ---


@pytest.mark.parametrize("coreset", [True, False])
@pytest.mark.parametrize("bank", [2100, 2101, 9000])
def test_a_large_bank_holds_every_token(coreset: bool, bank: int) -> None:
    known, new = normal_latents(70), normal_latents(7, seed=1)  # more images than are read at once
    detector = fitted(KnnDetector(SPATIAL, bank, coreset=coreset), known)
    everything = as_tokens(known).flatten(0, 1)
    expected = nearest_distances(as_tokens(new).flatten(0, 1), everything).view(7, 1, 5, 6)
    torch.testing.assert_close(detector(new).map, expected, atol=1e-3, rtol=1e-3)
    assert detector.hyperparameters()["bank"] == len(everything)


def test_many_tokens_are_compared_like_few() -> None:
    detector = fitted(KnnDetector(SPATIAL, 50), normal_latents(10))
    new = normal_latents(150, seed=1)
    assert 150 * 30 > 4096  # more than meet the bank in one go
    torch.testing.assert_close(detector(new).map[140:], detector(new[140:]).map, atol=1e-4, rtol=1e-4)


def test_features_can_count_by_their_own_scales() -> None:
    known, new, scales = normal_latents(20), normal_latents(7, seed=1), torch.tensor([3.0, 1.0, 0.1, 0.0])
    by_scale, white = KnnDetector(SPATIAL, whitened=False), KnnDetector(SPATIAL, whitened=True)
    for detector in (by_scale, white):
        detector.fit(known, scales, 0)
    scaled = [(as_tokens(latents) * scales).flatten(0, 1) for latents in (new, known)]
    plain = [as_tokens(latents).flatten(0, 1) for latents in (new, known)]
    torch.testing.assert_close(by_scale(new).map.flatten(), nearest_distances(*scaled), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(white(new).map.flatten(), nearest_distances(*plain), atol=1e-3, rtol=1e-3)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 40), st.sampled_from([1.0, 1000.0]))
def test_a_coreset_is_spread_as_far_as_it_covers(seed: int, count: int, steps: float) -> None:
    # Rounded to few steps, many tokens are the same.
    tokens = (torch.randn(40, 3, generator=seeded(seed)) * steps).round() / steps
    chosen = greedy_coreset(tokens, count, seeded(seed))
    assert len(set(chosen.tolist())) == len(chosen) == count
    covered = nearest_distances(tokens, tokens[chosen]).max()
    if count > 1:
        between = torch.cdist(tokens[chosen], tokens[chosen]) + torch.eye(count) * 1e9
        assert between.min() >= covered - 1e-2
    # No choice of as many can cover more than twice as well.
    other = torch.randperm(40, generator=seeded(seed))[:count]
    assert covered <= 2 * nearest_distances(tokens, tokens[other]).max() + 1e-2


@pytest.mark.parametrize("channels", [3, 200])
def test_a_coreset_covers_better_than_a_random_choice(channels: int) -> None:
    # 200 channels are more than a coreset is chosen by; the tokens fill three dimensions of them.
    tokens = torch.randn(400, 3, generator=seeded()) @ torch.randn(3, channels, generator=seeded(1))
    ours = nearest_distances(tokens, tokens[greedy_coreset(tokens, 30, seeded())]).max()
    random_baseline = [torch.randperm(400, generator=seeded(seed))[:30] for seed in range(20)]
    assert ours < 0.8 * min(
        float(nearest_distances(tokens, tokens[chosen]).max()) for chosen in random_baseline
    )


@pytest.mark.parametrize(("coreset", "candidates"), [(True, 400), (True, 10), (True, 9000), (False, 400)])
def test_a_bank_is_made_of_different_normal_tokens(coreset: bool, candidates: int) -> None:
    known = normal_latents(20)
    detector = KnnDetector(SPATIAL, 50, coreset=coreset, candidates=candidates)
    fitted(detector, known)
    assert detector.bank.shape == (50, 4)
    assert len(detector.bank.unique(dim=0)) == 50
    assert nearest_distances(detector.bank, as_tokens(known).flatten(0, 1)).max() == 0


@pytest.mark.parametrize("coreset", [True, False])
def test_the_seed_decides_what_is_kept(coreset: bool) -> None:
    banks = []
    for seed in (3, 3, 4):
        detector = KnnDetector(SPATIAL, 50, coreset=coreset, candidates=200)
        fitted(detector, normal_latents(20), seed)
        banks.append(detector.bank)
    assert torch.equal(banks[0], banks[1])
    assert not torch.equal(banks[0], banks[2])


# --- nearest neighbours at the same place ---


def test_position_wise_only_the_same_position_counts() -> None:
    known, new = normal_latents(20), normal_latents(7, seed=1)
    detector = fitted(PositionalKnnDetector(SPATIAL), known)
    places, queries = as_tokens(known).transpose(0, 1), as_tokens(new).transpose(0, 1)  # (T, N, C)
    lengths = torch.stack([nearest_distances(*pair) for pair in zip(queries, places, strict=True)], 1)
    others = [torch.arange(20) != own for own in range(20)]
    of_normal = torch.stack(
        [
            nearest_distances(tokens[own : own + 1], tokens[others[own]])[0]
            for own in range(20)
            for tokens in places.unbind(0)
        ]
    )
    expected = (lengths - of_normal.mean()) / of_normal.std(correction=0)
    torch.testing.assert_close(detector(new).map.flatten(1), expected, atol=1e-3, rtol=1e-3)


def test_a_shift_by_one_token_is_found_by_the_position_wise_detector_alone() -> None:
    anywhere = fitted(KnnDetector(SPATIAL), normal_latents(40))
    position_wise = fitted(PositionalKnnDetector(SPATIAL), normal_latents(40))
    for detector in (anywhere, position_wise):
        detector.calibrate(normal_latents(40, seed=1))
    new = normal_latents(10, seed=2)
    shifted = new.roll(1, dims=3)
    torch.testing.assert_close(anywhere(shifted).map, anywhere(new).map.roll(1, dims=3), atol=1e-3, rtol=0)
    torch.testing.assert_close(anywhere(shifted).score, anywhere(new).score, atol=1e-3, rtol=0)
    assert position_wise(shifted).score.min() > position_wise(new).score.max() + 3


def test_of_many_images_evenly_spaced_ones_are_kept() -> None:
    known = normal_latents(9)
    detector = fitted(PositionalKnnDetector(SPATIAL, memory_size=3), known)
    maps = detector(known).map.flatten(1)
    least = maps.min()
    assert (maps.amax(1) < least + 1e-3).tolist() == [number in (0, 4, 8) for number in range(9)]
    assert detector.hyperparameters()["memory_size"] == 3


# --- Gaussians ---


@pytest.mark.parametrize("count", [40, 5, 3], ids=["many", "few", "fewer than channels"])
def test_a_gaussian_measures_mahalanobis_distances(count: int) -> None:
    known, new = normal_latents(count), normal_latents(3, seed=1)
    found = fitted(GaussianDetector(SPATIAL), known)(new).map
    for row in range(5):
        for column in range(6):
            tokens = known[:, :, row, column].double().numpy()
            covariance = np.cov(tokens, rowvar=False)
            level = np.trace(covariance) / 4
            shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * level * np.eye(4)
            inverse = np.linalg.inv(shrunk)
            queries = new[:, :, row, column].double().numpy()
            expected = [mahalanobis(query, tokens.mean(0), inverse) for query in queries]
            np.testing.assert_allclose(found[:, 0, row, column].numpy(), expected, rtol=1e-3)


@pytest.mark.parametrize(
    "known", [normal_latents(1), normal_latents(1).expand(6, -1, -1, -1)], ids=["one", "all equal"]
)
def test_a_gaussian_of_images_without_variation_is_finite(known: Tensor) -> None:
    detector = fitted(GaussianDetector(SPATIAL), known)
    assert detector(normal_latents(2, seed=1)).map.isfinite().all()
    assert detector(known).map.abs().max() < detector(normal_latents(2, seed=1)).map.min()


# --- all of them ---


@EVERY_DETECTOR
@settings(max_examples=10)
@given(st.integers(0, 4), st.integers(0, 5))
def test_a_changed_token_stands_out_at_its_place(
    make: Callable[[Sequence[int]], DistanceDetector], row: int, column: int
) -> None:
    detector = fitted(make(SPATIAL), normal_latents(20))
    detector.calibrate(normal_latents(20, seed=1))
    new = normal_latents(3, seed=2)
    spoilt = new.clone()
    spoilt[:, :, row, column] += 20
    detection = detector(spoilt)
    assert detection.map.shape == (3, 1, 5, 6)
    assert detection.map.flatten(1).argmax(1).tolist() == [6 * row + column] * 3
    assert (detection.score > detector(new).score).all()


@EVERY_DETECTOR
def test_scores_are_those_of_the_highest_tokens(make: Callable[[Sequence[int]], DistanceDetector]) -> None:
    detector = fitted(make(SPATIAL), normal_latents(20))
    detection = detector(normal_latents(6, seed=1))
    highest = detection.map.flatten(1).sort(1, descending=True).values[:, :TOP_TOKENS]
    torch.testing.assert_close(detection.score, highest.mean(1))


@EVERY_DETECTOR
def test_flat_latents_are_one_token(make: Callable[[Sequence[int]], DistanceDetector]) -> None:
    detector = fitted(make(FLAT), normal_latents(30, FLAT))
    detector.calibrate(normal_latents(30, FLAT, seed=1))
    new = normal_latents(8, FLAT, seed=2)
    score, heat = detector(new)
    assert heat.shape == (8, 1, 1, 1)
    assert torch.equal(heat.flatten(), score)
    assert detector(new + 20).score.min() > score.max()


@EVERY_DETECTOR
@BOTH_SHAPES
def test_zero_is_further_out_than_95_percent_of_normals(
    make: Callable[[Sequence[int]], DistanceDetector], shape: tuple[int, ...]
) -> None:
    detector, held_out = fitted(make(shape), normal_latents(30, shape)), normal_latents(60, shape, seed=1)
    detector.calibrate(held_out)
    score = detector(held_out).score
    assert int((score < 0).sum()) == 57
    assert float(score.quantile(0.95)) == pytest.approx(0, abs=1e-4)
    assert float(score.std(correction=0)) == pytest.approx(1, abs=1e-3)
    detector.calibrate(held_out)
    torch.testing.assert_close(detector(held_out).score, score, atol=1e-4, rtol=1e-4)


@EVERY_DETECTOR
def test_one_image_is_enough_to_calibrate(make: Callable[[Sequence[int]], DistanceDetector]) -> None:
    detector, one = fitted(make(SPATIAL), normal_latents(20)), normal_latents(1, seed=1)
    detector.calibrate(one)
    assert float(detector(one).score) == pytest.approx(0, abs=1e-4)
    assert detector(normal_latents(4, seed=2)).map.isfinite().all()


def as_source(path: Path, streamed: bool) -> ImageSource:
    kept = np.load(path, mmap_mode="r")
    return StreamedImages(kept, CPU) if streamed else torch.from_numpy(np.array(kept))


@EVERY_DETECTOR
@BOTH_SHAPES
def test_where_latents_are_kept_does_not_matter(
    make: Callable[[Sequence[int]], DistanceDetector], shape: tuple[int, ...], tmp_path: Path
) -> None:
    # More images than are read at once, in half precision as in a run's folder.
    for name, latents in (
        ("known", normal_latents(90, shape)),
        ("held_out", normal_latents(40, shape, seed=1)),
    ):
        np.save(tmp_path / f"{name}.npy", latents.numpy().astype(np.float16))
    new, answers = normal_latents(5, shape, seed=2), []
    for streamed in (False, True):
        known, held_out = (as_source(tmp_path / f"{name}.npy", streamed) for name in ("known", "held_out"))
        detector = fitted(make(shape), known)
        detector.calibrate(held_out)
        answers.append(detector(new))
    assert answers[0].map.dtype == torch.float32
    assert torch.equal(answers[0].map, answers[1].map)
    assert torch.equal(answers[0].score, answers[1].score)
    whole = fitted(make(shape), normal_latents(90, shape))
    whole.calibrate(normal_latents(40, shape, seed=1))
    deviation = (whole(new).score - answers[0].score).abs()
    assert deviation.max() < 0.2  # half precision loses little


@EVERY_DETECTOR
@BOTH_SHAPES
def test_saved_and_loaded_they_say_the_same(
    make: Callable[[Sequence[int]], DistanceDetector], shape: tuple[int, ...], tmp_path: Path
) -> None:
    detector = fitted(make(shape), normal_latents(20, shape))
    detector.calibrate(normal_latents(20, shape, seed=1))
    save_detector(tmp_path, detector)
    again = load_detector(tmp_path)
    assert type(again) is type(detector)
    assert again.input_shape == shape
    assert again.hyperparameters() == detector.hyperparameters()
    new = normal_latents(5, shape, seed=2)
    for one, other in zip(detector(new), again(new), strict=True):
        assert torch.equal(one, other)


def change_facts(folder: Path, **changes: Any) -> None:
    """Write facts of a saved detector anew; None takes one away."""
    path = folder / "detector.json"
    description = json.loads(path.read_text())
    description["facts"] |= changes
    description["facts"] = {key: value for key, value in description["facts"].items() if value is not None}
    path.write_text(json.dumps(description))


@EVERY_DETECTOR
@pytest.mark.parametrize("shape", [None, [5, 5, 6], [], {}, "wide", 4, [0.5, 5, 6]])
def test_damaged_facts_are_refused(
    make: Callable[[Sequence[int]], DistanceDetector], shape: object, tmp_path: Path
) -> None:
    save_detector(tmp_path, fitted(make(SPATIAL), normal_latents(20)))
    change_facts(tmp_path, latent_shape=shape)
    with pytest.raises(UserError, match=r"detector\."):
        load_detector(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("knn", {"bank": 7}),
        ("knn", {"bank": -1}),
        ("knn", {"colour": "red"}),
        ("positional_knn", {"memory_size": 7}),
        ("positional_knn", {"memory_size": "all"}),
        ("positional_knn", {"latent_shape": [4, -1, 6]}),
        ("gaussian", {"latent_shape": [4, 6, 6]}),
        ("gaussian", {"bank": 7}),
        ("gaussian", {"architecture": "knn"}),
        ("gaussian", {"architecture": "crystal ball"}),
        ("gaussian", {"architecture": None}),
    ],
)
def test_facts_that_do_not_fit_are_refused(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    save_detector(tmp_path, fitted(MAKERS[name](SPATIAL), normal_latents(20)))
    change_facts(tmp_path, **changes)
    with pytest.raises(UserError, match=r"detector\."):
        load_detector(tmp_path)
