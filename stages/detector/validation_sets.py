"""The parts of a validation split: what rewards are measured on, and what choices are made by."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from detectors.base import TOKENS
from detectors.synthetic.held_out import HeldOutSynthesis
from latent_common.errors import UserError
from latent_common.image_source import ImageSource, evenly_spaced_positions
from latent_env.data import Dataset, Split
from latent_env.data.placement import StreamedImages
from latent_env.rewards.reference_term import ReferenceTerm
from latent_env.rewards.reward import Reward
from latent_env.training.feature_cache import FeatureCache, encode_to_file
from latent_env.worlds.reference_set import ReferenceSet
from stages.detector.labelled_anomalies import marked_tokens, masks_of, split_digest
from stages.detector.labelled_split import LabelledSplit, Positions

Purpose = Literal["reference_set", "choice", "mixture"]
"""The reward; watching a detector learn and choosing parts of it; choosing between retrained detectors."""

FAMILIES: dict[Purpose, tuple[str, ...]] = {
    "reference_set": ("warp", "shade", "line"),
    "choice": ("blur", "speckle", "fill"),
}
"""Which synthetic anomalies stand in where there are no labelled ones. No detector trains on any of them,
and none is in both: an agent that pleases the reward must not have pleased the choice by that."""

SYNTHETIC_SEEDS: dict[Purpose, int] = {"reference_set": 5, "choice": 6}

MOST_SYNTHETIC = 512
"""Of more normal validation images, so many evenly spaced ones get a synthetic anomaly beside them."""


def validation_rows(
    valid: Split, labelled: LabelledSplit, purpose: Purpose
) -> tuple[Positions, Purpose | None]:
    """Positions of the validation images for a purpose, and what kind of synthetic anomalies joins them.

    They are normal images, and labelled anomalies; only where there are none are synthetic ones needed. A
    mixture is chosen by all labelled anomalies that no detector learned from, those of the reference set
    among them: a few alone would leave it to luck, and a sample's reward doesn't tell a detector which images
    it was for. Without labelled ones it is chosen by the synthetic ones of ``choice``. No part depends on the
    seed.
    """
    if purpose == "mixture":
        if not len(labelled.choice):
            return validation_rows(valid, labelled, "choice")
        anomalies = np.concatenate([labelled.reference_set, labelled.choice])
    else:
        anomalies = labelled.reference_set if purpose == "reference_set" else labelled.choice
    normal = np.flatnonzero(valid.labels == 0)
    if len(anomalies) or not len(normal):
        return np.sort(np.concatenate([normal, anomalies])), None
    return normal[evenly_spaced_positions(len(normal), MOST_SYNTHETIC).numpy()], purpose


def validation_part(valid: Split, labelled: LabelledSplit, purpose: Purpose) -> Split:
    """Normal validation images, and after them or among them the anomalies for a purpose."""
    rows, kind = validation_rows(valid, labelled, purpose)
    return valid.subset(rows) if kind is None else with_synthetic(valid.subset(rows), kind)


def with_synthetic(normal: Split, purpose: Purpose) -> Split:
    """``normal`` images, and after them the same ones with synthetic anomalies."""
    synthesis = HeldOutSynthesis(FAMILIES[purpose])
    images = torch.from_numpy(np.array(normal.images)).float() / 255
    made = synthesis(images, torch.Generator().manual_seed(SYNTHETIC_SEEDS[purpose]))
    altered = (made.images * 255).round().to(torch.uint8).numpy()
    none = np.zeros((len(normal), *normal.images.shape[2:]), dtype=np.bool_)
    return Split(
        np.concatenate([normal.images, altered]),
        np.concatenate([normal.labels, np.ones_like(normal.labels)]),
        np.concatenate([none, made.masks[:, 0].numpy() > 0.5]),
        (*normal.names, *(f"{name} (synthetic)" for name in normal.names)),
    )


def validation_inputs(
    features: FeatureCache, labelled: LabelledSplit, purpose: Purpose, reads: str
) -> tuple[Split, ImageSource]:
    """A part of the validation split, and what a detector that ``reads`` images or tokens gets of it."""
    split = validation_part(features.dataset.valid, labelled, purpose)
    if reads not in TOKENS:
        return split, StreamedImages(split.images, features.device)
    rows, _ = validation_rows(features.dataset.valid, labelled, purpose)
    stored = features.latents("valid")
    known = stored[torch.from_numpy(rows).to(stored.device)].to(features.device)
    made = split.subset(np.arange(len(rows), len(split)))
    if not len(made):
        return split, known
    # The folder knows the data set, the file name must tell one part of it from another.
    path = features.folder / f"latents-{purpose}-{len(made)}-{split_digest(made)}.f16"
    images = StreamedImages(made.images, features.device)
    latents = torch.from_numpy(np.array(encode_to_file(features.encoder, images, path, purpose)))
    return split, torch.cat([known, latents.to(features.device)])


def reference_set(features: FeatureCache, labelled: LabelledSplit, reads: str) -> ReferenceSet | None:
    """What a reward is measured on; None if there are no normal validation images."""
    split, inputs = validation_inputs(features, labelled, "reference_set", reads)
    masks, has_masks = masks_of(split)
    marks = marked_tokens(masks, features) if has_masks else None
    return ReferenceSet.of(inputs[:], torch.from_numpy(np.array(split.labels)), marks)


def check_reference_set(dataset: Dataset, reward: Reward) -> None:
    """Refuse a reward that is measured on a reference set where there will be none."""
    measured = [name for name, term in reward.terms.items() if isinstance(term, ReferenceTerm)]
    if measured and dataset.valid.labels.all():
        raise UserError(
            f"{dataset.name}: the valid split needs normal images: the reward measures "
            f"{', '.join(measured)} on them; add some, or choose reward=balanced"
        )


def check_normal_validation(dataset: Dataset) -> None:
    """Refuse a validation split without normal images, which location and scale of scores are taken from."""
    if dataset.valid.labels.all():
        raise UserError(
            f"{dataset.name}: the valid split needs normal images: such a detector measures on them how "
            "normal images score that it was not trained on"
        )
