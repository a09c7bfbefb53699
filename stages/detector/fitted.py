"""Detectors that are fitted to normal images: distances in latents, and the autoencoder's error."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from conf.schema.detectors import ReconstructionConfig, TokenDetectorConfig
from detectors.base import TOKENS, Detection
from detectors.distances.base import DistanceDetector
from detectors.reconstruction import ReconstructionDetector
from detectors.registry import DISTANCE_DETECTORS
from latent_common.errors import UserError
from latent_common.progress import say
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.autoencoders.pretrained import PretrainedEncoder
from latent_env.training.evaluation import (
    Evaluation,
    Examine,
    evaluate_latents,
    evaluate_test,
    log_curves,
    log_evaluation,
    save_scores,
)
from latent_env.worlds.artifacts import load_detector, save_autoencoder, save_backbone, save_detector
from latent_env.worlds.decision import save_decision
from latent_env.worlds.thresholds import Decision
from latent_env.worlds.world import World
from stages.autoencoder.base import AutoencoderPlan
from stages.detector.base import DetectorPlan, FinishedDetector
from stages.detector.baselines import fit_distances, fit_reconstruction
from stages.detector.decisions import decide
from stages.detector.labelled_split import Positions
from stages.features import FeaturePlan


class FittedPlan(DetectorPlan):
    """A detector that learns from normal images alone."""

    def train(self) -> FittedDetector:
        """The detector: found if an earlier command fitted it, else fitted now."""
        run = self.run_folder()
        with run.claimed() as missing:
            if missing:
                detector = self._fit()
                run.begin()
                save_detector(run.path, detector)
                self.save_encoder(run.path)
                decision = self.decide(detector)
                assert decision is not None  # without normal validation images there is no such plan
                save_decision(run.path, decision)
                run.finish({})
            else:
                say(f"detector: using {run.path}")
        return FittedDetector(self.config.name, run, self)

    @abstractmethod
    def score_test(self, detector: Any) -> tuple[Evaluation, Examine]:
        """What ``detector`` gives on the test split, and what shows pictures of it."""

    @abstractmethod
    def save_encoder(self, folder: Path) -> None:
        """Write what makes the detector's inputs beside it, so that ``folder`` alone can predict."""

    @abstractmethod
    def decide(self, detector: Any) -> Decision | None:
        """What thresholds of ``detector`` are chosen by."""

    def labelled(self) -> Positions:
        """Positions of the labelled validation anomalies, of which such a detector learns from none."""
        return np.flatnonzero(self.data.dataset.valid.labels)

    @abstractmethod
    def _fit(self) -> Any:
        """The detector after a look at the normal images."""


@dataclass(frozen=True)
class FittedDetector(FinishedDetector):
    """A detector that was fitted, and the plan that knows what it reads."""

    plan: FittedPlan

    def _evaluate(self) -> dict[str, float]:
        device, detector = self.plan.context.device, load_detector(self.run.path)
        assert isinstance(detector, nn.Module)
        evaluation, show = self.plan.score_test(detector.to(device))
        log_evaluation(self.run, evaluation, show, device, 0)
        save_scores(self.run.path, evaluation.split.labels, scores=evaluation.scores)
        log_curves(self.run, {self.name: evaluation}, 0)
        return evaluation.metrics


@dataclass(frozen=True)
class DistancePlan(FittedPlan):
    """A detector of distances between tokens: it needs an encoder, and no decoder."""

    config: TokenDetectorConfig
    backbone: FeaturePlan | None
    """What makes the tokens; None where the autoencoder's latents are the tokens."""

    @property
    def encoder(self) -> AutoencoderPlan | FeaturePlan:
        """What makes the tokens that the detector reads."""
        return self.backbone or self.autoencoder

    def settings(self) -> dict[str, Any]:
        """All that decides what the detector becomes."""
        return {**self.encoder.encoder_settings(), "detector": self.config.settings()}

    def untrained(self) -> DistanceDetector:
        """The detector before it has seen an image, for tokens of an untrained encoder."""
        return new_distance_detector(self.config, self.encoder.untrained_encoder().latent_shape)

    def score_test(self, detector: DistanceDetector) -> tuple[Evaluation, Examine]:
        """What ``detector`` gives on the test split, and what shows pictures of it: no reconstruction."""
        features = self.encoder.features()
        evaluation = evaluate_latents(detector, features.latents("test"), self.data.dataset.test, "test")

        def show(images: Tensor) -> tuple[Detection, None]:
            return detector(features.encoder.encode(images)), None

        return evaluation, show

    def save_encoder(self, folder: Path) -> None:
        """Write the encoder: a backbone, or an autoencoder whose latents are compared."""
        encoder = self.encoder.features().encoder
        if isinstance(encoder, FrozenAutoencoder):
            save_autoencoder(folder, encoder)
        else:
            assert isinstance(encoder, PretrainedEncoder)
            save_backbone(folder, encoder)

    def decide(self, detector: DistanceDetector) -> Decision | None:
        """What thresholds of ``detector`` are chosen by."""
        return decide(detector, lambda tokens: (tokens,), self.encoder.features(), self.labelled())

    def _fit(self) -> DistanceDetector:
        features = self.encoder.features()
        detector = new_distance_detector(self.config, features.encoder.latent_shape)
        return fit_distances(detector, features, self.context.seed)


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

    def score_test(self, detector: ReconstructionDetector) -> tuple[Evaluation, Examine]:
        """What ``detector`` gives on the test split, and what shows pictures of it."""
        autoencoder, features = self.autoencoder.train().model, self.autoencoder.features()
        world = World.build(autoencoder, detector, self.data.images[:1], self.context.device)
        return evaluate_test(world, features), world.detect_and_reconstruct

    def save_encoder(self, folder: Path) -> None:
        """Write the autoencoder, whose error is measured."""
        save_autoencoder(folder, self.autoencoder.train().model)

    def decide(self, detector: ReconstructionDetector) -> Decision | None:
        """What thresholds of ``detector`` are chosen by."""
        autoencoder, features = self.autoencoder.train().model, self.autoencoder.features()
        read = partial(autoencoder.detector_inputs, reads=detector.input)
        return decide(detector, read, features, self.labelled())

    def _fit(self) -> ReconstructionDetector:
        autoencoder, features = self.autoencoder.train().model, self.autoencoder.features()
        return fit_reconstruction(self.untrained(), autoencoder, features)


def new_distance_detector(config: TokenDetectorConfig, latent_shape: Sequence[int]) -> DistanceDetector:
    """The detector that ``config`` names, before it has seen anything."""
    if config.name not in DISTANCE_DETECTORS:
        raise UserError(
            f"detector.name={config.name} is unknown: choose among {', '.join(DISTANCE_DETECTORS)}"
        )
    if config.input not in TOKENS:
        raise UserError(
            f"detector.input={config.input}: detector={config.name} compares tokens; choose latent, or "
            "features with detector.backbone"
        )
    shared = {field.name for field in fields(TokenDetectorConfig)}
    own = {key: value for key, value in asdict(config).items() if key not in shared}
    return DISTANCE_DETECTORS[config.name](latent_shape, reads=config.input, **own)
