"""Training detectors from scratch: on the same images, and on whatever samples are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from conf.schema.detectors import RewardEnsembleConfig, SynthesisConfig, TrainedConfig
from conf.schema.runs import DetectorRun, LabelledConfig
from detectors.base import Detector
from detectors.training.samples import SampleSource
from latent_common.image_source import ImageSource
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.data import Split
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.run_folder import Run
from stages.context import Context, Job
from stages.detector.labelled_split import LabelledSplit, divide
from stages.detector.training import train_one_detector, train_single_detector
from stages.detector.validation_sets import Role, seen, training_steps
from stages.job_of import job_of
from stages.training_data import TrainingData


@dataclass(frozen=True)
class DetectorTrainer:
    """All that the detectors of a command have in common: they differ by the samples they learn from."""

    config: TrainedConfig
    synthesis: SynthesisConfig
    labelled: LabelledConfig
    context: Context
    data: TrainingData
    autoencoder: FrozenAutoencoder
    features: FeatureCache
    single: bool = False
    """Whether an ensemble's trained detector is trained alone."""

    @cached_property
    def _job(self) -> Job[DetectorRun]:
        config = DetectorRun(
            detector=self.config,
            synthesis=self.synthesis,
            labelled=self.labelled,
            seed=self.context.seed,
            precision=self.context.precision,
            memory=self.context.memory,
        )
        return job_of(config, self.context, self.data)

    @property
    def steps(self) -> int:
        """Training steps of a detector."""
        return training_steps(self._job)

    @cached_property
    def labelled_split(self) -> LabelledSplit:
        """What each labelled anomaly of the validation split is used for."""
        labels = self.data.dataset.valid.labels
        return divide(labels, self.labelled.train, self.labelled.reference_set)

    def train(self, run: Run, label: str, sample_sources: Sequence[SampleSource] = ()) -> Detector:
        """A detector trained from scratch, on ``sample_sources`` of samples too if there are any.

        Whatever the samples, it begins with the same weights and takes as many steps. An ensemble's
        second detector and its weights are chosen anew for it. ``label`` names its progress bars.
        """
        train = train_single_detector if self.single else train_one_detector
        return train(self._job, run, self.autoencoder, self.features, label, sample_sources)

    def smaller(self, ensemble: RewardEnsembleConfig, seed: int) -> DetectorTrainer:
        """A trainer of a reward ensemble's members: small single detectors, with a seed of their own."""
        context = self.context.with_seed(seed)
        return replace(self, config=self.config.smaller(ensemble), context=context, single=True)

    def validation(self, purpose: Role) -> tuple[Split, ImageSource]:
        """The validation images for a purpose, and what detectors read of them: images uint8, or latents."""
        return seen(self._job, self.features, purpose, self.config.input)
