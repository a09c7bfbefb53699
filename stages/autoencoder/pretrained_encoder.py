"""The pretrained eyes of a command: the backbone that its configuration names, fitted to its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from conf.schema.autoencoders import PretrainedConfig
from conf.schema.runs import AutoencoderRun
from latent_common.artifacts import load_artifact, save_artifact
from latent_common.errors import UserError
from latent_env.autoencoders.backbone import Backbone
from latent_env.autoencoders.pretrained import PretrainedEncoder, check_components, fit_encoder
from latent_env.rendering import side_by_side, stack, to_rgb
from latent_env.training.feature_cache import FeatureCache
from stages.context import Job, say

SMALLEST = 112
"""Backbones have learned from about 224 pixels: on images below this side they see little."""

WORTH_A_REMARK = 0.1
"""A share of near copies above this is said."""

SHOWN = 6
KIND = "encoder"
FITTED = ("centre", "components", "deviations")
"""What is fitted to the images; the network itself is not stored again."""


def backbone_settings(job: Job[AutoencoderRun], config: PretrainedConfig) -> dict[str, Any]:
    """All that decides what the latents are: no seed, no variation of images, nothing of the decoder."""
    shared, backbone = job.shared_settings(), job.backbone
    shared.pop("seed")
    shared["dataset"].pop("augment")
    choice = {"layers": list(backbone.layers), "grid": backbone.grid, "components": config.components}
    return {**shared, "features": {"weights": job.backbone_digest, **choice}}


def pretrained_features(job: Job[AutoencoderRun], config: PretrainedConfig) -> FeatureCache:
    """The encoder, fitted to the training images unless an earlier command did that, and its latents."""
    if job.known_features is not None:
        return job.known_features
    backbone, dataset = job.backbone, job.dataset
    run = job.run("features", "pretrained", backbone_settings(job, config))
    if run.complete:
        encoder = load_encoder(run.path, backbone, dataset.channels).to(job.device)
        say(f"eyes: using {run.path}")
        remark_near_copies(job, run.metrics["near_copies"])
    else:
        if dataset.size < SMALLEST:
            say(
                f"eyes: pretrained networks see little in images of {dataset.size} pixels: "
                "dataset.size=224 is what most have learned from"
            )
        run.begin()
        encoder, latents = fit_encoder(backbone, job.train_images, dataset.channels, config.components)
        own = {name: getattr(encoder, name) for name in FITTED}
        save_artifact(run.path, KIND, KIND, own, {"layers": list(backbone.layers), "grid": backbone.grid})
    features = job.keep_features(job.features(encoder, run))
    if not run.complete:
        if latents is not None:
            features.keep("train", latents)
        pictures = job.train_images[:SHOWN]
        seen = encoder.encode(pictures.float() / 255)[:, :3]
        low, high = seen.amin((0, 2, 3), keepdim=True), seen.amax((0, 2, 3), keepdim=True)
        seen = (seen - low) / (high - low).clamp_min(1e-6)
        colours = torch.nn.functional.pad(seen, (0, 0, 0, 0, 0, 3 - seen.shape[1]))
        captions = ["image"] * len(pictures), ["components 1 to 3"] * len(pictures)
        rows = [[to_rgb(image) for image in row] for row in (pictures, colours)]
        run.picture("features", stack([side_by_side(*row) for row in zip(rows, captions, strict=True)]))
        found = {"components": encoder.latent_shape[0], "explained_variance": encoder.explained}
        run.finish({**found, "near_copies": features.near_copies()})
        say(
            f"eyes: layers {', '.join(map(str, backbone.layers))} at {backbone.grid}×{backbone.grid}, "
            f"{encoder.latent_shape[0]} components with {encoder.explained:.0%} of the variance"
        )
        remark_near_copies(job, run.metrics["near_copies"])
    return features


def load_encoder(folder: Path, backbone: Backbone, channels: int) -> PretrainedEncoder:
    """The encoder that an earlier command fitted."""
    tensors, _ = load_artifact(folder, KIND, KIND)
    if set(tensors) != set(FITTED) or tensors["components"].shape[-1:] != (backbone.features,):
        raise UserError(f"{folder} holds no encoder of this backbone: delete it")
    encoder = PretrainedEncoder(backbone, channels, len(tensors["components"]))
    for name in FITTED:
        getattr(encoder, name).copy_(tensors[name])
    return encoder.requires_grad_(False)


def remark_near_copies(job: Job[AutoencoderRun], share: float) -> None:
    """Say so where validation images look much like training images: test images may do so too."""
    if share > WORTH_A_REMARK:
        say(
            f"{job.dataset.name}: {share:.0%} of the normal validation images look almost like a training "
            "image; if that holds for the test split too, figures say less about objects never seen"
        )


def unfitted_encoder(job: Job[AutoencoderRun], config: PretrainedConfig) -> PretrainedEncoder:
    """An encoder of the right form without a look at the images, to try out what it must fit."""
    backbone = job.backbone
    check_components(backbone, config.components)
    components = int(config.components) if config.components >= 1 else min(64, backbone.features)
    return PretrainedEncoder(backbone, job.dataset.channels, components)
