"""How a command gets its autoencoder: what it depends on, the untrained one, and the trained one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from conf.schema.runs import AutoencoderRun
from latent_env.autoencoders import ConvAutoencoder, FrozenAutoencoder, PretrainedAutoencoder
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.run_folder import Run
from stages.autoencoder.stage import autoencoder_settings, autoencoder_stage, new_autoencoder
from stages.context import Context, Job
from stages.job_of import job_of
from stages.training_data import TrainingData


@dataclass(frozen=True)
class TrainedAutoencoder:
    """A frozen autoencoder, and the run that it lies in."""

    model: FrozenAutoencoder
    run: Run


@dataclass(frozen=True)
class AutoencoderPlan:
    """A command's autoencoder before it is trained: nothing was built yet."""

    config: AutoencoderRun
    context: Context
    data: TrainingData

    @cached_property
    def _job(self) -> Job[AutoencoderRun]:
        return job_of(self.config, self.context, self.data)

    def settings(self) -> dict[str, Any]:
        """All that decides what the autoencoder becomes."""
        return autoencoder_settings(self._job)

    def untrained(self) -> ConvAutoencoder | PretrainedAutoencoder:
        """The autoencoder before it has learned anything; what can't work is refused here."""
        return new_autoencoder(self._job)

    def train(self) -> TrainedAutoencoder:
        """The frozen autoencoder: loaded if an earlier command made it, else trained now."""
        return TrainedAutoencoder(*autoencoder_stage(self._job))

    @property
    def kept_features(self) -> FeatureCache | None:
        """The latents that were asked for so far."""
        return self._job.known_features


def plan_autoencoder(config: AutoencoderRun, context: Context, data: TrainingData) -> AutoencoderPlan:
    """How ``config.autoencoder`` is trained on ``data``."""
    return AutoencoderPlan(config, context, data)
