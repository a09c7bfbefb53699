"""All detectors by the names that artifacts store, and how one is built again from what an artifact holds."""

from __future__ import annotations

from typing import Any

from torch import nn

from detectors.base import Detector
from detectors.distances.base import DistanceDetector
from detectors.distances.gaussian import GaussianDetector
from detectors.distances.knn import KnnDetector
from detectors.distances.positional_knn import PositionalKnnDetector
from detectors.latent_transformer import LatentTransformerDetector
from detectors.probe import ProbeDetector
from detectors.rdna import RdnaDetector
from detectors.reconstruction import ReconstructionDetector
from detectors.segmenter import SegmenterDetector
from detectors.supersimple import SuperSimpleDetector
from detectors.transformer import TransformerDetector

DISTANCE_DETECTORS: dict[str, type[DistanceDetector]] = {
    "knn": KnnDetector,
    "positional_knn": PositionalKnnDetector,
    "gaussian": GaussianDetector,
}
"""Detectors that measure distances between latents; they are built from a latent's shape."""

RECONSTRUCTION, RDNA, SUPERSIMPLE = "reconstruction", "rdna", "supersimple"
PROBE, SEGMENTER = "probe", "segmenter"

DETECTORS: dict[str, type[nn.Module]] = {
    "transformer": TransformerDetector,
    "latent_transformer": LatentTransformerDetector,
    RDNA: RdnaDetector,
    SUPERSIMPLE: SuperSimpleDetector,
    RECONSTRUCTION: ReconstructionDetector,
    PROBE: ProbeDetector,
    SEGMENTER: SegmenterDetector,
    **DISTANCE_DETECTORS,
}
"""All but ensembles, which hold some of these; they are built from their ``hyperparameters()``."""


def describe(detector: Detector) -> dict[str, Any]:
    """The arguments with which :func:`build` makes an untrained detector like this one."""
    own: type[Any] = type(detector)  # not by isinstance: a probe is a Gaussian too
    name = next(name for name, kind in DETECTORS.items() if own is kind)
    return {"architecture": name, **detector.hyperparameters()}


def build(architecture: str, **hyperparameters: Any) -> Any:
    """An untrained detector, from the arguments that :func:`describe` returned."""
    return DETECTORS[architecture](**hyperparameters)
