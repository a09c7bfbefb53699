"""Detectors that only measure how far from normal something is: second opinions on the same images."""

from __future__ import annotations

from collections.abc import Sequence

from detectors.distance import DistanceDetector
from detectors.knn import KnnDetector
from detectors.reconstruction import ReconstructionDetector
from detectors.registry import DISTANCES, RECONSTRUCTION
from latent_common.errors import UserError
from latent_common.image_source import spread_over
from latent_common.progress import progress_bar
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.data.residence import StreamedImages
from latent_env.training.evaluation import Evaluation, evaluate, evaluate_latents
from latent_env.training.feature_cache import Eyes
from latent_env.worlds.world import World

MOST_FITTED = 1024
"""Of more training images, so many evenly spaced ones say what error is usual."""


def check_rivals(names: Sequence[str]) -> None:
    """Complain about a rival that doesn't exist."""
    for name in names:
        if name not in (RECONSTRUCTION, *DISTANCES):
            known = ", ".join((RECONSTRUCTION, *DISTANCES))
            raise UserError(f"detector.rivals={name} is unknown: choose among {known}")


def fit_distances(detector: DistanceDetector, eyes: Eyes, seed: int) -> DistanceDetector:
    """``detector`` after a look at the normal training latents; its zero comes from validation."""
    detector = detector.to(eyes.device)
    train, scales = eyes.latents("train"), eyes.encoder.natural_scales
    if isinstance(detector, KnnDetector):
        with progress_bar("memory bank", detector.bank_size) as bar:
            detector.fit(train, scales, seed, bar.update)
            bar.update(detector.bank_size - bar.n)
    else:
        detector.fit(train, scales, seed)
    detector.calibrate(eyes.normal_validation())
    return detector.requires_grad_(False).eval()


def usual_distances(name: str, eyes: Eyes, seed: int) -> DistanceDetector:
    """The detector ``name`` as it is by default, fitted to these eyes; whoever asks again gets the same one.

    What it knows doesn't depend on anything that is trained beside it.
    """
    if (name, seed) not in eyes.fitted:
        eyes.fitted[name, seed] = fit_distances(DISTANCES[name](eyes.encoder.latent_shape), eyes, seed)
    return eyes.fitted[name, seed]


def fit_reconstruction(
    detector: ReconstructionDetector, autoencoder: FrozenAutoencoder, eyes: Eyes
) -> ReconstructionDetector:
    """``detector`` after a look at normal images; its zero comes from validation."""
    detector = detector.to(eyes.device)
    if detector.by_place:
        train = StreamedImages(eyes.dataset.train.images, eyes.device)
        detector.fit(spread_over(train, MOST_FITTED), autoencoder)
    detector.calibrate(eyes.normal_validation_images(), autoencoder)
    return detector.requires_grad_(False).eval()


def judge_rivals(names: Sequence[str], world: World, eyes: Eyes, seed: int) -> dict[str, Evaluation]:
    """What each of the named rivals says of the test split, with the world's eyes."""
    found = {}
    for name in names:
        if name == RECONSTRUCTION:
            error = ReconstructionDetector(eyes.dataset.channels, eyes.dataset.size)
            rival = world.with_detector(fit_reconstruction(error, world.autoencoder, eyes))
            found[name] = evaluate(rival, eyes.dataset.test, label=f"test, {name}")
            continue
        detector = usual_distances(name, eyes, seed)
        found[name] = evaluate_latents(detector, eyes.latents("test"), eyes.dataset.test, f"test, {name}")
    return found
