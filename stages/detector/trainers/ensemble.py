"""An ensemble of a trained transformer and one more detector, selected on the validation split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from conf.schema.detectors import (
    EnsembleConfig,
    RdnaConfig,
    RewardEnsembleConfig,
    SuperSimpleConfig,
    TokenDetectorConfig,
)
from detectors.base import FEATURES, IMAGE, LATENT, TOKENS, Detection, Detector
from detectors.ensemble import EnsembleDetector
from detectors.reconstruction import ReconstructionDetector
from detectors.registry import DISTANCE_DETECTORS, RDNA, RECONSTRUCTION, SUPERSIMPLE
from detectors.training.ensemble_selection import WEIGHTS, select_map_weight, select_member
from detectors.training.loop import InputsOf, score
from detectors.training.samples import SampleSource
from latent_common.artifacts import write_json
from latent_common.errors import UserError
from latent_common.image_source import ImageSource
from latent_common.progress import progress_bar, say
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.data import Split
from latent_env.training.feature_cache import normal_positions
from latent_env.training.run_folder import Run
from latent_env.worlds.artifacts import load_detector, save_detector
from stages.detector.baselines import fit_reconstruction, fitted_distances
from stages.detector.labelled_split import Positions
from stages.detector.trainers.base import DetectorTrainer, Network, SingleTrainer
from stages.detector.trainers.rdna import RdnaTrainer
from stages.detector.trainers.supersimple import SuperSimpleTrainer
from stages.detector.validation_sets import check_normal_validation

TRAINED = "transformer"

FITTED: dict[str, list[str]] = {
    LATENT: list(DISTANCE_DETECTORS),
    FEATURES: list(DISTANCE_DETECTORS),
    IMAGE: [RECONSTRUCTION, *DISTANCE_DETECTORS],
}
"""Members that are fitted to normal images, by what the transformer reads: images have latents too."""

TRAINED_BESIDE: dict[str, list[str]] = {LATENT: [SUPERSIMPLE], FEATURES: [SUPERSIMPLE], IMAGE: [RDNA]}
"""Which members have to be trained, for as long as the transformer: only those that are asked for."""

RDNA_WIDTH, RDNA_ADVERSARIAL_WEIGHT = 16, 0.1
"""The small network, as ``detector=rdna`` is by default."""

SUPERSIMPLE_WIDTH, SUPERSIMPLE_UPSCALE, SUPERSIMPLE_NOISE, SUPERSIMPLE_RATE = 256, 2, 0.5, 2e-3
"""As ``detector=supersimple`` is by default."""

SELECTION = "ensemble.json"
"""In a run's folder: what the ensemble was selected by."""

SCORES_TRIED = f"image_AUROC by weight of the {TRAINED}, 0 to 1"
MAPS_TRIED = f"pixel_AUPRO by weight of the {TRAINED}, 0 to 1"


def member_names(config: EnsembleConfig) -> list[str]:
    """The candidates for the second member; those that can't be one are refused."""
    fitting = FITTED[config.input]
    if config.members is None:
        return fitting
    fitting = fitting + TRAINED_BESIDE[config.input]
    listed = ", ".join(fitting)
    if not config.members:
        raise UserError(
            f"detector.members=[] leaves no candidate: choose among {listed}, or detector=transformer"
        )
    if len(set(config.members)) < len(config.members):
        raise UserError(f"detector.members={config.members} names one twice: choose among {listed}")
    for name in config.members:
        if name in fitting:
            continue
        if any(name in names for names in (*FITTED.values(), *TRAINED_BESIDE.values())):
            raise UserError(
                f"detector.members={name} doesn't read what the transformer reads, with "
                f"detector.input={config.input}: choose among {listed}"
            )
        raise UserError(f"detector.members={name} is unknown: choose among {listed}")
    return config.members


@dataclass(frozen=True)
class EnsembleTrainer(DetectorTrainer):
    """Trains a transformer, and joins it with the member, and by the weights, that are best on validation."""

    config: EnsembleConfig
    transformer: DetectorTrainer
    """Trains the transformer alone."""

    def __post_init__(self) -> None:
        member_names(self.config)
        check_normal_validation(self.data.dataset)

    def without(self, rows: Positions) -> Self:
        """A trainer of the same ensembles that learn nothing from the labelled anomalies at ``rows``."""
        return replace(super().without(rows), transformer=self.transformer.without(rows))

    @property
    def rdna(self) -> RdnaTrainer:
        """Trains a small RDNA for as long as the transformer, on batches as large and as fast."""
        config = self.config
        rdna = RdnaConfig(
            name=RDNA,
            num_start_images=config.num_start_images,
            input=IMAGE,
            width=RDNA_WIDTH,
            steps=config.steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            baselines=[],
            adversarial_weight=RDNA_ADVERSARIAL_WEIGHT,
        )
        return RdnaTrainer(rdna, *self.parts)

    @property
    def supersimple(self) -> SuperSimpleTrainer:
        """Trains a ``supersimple`` for as long as the transformer, on batches as large."""
        config = self.config
        shared = {field.name: getattr(config, field.name) for field in fields(TokenDetectorConfig)}
        supersimple = SuperSimpleConfig(
            **{**shared, "name": SUPERSIMPLE},
            width=SUPERSIMPLE_WIDTH,
            upscale=SUPERSIMPLE_UPSCALE,
            noise=SUPERSIMPLE_NOISE,
            classifies=True,
            steps=config.steps,
            batch_size=config.batch_size,
            learning_rate=SUPERSIMPLE_RATE,
            baselines=[],
        )
        return SuperSimpleTrainer(supersimple, *self.parts)

    def trainers_beside(self) -> dict[str, SingleTrainer]:
        """What trains the members that have to be trained, by name."""
        names = [name for name in TRAINED_BESIDE[self.config.input] if name in member_names(self.config)]
        return {name: self.rdna if name == RDNA else self.supersimple for name in names}

    def untrained(self) -> Network:
        """The transformer before it has learned anything; other trained members are built once too."""
        for trainer in self.trainers_beside().values():
            trainer.untrained()
        return self.transformer.untrained()

    def smaller(self, ensemble: RewardEnsembleConfig, seed: int) -> DetectorTrainer:
        """A trainer of small transformers, with a seed of their own."""
        return self.transformer.smaller(ensemble, seed)

    def train(self, run: Run, label: str, sample_sources: Sequence[SampleSource] = ()) -> EnsembleDetector:
        """A transformer that learned from scratch, with the member and the weights that are best for it.

        They are selected on the part of the validation split that is for choices: labelled anomalies that
        nothing was trained on, or else synthetic ones of kinds that nothing was trained on. Where masks are
        known maps have weights of their own: the detector that finds an anomaly needn't be the one that
        locates it.
        """
        trained = self.transformer.train(run, label, sample_sources)
        others = {name: self._member(name, run, label, sample_sources) for name in member_names(self.config)}
        search = WeightSearch(self.autoencoder, self.config.input, *self.validation("choice"))
        split = search.split
        scores = {
            name: search.predict(detector, keep_maps=False).score.numpy()
            for name, detector in {TRAINED: trained, **others}.items()
        }
        choice = select_member(scores.pop(TRAINED), scores, split.labels, normal_positions(split).numpy())
        members = {TRAINED: trained, choice.member: others[choice.member]}
        ensemble = search.join(members, choice.weight, choice.weight)
        selection = {"member": choice.member, "weight": choice.weight, SCORES_TRIED: choice.candidates}
        kind = "labelled" if len(self.labelled_split.choice) else "synthetic"
        say(
            f"ensemble: {in_words(members, ensemble.weights)}; image_AUROC on {kind} validation anomalies "
            f"{gain(choice.candidates[choice.member])}"
        )
        if split.masks is not None and split.masks.any():
            weight, values = search.weigh_maps(ensemble, split.masks)
            if weight != choice.weight:
                ensemble = search.join(members, choice.weight, weight)
            selection |= {"weight_of_map": weight, MAPS_TRIED: values}
            say(f"ensemble's map: {in_words(members, ensemble.map_weights)}; pixel_AUPRO {gain(values)}")
        write_json(run.path / SELECTION, selection)
        return ensemble

    def _member(self, name: str, run: Run, label: str, sample_sources: Sequence[SampleSource]) -> Detector:
        """A candidate for the second member: fitted to normal images, or trained as the transformer is."""
        beside = self.trainers_beside()
        if name in beside:
            return trained_beside(beside[name], run.part(name), f"{label}, {name}", sample_sources)
        if name == RECONSTRUCTION:
            error = ReconstructionDetector(self.data.dataset.channels, self.data.dataset.size)
            return fit_reconstruction(error, self.autoencoder, self.features)
        return fitted_distances(name, self.features, self.context.seed, self.config.input)


def trained_beside(
    trainer: SingleTrainer, run: Run, label: str, sample_sources: Sequence[SampleSource] = ()
) -> Detector:
    """A detector that is kept in a folder of its own until the whole ensemble is."""
    if not (run.path / "detector.json").is_file():
        save_detector(run.path, trainer.train(run, label, sample_sources))
        run.forget_checkpoint()
        run.writer.close()
    return load_detector(run.path)


@dataclass(frozen=True)
class WeightSearch:
    """The validation images that an ensemble is selected on, and what detectors predict for them."""

    autoencoder: FrozenAutoencoder
    reads: str
    """What ``inputs`` are: images, latents or features."""
    split: Split
    inputs: ImageSource

    def inputs_of(self, detector: Detector) -> InputsOf:
        """How inputs are turned into what a detector reads."""
        if self.reads in TOKENS:
            return lambda batch: (batch,)
        return lambda batch: self.autoencoder.detector_inputs(batch, detector.input)

    def predict(self, detector: Detector, keep_maps: bool) -> Detection:
        """Scores, and maps where they are wanted, of all images."""
        size = self.split.images.shape[-1]
        return score(detector, self.inputs_of(detector), self.inputs, size, keep_maps=keep_maps)

    def join(self, members: Mapping[str, Detector], weight: float, map_weight: float) -> EnsembleDetector:
        """An ensemble whose first of two members has these weights, calibrated on the normal images."""
        ensemble = EnsembleDetector(members, both_weights(weight), both_weights(map_weight))
        ensemble.to(self.inputs.device).requires_grad_(False).eval()
        normal = normal_positions(self.split).to(self.inputs.device)
        ensemble.calibrate(self.inputs[normal], self.inputs_of(ensemble))
        return ensemble

    def weigh_maps(
        self, ensemble: EnsembleDetector, masks: npt.NDArray[np.bool_]
    ) -> tuple[float, list[float]]:
        """The best weight of the first member's maps, and the pixel AUPRO at all weights."""
        members = ensemble.named_members().items()
        maps = {name: self.predict(member, keep_maps=True).map[:, 0] for name, member in members}
        first, second = (each.numpy() for each in ensemble.standardised(maps).values())
        with progress_bar("weighing maps", len(WEIGHTS)) as bar:
            return select_map_weight(first, second, masks, self.split.labels, bar.update)


def both_weights(weight: float) -> tuple[float, float]:
    """The weight of the trained detector, and of the other."""
    return weight, round(1 - weight, 1)


def in_words(members: Iterable[str], weights: Iterable[float]) -> str:
    """How much each member counts."""
    return " + ".join(f"{name} × {weight:.1f}" for name, weight in zip(members, weights, strict=True))


def gain(values: Sequence[float]) -> str:
    """The best value of those at all weights, and the last: that of the trained detector."""
    return f"{max(values):.4f}, {TRAINED} alone {values[-1]:.4f}"
