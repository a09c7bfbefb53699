"""What agents made, as detectors train on it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agents.rollout import Augmented
from detectors.training.samples import Samples, SampleSource
from latent_common.image_source import evenly_spaced_positions
from latent_env.worlds.world import World
from stages.detector.labelled_anomalies import latents_of, marked_tokens
from stages.detector.labelled_split import Positions
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


def without_copies(
    trainer: DetectorTrainer, world: World, made: Augmented, source: SampleSource, held_out: Positions
) -> SampleSource:
    """``source`` without the samples that have anything of the validation anomalies at ``held_out``.

    :param made: the samples of ``source`` as an agent made them in ``world``.
    """
    rows = torch.from_numpy(np.isin(_copied_rows(trainer, world), held_out))
    kept = (~made.contains[:, rows].any(1)).nonzero().flatten()
    return SampleSource(source.samples.at(kept), source.share)


def _copied_rows(trainer: DetectorTrainer, world: World) -> Positions:
    """``(K,)``: which validation image each labelled anomaly of ``world`` is: it orders them by likeness."""
    rows, known = trainer.labelled_split.train, world.labelled_anomalies
    if known is None:
        return rows[:0]
    theirs, ours = (part.flatten(1).float() for part in (known.latents[0], latents_of(trainer.latents, rows)))
    apart = torch.cdist(theirs, ours, compute_mode="donot_use_mm_for_euclid_dist")  # exact where they agree
    return rows[apart.argmin(1).cpu().numpy()]


def _finer(masks: Tensor, upscale: int) -> Tensor:
    """Masks ``(N, 1, h, w)`` with so many times as many rows and columns."""
    return masks.repeat_interleave(upscale, 2).repeat_interleave(upscale, 3)
