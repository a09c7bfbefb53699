"""A panel: detectors of tokens that learn from anomalies or from normal images, which all count as much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from conf.schema.detectors import PanelConfig, RewardEnsembleConfig
from detectors.base import Detector
from detectors.ensemble import EnsembleDetector
from detectors.registry import DISTANCE_DETECTORS, PROBE, SEGMENTER, SUPERSIMPLE
from detectors.training.samples import SampleSource
from latent_common.errors import UserError
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.training.run_folder import Run
from stages.detector.baselines import fitted_distances
from stages.detector.labelled_split import Positions
from stages.detector.trainers.base import DetectorTrainer, Network
from stages.detector.trainers.ensemble import trained_beside
from stages.detector.trainers.probe import ProbeTrainer
from stages.detector.trainers.segmenter import SegmenterTrainer
from stages.detector.trainers.supersimple import SuperSimpleTrainer

LEARNING = (SEGMENTER, PROBE)
"""Members that learn from labelled anomalies and samples, and score images."""


@dataclass(frozen=True)
class PanelTrainer(DetectorTrainer):
    """Trains and fits its members, and averages their scores and maps.

    Each is standardised over normal validation images, so that what finds an anomaly many deviations away
    decides, and the others add little. Weights would have to be chosen by anomalies that nothing learned
    from, and a handful of them is better learned from.

    One member, ``supersimple``, has a part in the map alone, where masks of labelled anomalies teach it to
    draw finer than tokens are: its own scores are the worst where anomalies are of many kinds. An agent's
    samples, many of which are marked by tokens, teach it nothing, so it is trained once.

    :param scores_alone: whether only scores are asked for, so that nothing needs to be drawn.
    """

    config: PanelConfig
    scores_alone: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        offered, members = [*LEARNING, *DISTANCE_DETECTORS, SUPERSIMPLE], self.config.members
        if (
            not set(LEARNING) & set(members)
            or len(set(members)) < len(members)
            or set(members) - set(offered)
        ):
            raise UserError(
                f"detector.members={members} must name each once, of {', '.join(offered)}, and at least one "
                f"that learns: {' or '.join(LEARNING)}"
            )
        _ = self.learning  # which refuse what they can't read

    @property
    def learning(self) -> dict[str, DetectorTrainer]:
        """What trains the members that learn from anomalies, by name, in the order of the members."""
        made: dict[str, DetectorTrainer] = {}
        for name in self.config.members:
            if name == PROBE:
                made[name] = ProbeTrainer(self.config.probe(), *self.parts)
            elif name == SEGMENTER:
                made[name] = SegmenterTrainer(self.config.segmenter(), *self.parts)
        return made

    @property
    def drawing(self) -> SuperSimpleTrainer | None:
        """What trains the member that draws; None where that can only harm.

        Latents of an autoencoder that was trained here taught it worse maps than the others draw.
        """
        masks, rows, encoder = self.data.dataset.valid.masks, self.labelled_split.train, self.features.encoder
        shown = masks is not None and bool(masks[rows].any())
        telling = not isinstance(encoder, FrozenAutoencoder) or encoder.of_features
        if self.scores_alone or SUPERSIMPLE not in self.config.members or not (shown and telling):
            return None
        # Its steps are those of labelled anomalies already: without any it isn't trained.
        parts = self.parts._replace(labelled=replace(self.labelled, step_multiplier=1.0))
        return SuperSimpleTrainer(self.config.supersimple(), *parts)

    def judging(self, rows: Positions) -> Self:
        """A trainer of the members that score images, of which the anomalies at ``rows`` are left out."""
        return replace(self.without(rows), scores_alone=True)

    @property
    def first(self) -> DetectorTrainer:
        """The first of :attr:`learning`: detectors like it pay for samples."""
        return next(iter(self.learning.values()))

    @property
    def steps(self) -> int:
        """Training steps of the members that take some."""
        return max(trainer.steps for trainer in self.learning.values())

    def steps_with(self, share: float) -> int:
        """Training steps of the members that take some, with so large a ``share`` of samples."""
        return max(trainer.steps_with(share) for trainer in self.learning.values())

    def untrained(self) -> Network:
        """The first member that learns, before it has learned anything; the others are built once too."""
        first, *_ = (trainer.untrained() for trainer in self.learning.values())
        if self.drawing is not None:
            self.drawing.untrained()
        return first

    def smaller(self, ensemble: RewardEnsembleConfig, seed: int) -> DetectorTrainer:
        """A trainer of small detectors like the first member that learns, with a seed of their own."""
        return self.first.smaller(ensemble, seed)

    def train(self, run: Run, label: str, sample_sources: Sequence[SampleSource] = ()) -> EnsembleDetector:
        """Members that learned from scratch, with fitted ones beside them."""
        learning, drawing, members = self.learning, self.drawing, dict[str, Detector]()
        for name in self.config.members:
            if name in learning:
                members[name] = learning[name].train(run, label, sample_sources)
            elif name != SUPERSIMPLE:
                members[name] = fitted_distances(name, self.features, self.context.seed, self.config.input)
            elif drawing is not None:
                if name not in self._drawn:
                    self._drawn[name] = trained_beside(drawing, run.part(name), f"{label}, {name}")
                members[name] = self._drawn[name]
        scoring = len(members) - (SUPERSIMPLE in members)
        weights = [0.0 if name == SUPERSIMPLE else 1 / scoring for name in members]
        panel = EnsembleDetector(members, weights, [1 / len(members)] * len(members)).to(self.context.device)
        panel.requires_grad_(False).eval()
        panel.calibrate(self.features.normal_validation(), lambda batch: (batch,))
        return panel

    @cached_property
    def _drawn(self) -> dict[str, Detector]:
        """The member that draws, by its name, once it is trained."""
        return {}
