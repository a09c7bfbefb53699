"""How a command's reconstruction and discriminant networks learn, and what is shown of them on the way."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from conf.schema.detectors import RdnaConfig
from conf.schema.runs import DetectorRun
from detectors.base import IMAGE
from detectors.rdna import RdnaDetector
from detectors.training.batches import BatchSampler
from detectors.training.rdna import AdversarialState, Discriminators, train_rdna
from latent_common.errors import UserError
from latent_common.training_state import TrainingState
from latent_env.rendering import restorations
from latent_env.training.evaluation import evaluate_source
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.loop import follow
from latent_env.training.run_folder import Run
from stages.context import Job
from stages.detector.validation_sets import seen, training_steps, validation_every

SHOWN = 3
"""So many normal images, and so many anomalous ones, stand in a picture of the training."""

SHOWN_SEED = 7


def check_rdna(config: RdnaConfig) -> None:
    """Complain about what such a detector can't do."""
    if config.input != IMAGE:
        raise UserError(
            f"detector.input={config.input}: detector=rdna reads images; leave it out, or choose "
            "detector=transformer"
        )
    if not 0 <= config.adversarial_weight < math.inf:
        raise UserError(
            f"detector.adversarial_weight={config.adversarial_weight:g} must be at least 0 (no discriminators)"
        )


def new_rdna(job: Job[DetectorRun], config: RdnaConfig) -> RdnaDetector:
    """The detector before it has learned anything; the same weights for the same seed."""
    channels, size = job.dataset.channels, job.dataset.size
    return job.build(lambda: RdnaDetector(channels, size, config.width)).to(job.device)


def rdna_state(job: Job[DetectorRun], config: RdnaConfig, detector: RdnaDetector) -> TrainingState:
    """A training run from its beginning, with discriminators unless they are switched off."""
    run = (config.learning_rate, training_steps(job), job.config.seed)
    if not config.adversarial_weight:
        return TrainingState(detector, *run)
    discriminators = job.build(lambda: Discriminators(detector.channels, detector.width)).to(job.device)
    return AdversarialState(detector, discriminators, *run)


def train_restoration(
    job: Job[DetectorRun],
    config: RdnaConfig,
    run: Run,
    detector: RdnaDetector,
    sampler: BatchSampler,
    features: FeatureCache,
    label: str,
) -> RdnaDetector:
    """``detector`` after its training on ``sampler``."""
    state = rdna_state(job, config, detector)
    split, images = seen(job, features, "choice", IMAGE)
    sampler = replace(sampler, keep_clean=True)
    shown = sampler.batch(2 * SHOWN, torch.Generator().manual_seed(SHOWN_SEED))  # the same at every look

    def validate() -> dict[str, float]:
        detector.eval()
        metrics = evaluate_source(detector, lambda batch: (batch,), images, split).metrics
        run.picture("training/restorations", restorations(detector, shown), state.step)
        detector.train()
        return {f"valid/{name}": value for name, value in metrics.items()}

    training = train_rdna(state, detector, sampler, config.batch_size, config.adversarial_weight)
    follow(run, label, training, state, validate, validation_every(job, split))
    return detector.requires_grad_(False).eval()
