"""How a command's detector learns, from images or from latents, and what it learns from."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from conf.schema.detectors import EnsembleConfig, RdnaConfig, TrainedConfig, TransformerConfig
from conf.schema.runs import DetectorRun
from detectors.base import LATENT, Detector
from detectors.ensemble import EnsembleDetector
from detectors.latent_transformer import LatentTransformer
from detectors.rdna import RdnaDetector
from detectors.training.batches import BatchSampler
from detectors.training.loop import train_detector
from detectors.training.samples import SampleSource, make_mixture
from detectors.transformer import TransformerDetector
from latent_common.image_source import evenly_spaced, images_at_once
from latent_common.training_state import TrainingState
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.training.evaluation import evaluate_source
from latent_env.training.feature_cache import Encoder, FeatureCache
from latent_env.training.loop import follow
from latent_env.training.run_folder import Run
from latent_env.worlds.world import World
from stages.context import Job
from stages.detector.ensemble import build_ensemble
from stages.detector.latent_training import make_synthesis, train_on_latents
from stages.detector.rdna_training import new_rdna, train_restoration
from stages.detector.validation_sets import labelled_samples, seen, training_steps, validation_every

CALIBRATION_IMAGES, CALIBRATION_BYTES = 2048, 2**28
"""So many normal images say well enough what is usual, and they fit in memory as floats."""


Trained = TransformerDetector | LatentTransformer | RdnaDetector


def new_detector(job: Job[DetectorRun], features: Encoder) -> Trained:
    """The detector before it has learned anything; the same weights for the same seed."""
    config = job.config.detector
    if isinstance(config, RdnaConfig):
        return new_rdna(job, config)
    assert isinstance(config, TransformerConfig)
    if config.input == LATENT:
        return job.build(
            lambda: LatentTransformer(
                features.latent_shape,
                min(config.memory_size, len(job.train_images)),
                config.width,
                config.depth,
                config.heads,
            )
        ).to(job.device)
    channels, size = job.dataset.channels, job.dataset.size
    return job.build(
        lambda: TransformerDetector(channels, size, config.patch, config.width, config.depth, config.heads)
    ).to(job.device)


def train_one_detector(
    job: Job[DetectorRun],
    run: Run,
    autoencoder: FrozenAutoencoder,
    features: FeatureCache,
    label: str,
    sample_sources: Sequence[SampleSource] = (),
) -> Trained | EnsembleDetector:
    """A detector trained from scratch, on ``sample_sources`` of samples too if there are any.

    Whatever the samples, it begins with the same weights and takes the same number of steps. An ensemble's
    second detector and its weights are chosen anew for it.
    """
    trained = train_single_detector(job, run, autoencoder, features, label, sample_sources)
    if not isinstance(job.config.detector, EnsembleConfig):
        return trained

    def train(config: RdnaConfig, own: Run) -> Detector:
        other = with_detector(job, config)
        return train_single_detector(
            other, own, autoencoder, features, f"{label}, {config.name}", sample_sources
        )

    return build_ensemble(job, run, trained, autoencoder, features, train)


def with_detector(job: Job[DetectorRun], config: RdnaConfig) -> Job[DetectorRun]:
    """The same command with another detector; what it has loaded already stays loaded."""
    other = copy(job)
    other.config = replace(job.config, detector=config)
    return other


def train_single_detector(
    job: Job[DetectorRun],
    run: Run,
    autoencoder: FrozenAutoencoder,
    features: FeatureCache,
    label: str,
    sample_sources: Sequence[SampleSource] = (),
) -> Trained:
    """The same without a second opinion; labelled anomalies are always among what it learns from."""
    config = job.config.detector
    assert isinstance(config, TrainedConfig)
    known = labelled_samples(job, features, config.input)
    labelled = [] if known is None else [SampleSource(known, job.config.labelled.weight)]
    samples = make_mixture([*sample_sources, *labelled])
    detector = new_detector(job, autoencoder)
    if isinstance(detector, LatentTransformer):
        return train_on_latents(job, run, detector, features, label, samples)
    sampler = BatchSampler(
        job.train_images, make_synthesis(job), samples, job.augmentation.with_masks, autoencoder
    )
    if isinstance(config, RdnaConfig) and isinstance(detector, RdnaDetector):
        return train_restoration(job, config, run, detector, sampler, features, label)
    assert isinstance(detector, TransformerDetector)
    return train_on_images(job, run, detector, autoencoder, sampler, features, label)


def train_on_images(
    job: Job[DetectorRun],
    run: Run,
    detector: TransformerDetector,
    autoencoder: FrozenAutoencoder,
    sampler: BatchSampler,
    features: FeatureCache,
    label: str,
) -> TransformerDetector:
    """A transformer of images and their reconstructions after its training on ``sampler``."""
    config = job.config.detector
    assert isinstance(config, TransformerConfig)
    world = World.build(autoencoder, detector, job.train_images[:1], job.device)
    calibrate(job, detector, autoencoder)
    learning = (config.learning_rate, training_steps(job), job.config.seed, job.config.precision)
    state = TrainingState(detector, *learning)
    split, images = seen(job, features, "choice", config.input)

    def validate() -> dict[str, float]:
        detector.eval()
        metrics = evaluate_source(detector, world.detector_inputs, images, split).metrics
        detector.train()
        return {f"valid/{name}": value for name, value in metrics.items()}

    training = train_detector(
        state, detector, sampler, lambda batch: world.detector_inputs(batch.images), config.batch_size
    )
    follow(run, label, training, state, validate, validation_every(job, split))
    return detector.requires_grad_(False).eval()


def calibrate(job: Job[DetectorRun], detector: TransformerDetector, autoencoder: FrozenAutoencoder) -> None:
    """Show the detector what is usual in normal images and in their reconstructions."""
    channels, size = job.dataset.channels, job.dataset.size
    fitting = CALIBRATION_BYTES // (channels * size**2 * 4)
    known = evenly_spaced(job.train_images, min(CALIBRATION_IMAGES, fitting)).float() / 255
    with torch.inference_mode():
        parts = known.split(images_at_once(size))
        detector.calibrate(known, torch.cat([autoencoder(part) for part in parts]))


def starting_points(
    job: Job[DetectorRun], autoencoder: FrozenAutoencoder, features: FeatureCache
) -> tuple[Tensor, Tensor | None]:
    """Normal images that episodes start from, and their latents where these are known already."""
    most = job.config.detector.num_start_images
    known = evenly_spaced(features.latents("train"), most) if autoencoder.whitens_itself else None
    return evenly_spaced(job.train_images, most), known
