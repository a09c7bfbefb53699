"""How a command's trained detector gets a second opinion: who may give one, and what decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conf.schema.detectors import EnsembleConfig, RdnaConfig
from conf.schema.runs import DetectorRun
from detectors.base import IMAGE, LATENT, Detection, Detector
from detectors.ensemble import EnsembleDetector
from detectors.reconstruction import ReconstructionDetector
from detectors.registry import DISTANCES, RDNA, RECONSTRUCTION
from detectors.training.ensemble_selection import WEIGHTS, select_map_weight, select_member
from detectors.training.loop import InputsOf, score
from latent_common.artifacts import write_json
from latent_common.errors import UserError
from latent_common.image_source import ImageSource
from latent_common.progress import progress_bar
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.data import Split
from latent_env.training.feature_cache import FeatureCache, normal_positions
from latent_env.training.run_folder import Run
from latent_env.worlds.artifacts import load_detector, save_detector
from stages.context import Job, say
from stages.detector.baselines import fit_reconstruction, fitted_distances
from stages.detector.validation_sets import labelled_split, seen

TRAINED = "transformer"

READERS: dict[str, list[str]] = {LATENT: list(DISTANCES), IMAGE: [RECONSTRUCTION, *DISTANCES]}
"""Who can give a second opinion, by what the transformer reads; of images there are latents too."""

ON_REQUEST: dict[str, list[str]] = {LATENT: [], IMAGE: [RDNA]}
"""Who can as well, but has to be trained first, which takes as long as the training of the transformer."""

SCORES_TRIED = f"image_AUROC by weight of the {TRAINED}, 0 to 1"
MAPS_TRIED = f"pixel_AUPRO by weight of the {TRAINED}, 0 to 1"
"""What ``second_opinion.json`` calls them."""

Train = Callable[[RdnaConfig, Run], Detector]
"""Trains a second detector in a folder of its own, on what the first one learned from."""


def member_names(config: EnsembleConfig) -> list[str]:
    """Whose second opinion is asked; complains about those that can't give one."""
    fitting = READERS[config.input]
    if config.members is None:
        return fitting
    fitting = fitting + ON_REQUEST[config.input]
    if not config.members:
        raise UserError(
            f"detector.members=[] names nobody: choose among {', '.join(fitting)}, or detector=transformer"
        )
    for name in config.members:
        if name in fitting:
            continue
        if any(name in readers for readers in (*READERS.values(), *ON_REQUEST.values())):
            raise UserError(
                f"detector.members={name} doesn't read what the transformer reads, with "
                f"detector.input={config.input}: choose among {', '.join(fitting)}"
            )
        raise UserError(f"detector.members={name} is unknown: choose among {', '.join(fitting)}")
    return config.members


def build_ensemble(
    job: Job[DetectorRun],
    run: Run,
    trained: Detector,
    autoencoder: FrozenAutoencoder,
    features: FeatureCache,
    train: Train,
) -> EnsembleDetector:
    """``trained`` joined with the detector, and by the weights, that are best on the validation split.

    Of that split, the part that is for choices: labelled anomalies that nothing was trained on, or else
    synthetic ones of kinds that nothing was trained on. Where masks are known maps have weights of their own:
    who finds an anomaly needn't be the one who knows where it is.
    """
    config = job.config.detector
    assert isinstance(config, EnsembleConfig)
    others: dict[str, Detector] = {}
    for name in member_names(config):
        if name == RDNA:
            others[name] = trained_second(run, train, rdna_beside(config))
        else:
            others[name] = fitted_member(job, name, autoencoder, features)
    search = WeightSearch(autoencoder, config.input, *seen(job, features, "choice", config.input))
    split = search.split
    found = {
        name: search.member(detector, keep_maps=False).score.numpy()
        for name, detector in {TRAINED: trained, **others}.items()
    }
    choice = select_member(found.pop(TRAINED), found, split.labels, normal_positions(split).numpy())
    parts = {TRAINED: trained, choice.member: others[choice.member]}
    ensemble = search.join(parts, choice.weight, choice.weight)
    told = {"second": choice.member, "weight": choice.weight, SCORES_TRIED: choice.candidates}
    kind = "labelled" if len(labelled_split(job).choice) else "synthetic"
    say(
        f"ensemble: {in_words(parts, ensemble.weights)}; image_AUROC on {kind} validation anomalies "
        f"{gain(choice.candidates[choice.member])}"
    )
    if split.masks is not None and split.masks.any():
        weight, tried = search.weigh_maps(ensemble, split.masks)
        if weight != choice.weight:
            ensemble = search.join(parts, choice.weight, weight)
        told |= {"weight_of_map": weight, MAPS_TRIED: tried}
        say(f"ensemble's map: {in_words(parts, ensemble.map_weights)}; pixel_AUPRO {gain(tried)}")
    write_json(run.path / "second_opinion.json", told)
    return ensemble


@dataclass(frozen=True)
class WeightSearch:
    """The validation images by which a second opinion is chosen, and how detectors get to see them."""

    autoencoder: FrozenAutoencoder
    reads: str
    """What ``inputs`` are: images or latents."""
    split: Split
    inputs: ImageSource

    def look_for(self, detector: Detector) -> InputsOf:
        """How inputs are turned into what a detector reads."""
        if self.reads == LATENT:
            return lambda batch: (batch,)
        return lambda batch: self.autoencoder.detector_inputs(batch, detector.input)

    def member(self, detector: Detector, keep_maps: bool) -> Detection:
        """What a detector says of all images."""
        size = self.split.images.shape[-1]
        return score(detector, self.look_for(detector), self.inputs, size, keep_maps=keep_maps)

    def join(self, parts: Mapping[str, Detector], weight: float, map_weight: float) -> EnsembleDetector:
        """An ensemble in which the first of two parts has these weights, calibrated on the normal images."""
        ensemble = EnsembleDetector(parts, shares(weight), shares(map_weight))
        ensemble.to(self.inputs.device).requires_grad_(False).eval()
        normal = normal_positions(self.split).to(self.inputs.device)
        ensemble.calibrate(self.inputs[normal], self.look_for(ensemble))
        return ensemble

    def weigh_maps(
        self, ensemble: EnsembleDetector, masks: npt.NDArray[np.bool_]
    ) -> tuple[float, list[float]]:
        """The best weight of the first part's maps, and the pixel AUPRO at all weights."""
        maps = {name: self.member(part, True).map[:, 0] for name, part in ensemble.named_members().items()}
        first, second = (each.numpy() for each in ensemble.standardised(maps).values())
        with progress_bar("weighing maps", len(WEIGHTS)) as bar:
            return select_map_weight(first, second, masks, self.split.labels, bar.update)


def shares(weight: float) -> tuple[float, float]:
    """The weight of the trained detector, and of the other."""
    return weight, round(1 - weight, 1)


def in_words(parts: Iterable[str], weights: Iterable[float]) -> str:
    """Who counts how much."""
    return " + ".join(f"{name} × {weight:.1f}" for name, weight in zip(parts, weights, strict=True))


def gain(tried: Sequence[float]) -> str:
    """The best value of those at all weights, and the last: that of the trained detector."""
    return f"{max(tried):.4f}, {TRAINED} alone {tried[-1]:.4f}"


def rdna_beside(config: EnsembleConfig) -> RdnaConfig:
    """The small form of it, trained as long as the transformer, on batches as large and as fast."""
    return RdnaConfig(
        name=RDNA,
        input=IMAGE,
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
    )


def trained_second(run: Run, train: Train, config: RdnaConfig) -> Detector:
    """A detector that was trained in order to give a second opinion; kept until the whole is."""
    own = run.part(config.name)
    if not (own.path / "detector.json").is_file():
        save_detector(own.path, train(config, own))
        own.writer.close()
    return load_detector(own.path)


def fitted_member(
    job: Job[DetectorRun], name: str, autoencoder: FrozenAutoencoder, features: FeatureCache
) -> Detector:
    """A detector that was fitted to the normal images."""
    if name == RECONSTRUCTION:
        channels, size = job.dataset.channels, job.dataset.size
        return fit_reconstruction(ReconstructionDetector(channels, size), autoencoder, features)
    return fitted_distances(name, features, job.config.seed)
