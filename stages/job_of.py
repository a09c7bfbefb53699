"""The parts of a command as one object, and back, for what still asks for that."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from conf.schema.autoencoders import AutoencoderConfig
from conf.schema.runs import AutoencoderRun
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.training.run_folder import Run
from stages.autoencoder.base import AutoencoderPlan
from stages.autoencoder.plan import plan_autoencoder
from stages.context import Context, Job
from stages.datasets import dataset_settings
from stages.training_data import TrainingData

C = TypeVar("C", bound=AutoencoderRun)


def job_of(config: C, context: Context, data: TrainingData) -> Job[C]:
    """``context`` and ``data`` as a :class:`Job`; ``config`` says the rest."""
    job = Job(config, context.device)
    parts = {
        "dataset": data.dataset,
        "train_images": data.images,
        "augmentation": data.augmentation,
        "texture_images": data.textures,
        "textures_digest": data.textures_digest,
    }
    job.__dict__.update(parts)
    return job


def context_of(job: Job[AutoencoderRun]) -> Context:
    """The device, the seed and the folders of a job."""
    config = job.config
    return Context(job.device, config.seed, Path(config.runs), config.precision, config.memory)


def data_of(job: Job[AutoencoderRun]) -> TrainingData:
    """The images of a job."""
    settings = {**dataset_settings(job.config.dataset), "fingerprint": job.dataset.fingerprint()}
    textures = job.texture_images, job.textures_digest
    return TrainingData(job.dataset, job.train_images, job.augmentation, settings, *textures)


def autoencoder_plan(job: Job[AutoencoderRun]) -> AutoencoderPlan[AutoencoderConfig]:
    """How the autoencoder of a job is made; the same one for all that ask."""
    if "_plan" not in job.__dict__:
        job.__dict__["_plan"] = plan_autoencoder(job.config.autoencoder, context_of(job), data_of(job))
    plan: AutoencoderPlan[AutoencoderConfig] = job.__dict__["_plan"]
    return plan


def autoencoder_stage(job: Job[AutoencoderRun]) -> tuple[FrozenAutoencoder, Run]:
    """The frozen autoencoder of a job, and its run."""
    trained = autoencoder_plan(job).train()
    return trained.model, trained.run
