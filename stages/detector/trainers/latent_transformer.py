"""A transformer of latents, and how it learns from pools of latents that were encoded beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conf.schema.detectors import TransformerConfig
from detectors.distances.neighbour_cache import fill_memory
from detectors.latent_transformer import LatentTransformerDetector, token_losses
from detectors.training.batches import Batch
from detectors.training.latent_batches import SAMPLES, LatentBatchSampler
from detectors.training.loop import train_detector
from detectors.training.samples import Mixture
from latent_common.errors import UserError
from latent_common.training_state import TrainingState
from latent_env.training.evaluation import evaluate_latents
from latent_env.training.run_folder import Run
from stages.detector.trainers.base import SingleTrainer
from stages.detector.trainers.latent_pools import make_pools
from stages.detector.validation_sets import check_normal_validation


@dataclass(frozen=True)
class LatentTransformerTrainer(SingleTrainer):
    """Trains :class:`~detectors.latent_transformer.LatentTransformerDetector`."""

    config: TransformerConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        check_normal_validation(self.data.dataset)
        if self.synthesis.pool < 1:
            raise UserError(
                f"synthesis.pool={self.synthesis.pool} must be at least 1: detectors of latents learn from it"
            )

    def untrained(self) -> LatentTransformerDetector:
        """The detector before it has learned anything."""
        config = self.config
        memory_size = min(config.memory_size, len(self.data.images))
        latent_shape = self.features.encoder.latent_shape
        shape = latent_shape, memory_size, config.width, config.depth, config.heads, config.input
        return self.context.build(lambda: LatentTransformerDetector(*shape)).to(self.context.device)

    def _train(self, run: Run, label: str, samples: Mixture | None, steps: int) -> LatentTransformerDetector:
        config, features, detector = self.config, self.features, self.untrained()
        normal = features.normal_validation()
        train, pools = features.latents("train"), make_pools(features, self.data, self.synthesis)
        sampler = LatentBatchSampler(train, *pools, samples)
        # What the last detector of this memory and these pools looked up is known to this one.
        known = (detector.memory_size, *(pool.name for pool in pools))
        nearest = fill_memory(detector.memory, train, sampler.known_offsets[-1], features.nearest.get(known))
        state = TrainingState(detector, config.learning_rate, steps, self.context.seed)
        split, latents = self.validation("choice")

        def inputs_of(batch: Batch) -> tuple[Any, ...]:
            assert batch.known is not None
            found = nearest(batch.images, batch.sources, batch.known)
            return batch.images, batch.sources, state.generator, found

        def evaluate() -> dict[str, float]:
            detector.calibrate(normal)
            return evaluate_latents(detector, latents, split).metrics

        training = train_detector(state, detector, sampler, inputs_of, config.batch_size, token_losses)
        self._follow(run, label, training, state, evaluate, split)
        features.nearest[known] = nearest.found[: sampler.known_offsets[SAMPLES]].clone()
        detector.calibrate(normal)
        return detector
