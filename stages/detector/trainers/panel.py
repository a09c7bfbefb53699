"""A panel: two trained heads and fitted detectors, each counting as much as any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from conf.schema.detectors import PanelConfig, RewardEnsembleConfig
from detectors.base import Detector
from detectors.ensemble import EnsembleDetector
from detectors.registry import DISTANCE_DETECTORS, SUPERSIMPLE
from detectors.training.samples import SampleSource
from latent_common.errors import UserError
from latent_env.training.run_folder import Run
from stages.detector.baselines import fitted_distances
from stages.detector.trainers.base import DetectorTrainer, Network
from stages.detector.trainers.supersimple import SuperSimpleTrainer


@dataclass(frozen=True)
class PanelTrainer(DetectorTrainer):
    """Trains SuperSimpleNet's heads, and averages their scores and maps with those of fitted detectors.

    Each is standardised over normal validation images, so that what finds an anomaly many deviations away
    decides, and the others add little. Weights would have to be chosen by anomalies that nothing learned
    from, and a handful of them is better learned from.
    """

    config: PanelConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        offered, members = ", ".join(DISTANCE_DETECTORS), self.config.members
        if not members or len(set(members)) < len(members) or set(members) - set(DISTANCE_DETECTORS):
            raise UserError(f"detector.members={members} must name each once, of {offered}")
        _ = self.heads  # which refuses what it can't read

    @property
    def heads(self) -> SuperSimpleTrainer:
        """Trains the heads alone."""
        return SuperSimpleTrainer(self.config.supersimple(), *self.parts)

    @property
    def mask_upscale(self) -> int:
        """Positions a side that the masks of samples have for each token."""
        return self.heads.mask_upscale

    def untrained(self) -> Network:
        """The heads before they have learned anything."""
        return self.heads.untrained()

    def smaller(self, ensemble: RewardEnsembleConfig, seed: int) -> DetectorTrainer:
        """A trainer of small heads alone, with a seed of their own: they pay for samples."""
        return self.heads.smaller(ensemble, seed)

    def train(self, run: Run, label: str, sample_sources: Sequence[SampleSource] = ()) -> EnsembleDetector:
        """Heads that learned from scratch, with fitted detectors beside them."""
        members: dict[str, Detector] = {SUPERSIMPLE: self.heads.train(run, label, sample_sources)}
        for name in self.config.members:
            members[name] = fitted_distances(name, self.features, self.context.seed, self.config.input)
        panel = EnsembleDetector(members, [1 / len(members)] * len(members)).to(self.context.device)
        panel.requires_grad_(False).eval()
        panel.calibrate(self.features.normal_validation(), lambda batch: (batch,))
        return panel
