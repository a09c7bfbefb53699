"""What agents made, as detectors train on it."""

from __future__ import annotations

from torch import Tensor

from agents.rollout import Augmented
from detectors.training.samples import Samples
from latent_common.image_source import evenly_spaced_positions
from latent_env.worlds.world import World
from stages.detector.labelled_anomalies import marked_tokens
from stages.detector.trainers.base import DetectorTrainer


def training_samples(trainer: DetectorTrainer, world: World, made: Augmented) -> Samples:
    """The samples of ``made`` on the device: images, or latents or features if the detectors read these."""
    sources = evenly_spaced_positions(len(trainer.data.images), trainer.config.num_start_images)
    if world.reads_latents:
        samples = made.latent_samples(world, sources)
        return samples._replace(masks=_finer(samples.masks, trainer.mask_upscale))
    if world.reads_features:
        features = trainer.features.encode(made.images, "features, samples")
        marks = marked_tokens(made.masks, trainer.features, trainer.mask_upscale)
        return made.feature_samples(features, marks, sources)
    return made.samples(trainer.context.device, sources)


def _finer(masks: Tensor, upscale: int) -> Tensor:
    """Masks ``(N, 1, h, w)`` with so many times as many rows and columns."""
    return masks.repeat_interleave(upscale, 2).repeat_interleave(upscale, 3)
