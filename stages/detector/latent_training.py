"""How a command's detector learns from latents: what it is shown, and what it is watched with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from conf.schema.detectors import TransformerConfig
from conf.schema.runs import DetectorRun
from detectors.latent_transformer import LatentTransformer, token_losses
from detectors.memory_bank.neighbour_cache import remembering
from detectors.synthetic.image_synthesis import ImageSynthesis
from detectors.synthetic.latent import LatentSynthesis
from detectors.training.batches import Batch, Mixture
from detectors.training.latent_batches import SAMPLES, LatentBatchSampler, Pool
from detectors.training.loop import train_detector
from latent_common.errors import UserError
from latent_common.training_state import TrainingState
from latent_env.training.evaluation import evaluate_latents
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.loop import follow
from latent_env.training.run_folder import Run
from stages.context import Job
from stages.detector.latent_pools import Change, make_pool
from stages.detector.test_curves import add_point
from stages.detector.validation_sets import seen, training_steps, validation_every

Vary = Callable[[Tensor, torch.Generator], Tensor]


def make_synthesis(job: Job[DetectorRun]) -> ImageSynthesis:
    """Image-space pseudo-anomalies, with the user's textures if there are any."""
    return ImageSynthesis(job.config.synthesis.weights, job.texture_images)


def make_latent_synthesis(job: Job[DetectorRun]) -> LatentSynthesis | None:
    """Pseudo-anomalies made of latents, if any are wanted."""
    weights = job.config.synthesis.latent
    return LatentSynthesis(weights) if any(weights.values()) else None


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
    config = job.config.synthesis
    of_images = any(config.weights.values())
    if of_images:
        make_synthesis(job)
    if config.pool < 0:
        raise UserError(f"synthesis.pool={config.pool} must be at least 0")
    if make_latent_synthesis(job) is None and not (of_images and config.pool):
        raise UserError(
            "synthesis: a detector of latents needs anomalies: synthesis.pool above 0 for those of "
            "synthesis.weights, or a weight above 0 in synthesis.latent"
        )


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
    memory_and_pools = (
        detector.memory_size,
        *(pool and pool.name for pool in (sampler.varied, sampler.anomalous)),
    )
    found = features.nearest.get(memory_and_pools)
    nearest = remembering(detector.memory, features.latents("train"), sampler.first_known[-1], found)
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
        add_point(job, run, features, detector, lambda batch: (batch,), state.step)
        detector.train()
        return {f"valid/{name}": value for name, value in metrics.items()}

    training = train_detector(state, detector, sampler, inputs_of, config.batch_size, token_losses)
    follow(run, label, training, state, validate, validation_every(job, split))
    features.nearest[memory_and_pools] = nearest.found[: sampler.first_known[SAMPLES]].clone()
    detector.eval().requires_grad_(False)
    detector.calibrate(known_normal)
    return detector


def latent_sampler(
    job: Job[DetectorRun], features: FeatureCache, samples: Mixture | None
) -> LatentBatchSampler:
    """Latents of normal images and of varied ones, and of synthetic anomalies of both kinds."""
    config, latent = job.config.synthesis, make_latent_synthesis(job)
    varied, anomalous = pools(job, features)
    of_images, of_latents = sum(config.weights.values()), sum(config.latent.values())
    pool_share = of_images / (of_images + of_latents)
    return LatentBatchSampler(features.latents("train"), latent, varied, anomalous, pool_share, samples)


def pools(job: Job[DetectorRun], features: FeatureCache) -> tuple[Pool | None, Pool | None]:
    """Varied training images, and anomalous ones, as latents: the same for every seed."""
    vary, count = job.augmentation, job.config.synthesis.pool
    if not count:
        return None, None

    def varied(batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return vary(batch, generator), torch.zeros_like(batch[:, :1])

    how = {"augment": asdict(vary)}
    normal = make_pool(features, job.train_images, "varied", count, varied, how)
    if not any(job.config.synthesis.weights.values()):
        return normal, None
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
