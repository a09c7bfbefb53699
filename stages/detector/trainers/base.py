"""Training detectors from scratch: on the same images, and on whatever samples are given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

from conf.schema.detectors import LearningConfig, RewardEnsembleConfig, SynthesisConfig, TrainedConfig
from conf.schema.runs import LabelledConfig
from detectors.base import FEATURES, TOKENS, Detector
from detectors.latent_transformer import LatentTransformerDetector
from detectors.probe import ProbeDetector
from detectors.rdna import RdnaDetector
from detectors.segmenter import SegmenterDetector
from detectors.supersimple import SuperSimpleDetector
from detectors.synthetic.image_synthesis import ImageSynthesis
from detectors.training.batches import BatchSampler
from detectors.training.samples import Mixture, Samples, SampleSource, make_mixture
from detectors.transformer import TransformerDetector
from latent_common.errors import UserError
from latent_common.image_source import ImageSource
from latent_common.training_state import Progress, TrainingState
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.autoencoders.pretrained import PretrainedEncoder
from latent_env.data import Dataset, Split
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.loop import follow, validation_interval
from latent_env.training.run_folder import Run
from stages.context import Context
from stages.detector.labelled_anomalies import labelled_samples
from stages.detector.labelled_split import LabelledSplit, Positions
from stages.detector.validation_sets import Purpose, check_normal_validation, validation_inputs
from stages.training_data import TrainingData

Network = (
    TransformerDetector
    | LatentTransformerDetector
    | RdnaDetector
    | SuperSimpleDetector
    | ProbeDetector
    | SegmenterDetector
)
"""The detectors that learn from anomalies, each by itself."""


class Parts(NamedTuple):
    """What all detectors of a command are trained with."""

    synthesis: SynthesisConfig
    labelled: LabelledConfig
    context: Context
    data: TrainingData
    autoencoder: FrozenAutoencoder
    latents: FeatureCache
    """The latents of the autoencoder, which agents change."""
    features: FeatureCache
    """What detectors of tokens read: these latents, or the features of the detector's backbone."""
    labelled_split: LabelledSplit
    """What each labelled anomaly of the validation split is used for."""


@dataclass(frozen=True)
class DetectorTrainer(ABC):
    """All that the detectors of a command have in common: they differ by the samples they learn from.

    Where the parts don't go together, making a trainer is refused.
    """

    config: LearningConfig
    synthesis: SynthesisConfig
    labelled: LabelledConfig
    context: Context
    data: TrainingData
    autoencoder: FrozenAutoencoder
    latents: FeatureCache
    features: FeatureCache
    labelled_split: LabelledSplit

    def __post_init__(self) -> None:
        _ = self.image_synthesis  # which refuses wrong weights

    @property
    def parts(self) -> Parts:
        """All but the configuration of the detector itself."""
        return Parts(*(getattr(self, name) for name in Parts._fields))

    @property
    def backbone(self) -> PretrainedEncoder | None:
        """The encoder whose features the detector reads, if it reads features."""
        encoder = self.features.encoder
        return encoder if self.config.input == FEATURES and isinstance(encoder, PretrainedEncoder) else None

    @cached_property
    def image_synthesis(self) -> ImageSynthesis:
        """Image-space synthetic anomalies, with the user's textures if there are any."""
        return ImageSynthesis(self.synthesis.weights, self.data.textures)

    def without(self, rows: Positions) -> Self:
        """A trainer of the same detectors that learn nothing from the labelled anomalies at ``rows``."""
        return replace(self, labelled_split=self.labelled_split.without(rows))

    def judging(self, rows: Positions) -> Self:
        """A trainer of detectors whose scores alone are asked for, of the labelled anomalies at ``rows``."""
        return self.without(rows)

    @property
    def steps(self) -> int:
        """Training steps: ``labelled.step_multiplier`` times as many where there are labelled anomalies.

        0 where all is learned at once.
        """
        if not isinstance(self.config, TrainedConfig):
            return 0
        multiplier = self.labelled.step_multiplier if len(self.labelled_split.train) else 1.0
        return max(round(self.config.steps * multiplier), 1)

    def steps_with(self, share: float) -> int:  # noqa: ARG002
        """Training steps with so large a ``share`` of samples: most detectors learn as long as without."""
        return self.steps

    @property
    def mask_upscale(self) -> int:
        """Positions a side that the masks of samples have for each token, where detectors read tokens."""
        return 1

    def validation(self, purpose: Purpose) -> tuple[Split, ImageSource]:
        """The validation images for a purpose, and what detectors read of them: images uint8, or latents."""
        return validation_inputs(self.features, self.labelled_split, purpose, self.config.input)

    def _sources(self, sample_sources: Sequence[SampleSource]) -> list[SampleSource]:
        """``sample_sources``, and after them the labelled anomalies if there are any."""
        labelled = self._labelled()
        beside = [] if labelled is None else [SampleSource(labelled, self.labelled.weight)]
        return [*sample_sources, *beside]

    def _labelled(self) -> Samples | None:
        """The labelled anomalies that detectors train on, if there are any."""
        rows, reads = self.labelled_split.train, self.config.input
        return labelled_samples(self.features, rows, reads, self.mask_upscale)

    @abstractmethod
    def untrained(self) -> Network:
        """The detector before it has learned anything: the same weights for the same seed."""

    @abstractmethod
    def train(self, run: Run, label: str, sample_sources: Sequence[SampleSource] = ()) -> Detector:
        """A detector trained from scratch, on ``sample_sources`` of samples too if there are any.

        Whatever the samples, it begins with the same weights and takes as many steps. ``label`` names its
        progress bars; a run that was stopped goes on from where it was.
        """

    @abstractmethod
    def smaller(self, ensemble: RewardEnsembleConfig, seed: int) -> DetectorTrainer:
        """A trainer of a reward ensemble's members: small single detectors, with a seed of their own."""


def check_token_trainer(config: LearningConfig, dataset: Dataset) -> None:
    """Refuse what a detector of tokens that is calibrated on normal images can't learn from."""
    if config.input not in TOKENS:
        raise UserError(
            f"detector.input={config.input}: detector={config.name} reads tokens; choose latent, or features "
            "with detector.backbone"
        )
    check_normal_validation(dataset)


class SingleTrainer(DetectorTrainer):
    """Trains detectors that are one network."""

    config: TrainedConfig

    def train(self, run: Run, label: str, sample_sources: Sequence[SampleSource] = ()) -> Detector:
        """A detector trained from scratch, on labelled anomalies and on samples where there are any."""
        samples = make_mixture(self._sources(sample_sources))
        return self._train(run, label, samples, self.steps_with(sum(each.share for each in sample_sources)))

    def smaller(self, ensemble: RewardEnsembleConfig, seed: int) -> DetectorTrainer:
        """A trainer of small detectors, with a seed of their own."""
        parts = self.parts._replace(context=self.context.with_seed(seed))
        return type(self)(self.config.smaller(ensemble), *parts)

    @abstractmethod
    def _train(self, run: Run, label: str, samples: Mixture | None, steps: int) -> Detector:
        """Train a detector for so many ``steps`` on ``samples`` beside synthetic anomalies."""

    def _image_sampler(self, samples: Mixture | None) -> BatchSampler:
        """Batches of images: augmented normal ones, synthetic anomalies, and ``samples``."""
        augment = self.data.augmentation.with_masks
        return BatchSampler(self.data.images, self.image_synthesis, samples, augment, self.autoencoder)

    def _follow(
        self,
        run: Run,
        label: str,
        training: Iterator[Progress],
        state: TrainingState,
        evaluate: Callable[[], Mapping[str, float]],
        split: Split,
    ) -> None:
        """Run ``training`` to its end, and ``evaluate`` the detector on ``split`` on the way."""
        model: Any = state.model

        def validate() -> dict[str, float]:
            model.eval()
            metrics = evaluate()
            model.train()
            return {f"valid/{name}": value for name, value in metrics.items()}

        every = validation_interval(state.total, self.config.batch_size, len(split))
        follow(run, label, training, state, validate, every)
        model.requires_grad_(False).eval()
