"""A pretrained backbone, fitted to the images of a command: what detectors see with, or what z is made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from conf.schema.backbones import BackboneChoice
from conf.schema.detectors import DetectorConfig, TokenDetectorConfig
from detectors.base import FEATURES
from latent_common.artifacts import load_artifact, save_artifact
from latent_common.errors import UserError
from latent_common.progress import say
from latent_env.autoencoders.backbone import Backbone, load_backbone
from latent_env.autoencoders.pretrained import PretrainedEncoder, check_components, fit_encoder
from latent_env.rendering import side_by_side, stack, tile_side, to_rgb
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.run_folder import Run
from stages.context import Context
from stages.training_data import TrainingData

SMALLEST = 112
"""Backbones have learned from about 224 pixels: on images below this side they see little."""

MANY_COPIES = 0.1
"""A share of near copies above this is said."""

SHOWN = 6

KIND = "encoder"
FITTED = ("centre", "components", "deviations")
"""What is fitted to the images; the network itself is not stored again."""


@dataclass(frozen=True)
class FeaturePlan:
    """How a backbone is loaded, and fitted to the normal training images of a command."""

    choice: BackboneChoice
    group: str
    """The group whose keys name the backbone, ``autoencoder`` or ``detector``: errors name them."""
    context: Context
    data: TrainingData

    @cached_property
    def backbone(self) -> Backbone:
        """The pretrained network that the configuration names."""
        choice, size = self.choice, self.data.dataset.size
        found = load_backbone(choice.backbone, size, choice.layers, choice.grid, self.group, choice.tile)
        return found.to(self.context.device)

    @cached_property
    def weights(self) -> str:
        """What tells this backbone from others: all its weights are read for it."""
        return self.backbone.digest()

    def chosen(self) -> dict[str, Any]:
        """Which of the backbone's features are used, but for the backbone itself."""
        backbone = self.backbone
        components = self.choice.components
        places = {"grid": backbone.grid, "tile": backbone.tile}
        return {"layers": list(backbone.layers), **places, "components": components}

    def encoder_settings(self) -> dict[str, Any]:
        """All that decides what features are made: no augmentation, and nothing of a decoder or detector."""
        dataset = {key: value for key, value in self.data.settings.items() if key != "augment"}
        features = {"weights": self.weights, **self.chosen()}
        return {"dataset": dataset, **self.context.settings(), "features": features}

    def untrained_encoder(self) -> PretrainedEncoder:
        """The backbone with components that were fitted to nothing."""
        features, components = self.backbone.features, self.choice.components
        check_components(self.backbone, components, self.group)
        count = int(components) if components >= 1 else min(64, features)
        encoder = PretrainedEncoder(self.backbone, self.data.dataset.channels, count)
        return encoder.to(self.context.device)

    def features(self) -> FeatureCache:
        """The encoder, fitted to the training images unless an earlier command did that, and its features."""
        return self._features

    @cached_property
    def _features(self) -> FeatureCache:
        settings = self.encoder_settings()
        settings.pop("seed")  # the fit is the same for every seed
        run = self.context.run_folder(self.data.dataset.name, "features", "pretrained", settings)
        with run.claimed() as missing:
            fitted = self._fit(run) if missing else None
        features = self._fitted(run) if fitted is None else fitted
        share = run.metrics["near_copies"]
        if share > MANY_COPIES:  # test images may be copies too
            say(
                f"{self.data.dataset.name}: {share:.0%} of the normal validation images are almost copies of "
                "training images; if that holds for the test split too, figures say less about new objects"
            )
        return features

    def _fitted(self, run: Run) -> FeatureCache:
        """The encoder that was fitted before, and kept in ``run``."""
        encoder = load_encoder(run.path, self.backbone, self.data.dataset.channels)
        say(f"backbone: using {run.path}")
        return self._cache(encoder.to(self.context.device), run)

    def _fit(self, run: Run) -> FeatureCache:
        """Fit the encoder to the training images, and keep it and what was found in ``run``."""
        dataset, backbone, images = self.data.dataset, self.backbone, self.data.images
        if backbone.seen < SMALLEST:
            key = "dataset.size" if backbone.tile is None else f"{self.group}.tile"
            say(
                f"backbone: pretrained networks see little in images of {backbone.seen} pixels: "
                f"{key}=224 is what most have learned from"
            )
        run.begin()
        encoder, latents = fit_encoder(backbone, images, dataset.channels, self.choice.components, self.group)
        own = {name: getattr(encoder, name) for name in FITTED}
        save_artifact(run.path, KIND, KIND, own, {"layers": list(backbone.layers), "grid": backbone.grid})
        features = self._cache(encoder, run)
        if latents is not None:
            features.store("train", latents)
        show_components(run, encoder, images[:SHOWN])
        found = {"components": encoder.latent_shape[0], "explained_variance": encoder.explained}
        run.finish({**found, "near_copies": features.near_copies()})
        tiles = f"in {backbone.tiles.count} tiles of {backbone.tile} pixels, " if backbone.tiles else ""
        say(
            f"backbone: layers {', '.join(map(str, backbone.layers))} at {backbone.grid}×{backbone.grid}, "
            f"{tiles}{encoder.latent_shape[0]} components with {encoder.explained:.0%} of the variance"
        )
        return features

    def _cache(self, encoder: PretrainedEncoder, run: Run) -> FeatureCache:
        """``encoder`` with its features, which are kept in the folder of ``run``."""
        return FeatureCache(encoder, self.data.dataset, run.path, self.context.device, self.context.memory)


def plan_backbone(config: DetectorConfig, context: Context, data: TrainingData) -> FeaturePlan | None:
    """The backbone of a detector that reads features; None of one that reads images or latents."""
    if not isinstance(config, TokenDetectorConfig):
        return None
    if config.input != FEATURES:
        if config.backbone:
            raise UserError(
                f"detector.backbone={config.backbone} is only read with detector.input=features, and it is "
                f"detector.input={config.input}: leave one of both out"
            )
        return None
    return FeaturePlan(config, "detector", context, data)


def load_encoder(folder: Path, backbone: Backbone, channels: int) -> PretrainedEncoder:
    """The encoder that an earlier command fitted and kept in ``folder``."""
    tensors, _ = load_artifact(folder, KIND, KIND)
    if set(tensors) != set(FITTED) or tensors["components"].shape[-1:] != (backbone.features,):
        raise UserError(f"{folder} holds no encoder of this backbone: delete it")
    encoder = PretrainedEncoder(backbone, channels, len(tensors["components"]))
    for name in FITTED:
        getattr(encoder, name).copy_(tensors[name])
    return encoder.requires_grad_(False)


def show_components(run: Run, encoder: PretrainedEncoder, images: torch.Tensor) -> None:
    """A picture of ``images (N, C, H, W)`` uint8 beside the first three components of their features."""
    components = encoder.encode(images.float() / 255)[:, :3]
    low, high = components.amin((0, 2, 3), keepdim=True), components.amax((0, 2, 3), keepdim=True)
    components = (components - low) / (high - low).clamp_min(1e-6)
    colours = torch.nn.functional.pad(components, (0, 0, 0, 0, 0, 3 - components.shape[1]))
    captions = ["image"] * len(images), ["components 1 to 3"] * len(images)
    rows = [[to_rgb(image) for image in row] for row in (images, colours)]
    tile = tile_side(images.shape[-1])
    run.picture("features", stack([side_by_side(*row, tile) for row in zip(rows, captions, strict=True)]))
