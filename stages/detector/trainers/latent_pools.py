"""Latents of augmented normal images and of synthetic anomalies: made once, encoded once, kept in a file.

A backbone is too slow for fresh images in every training step. So some hundred images are changed
beforehand, in the same way for every seed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from conf.schema.detectors import SynthesisConfig
from detectors.blocks.tokens import grid_of
from detectors.synthetic.image_synthesis import ImageSynthesis
from detectors.training.latent_batches import Pool
from latent_common.artifacts import write_atomically
from latent_common.digest import digest_of
from latent_common.image_source import ImageSource, evenly_spaced_positions
from latent_env.data.placement import place_images
from latent_env.training.feature_cache import FeatureCache, encode_to_file, latent_count, map_latents
from stages.training_data import TrainingData

MADE_AT_ONCE = 50

Change = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""Images ``(B, C, H, W)`` in [0, 1] to changed ones, and masks ``(B, 1, H, W)`` of what is anomalous."""


def make_pools(features: FeatureCache, data: TrainingData, synthesis: SynthesisConfig) -> tuple[Pool, Pool]:
    """Augmented training images, and augmented ones with synthetic anomalies, as latents."""
    augment, count = data.augmentation, synthesis.pool
    anomalies = ImageSynthesis(synthesis.weights, data.textures)

    def varied(batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return augment(batch, generator), torch.zeros_like(batch[:, :1])

    def anomalous(batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        made = anomalies(augment(batch, generator), generator)
        return made.images, made.masks

    how: dict[str, Any] = {"augment": asdict(augment)}
    normal = make_pool(features, data.images, "varied", count, varied, how)
    how |= {"weights": dict(synthesis.weights), "textures": data.textures_digest}
    return normal, make_pool(features, data.images, "anomalous", count, anomalous, how)


def make_pool(
    features: FeatureCache,
    images: ImageSource,
    name: str,
    count: int,
    change: Change,
    settings: Mapping[str, Any],
) -> Pool:
    """``count`` changed versions of ``images (N, C, H, W)`` uint8, as latents.

    :param settings: what ``change`` depends on, beside the images: the same are not made again.
    """
    key = f"{name}-{digest_of({'count': count, **settings})}"
    latents_path, facts_path = features.folder / f"latents-{key}.f16", features.folder / f"latents-{key}.npz"
    if not (facts_path.is_file() and latent_count(latents_path, features.encoder) == count):
        made, masks, sources = _make(images, count, change)
        encode_to_file(features.encoder, made, latents_path, name)
        tokens = functional.adaptive_avg_pool2d(masks, grid_of(features.encoder.latent_shape))
        buffer = io.BytesIO()
        np.savez(buffer, tokens=tokens.cpu().numpy(), sources=sources.numpy())
        write_atomically(facts_path, buffer.getvalue())
    kept = map_latents(latents_path, count, features.encoder.latent_shape)
    with np.load(facts_path) as facts:
        tokens, sources = torch.from_numpy(facts["tokens"]), torch.from_numpy(facts["sources"])
    return Pool(
        place_images(kept, features.device, features.memory), tokens.to(features.device), sources, key
    )


def _make(images: ImageSource, count: int, change: Change) -> tuple[Tensor, Tensor, Tensor]:
    """Changed images ``(count, C, H, W)`` uint8, masks ``(count, 1, H, W)``, and what they were made of."""
    generator = torch.Generator().manual_seed(0)
    sources = evenly_spaced_positions(len(images), count)
    sources = sources[torch.arange(count) % len(sources)]
    made, masks = [], []
    for part in sources.split(MADE_AT_ONCE):
        clean = images[part.to(images.device)].float() / 255
        changed, where = change(clean, generator)
        made.append((changed * 255).round().to(torch.uint8))
        masks.append(where.half())
    return torch.cat(made), torch.cat(masks).float(), sources
