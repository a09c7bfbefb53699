"""A linear probe on whitened tokens: fitted to normal images, then to labelled anomalies and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from conf.schema.detectors import ProbeConfig, RewardEnsembleConfig
from detectors.distances.gaussian import MAX_IMAGES
from detectors.probe import ProbeDetector
from detectors.training.samples import SampleSource
from latent_common.image_source import ImageSource, evenly_spaced_positions
from latent_env.training.run_folder import Run
from stages.detector.baselines import fit_whitening
from stages.detector.trainers.base import DetectorTrainer, check_token_trainer

RESAMPLED = 0.75
"""The share of the normal images that a member of a reward ensemble is fitted to."""


@dataclass(frozen=True)
class ProbeTrainer(DetectorTrainer):
    """Fits :class:`~detectors.probe.ProbeDetector`: at once, in seconds, with no random number.

    ``synthesis`` has no part in it: without labelled anomalies and samples the distance alone decides.

    :param resampled: whether it is fitted to a part of the normal images and to anomalies that are drawn
        with replacement, as the seed says: such detectors disagree where they know little.
    """

    config: ProbeConfig
    resampled: bool = False

    def __post_init__(self) -> None:
        check_token_trainer(self.config, self.data.dataset)
        super().__post_init__()

    def untrained(self) -> ProbeDetector:
        """The detector before it has seen an image."""
        detector = ProbeDetector(self.features.encoder.latent_shape, self.config.input)
        return detector.to(self.context.device)

    def smaller(self, ensemble: RewardEnsembleConfig, seed: int) -> DetectorTrainer:  # noqa: ARG002
        """A trainer of probes that are fitted to parts of the images, as the seed says."""
        return replace(self, context=self.context.with_seed(seed), resampled=True)

    def train(self, run: Run, label: str, sample_sources: Sequence[SampleSource] = ()) -> ProbeDetector:  # noqa: ARG002
        """A probe that learned from labelled anomalies and from samples where there are any."""
        detector, normal = self.untrained(), self._normal()
        if self.resampled:
            detector.fit(normal, self.features.encoder.natural_scales, self.context.seed)
        else:
            fit_whitening(detector, self.features, self.context.seed)
        labelled = max(len(self.labelled_split.train), 1)
        detector.learn(normal, self._drawn(self._sources(sample_sources)), self.config.strength / labelled)
        detector.calibrate(self.features.normal_validation())
        return detector.requires_grad_(False).eval()

    def _normal(self) -> ImageSource:
        """The latents of normal images that it is fitted to."""
        latents = self.features.latents("train")
        if not self.resampled:
            return latents
        positions = evenly_spaced_positions(len(latents), MAX_IMAGES)
        count = max(round(RESAMPLED * len(positions)), 1)
        chosen = torch.randperm(len(positions), generator=self._generator())[:count].sort().values
        return latents[positions[chosen].to(latents.device)]

    def _drawn(self, sources: Sequence[SampleSource]) -> list[SampleSource]:
        """``sources``, or as many of their samples, drawn with replacement."""
        if not self.resampled:
            return list(sources)
        generator = self._generator()

        def some(count: int) -> Tensor:
            return torch.randint(count, (count,), generator=generator)

        anomalies = [SampleSource(source.samples.of(1), source.share) for source in sources]
        return [
            SampleSource(source.samples.at(some(len(source.samples.labels))), source.share)
            for source in anomalies
            if len(source.samples.labels)
        ]

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.context.seed)
