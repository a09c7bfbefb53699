"""How a command gets its detector: the untrained world, which shows mistakes, and the trained one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from conf.schema.autoencoders import AutoencoderConfig
from conf.schema.detectors import TrainedConfig
from conf.schema.runs import DetectorRun
from latent_common.errors import UserError
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.run_folder import Run
from latent_env.worlds.world import World
from stages.autoencoder.base import AutoencoderPlan
from stages.context import Context, Job
from stages.detector.labelled_split import LabelledSplit, divide
from stages.detector.stage import detector_settings, detector_stage, rehearse_detector
from stages.detector.trainer import DetectorTrainer
from stages.job_of import autoencoder_plan, job_of
from stages.training_data import TrainingData


@dataclass(frozen=True)
class TrainedDetector:
    """A detector in its world, the run that both lie in, and the trainer that can train others like it."""

    world: World
    run: Run
    trainer: DetectorTrainer

    @property
    def features(self) -> FeatureCache:
        """The latents of the data set."""
        return self.trainer.features


@dataclass(frozen=True)
class DetectorPlan:
    """A command's trainable detector, built once untrained: what can't work together was refused by then."""

    config: DetectorRun
    context: Context
    data: TrainingData
    autoencoder: AutoencoderPlan[AutoencoderConfig]
    untrained: World
    """A world of untrained networks, and of a few images."""

    @cached_property
    def _job(self) -> Job[DetectorRun]:
        return job_of(self.config, self.context, self.data)

    @cached_property
    def labelled_split(self) -> LabelledSplit:
        """What each labelled anomaly of the validation split is used for."""
        labelled = self.config.labelled
        return divide(self.data.dataset.valid.labels, labelled.train, labelled.reference_set)

    def settings(self) -> dict[str, Any]:
        """All that decides what the detector becomes."""
        return detector_settings(self._job)

    def train(self) -> TrainedDetector:
        """The world with its detector: loaded if an earlier command made it, else trained now."""
        world, run, features = detector_stage(self._job)
        config = self.config
        assert isinstance(config.detector, TrainedConfig)
        trainer = DetectorTrainer(
            config.detector,
            config.synthesis,
            config.labelled,
            self.context,
            self.data,
            world.autoencoder,
            features,
        )
        return TrainedDetector(world, run, trainer)


def plan_detector(config: DetectorRun, context: Context, data: TrainingData) -> DetectorPlan:
    """Build ``config.detector`` and all that it needs once, untrained: mistakes show at once."""
    if not isinstance(config.detector, TrainedConfig):
        raise UserError(
            f"detector={config.detector.name} learns from normal images alone, so no sample can change "
            "it: use it with train_detector.py, or choose detector=transformer"
        )
    job = job_of(config, context, data)
    plan = DetectorPlan(config, context, data, autoencoder_plan(job), rehearse_detector(job))
    plan.__dict__["_job"] = job
    return plan
