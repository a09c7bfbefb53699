"""The parts of a command as one object, and back, for what still asks for that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conf.schema.runs import AutoencoderRun, DetectorRun
from detectors.training.samples import SampleSource
from latent_common.image_source import ImageSource
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.data import Split
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.run_folder import Run
from latent_env.worlds.world import World
from stages.autoencoder.base import AutoencoderPlan
from stages.autoencoder.plan import plan_autoencoder
from stages.context import Context, Job
from stages.datasets import dataset_settings
from stages.detector.labelled_split import LabelledSplit, split_labelled
from stages.detector.trained import TrainedPlan, plan_trained_detector
from stages.detector.trainers.base import DetectorTrainer, Parts
from stages.detector.trainers.factory import new_trainer
from stages.detector.validation_sets import Purpose, validation_inputs
from stages.training_data import TrainingData


def context_of(job: Job[AutoencoderRun]) -> Context:
    """The device, the seed and the folders of a job."""
    config = job.config
    return Context(job.device, config.seed, Path(config.runs), config.precision, config.memory)


def data_of(job: Job[AutoencoderRun]) -> TrainingData:
    """The images of a job."""
    settings = {**dataset_settings(job.config.dataset), "fingerprint": job.dataset.fingerprint()}
    textures = job.texture_images, job.textures_digest
    return TrainingData(job.dataset, job.train_images, job.augmentation, settings, *textures)


def autoencoder_plan(job: Job[AutoencoderRun]) -> AutoencoderPlan:
    """How the autoencoder of a job is made; the same one for all that ask."""
    if "_plan" not in job.__dict__:
        job.__dict__["_plan"] = plan_autoencoder(job.config.autoencoder, context_of(job), data_of(job))
    plan: AutoencoderPlan = job.__dict__["_plan"]
    return plan


def autoencoder_stage(job: Job[AutoencoderRun]) -> tuple[FrozenAutoencoder, Run]:
    """The frozen autoencoder of a job, and its run."""
    trained = autoencoder_plan(job).train()
    return trained.model, trained.run


def detector_plan(job: Job[DetectorRun]) -> TrainedPlan:
    """How the detector of a job is made; nothing was built yet."""
    config = job.config
    parts = context_of(job), data_of(job), autoencoder_plan(job)
    return TrainedPlan(config.detector, *parts, config.synthesis, config.labelled)


def detector_settings(job: Job[DetectorRun]) -> dict[str, Any]:
    """All that decides what the detector of a job becomes."""
    return detector_plan(job).settings()


def rehearse_detector(job: Job[DetectorRun]) -> World:
    """The untrained world of a job."""
    return plan_trained_detector(job.config, context_of(job), data_of(job)).untrained


def detector_stage(job: Job[DetectorRun]) -> tuple[World, Run, FeatureCache]:
    """The world of a job with its trained detector."""
    made = detector_plan(job).train()
    return made.world, made.run, made.features


def trainer_of(
    job: Job[DetectorRun], autoencoder: FrozenAutoencoder, features: FeatureCache
) -> DetectorTrainer:
    """The trainer of a job's detectors."""
    config = job.config
    parts = Parts(config.synthesis, config.labelled, context_of(job), data_of(job), autoencoder, features)
    return new_trainer(config.detector, parts)


def train_one_detector(
    job: Job[DetectorRun],
    run: Run,
    autoencoder: FrozenAutoencoder,
    features: FeatureCache,
    label: str,
    sample_sources: Sequence[SampleSource] = (),
) -> Any:
    """A detector of a job, trained from scratch."""
    return trainer_of(job, autoencoder, features).train(run, label, sample_sources)


def train_single_detector(
    job: Job[DetectorRun],
    run: Run,
    autoencoder: FrozenAutoencoder,
    features: FeatureCache,
    label: str,
    sample_sources: Sequence[SampleSource] = (),
) -> Any:
    """The trained part of a job's detector."""
    trainer = trainer_of(job, autoencoder, features)
    return getattr(trainer, "transformer", trainer).train(run, label, sample_sources)


def labelled_split(job: Job[DetectorRun]) -> LabelledSplit:
    """What each labelled anomaly of a job is used for."""
    return split_labelled(job.dataset.valid, job.config.labelled)


def seen(
    job: Job[DetectorRun], features: FeatureCache, purpose: Purpose, reads: str
) -> tuple[Split, ImageSource]:
    """A part of the validation split of a job."""
    return validation_inputs(features, labelled_split(job), purpose, reads)


def training_steps(job: Job[DetectorRun]) -> int:
    """Training steps of a job's detector."""
    multiplier = job.config.labelled.step_multiplier if len(labelled_split(job).train) else 1.0
    config: Any = job.config.detector
    return max(round(config.steps * multiplier), 1)
