"""Detectors that only measure how far from normal something is: second opinions on the same latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from detectors.distance import DistanceDetector
from detectors.errors import UserError
from detectors.gaussian import GaussianDetector
from detectors.knn import KnnDetector
from detectors.knn_by_place import KnnByPlaceDetector
from latent_env.evaluation import Evaluation, evaluate_latents
from latent_env.latents import Eyes
from latent_env.progress import progress_bar

RIVALS: dict[str, Callable[[Sequence[int]], DistanceDetector]] = {
    "knn": KnnDetector,
    "knn_by_place": KnnByPlaceDetector,
    "gaussian": GaussianDetector,
}


def check_rivals(names: Sequence[str]) -> None:
    """Complain about a rival that doesn't exist."""
    for name in names:
        if name not in RIVALS:
            raise UserError(f"detector.rivals={name} is unknown: choose among {', '.join(RIVALS)}")


def fit_distances(detector: DistanceDetector, eyes: Eyes, scales: Tensor, seed: int) -> DistanceDetector:
    """``detector`` after a look at the normal training latents; its zero comes from validation."""
    detector = detector.to(eyes.device)
    train = eyes.latents("train")
    if isinstance(detector, KnnDetector):
        with progress_bar("memory bank", detector.bank_size) as bar:
            detector.fit(train, scales, seed, bar.update)
            bar.update(detector.bank_size - bar.n)
    else:
        detector.fit(train, scales, seed)
    detector.calibrate(eyes.normal_validation())
    return detector.requires_grad_(False).eval()


def judge_rivals(names: Sequence[str], eyes: Eyes, scales: Tensor, seed: int) -> dict[str, Evaluation]:
    """What each of the named rivals says of the test split, from the same latents."""
    found = {}
    for name in names:
        detector = fit_distances(RIVALS[name](eyes.encoder.latent_shape), eyes, scales, seed)
        found[name] = evaluate_latents(detector, eyes.latents("test"), eyes.dataset.test, f"test, {name}")
    return found
