"""How a command's detector learns from latents: what it is shown, and what it is watched with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from conf.schema.detectors import TransformerConfig
from conf.schema.runs import DetectorRun
from detectors.blocks.neighbour_cache import fill_memory
from detectors.latent_transformer import LatentTransformer, token_losses
from detectors.synthetic.image_synthesis import ImageSynthesis
from detectors.training.batches import Batch
from detectors.training.latent_batches import SAMPLES, LatentBatchSampler, Pool
from detectors.training.loop import train_detector
from detectors.training.samples import Mixture
from latent_common.errors import UserError
from latent_common.training_state import TrainingState
from latent_env.training.evaluation import evaluate_latents
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.loop import follow
from latent_env.training.run_folder import Run
from stages.context import Job
from stages.detector.latent_pools import Change, make_pool
from stages.detector.validation_sets import seen, training_steps, validation_every

Vary = Callable[[Tensor, torch.Generator], Tensor]


def make_synthesis(job: Job[DetectorRun]) -> ImageSynthesis:
    """Image-space pseudo-anomalies, with the user's textures if there are any."""
    return ImageSynthesis(job.config.synthesis.weights, job.texture_images)


def check_validation(job: Job[DetectorRun]) -> None:
    """Complain if nothing says how far out normal images lie that were not trained on."""
    if job.dataset.valid.labels.all():
        raise UserError(
            f"{job.dataset.name}: the valid split needs normal images: such a detector takes from them what "
            "is usual"
        )


def check_latent_synthesis(job: Job[DetectorRun]) -> None:
    """Complain if there would be nothing that a detector of latents could take for an anomaly."""
    check_validation(job)
    make_synthesis(job)
    pool = job.config.synthesis.pool
    if pool < 1:
        raise UserError(f"synthesis.pool={pool} must be at least 1: a detector of latents learns from it")


def train_on_latents(
    job: Job[DetectorRun],
    run: Run,
    detector: LatentTransformer,
    features: FeatureCache,
    label: str,
    samples: Mixture | None,
) -> LatentTransformer:
    """``detector`` after its training, on ``samples`` too if there are any."""
    config = job.config.detector
    assert isinstance(config, TransformerConfig)
    known_normal = features.normal_validation()
    sampler = latent_sampler(job, features, samples)
    memory_and_pools = (detector.memory_size, sampler.varied.name, sampler.anomalous.name)
    found = features.nearest.get(memory_and_pools)
    nearest = fill_memory(detector.memory, features.latents("train"), sampler.known_offsets[-1], found)
    state = TrainingState(detector, config.learning_rate, training_steps(job), job.config.seed)
    split, latents = seen(job, features, "choice", config.input)

    def inputs_of(batch: Batch) -> tuple[Any, ...]:
        assert batch.known is not None
        found = nearest(batch.images, batch.sources, batch.known)
        return batch.images, batch.sources, state.generator, found

    def validate() -> dict[str, float]:
        detector.eval()
        detector.calibrate(known_normal)
        metrics = evaluate_latents(detector, latents, split).metrics
        detector.train()
        return {f"valid/{name}": value for name, value in metrics.items()}

    training = train_detector(state, detector, sampler, inputs_of, config.batch_size, token_losses)
    follow(run, label, training, state, validate, validation_every(job, split))
    features.nearest[memory_and_pools] = nearest.found[: sampler.known_offsets[SAMPLES]].clone()
    detector.eval().requires_grad_(False)
    detector.calibrate(known_normal)
    return detector


def latent_sampler(
    job: Job[DetectorRun], features: FeatureCache, samples: Mixture | None
) -> LatentBatchSampler:
    """Latents of normal images and of varied ones, and of synthetic anomalies."""
    return LatentBatchSampler(features.latents("train"), *pools(job, features), samples)


def pools(job: Job[DetectorRun], features: FeatureCache) -> tuple[Pool, Pool]:
    """Varied training images, and anomalous ones, as latents: the same for every seed."""
    vary, count = job.augmentation, job.config.synthesis.pool

    def varied(batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return vary(batch, generator), torch.zeros_like(batch[:, :1])

    how = {"augment": asdict(vary)}
    normal = make_pool(features, job.train_images, "varied", count, varied, how)
    how |= spoiling_settings(job)
    return normal, make_pool(features, job.train_images, "anomalous", count, spoiler(job, vary), how)


def spoiling_settings(job: Job[DetectorRun]) -> dict[str, Any]:
    """What image-space anomalies depend on, beside the images."""
    return {"weights": dict(job.config.synthesis.weights), "textures": job.textures_digest}


def spoiler(job: Job[DetectorRun], vary: Vary | None = None) -> Change:
    """Makes image-space anomalies of images, varied ones if there is something to ``vary`` them."""
    synthesis = make_synthesis(job)

    def spoil(batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        made = synthesis(batch if vary is None else vary(batch, generator), generator)
        return made.images, made.masks

    return spoil
