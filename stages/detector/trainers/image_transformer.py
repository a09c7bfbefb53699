"""A transformer of images and their reconstructions, and how it learns."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from conf.schema.detectors import TransformerConfig
from detectors.training.loop import train_detector
from detectors.training.samples import Mixture
from detectors.transformer import TransformerDetector
from latent_common.image_source import evenly_spaced, images_at_once
from latent_common.training_state import TrainingState
from latent_env.training.evaluation import evaluate_source
from latent_env.training.run_folder import Run
from stages.detector.trainers.base import SingleTrainer

CALIBRATION_IMAGES, CALIBRATION_BYTES = 2048, 2**28
"""So many normal images are enough to calibrate on, and they fit in memory as floats."""


@dataclass(frozen=True)
class ImageTransformerTrainer(SingleTrainer):
    """Trains :class:`~detectors.transformer.TransformerDetector`."""

    config: TransformerConfig

    def untrained(self) -> TransformerDetector:
        """The detector before it has learned anything."""
        config, dataset = self.config, self.data.dataset
        shape = dataset.channels, dataset.size, config.patch, config.width, config.depth, config.heads
        return self.context.build(lambda: TransformerDetector(*shape)).to(self.context.device)

    def _train(self, run: Run, label: str, samples: Mixture | None, steps: int) -> TransformerDetector:
        config, context = self.config, self.context
        detector, sampler = self.untrained(), self._image_sampler(samples)
        self._calibrate(detector)
        state = TrainingState(detector, config.learning_rate, steps, context.seed, context.precision)
        split, images = self.validation("choice")

        def inputs_of(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return self.autoencoder.detector_inputs(batch, detector.input)

        training = train_detector(
            state, detector, sampler, lambda batch: inputs_of(batch.images), config.batch_size
        )
        self._follow(
            run,
            label,
            training,
            state,
            lambda: evaluate_source(detector, inputs_of, images, split).metrics,
            split,
        )
        return detector

    def _calibrate(self, detector: TransformerDetector) -> None:
        """Take location and scale of the inputs from normal images and their reconstructions."""
        channels, size = self.data.dataset.channels, self.data.dataset.size
        fitting = CALIBRATION_BYTES // (channels * size**2 * 4)
        normal = evenly_spaced(self.data.images, min(CALIBRATION_IMAGES, fitting)).float() / 255
        with torch.inference_mode():
            parts = normal.split(images_at_once(size))
            detector.calibrate(normal, torch.cat([self.autoencoder(part) for part in parts]))
