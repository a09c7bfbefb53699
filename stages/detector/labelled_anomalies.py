"""Labelled anomalies of the validation split, as detectors train on them and as agents copy them."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from detectors.base import LATENT, TOKENS
from detectors.blocks.tokens import anomalous_tokens, grid_of
from detectors.training.samples import Samples
from latent_env.data import Split
from latent_env.data.placement import StreamedImages
from latent_env.training.feature_cache import FeatureCache, encode_to_file
from latent_env.worlds.labelled_anomalies import LabelledAnomalies, mirrored
from stages.detector.labelled_split import Positions


def labelled_samples(
    features: FeatureCache, rows: Positions, reads: str, mask_upscale: int = 1
) -> Samples | None:
    """The validation anomalies at ``rows`` as detectors train on them, on the device; None if there are none.

    :param features: the latents or features that detectors of tokens read.
    :param reads: whether the detectors read images, latents or features.
    :param mask_upscale: positions a side that the masks have for each token.
    """
    if not len(rows):
        return None
    split = features.dataset.valid.subset(rows)
    masks, has_masks = masks_of(split)
    inputs: Tensor = torch.from_numpy(np.array(split.images))
    if reads in TOKENS:
        inputs, masks = latents_of(features, rows), marked_tokens(masks, features, mask_upscale)
    count = len(split)
    labels, sources = torch.ones(count, dtype=torch.int64), torch.full((count,), -1)  # of no training image
    marked = torch.full((count,), has_masks) & (masks.flatten(1).any(1) if has_masks else False)
    return Samples(*(each.to(features.device) for each in (inputs, masks, labels, sources, marked)))


def labelled_anomalies(
    features: FeatureCache, rows: Positions, reads: str, normals: Tensor
) -> LabelledAnomalies | None:
    """The validation anomalies at ``rows`` as agents copy them into ``normals (N, *latent_shape)``.

    None if there are none, or if the latents are flat: then there is no place to paste something in.
    """
    if not len(rows) or len(features.encoder.latent_shape) == 1:
        return None
    split = features.dataset.valid.subset(rows)
    masks, _ = masks_of(split)
    latents, marks = latents_of(features, rows)[None], marked_tokens(masks, features)[None]
    if masks.flatten(1).any(1).all():
        latents, marks = torch.cat([latents, mirrored_latents(features, split)]), mirrored(marks[0])
    marks = marks.to(features.device)
    if reads == LATENT:
        return LabelledAnomalies.of(latents, marks, normals)
    images = torch.from_numpy(np.array(split.images)).to(features.device)
    return LabelledAnomalies.of(latents, marks, normals, images, masks.to(features.device))


def mirrored_latents(features: FeatureCache, split: Split) -> Tensor:
    """Latents of the images of ``split`` in all mirrorings but the first, ``(M - 1, A, *latent_shape)``."""
    turned = mirrored(torch.from_numpy(np.array(split.images)))[1:]
    path = features.folder / f"latents-mirrored-{len(split)}-{split_digest(split)}.f16"
    source = StreamedImages(turned.flatten(0, 1).numpy(), features.device)
    kept = np.array(encode_to_file(features.encoder, source, path, "mirrored"))
    return torch.from_numpy(kept).to(features.device).unflatten(0, tuple(turned.shape[:2]))


def masks_of(split: Split) -> tuple[Tensor, bool]:
    """Masks ``(B, 1, H, W)`` bool, and whether any of them marks something."""
    if split.masks is None:
        return torch.zeros(len(split), 1, *split.images.shape[2:], dtype=torch.bool), False
    return torch.from_numpy(split.masks)[:, None], bool(split.masks.any())


def latents_of(features: FeatureCache, rows: Positions) -> Tensor:
    """Latents ``(K, *latent_shape)`` of the validation images at ``rows (K,)``."""
    return features.latents("valid")[torch.from_numpy(rows).to(features.device)]


def marked_tokens(masks: Tensor, features: FeatureCache, upscale: int = 1) -> Tensor:
    """Which tokens ``(B, 1, h, w)`` are anomalous by ``masks (B, 1, H, W)`` bool.

    :param upscale: on a finer grid, so many times as many rows and columns.
    """
    rows, columns = grid_of(features.encoder.latent_shape)
    shares = functional.adaptive_avg_pool2d(masks.float(), (rows * upscale, columns * upscale))
    return anomalous_tokens(shares)


def split_digest(split: Split) -> str:
    """Short, and different for other images."""
    return f"{zlib.crc32(np.ascontiguousarray(split.images).tobytes()):08x}"
