"""How a command's detector learns from latents: what it is shown, and what it is watched with."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from conf.job import Job
from conf.schema import DetectorRun, TransformerConfig
from detectors.errors import UserError
from detectors.images import spread_over, spread_positions
from detectors.latent_diet import LatentDiet, Pool
from detectors.latent_synthesis import LatentSynthesis
from detectors.latent_transformer import LatentTransformer, token_losses
from detectors.synthesis import ImageSynthesis
from detectors.training import Samples, train_detector
from detectors.training_state import TrainingState
from latent_env.evaluation import evaluate_latents, validation_latents
from latent_env.latents import Eyes
from latent_env.pools import make_pool
from latent_env.runs import Run
from latent_env.supervision import follow


def make_synthesis(job: Job[DetectorRun]) -> ImageSynthesis:
    """Image-space pseudo-anomalies, with the user's textures if there are any."""
    return ImageSynthesis(job.config.synthesis.weights, job.texture_images)


def make_latent_synthesis(job: Job[DetectorRun]) -> LatentSynthesis | None:
    """Pseudo-anomalies made of latents, if any are wanted."""
    weights = job.config.synthesis.latent
    return LatentSynthesis(weights) if any(weights.values()) else None


def check_latent_synthesis(job: Job[DetectorRun]) -> None:
    """Complain if there would be nothing that a detector of latents could take for an anomaly."""
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


def learn_from_latents(
    job: Job[DetectorRun],
    run: Run,
    detector: LatentTransformer,
    eyes: Eyes,
    label: str,
    samples: Samples | None,
    share: float,
) -> LatentTransformer:
    """``detector`` after its training, on an agent's ``samples`` too if there are any."""
    config = job.config.detector
    assert isinstance(config, TransformerConfig)
    latents = eyes.latents("train")
    detector.memory.remember(
        spread_over(latents, config.remembered), spread_positions(len(latents), config.remembered)
    )
    known_normal = eyes.normal_validation()
    diet = latent_diet(job, eyes, samples, share)
    state = TrainingState(detector, config.learning_rate, config.steps, job.config.seed)
    split, seen = validation_latents(eyes, diet, job.config.seed)

    def validate() -> dict[str, float]:
        detector.eval()
        detector.calibrate(known_normal)
        metrics = evaluate_latents(detector, seen, split).metrics
        detector.train()
        return {f"valid/{name}": value for name, value in metrics.items()}

    training = train_detector(
        state,
        detector,
        diet,
        lambda batch: (batch.images, batch.sources, state.generator),
        config.batch_size,
        token_losses,
    )
    follow(run, label, training, state, validate)
    detector.eval().requires_grad_(False)
    detector.calibrate(known_normal)
    return detector


def latent_diet(job: Job[DetectorRun], eyes: Eyes, samples: Samples | None, share: float) -> LatentDiet:
    """Latents of normal images and of varied ones, and of synthetic anomalies of both kinds."""
    config, latent = job.config.synthesis, make_latent_synthesis(job)
    varied, anomalous = pools(job, eyes)
    of_images, of_latents = sum(config.weights.values()), sum(config.latent.values())
    pool_share = of_images / (of_images + of_latents)
    return LatentDiet(eyes.latents("train"), latent, varied, anomalous, pool_share, samples, share)


def pools(job: Job[DetectorRun], eyes: Eyes) -> tuple[Pool | None, Pool | None]:
    """Varied training images, and anomalous ones, as latents: the same for every seed."""
    config, vary = job.config.synthesis, job.augmentation
    if not config.pool:
        return None, None
    images, size = job.train_images, config.pool
    how: dict[str, Any] = {"augment": asdict(vary)}
    varied = make_pool(
        eyes, images, "varied", size, lambda x, g: (vary(x, g), torch.zeros_like(x[:, :1])), how
    )
    if not any(config.weights.values()):
        return varied, None
    synthesis = make_synthesis(job)

    def spoil(batch: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        made = synthesis(vary(batch, generator), generator)
        return made.images, made.masks

    how |= {"weights": dict(config.weights)}
    if job.textures is not None:
        how["textures"] = job.textures.facts["digest"]
    return varied, make_pool(eyes, images, "anomalous", size, spoil, how)
