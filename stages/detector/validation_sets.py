"""What a command does with its validation split: anomalies to learn from, to reward by, and to choose by."""

from __future__ import annotations

import zlib
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from conf.schema.detectors import TrainedConfig
from conf.schema.runs import DetectorRun
from detectors.base import LATENT
from detectors.blocks.tokens import anomalous_tokens, grid_of
from detectors.synthetic.held_out import HeldOutSynthesis
from detectors.training.samples import Samples
from latent_common.errors import UserError
from latent_common.image_source import ImageSource, evenly_spaced_positions
from latent_env.data import Split
from latent_env.data.placement import StreamedImages
from latent_env.rewards.reference_term import ReferenceTerm
from latent_env.rewards.reward import Reward
from latent_env.training.feature_cache import FeatureCache, encoded
from latent_env.training.loop import validation_interval
from latent_env.worlds.labelled_anomalies import LabelledAnomalies, mirrored
from latent_env.worlds.reference_set import ReferenceSet
from stages.context import Job
from stages.detector.labelled_split import LabelledSplit, Positions, divide

Role = Literal["reference_set", "choice", "mixture"]
"""For the reward; for what is watched and chosen while a detector learns; for choosing between detectors."""

FAMILIES: dict[Role, tuple[str, ...]] = {
    "reference_set": ("warp", "shade", "line"),
    "choice": ("blur", "speckle", "fill"),
}
"""Which synthetic anomalies stand in where there are no labelled ones. No detector trains on any of them,
and none is in both: an agent that pleases the reward must not have pleased the choice by that."""

SYNTHETIC_SEEDS: dict[Role, int] = {"reference_set": 5, "choice": 6}

MOST_SYNTHETIC = 512
"""Of more normal validation images, so many evenly spaced ones get a synthetic anomaly beside them."""


def labelled_split(job: Job[DetectorRun]) -> LabelledSplit:
    """Which labelled anomalies of the validation split are used for what."""
    labelled = job.config.labelled
    return divide(job.dataset.valid.labels, labelled.train, labelled.reference_set)


def part(job: Job[DetectorRun], role: Role) -> Split:
    """Normal validation images, and the anomalies of this role: labelled ones, or else synthetic ones.

    Between detectors all labelled ones choose that none of them learned from, those of the reward among them:
    a few alone would leave it to luck, and a sample's reward doesn't tell a detector which images it was for.
    Synthetic ones are those of ``choice``. It is the same for every seed.
    """
    valid, held = job.dataset.valid, labelled_split(job)
    if role == "mixture":
        if not len(held.choice):
            return part(job, "choice")
        anomalies = np.concatenate([held.reference_set, held.choice])
    else:
        anomalies = held.reference_set if role == "reference_set" else held.choice
    normal = np.flatnonzero(valid.labels == 0)
    if len(anomalies) or not len(normal):
        return valid.subset(np.sort(np.concatenate([normal, anomalies])))
    return with_synthetic(
        valid.subset(normal[evenly_spaced_positions(len(normal), MOST_SYNTHETIC).numpy()]), role
    )


def with_synthetic(normal: Split, role: Role) -> Split:
    """``normal`` images, and after them the same ones with synthetic anomalies."""
    synthesis = HeldOutSynthesis(FAMILIES[role])
    images = torch.from_numpy(np.array(normal.images)).float() / 255
    made = synthesis(images, torch.Generator().manual_seed(SYNTHETIC_SEEDS[role]))
    spoilt = (made.images * 255).round().to(torch.uint8).numpy()
    none = np.zeros((len(normal), *normal.images.shape[2:]), dtype=np.bool_)
    return Split(
        np.concatenate([normal.images, spoilt]),
        np.concatenate([normal.labels, np.ones_like(normal.labels)]),
        np.concatenate([none, made.masks[:, 0].numpy() > 0.5]),
        (*normal.names, *(f"{name} (synthetic)" for name in normal.names)),
    )


def seen(job: Job[DetectorRun], features: FeatureCache, role: Role, reads: str) -> tuple[Split, ImageSource]:
    """The part of the split for this role, and what a detector that ``reads`` images or latents gets."""
    split = part(job, role)
    images = StreamedImages(split.images, job.device)
    if reads != LATENT:
        return split, images
    # The folder knows the data set, the file name must tell one part of it from another.
    path = features.folder / f"latents-{role}-{len(split)}-{split_digest(split)}.f16"
    return split, torch.from_numpy(np.array(encoded(features.encoder, images, path, role))).to(job.device)


def training_steps(job: Job[DetectorRun]) -> int:
    """How many steps a detector takes: ``labelled.step_multiplier`` times as many where anomalies are known."""
    config = job.config.detector
    assert isinstance(config, TrainedConfig)
    step_multiplier = job.config.labelled.step_multiplier if len(labelled_split(job).known) else 1.0
    return max(round(config.steps * step_multiplier), 1)


def validation_every(job: Job[DetectorRun], split: Split) -> int:
    """Training steps between two validations on ``split``."""
    config = job.config.detector
    assert isinstance(config, TrainedConfig)
    return validation_interval(training_steps(job), config.batch_size, len(split))


def labelled_samples(job: Job[DetectorRun], features: FeatureCache, reads: str) -> Samples | None:
    """The labelled anomalies that detectors train on, on the device; None if there are none."""
    rows = labelled_split(job).known
    if not len(rows):
        return None
    split = job.dataset.valid.subset(rows)
    masks, has_masks = masks_of(split)
    inputs: Tensor = torch.from_numpy(np.array(split.images))
    if reads == LATENT:
        inputs, masks = latents_of(job, features, rows), marked_tokens(masks, features)
    count = len(split)
    labels, nobody = torch.ones(count, dtype=torch.int64), torch.full((count,), -1)
    marked = torch.full((count,), has_masks) & (masks.flatten(1).any(1) if has_masks else False)
    return Samples(*(each.to(job.device) for each in (inputs, masks, labels, nobody, marked)))


def labelled_anomalies(
    job: Job[DetectorRun], features: FeatureCache, reads: str, normals: Tensor
) -> LabelledAnomalies | None:
    """The same anomalies as an agent may graft them on ``normals (N, *latent_shape)``; flat ones it can't."""
    rows = labelled_split(job).known
    if not len(rows) or len(features.encoder.latent_shape) == 1:
        return None
    split = job.dataset.valid.subset(rows)
    masks, _ = masks_of(split)
    latents, marks = (
        latents_of(job, features, rows)[None],
        marked_tokens(masks, features)[None].to(job.device),
    )
    if masks.flatten(1).any(1).all():
        latents, marks = torch.cat([latents, turned_latents(job, features, split)]), mirrored(marks[0])
    if reads == LATENT:
        return LabelledAnomalies.of(latents, marks, normals)
    images = torch.from_numpy(np.array(split.images)).to(job.device)
    return LabelledAnomalies.of(latents, marks, normals, images, masks.to(job.device))


def turned_latents(job: Job[DetectorRun], features: FeatureCache, split: Split) -> Tensor:
    """Latents of the images of ``split`` in all mirrorings but the first, ``(M - 1, A, *latent_shape)``."""
    turned = mirrored(torch.from_numpy(np.array(split.images)))[1:]
    path = features.folder / f"latents-mirrored-{len(split)}-{split_digest(split)}.f16"
    kept = encoded(
        features.encoder, StreamedImages(turned.flatten(0, 1).numpy(), job.device), path, "mirrored"
    )
    latents = torch.from_numpy(np.array(kept)).to(job.device)
    return latents.unflatten(0, tuple(turned.shape[:2]))


def masks_of(split: Split) -> tuple[Tensor, bool]:
    """Masks ``(B, 1, H, W)`` bool, and whether they say anything."""
    if split.masks is None:
        return torch.zeros(len(split), 1, *split.images.shape[2:], dtype=torch.bool), False
    return torch.from_numpy(split.masks)[:, None], bool(split.masks.any())


def latents_of(job: Job[DetectorRun], features: FeatureCache, rows: Positions) -> Tensor:
    """Latents of the validation images at ``rows``."""
    return features.latents("valid")[torch.from_numpy(rows).to(job.device)]


def marked_tokens(masks: Tensor, features: FeatureCache) -> Tensor:
    """Which tokens ``(B, 1, h, w)`` are anomalous by ``masks (B, 1, H, W)`` bool."""
    return anomalous_tokens(
        functional.adaptive_avg_pool2d(masks.float(), grid_of(features.encoder.latent_shape))
    )


def reference_set(job: Job[DetectorRun], features: FeatureCache, reads: str) -> ReferenceSet | None:
    """What a reward is measured on; None if there are no normal validation images."""
    split, inputs = seen(job, features, "reference_set", reads)
    masks, has_masks = masks_of(split)
    marks = marked_tokens(masks, features) if has_masks else None
    return ReferenceSet.of(inputs[:], torch.from_numpy(np.array(split.labels)), marks)


def check_reference_set(job: Job[DetectorRun], reward: Reward) -> None:
    """Complain about a reward that is measured on a trial where there will be none."""
    tried = [name for name, term in reward.terms.items() if isinstance(term, ReferenceTerm)]
    if tried and job.dataset.valid.labels.all():
        raise UserError(
            f"{job.dataset.name}: the valid split needs normal images: the reward measures "
            f"{', '.join(tried)} on them; add some, or choose reward=balanced"
        )


def split_digest(split: Split) -> str:
    """Short, and different for other images."""
    return f"{zlib.crc32(np.ascontiguousarray(split.images).tobytes()):08x}"
