"""Reconstruction and discriminant networks: how they learn, and what is shown of them on the way."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from conf.schema.detectors import RdnaConfig
from detectors.base import IMAGE
from detectors.rdna import RdnaDetector
from detectors.training.rdna import AdversarialState, Discriminators, train_rdna
from detectors.training.samples import Mixture
from latent_common.errors import UserError
from latent_common.training_state import TrainingState
from latent_env.rendering import restorations
from latent_env.training.evaluation import evaluate_source
from latent_env.training.run_folder import Run
from stages.detector.trainers.base import SingleTrainer

SHOWN = 3
"""So many normal images, and so many anomalous ones, stand in a picture of the training."""

SHOWN_SEED = 7


def check_config(config: RdnaConfig) -> None:
    """Refuse what such a detector can't do."""
    if config.input != IMAGE:
        raise UserError(
            f"detector.input={config.input}: detector=rdna reads images; leave it out, or choose "
            "detector=transformer"
        )


@dataclass(frozen=True)
class RdnaTrainer(SingleTrainer):
    """Trains :class:`~detectors.rdna.RdnaDetector`."""

    config: RdnaConfig

    def __post_init__(self) -> None:
        check_config(self.config)
        super().__post_init__()

    def untrained(self) -> RdnaDetector:
        """The detector before it has learned anything."""
        channels, size = self.data.dataset.channels, self.data.dataset.size
        return self.context.build(lambda: RdnaDetector(channels, size, self.config.width)).to(
            self.context.device
        )

    def _train(self, run: Run, label: str, samples: Mixture | None, steps: int) -> RdnaDetector:
        config, detector = self.config, self.untrained()
        state = self._state(detector, steps)
        split, images = self.validation("choice")
        sampler = replace(self._image_sampler(samples), keep_clean=True)
        shown = sampler.batch(2 * SHOWN, torch.Generator().manual_seed(SHOWN_SEED))  # the same every time

        def evaluate() -> dict[str, float]:
            run.picture("training/restorations", restorations(detector, shown), state.step)
            return evaluate_source(detector, lambda batch: (batch,), images, split).metrics

        training = train_rdna(state, detector, sampler, config.batch_size, config.adversarial_weight)
        self._follow(run, label, training, state, evaluate, split)
        return detector

    def _state(self, detector: RdnaDetector, steps: int) -> TrainingState:
        """A training run from its beginning, with discriminators unless they are switched off."""
        run = self.config.learning_rate, steps, self.context.seed
        if not self.config.adversarial_weight:
            return TrainingState(detector, *run)
        discriminators = self.context.build(lambda: Discriminators(detector.channels, detector.width))
        return AdversarialState(detector, discriminators.to(self.context.device), *run)
