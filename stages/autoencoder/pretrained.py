"""A frozen pretrained backbone whose features are the latent, and the decoder that is trained for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from conf.schema.autoencoders import PretrainedConfig
from latent_common.training_state import TrainingState
from latent_env.autoencoders import FrozenAutoencoder, PretrainedAutoencoder
from latent_env.autoencoders.pretrained import PretrainedEncoder
from latent_env.autoencoders.training import train_decoder
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.run_folder import Run
from stages.autoencoder.base import AutoencoderPlan
from stages.features import FeaturePlan


@dataclass(frozen=True)
class PretrainedPlan(AutoencoderPlan):
    """How the decoder of a backbone's features is made and trained."""

    config: PretrainedConfig

    @cached_property
    def backbone(self) -> FeaturePlan:
        """The encoder: a backbone that is fitted to the images."""
        return FeaturePlan(self.config, "autoencoder", self.context, self.data)

    def settings(self) -> dict[str, Any]:
        """All that decides what the autoencoder becomes."""
        return {**super().settings(), "features": {"weights": self.backbone.weights}}

    def encoder_settings(self) -> dict[str, Any]:
        """All that decides what latents the encoder makes: no augmentation, nothing of the decoder."""
        return self.backbone.encoder_settings()

    def untrained(self) -> PretrainedAutoencoder:
        """The backbone with components that were fitted to nothing, and an untrained decoder."""
        return self._with_decoder(self.untrained_encoder())

    def untrained_encoder(self) -> PretrainedEncoder:
        """The backbone with components that were fitted to nothing."""
        return self.backbone.untrained_encoder()

    def _with_decoder(self, encoder: PretrainedEncoder) -> PretrainedAutoencoder:
        width, device = self.config.width, self.context.device
        return self.context.build(lambda: PretrainedAutoencoder(encoder, width)).to(device)

    def _train(self, run: Run) -> FrozenAutoencoder:
        config, features = self.config, self.features()
        encoder, latents = features.encoder, features.latents("train")
        assert isinstance(encoder, PretrainedEncoder)
        model = self._with_decoder(encoder)
        state = TrainingState(model.decoder, config.learning_rate, config.steps, self.context.seed)
        training = train_decoder(state, model, self.data.images, latents, config.batch_size)
        self._follow(run, model, state, training)
        return self._finish(run, model, latents)

    @cached_property
    def _features(self) -> FeatureCache:
        return self.backbone.features()
