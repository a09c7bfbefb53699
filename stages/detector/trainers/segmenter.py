"""A segmenter of whitened tokens, and how it learns from noise, labelled anomalies and samples."""

from __future__ import annotations

from dataclasses import dataclass

from conf.schema.detectors import SegmenterConfig
from detectors.distances.gaussian import MAX_IMAGES
from detectors.segmenter import SegmenterDetector, segmenter_losses
from detectors.training.loop import train_detector
from detectors.training.samples import Mixture
from detectors.training.whitened_batches import WhitenedBatchSampler
from latent_common.image_source import evenly_spaced_positions
from latent_common.training_state import TrainingState
from latent_env.training.loop import follow
from latent_env.training.run_folder import Run
from stages.detector.baselines import fit_whitening
from stages.detector.trainers.base import SingleTrainer, check_token_trainer


@dataclass(frozen=True)
class SegmenterTrainer(SingleTrainer):
    """Trains :class:`~detectors.segmenter.SegmenterDetector`.

    No image passes the encoder again for it: anomalies are noise in the tokens of normal images, labelled
    ones and samples. ``synthesis`` has no part in it.
    """

    config: SegmenterConfig

    def __post_init__(self) -> None:
        check_token_trainer(self.config, self.data.dataset)
        super().__post_init__()

    @property
    def steps(self) -> int:
        """Training steps, with labelled anomalies or without."""
        return self.config.steps

    def steps_with(self, share: float) -> int:
        """Training steps: more with samples; without, a handful of anomalies would be learned by heart."""
        multiplier = self.config.sample_step_multiplier if share > 0 else 1.0
        return max(round(self.steps * multiplier), 1)

    def untrained(self) -> SegmenterDetector:
        """The detector before it has learned anything."""
        shape, config = self.features.encoder.latent_shape, self.config
        made = self.context.build(lambda: SegmenterDetector(shape, config.width, config.input))
        return made.to(self.context.device)

    def _train(self, run: Run, label: str, samples: Mixture | None, steps: int) -> SegmenterDetector:
        config, features, detector = self.config, self.features, self.untrained()
        train = features.latents("train")
        fit_whitening(detector, features, self.context.seed)
        known = train[evenly_spaced_positions(len(train), MAX_IMAGES).to(train.device)]
        sampler = WhitenedBatchSampler(detector, known, config.noise, samples)
        state = TrainingState(detector.head, config.learning_rate, steps, self.context.seed)
        training = train_detector(
            state,
            detector.head,
            sampler,
            lambda batch: (batch.images,),
            config.batch_size,
            segmenter_losses,
        )
        follow(run, label, training, state)  # over in seconds, which measuring on the way would double
        detector.calibrate(features.normal_validation())
        return detector.requires_grad_(False).eval()
