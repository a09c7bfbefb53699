"""A convolutional autoencoder, trained from scratch on the normal images of a command."""

from __future__ import annotations

from dataclasses import dataclass

from conf.schema.autoencoders import ConvConfig
from latent_common.training_state import TrainingState
from latent_env.autoencoders import ConvAutoencoder, FrozenAutoencoder
from latent_env.autoencoders.training import train_autoencoder
from latent_env.training.run_folder import Run
from stages.autoencoder.base import AutoencoderPlan


@dataclass(frozen=True)
class ConvPlan(AutoencoderPlan):
    """How a :class:`~latent_env.autoencoders.ConvAutoencoder` is made and trained."""

    config: ConvConfig

    def untrained(self) -> ConvAutoencoder:
        """The autoencoder before it has learned anything."""
        config, dataset = self.config, self.data.dataset
        size = (config.latent, config.latent_size, config.width)
        return self.context.build(lambda: ConvAutoencoder(dataset.channels, dataset.size, *size)).to(
            self.context.device
        )

    def _train(self, run: Run) -> FrozenAutoencoder:
        config, context = self.config, self.context
        model = self.untrained()
        state = TrainingState(model, config.learning_rate, config.steps, context.seed, context.precision)
        images, augmentation = self.data.images, self.data.augmentation
        training = train_autoencoder(state, model, images, config.batch_size, augmentation)
        self._follow(run, model, state, training)
        return self._finish(run, model)
