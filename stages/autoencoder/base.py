"""What every autoencoder of a command has in common: settings, a run, how it is watched and frozen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conf.schema.autoencoders import AutoencoderConfig
from detectors.metrics.ssim import structural_similarity
from latent_common.image_source import ImageSource
from latent_common.progress import progress_bar, say
from latent_common.training_state import Progress, TrainingState
from latent_env.autoencoders import (
    ConvAutoencoder,
    FrozenAutoencoder,
    GenerativeAutoencoder,
    PretrainedAutoencoder,
)
from latent_env.autoencoders.frozen import images_together
from latent_env.autoencoders.pretrained import PretrainedEncoder
from latent_env.autoencoders.training import peak_signal_to_noise
from latent_env.rendering import side_by_side, stack, to_rgb
from latent_env.training.feature_cache import Encoder, FeatureCache
from latent_env.training.loop import follow, validation_interval
from latent_env.training.run_folder import Run
from latent_env.visibility import measure_visibility
from latent_env.worlds.artifacts import load_autoencoder, save_autoencoder
from stages.context import Context
from stages.training_data import TrainingData

MOST_VALIDATION_IMAGES = 256
GENERATOR_PIXELS, GENERATOR_IMAGES = 2**22, 16
"""A generator is watched on at most so many pixels, but on so many images if there are so many."""

SHOWN = 6

Autoencoder = ConvAutoencoder | PretrainedAutoencoder | GenerativeAutoencoder


@dataclass(frozen=True)
class TrainedAutoencoder:
    """A frozen autoencoder, and the run that it lies in."""

    model: FrozenAutoencoder
    run: Run


@dataclass(frozen=True)
class AutoencoderPlan(ABC):
    """A command's autoencoder: what it depends on, what it is before training, and what comes of that."""

    config: AutoencoderConfig
    context: Context
    data: TrainingData

    def settings(self) -> dict[str, Any]:
        """All that decides what the autoencoder becomes."""
        return {**self._shared_settings(), "autoencoder": self.config.settings()}

    def encoder_settings(self) -> dict[str, Any]:
        """All that decides what latents its encoder makes."""
        return self.settings()

    def run_folder(self) -> Run:
        """The folder of its run, complete or not."""
        name, dataset = self.config.name, self.data.dataset.name
        return self.context.run_folder(dataset, "autoencoder", name, self.settings())

    @abstractmethod
    def untrained(self) -> Autoencoder:
        """The autoencoder before it has learned anything; what can't work is refused here."""

    def untrained_encoder(self) -> Autoencoder | PretrainedEncoder:
        """The part that makes latents, before it has seen an image."""
        return self.untrained()

    def train(self) -> TrainedAutoencoder:
        """The frozen autoencoder: loaded if an earlier command made it, else trained now, once a command."""
        return self._trained

    def features(self) -> FeatureCache:
        """The encoder with the latents of all images, which are made when they are first asked for."""
        return self._features

    @abstractmethod
    def _train(self, run: Run) -> FrozenAutoencoder:
        """Train the autoencoder from scratch, or from where ``run`` was stopped, and finish ``run``."""

    @cached_property
    def _trained(self) -> TrainedAutoencoder:
        run = self.run_folder()
        with run.claimed() as missing:
            if missing:
                return TrainedAutoencoder(self._train(run), run)
        say(f"autoencoder: using {run.path}")
        return TrainedAutoencoder(load_autoencoder(run.path).to(self.context.device), run)

    @cached_property
    def _features(self) -> FeatureCache:
        return self._cache(self._trained.model, self._trained.run)

    def _cache(self, encoder: Encoder, run: Run) -> FeatureCache:
        """``encoder`` with its latents, which are kept in the folder of ``run``."""
        return FeatureCache(encoder, self.data.dataset, run.path, self.context.device, self.context.memory)

    def _shared_settings(self) -> dict[str, Any]:
        return {"dataset": self.data.settings, **self.context.settings()}

    def _follow(
        self, run: Run, model: Autoencoder, state: TrainingState, training: Iterator[Progress]
    ) -> None:
        """Run a ``training`` of ``model`` to its end, from where ``run`` was stopped."""
        run.begin()
        valid = self._normal_validation(model)
        every = validation_interval(self.config.steps, self.config.batch_size, len(valid))
        follow(run, "autoencoder", training, state, lambda: reconstruction_quality(model, valid), every)

    def _finish(self, run: Run, model: Autoencoder, latents: ImageSource | None = None) -> FrozenAutoencoder:
        """Freeze ``model``, which is what it is to be, and finish ``run``.

        :param latents: those of the training images, where they are known.
        """
        valid, images = self._normal_validation(model), self.data.images
        frozen = measure_visibility(FrozenAutoencoder(model).calibrate(images, latents), images)
        save_autoencoder(run.path, frozen)
        show_reconstructions(run, frozen, images, valid)
        quality = reconstruction_quality(model, valid)
        run.finish({name.replace("/", "_"): value for name, value in quality.items()})
        return frozen

    def _normal_validation(self, model: Autoencoder) -> Tensor:
        """The first normal validation images, ``(N, C, H, W)`` uint8."""
        valid, most = self.data.dataset.valid, MOST_VALIDATION_IMAGES
        if model.is_generator:
            most = min(most, max(GENERATOR_PIXELS // model.size**2, GENERATOR_IMAGES))
        rows = np.flatnonzero(valid.labels == 0)[:most]
        return torch.from_numpy(valid.subset(rows).images).to(self.context.device)


@torch.inference_mode()
def reconstruction_quality(model: Autoencoder, images: Tensor) -> dict[str, float]:
    """PSNR in dB and SSIM of what ``model`` makes of normal validation images ``(N, C, H, W)`` uint8."""
    psnr, ssim = [], []
    with progress_bar("validation", len(images), hidden=not model.is_generator) as bar:
        for part in images.split(images_together(model)):
            floats = part.float() / 255
            decoded = model(floats)
            psnr.append(peak_signal_to_noise(floats, decoded))
            ssim.append(structural_similarity(floats, decoded))
            bar.update(len(part))
    return {"valid/psnr": float(torch.cat(psnr).mean()), "valid/ssim": float(torch.cat(ssim).mean())}


@torch.inference_mode()
def show_reconstructions(run: Run, frozen: FrozenAutoencoder, train: ImageSource, valid: Tensor) -> None:
    """Normal training and validation images above what the autoencoder makes of them."""
    rows = []
    for name, images in (("train", train[:SHOWN]), ("valid", valid[:SHOWN])):
        if not len(images):
            continue
        floats = images.float() / 255
        decoded = frozen(floats)
        psnr = peak_signal_to_noise(floats, decoded)
        rows.append(side_by_side([to_rgb(image) for image in images], [name] * len(images)))
        captions = [f"decoded, {float(value):.1f} dB" for value in psnr]
        rows.append(side_by_side([to_rgb(image) for image in decoded], captions))
    widest = max(row.shape[1] for row in rows)
    run.picture("reconstructions", stack([row for row in rows if row.shape[1] == widest]))
