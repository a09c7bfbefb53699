"""All detectors by the names that artifacts store, and how one is built again from what an artifact holds."""

from __future__ import annotations

from typing import Any

from torch import nn

from detectors.base import Detector
from detectors.blocks.distance import DistanceDetector
from detectors.gaussian import GaussianDetector
from detectors.knn import KnnDetector
from detectors.latent_transformer import LatentTransformerDetector
from detectors.positional_knn import PositionalKnnDetector
from detectors.rdna import RdnaDetector
from detectors.reconstruction import ReconstructionDetector
from detectors.supersimple import SuperSimpleDetector
from detectors.transformer import TransformerDetector

DISTANCE_DETECTORS: dict[str, type[DistanceDetector]] = {
    "knn": KnnDetector,
    "positional_knn": PositionalKnnDetector,
    "gaussian": GaussianDetector,
}
"""Detectors that measure distances between latents; they are built from a latent's shape."""

RECONSTRUCTION, RDNA, SUPERSIMPLE = "reconstruction", "rdna", "supersimple"

DETECTORS: dict[str, type[nn.Module]] = {
    "transformer": TransformerDetector,
    "latent_transformer": LatentTransformerDetector,
    RDNA: RdnaDetector,
    SUPERSIMPLE: SuperSimpleDetector,
    RECONSTRUCTION: ReconstructionDetector,
    **DISTANCE_DETECTORS,
}
"""All but ensembles, which hold some of these; they are built from their ``hyperparameters()``."""


def describe(detector: Detector) -> dict[str, Any]:
    """The arguments with which :func:`build` makes an untrained detector like this one."""
    name = next(name for name, kind in DETECTORS.items() if isinstance(detector, kind))
    return {"architecture": name, **detector.hyperparameters()}


def build(architecture: str, **hyperparameters: Any) -> Any:
    """An untrained detector, from the arguments that :func:`describe` returned."""
    return DETECTORS[architecture](**hyperparameters)
