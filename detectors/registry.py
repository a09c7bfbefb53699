"""The detectors there are, by the names that configurations and artifacts know them by."""

from __future__ import annotations

from typing import Any

from torch import nn

from detectors.base import Detector
from detectors.blocks.distance import DistanceDetector
from detectors.gaussian import GaussianDetector
from detectors.knn import KnnDetector
from detectors.latent_transformer import LatentTransformer
from detectors.positional_knn import PositionalKnnDetector
from detectors.rdna import RdnaDetector
from detectors.reconstruction import ReconstructionDetector
from detectors.transformer import TransformerDetector

DISTANCES: dict[str, type[DistanceDetector]] = {
    "knn": KnnDetector,
    "positional_knn": PositionalKnnDetector,
    "gaussian": GaussianDetector,
}
"""Those that measure distances between latents; they are built from a latent's shape."""

RECONSTRUCTION, RDNA = "reconstruction", "rdna"

SINGLE: dict[str, type[nn.Module]] = {
    "transformer": TransformerDetector,
    "latent_transformer": LatentTransformer,
    RDNA: RdnaDetector,
    RECONSTRUCTION: ReconstructionDetector,
    **DISTANCES,
}
"""All that are not made of others; they are built from their ``hyperparameters()``."""


def describe(detector: Detector) -> dict[str, Any]:
    """What :func:`build` needs to make a detector again."""
    name = next(name for name, kind in SINGLE.items() if isinstance(detector, kind))
    return {"architecture": name, **detector.hyperparameters()}


def build(architecture: str, **hyperparameters: Any) -> Any:
    """The detector that was described, before it has learned anything."""
    return SINGLE[architecture](**hyperparameters)
