"""Detectors that are fitted to normal images: distances in latents, and the autoencoder's error."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from conf.schema.detectors import DetectorConfig, ReconstructionConfig
from detectors.base import Detection
from detectors.blocks.distance import DistanceDetector
from detectors.reconstruction import ReconstructionDetector
from detectors.registry import DISTANCE_DETECTORS
from latent_common.errors import UserError
from latent_env.training.evaluation import (
    Evaluation,
    evaluate_latents,
    evaluate_test,
    log_curves,
    log_evaluation,
    save_scores,
)
from latent_env.training.run_folder import Run
from latent_env.worlds.artifacts import save_detector
from latent_env.worlds.world import World
from stages.context import say
from stages.detector.base import DetectorPlan, FinishedDetector
from stages.detector.baselines import fit_distances, fit_reconstruction


class FittedPlan(DetectorPlan):
    """A detector that learns from normal images alone."""

    def train(self) -> FinishedDetector:
        """The detector: found if an earlier command fitted it, else fitted now."""
        run = self.run_folder()
        if run.complete:
            say(f"detector: using {run.path}")
        else:
            run.finish(self._fit(run).metrics)
        return FinishedDetector(self.config.name, run)

    @abstractmethod
    def _fit(self, run: Run) -> Evaluation:
        """Fit the detector, keep it and what is shown of it in ``run``, and evaluate it on the test split."""


class DistancePlan(FittedPlan):
    """A detector of distances in latents: it needs an encoder, and no decoder."""

    def settings(self) -> dict[str, Any]:
        """All that decides what the detector becomes."""
        return {**self.autoencoder.encoder_settings(), "detector": asdict(self.config)}

    def untrained(self) -> DistanceDetector:
        """The detector before it has seen an image, for latents of an untrained encoder."""
        return new_distance_detector(self.config, self.autoencoder.untrained_encoder().latent_shape)

    def _fit(self, run: Run) -> Evaluation:
        features, test = self.autoencoder.features(), self.data.dataset.test
        run.begin()
        detector = new_distance_detector(self.config, features.encoder.latent_shape)
        fit_distances(detector, features, self.context.seed)
        save_detector(run.path, detector)
        evaluation = evaluate_latents(detector, features.latents("test"), test, "test")

        def show(images: Tensor) -> tuple[Detection, None]:
            return detector(features.encoder.encode(images)), None

        log_evaluation(run, evaluation, show, self.context.device, 0)
        save_scores(run.path, test.labels, scores=evaluation.scores)
        log_curves(run, {self.config.name: evaluation}, 0)
        return evaluation


@dataclass(frozen=True)
class ReconstructionPlan(FittedPlan):
    """The error of the autoencoder: it needs an encoder and a decoder."""

    config: ReconstructionConfig

    def settings(self) -> dict[str, Any]:
        """All that decides what the detector becomes."""
        return {**self.autoencoder.settings(), "detector": asdict(self.config)}

    def untrained(self) -> ReconstructionDetector:
        """The detector before it has seen an image."""
        channels, size = self.data.dataset.channels, self.data.dataset.size
        return ReconstructionDetector(channels, size, self.config.position_wise, self.config.pooling)

    def _fit(self, run: Run) -> Evaluation:
        autoencoder, features = self.autoencoder.train().model, self.autoencoder.features()
        run.begin()
        detector = fit_reconstruction(self.untrained(), autoencoder, features)
        save_detector(run.path, detector)
        world = World.build(autoencoder, detector, self.data.images[:1], self.context.device)
        evaluation = evaluate_test(world, features)
        log_evaluation(run, evaluation, world.detect_and_reconstruct, self.context.device, 0)
        save_scores(run.path, evaluation.split.labels, scores=evaluation.scores)
        log_curves(run, {self.config.name: evaluation}, 0)
        return evaluation


def new_distance_detector(config: DetectorConfig, latent_shape: Sequence[int]) -> DistanceDetector:
    """The detector that ``config`` names, before it has seen anything."""
    if config.name not in DISTANCE_DETECTORS:
        raise UserError(
            f"detector.name={config.name} is unknown: choose among {', '.join(DISTANCE_DETECTORS)}"
        )
    shared = {field.name for field in fields(DetectorConfig)}
    own = {key: value for key, value in asdict(config).items() if key not in shared}
    return DISTANCE_DETECTORS[config.name](latent_shape, **own)
