"""Detectors that are fitted to normal images: as baselines, as members of an ensemble, or by themselves."""

from __future__ import annotations

from collections.abc import Sequence

from detectors.base import FEATURES, LATENT
from detectors.distances.base import DistanceDetector
from detectors.distances.knn import KnnDetector
from detectors.distances.whitened import WhitenedDetector
from detectors.reconstruction import ReconstructionDetector
from detectors.registry import DISTANCE_DETECTORS, RECONSTRUCTION
from latent_common.errors import UserError
from latent_common.image_source import evenly_spaced
from latent_common.progress import progress_bar
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.data.placement import StreamedImages
from latent_env.training.evaluation import Evaluation, evaluate, evaluate_latents
from latent_env.training.feature_cache import FeatureCache
from latent_env.worlds.world import World

MOST_FITTED = 1024
"""Of more training images, the error is measured on so many evenly spaced ones."""


def check_baselines(names: Sequence[str]) -> None:
    """Refuse names of baselines that don't exist."""
    for name in names:
        if name not in (RECONSTRUCTION, *DISTANCE_DETECTORS):
            offered = ", ".join((RECONSTRUCTION, *DISTANCE_DETECTORS))
            raise UserError(f"detector.baselines={name} is unknown: choose among {offered}")


def fit_distances(detector: DistanceDetector, features: FeatureCache, seed: int) -> DistanceDetector:
    """``detector``, fitted to the normal training latents and calibrated on normal validation latents."""
    detector = detector.to(features.device)
    train, scales = features.latents("train"), features.encoder.natural_scales
    if isinstance(detector, KnnDetector):
        with progress_bar("memory bank", detector.bank_size) as bar:
            detector.fit(train, scales, seed, bar.update)
            bar.update(detector.bank_size - bar.n)
    else:
        detector.fit(train, scales, seed)
    detector.calibrate(features.normal_validation())
    return detector.requires_grad_(False).eval()


def fitted_distances(name: str, features: FeatureCache, seed: int, reads: str) -> DistanceDetector:
    """The detector ``name`` with its defaults, fitted to ``features``; asked again, the same one comes back.

    It depends on nothing that is trained beside it.

    :param reads: what the detectors beside it read: images have latents too, which it then reads.
    """
    tokens = FEATURES if reads == FEATURES else LATENT
    if (name, seed) not in features.fitted:
        features.fitted[name, seed] = fit_distances(
            DISTANCE_DETECTORS[name](features.encoder.latent_shape, reads=tokens), features, seed
        )
    return features.fitted[name, seed]


def fit_whitening(detector: WhitenedDetector, features: FeatureCache, seed: int) -> None:
    """Fit ``detector`` to the normal training latents; what another found on them is used again."""
    known = features.whitening
    if known is None:
        detector.fit(features.latents("train"), features.encoder.natural_scales, seed)
        features.whitening = detector.statistics()
    else:
        detector.take(known)


def fit_reconstruction(
    detector: ReconstructionDetector, autoencoder: FrozenAutoencoder, features: FeatureCache
) -> ReconstructionDetector:
    """``detector``, fitted to errors of normal training images, calibrated on normal validation images."""
    detector = detector.to(features.device)
    if detector.position_wise:
        train = StreamedImages(features.dataset.train.images, features.device)
        detector.fit(evenly_spaced(train, MOST_FITTED), autoencoder)
    detector.calibrate(features.normal_validation_images(), autoencoder)
    return detector.requires_grad_(False).eval()


def evaluate_baselines(
    names: Sequence[str], world: World, features: FeatureCache, seed: int
) -> dict[str, Evaluation]:
    """How well each of the named baselines does on the test split, on ``features``: what ``world`` reads."""
    found = {}
    for name in names:
        if name == RECONSTRUCTION:
            error = ReconstructionDetector(features.dataset.channels, features.dataset.size)
            baseline = world.with_detector(fit_reconstruction(error, world.autoencoder, features))
            found[name] = evaluate(baseline, features.dataset.test, label=f"test, {name}")
            continue
        detector = fitted_distances(name, features, seed, world.detector.input)
        found[name] = evaluate_latents(
            detector, features.latents("test"), features.dataset.test, f"test, {name}"
        )
    return found
