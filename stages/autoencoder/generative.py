"""A published image autoencoder, frozen, whitened by the images of a command, fine-tuned only if asked."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property, singledispatch
from pathlib import Path
from typing import Any

from conf.schema.autoencoders import DiffusersConfig, GenerativeConfig, TaesdConfig
from latent_common.artifacts import load_artifact, save_artifact
from latent_common.errors import UserError
from latent_common.progress import say
from latent_common.training_state import TrainingState
from latent_env.autoencoders import FrozenAutoencoder, GenerativeAutoencoder
from latent_env.autoencoders.generative import (
    PublishedNetwork,
    fit_whitening,
    load_diffusers,
    load_taesd,
    round_to_half,
)
from latent_env.autoencoders.training import train_decoder
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.run_folder import Run
from stages.autoencoder.base import AutoencoderPlan

KIND = "encoder"
FITTED = ("means", "scales")
"""What is fitted to the images; the network itself is not stored again."""


@singledispatch
def load_network(config: GenerativeConfig) -> PublishedNetwork:
    """The published network that ``config`` names."""
    raise TypeError(f"{type(config).__name__} has no network: register one in {__name__}")


@load_network.register
def _(config: TaesdConfig) -> PublishedNetwork:
    return load_taesd(config.weights)


@load_network.register
def _(config: DiffusersConfig) -> PublishedNetwork:
    return load_diffusers(config.model)


@dataclass(frozen=True)
class GenerativePlan(AutoencoderPlan):
    """How a published autoencoder is whitened, and its decoder fine-tuned."""

    config: GenerativeConfig

    @cached_property
    def network(self) -> PublishedNetwork:
        """The published network that the configuration names; nothing changes it."""
        return load_network(self.config).to(self.context.device)

    @cached_property
    def weights(self) -> str:
        """A digest of the published network with all its weights."""
        return self.network.digest()

    def run_folder(self) -> Run:
        """The folder of its run, complete or not: the same for all seeds where nothing is trained."""
        settings = self.settings()
        if not self.config.steps:
            settings.pop("seed")
        return self.context.run_folder(self.data.dataset.name, "autoencoder", self.config.name, settings)

    def untrained(self) -> GenerativeAutoencoder:
        """The autoencoder with latents that nothing has whitened yet."""
        dataset = self.data.dataset
        return GenerativeAutoencoder(self.network, dataset.channels, dataset.size).to(self.context.device)

    def settings(self) -> dict[str, Any]:
        """All that decides what the autoencoder becomes."""
        return {**super().settings(), "features": {"weights": self.weights}}

    def encoder_settings(self) -> dict[str, Any]:
        """All that decides what latents the encoder makes: no augmentation, nothing of the decoder."""
        dataset = {key: value for key, value in self.data.settings.items() if key != "augment"}
        return {**self._shared_settings(), "dataset": dataset, "features": {"weights": self.weights}}

    @cached_property
    def _features(self) -> FeatureCache:
        """The encoder, whitened by the training images unless an earlier command did that."""
        settings = self.encoder_settings()
        settings.pop("seed")  # the fit is the same for every seed
        run = self.context.run_folder(self.data.dataset.name, "features", self.config.name, settings)
        model = self.untrained()
        with run.claimed() as missing:
            if missing:
                return self._fit(run, model)
        load_whitening(run.path, model)
        say(f"generator: using {run.path}")
        return self._cache(model, run)

    def _fit(self, run: Run, model: GenerativeAutoencoder) -> FeatureCache:
        """Whiten ``model`` by the training images, and keep what that takes in ``run``."""
        run.begin()
        latents = fit_whitening(model, self.data.images)
        save_artifact(run.path, KIND, KIND, {name: getattr(model, name) for name in FITTED}, {})
        features = self._cache(model, run)
        if latents is not None:
            features.store("train", latents)
        run.finish({})
        return features

    def _train(self, run: Run) -> FrozenAutoencoder:
        config, features = self.config, self.features()
        model, latents = features.encoder, features.latents("train")
        assert isinstance(model, GenerativeAutoencoder)
        if not config.steps:
            run.begin()
            return self._finish(run, model, latents)
        model = copy.deepcopy(model)  # others go on using the published network
        decoder = model.network.decoding_part().requires_grad_(True)
        state = TrainingState(decoder, config.learning_rate, config.steps, self.context.seed)
        training = train_decoder(state, model, self.data.images, latents, config.batch_size, config.noise)
        self._follow(run, model, state, training)
        round_to_half(decoder)
        return self._finish(run, model, latents)


def load_whitening(folder: Path, model: GenerativeAutoencoder) -> None:
    """Give ``model`` the means and scales that an earlier command kept in ``folder``."""
    fit, _ = load_artifact(folder, KIND, KIND)
    if any(name not in fit or fit[name].shape != getattr(model, name).shape for name in FITTED):
        raise UserError(f"{folder} holds no means and scales of this network: delete it")
    for name in FITTED:
        getattr(model, name).copy_(fit[name])
