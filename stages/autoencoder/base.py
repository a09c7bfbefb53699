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
from latent_common.image_source import ImageSource, images_at_once
from latent_common.training_state import Progress, TrainingState
from latent_env.autoencoders import ConvAutoencoder, FrozenAutoencoder, PretrainedAutoencoder
from latent_env.autoencoders.pretrained import PretrainedEncoder
from latent_env.autoencoders.training import peak_signal_to_noise
from latent_env.rendering import side_by_side, stack, to_rgb
from latent_env.training.feature_cache import Encoder, FeatureCache
from latent_env.training.loop import follow, validation_interval
from latent_env.training.run_folder import Run
from latent_env.visibility import measure_visibility
from latent_env.worlds.artifacts import load_autoencoder, save_autoencoder
from stages.context import Context, say
from stages.training_data import TrainingData

MOST_VALIDATION_IMAGES = 256
SHOWN = 6

Autoencoder = ConvAutoencoder | PretrainedAutoencoder


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
        if run.complete:
            say(f"autoencoder: using {run.path}")
            return TrainedAutoencoder(load_autoencoder(run.path).to(self.context.device), run)
        return TrainedAutoencoder(self._train(run), run)

    @cached_property
    def _features(self) -> FeatureCache:
        return self._cache(self._trained.model, self._trained.run)

    def _cache(self, encoder: Encoder, run: Run) -> FeatureCache:
        """``encoder`` with its latents, which are kept in the folder of ``run``."""
        return FeatureCache(encoder, self.data.dataset, run.path, self.context.device, self.context.memory)

    def _shared_settings(self) -> dict[str, Any]:
        return {"dataset": self.data.settings, **self.context.settings()}

    def _follow(
        self,
        run: Run,
        model: Autoencoder,
        state: TrainingState,
        training: Iterator[Progress],
        latents: ImageSource | None = None,
    ) -> FrozenAutoencoder:
        """Run a ``training`` of ``model`` to its end, freeze the model, and finish ``run``.

        :param latents: those of the training images, where they are known.
        """
        run.begin()
        valid, images = self._normal_validation(), self.data.images

        @torch.inference_mode()
        def validate() -> dict[str, float]:
            pairs = [
                (part.float() / 255, model(part.float() / 255))
                for part in valid.split(images_at_once(model.size))
            ]
            psnr = torch.cat([peak_signal_to_noise(*pair) for pair in pairs])
            ssim = torch.cat([structural_similarity(*pair) for pair in pairs])
            return {"valid/psnr": float(psnr.mean()), "valid/ssim": float(ssim.mean())}

        every = validation_interval(self.config.steps, self.config.batch_size, len(valid))
        follow(run, "autoencoder", training, state, validate, every)
        frozen = measure_visibility(FrozenAutoencoder(model).calibrate(images, latents), images)
        save_autoencoder(run.path, frozen)
        show_reconstructions(run, frozen, images, valid)
        run.finish({name.replace("/", "_"): value for name, value in validate().items()})
        return frozen

    def _normal_validation(self) -> Tensor:
        """The first normal validation images, ``(N, C, H, W)`` uint8."""
        valid = self.data.dataset.valid
        rows = np.flatnonzero(valid.labels == 0)[:MOST_VALIDATION_IMAGES]
        return torch.from_numpy(valid.subset(rows).images).to(self.context.device)


@torch.inference_mode()
def show_reconstructions(run: Run, frozen: FrozenAutoencoder, train: ImageSource, valid: Tensor) -> None:
    """Normal training and validation images above what the autoencoder makes of them."""
    rows = []
    for name, images in (("train", train[:SHOWN]), ("valid", valid[:SHOWN])):
        floats = images.float() / 255
        decoded = frozen(floats)
        psnr = peak_signal_to_noise(floats, decoded)
        rows.append(side_by_side([to_rgb(image) for image in images], [name] * len(images)))
        captions = [f"decoded, {float(value):.1f} dB" for value in psnr]
        rows.append(side_by_side([to_rgb(image) for image in decoded], captions))
    widest = max(row.shape[1] for row in rows)
    run.picture("reconstructions", stack([row for row in rows if row.shape[1] == widest]))
