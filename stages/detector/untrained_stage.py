"""TODO: stages/detector/untrained_stage.py."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from torch import Tensor

from conf.schema.autoencoders import PretrainedConfig
from conf.schema.detectors import (
    DetectorConfig,
    ReconstructionConfig,
)
from conf.schema.runs import DetectorRun
from detectors.base import Detection
from detectors.blocks.distance import DistanceDetector
from detectors.reconstruction import ReconstructionDetector
from detectors.registry import DISTANCES
from latent_common.errors import UserError
from latent_env.training.evaluation import (
    evaluate_latents,
    evaluate_test,
    log_curves,
    log_evaluation,
    save_scores,
)
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.run_folder import Run
from latent_env.worlds.artifacts import save_detector
from latent_env.worlds.world import World
from stages.context import Job, say
from stages.detector.baselines import fit_distances, fit_reconstruction
from stages.detector.latent_training import (
    check_validation,
)
from stages.detector.stage import autoencoder_and_features
from stages.job_of import autoencoder_plan


def rehearse_distances(job: Job[DetectorRun]) -> None:
    """The same for a detector that is not trained; it makes no world."""
    if job.config.export:
        raise UserError(
            f"export={job.config.export}: detector={job.config.detector.name} makes no environment to "
            "export; leave it out, or choose detector=transformer"
        )
    config = job.config.detector
    if not isinstance(config, ReconstructionConfig) and config.name not in DISTANCES:
        raise UserError(f"detector.name={config.name} is unknown: choose among {', '.join(DISTANCES)}")
    check_validation(job)
    if without_decoder(job):
        autoencoder_plan(job).untrained_encoder()
    else:
        autoencoder_plan(job).untrained()
    if isinstance(config, ReconstructionConfig):
        new_error(job)


def without_decoder(job: Job[DetectorRun]) -> bool:
    """Whether a detector that measures distances needs no autoencoder to be trained first."""
    pretrained = isinstance(job.config.autoencoder, PretrainedConfig)
    return pretrained and not isinstance(job.config.detector, ReconstructionConfig)


def distance_settings(job: Job[DetectorRun]) -> dict[str, Any]:
    """All that decides what such a detector becomes: nothing of a decoder that it doesn't need."""
    plan = autoencoder_plan(job)
    before = plan.encoder_settings() if without_decoder(job) else plan.settings()
    return {**before, "detector": asdict(job.config.detector)}


def new_distances(config: DetectorConfig, features: FeatureCache) -> DistanceDetector:
    """The detector before it has seen anything."""
    shared = {field.name for field in fields(DetectorConfig)}
    own = {key: value for key, value in asdict(config).items() if key not in shared}
    return DISTANCES[config.name](features.encoder.latent_shape, **own)


def distance_stage(job: Job[DetectorRun]) -> Run:
    """A detector that needs no training and no decoder, on the latents of the eyes alone."""
    config = job.config.detector
    features = autoencoder_plan(job).features()
    run = job.run("detector", config.name, distance_settings(job))
    if run.complete:
        say(f"detector: using {run.path}")
        return run
    run.begin()
    detector = fit_distances(new_distances(config, features), features, job.config.seed)
    save_detector(run.path, detector)
    evaluation = evaluate_latents(detector, features.latents("test"), job.dataset.test, "test")

    def show(images: Tensor) -> tuple[Detection, None]:
        return detector(features.encoder.encode(images)), None

    log_evaluation(run, evaluation, show, job.device, 0)
    save_scores(run.path, evaluation.split.labels, scores=evaluation.scores)
    log_curves(run, {config.name: evaluation}, 0)
    run.finish(evaluation.metrics)
    return run


def new_error(job: Job[DetectorRun]) -> ReconstructionDetector:
    """The judge of an autoencoder's error, before it knows what error is usual."""
    config = job.config.detector
    assert isinstance(config, ReconstructionConfig)
    channels, size = job.dataset.channels, job.dataset.size
    return ReconstructionDetector(channels, size, config.position_wise, config.pooled)


def reconstruction_stage(job: Job[DetectorRun]) -> Run:
    """The same for the autoencoder's own error, which takes an encoder and a decoder."""
    config = job.config.detector
    run = job.run("detector", config.name, distance_settings(job))
    if run.complete:
        say(f"detector: using {run.path}")
        return run
    autoencoder, features = autoencoder_and_features(job)
    run.begin()
    detector = new_error(job)
    fit_reconstruction(detector, autoencoder, features)
    save_detector(run.path, detector)
    world = World.build(autoencoder, detector, job.train_images[:1], job.device)
    evaluation = evaluate_test(world, features)
    log_evaluation(run, evaluation, world.detect_and_reconstruct, job.device, 0)
    save_scores(run.path, evaluation.split.labels, scores=evaluation.scores)
    log_curves(run, {config.name: evaluation}, 0)
    run.finish(evaluation.metrics)
    return run
