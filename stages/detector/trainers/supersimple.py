"""SuperSimpleNet's heads, and how they learn from noise in cached latents and from labelled anomalies."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from conf.schema.detectors import SuperSimpleConfig
from detectors.supersimple import SuperSimpleDetector, supersimple_losses
from detectors.training.loop import train_detector
from detectors.training.noise_batches import NoiseBatchSampler
from detectors.training.samples import Mixture, Samples
from latent_common.training_state import TrainingState
from latent_env.training.evaluation import evaluate_latents
from latent_env.training.loop import follow
from latent_env.training.run_folder import Run
from latent_env.worlds.labelled_anomalies import MIRRORINGS
from stages.detector.labelled_anomalies import mirrored_latents
from stages.detector.trainers.base import SingleTrainer, check_token_trainer

LEFT_RIGHT, TOP_BOTTOM = -1, -2
"""Dimensions of images and of maps."""


@dataclass(frozen=True)
class SuperSimpleTrainer(SingleTrainer):
    """Trains :class:`~detectors.supersimple.SuperSimpleDetector`.

    No image passes the encoder again for it: anomalies are noise in the latents of normal images, labelled
    ones and samples. ``synthesis`` has no part in it.
    """

    config: SuperSimpleConfig

    def __post_init__(self) -> None:
        check_token_trainer(self.config, self.data.dataset)
        super().__post_init__()

    @property
    def mask_upscale(self) -> int:
        """Positions a side that the masks of samples have for each token."""
        return self.config.upscale

    @property
    def flips(self) -> tuple[int, ...]:
        """The dimensions along which an image may be mirrored and is still normal, as its data set says."""
        augment = self.data.augmentation
        allowed = ((LEFT_RIGHT, augment.flip_horizontal), (TOP_BOTTOM, augment.flip_vertical))
        return tuple(dimension for dimension, wanted in allowed if wanted)

    def untrained(self) -> SuperSimpleDetector:
        """The detector before it has learned anything."""
        config, encoder = self.config, self.features.encoder
        shape = encoder.latent_shape, config.width, config.upscale, config.input, config.classifies
        detector = self.context.build(lambda: SuperSimpleDetector(*shape)).to(self.context.device)
        detector.set_scales(encoder.natural_scales.to(self.context.device))
        return detector

    def _labelled(self) -> Samples | None:
        """The labelled anomalies, also in all mirrorings that :attr:`flips` allow."""
        plain = super()._labelled()
        wanted = [number for number, dims in enumerate(MIRRORINGS[1:]) if set(dims) <= set(self.flips)]
        if plain is None or not wanted:
            return plain
        labelled = self.features.dataset.valid.subset(self.labelled_split.train)
        turned = mirrored_latents(self.features, labelled)
        parts = [plain]
        for number in wanted:
            masks = plain.masks.flip(MIRRORINGS[1:][number])
            parts.append(plain._replace(images=turned[number].to(plain.images), masks=masks))
        return Samples(*map(torch.cat, zip(*parts, strict=True)))

    def _train(self, run: Run, label: str, samples: Mixture | None, steps: int) -> SuperSimpleDetector:
        config, features, detector = self.config, self.features, self.untrained()
        normal = features.normal_validation()
        train = features.latents("train")
        sampler = NoiseBatchSampler(train, config.upscale, config.noise, samples, self.flips)
        state = TrainingState(detector, config.learning_rate, steps, self.context.seed)
        training = train_detector(
            state,
            detector,
            sampler,
            lambda batch: (batch.images, batch.noise),
            config.batch_size,
            supersimple_losses,
        )
        if config.classifies:
            split, latents = self.validation("choice")

            def evaluate() -> dict[str, float]:
                detector.calibrate(normal)
                return evaluate_latents(detector, latents, split).metrics

            self._follow(run, label, training, state, evaluate, split)
        else:  # over in seconds, which measuring on the way would double
            follow(run, label, training, state)
        detector.calibrate(normal)
        return detector.requires_grad_(False).eval()
