"""How a command's trained detector gets a second opinion: who may give one, and what decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from conf.detector_types import EnsembleConfig, RdnaConfig
from conf.job import Job, say
from conf.schema import DetectorRun
from conf.validation import roles, seen
from detectors.base import IMAGE, LATENT, Detection, Detector
from detectors.ensemble import EnsembleDetector
from detectors.errors import UserError
from detectors.kinds import DISTANCES, RDNA, RECONSTRUCTION
from detectors.reconstruction import ReconstructionDetector
from detectors.training import Look, score
from latent_env.artifacts import load_detector, save_detector, write_json
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.latents import Eyes, some_normal
from latent_env.progress import progress_bar
from latent_env.rivals import fit_reconstruction, usual_distances
from latent_env.runs import Run
from latent_env.second_opinion import WEIGHTS, choose, choose_for_maps

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


def second_names(config: EnsembleConfig) -> list[str]:
    """Whose second opinion is asked; complains about those that can't give one."""
    fitting = READERS[config.input]
    if config.second is None:
        return fitting
    fitting = fitting + ON_REQUEST[config.input]
    if not config.second:
        raise UserError(
            f"detector.second=[] names nobody: choose among {', '.join(fitting)}, or detector=transformer"
        )
    for name in config.second:
        if name in fitting:
            continue
        if any(name in readers for readers in (*READERS.values(), *ON_REQUEST.values())):
            raise UserError(
                f"detector.second={name} doesn't read what the transformer reads, with "
                f"detector.input={config.input}: choose among {', '.join(fitting)}"
            )
        raise UserError(f"detector.second={name} is unknown: choose among {', '.join(fitting)}")
    return config.second


def add_second_opinion(
    job: Job[DetectorRun],
    run: Run,
    trained: Detector,
    autoencoder: FrozenAutoencoder,
    eyes: Eyes,
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
    for name in second_names(config):
        if name == RDNA:
            others[name] = trained_second(run, train, rdna_beside(config))
        else:
            others[name] = second_detector(job, name, autoencoder, eyes)
    split, inputs = seen(job, eyes, "choice", config.input)

    def look_for(reads: str) -> Look:
        if config.input == LATENT:
            return lambda batch: (batch,)
        return lambda batch: autoencoder.shown(batch, reads)

    def judge(detector: Detector, keep_maps: bool) -> Detection:
        return score(detector, look_for(detector.input), inputs, split.images.shape[-1], keep_maps=keep_maps)

    normal = some_normal(split)
    found = {
        name: judge(detector, keep_maps=False).score.numpy()
        for name, detector in {TRAINED: trained, **others}.items()
    }
    choice = choose(found.pop(TRAINED), found, split.labels, normal.numpy())
    parts = {TRAINED: trained, choice.second: others[choice.second]}

    def joined(map_weight: float) -> EnsembleDetector:
        ensemble = EnsembleDetector(parts, shares(choice.weight), shares(map_weight))
        ensemble.to(job.device).requires_grad_(False).eval()
        ensemble.calibrate(inputs[normal.to(inputs.device)], look_for(ensemble.input))
        return ensemble

    ensemble = joined(choice.weight)
    told = {"second": choice.second, "weight": choice.weight, SCORES_TRIED: choice.tried}
    kind = "labelled" if len(roles(job).choice) else "synthetic"
    say(
        f"ensemble: {in_words(parts, ensemble.weights)}; image_AUROC on {kind} validation anomalies "
        f"{gain(choice.tried[choice.second])}"
    )
    if split.masks is not None and split.masks.any():
        maps = {name: judge(part, keep_maps=True).map[:, 0] for name, part in parts.items()}
        first, second = (each.numpy() for each in ensemble.maps_in_deviations(maps).values())
        with progress_bar("weighing maps", len(WEIGHTS)) as bar:
            weight, tried = choose_for_maps(first, second, split.masks, split.labels, bar.update)
        if weight != choice.weight:
            ensemble = joined(weight)
        told |= {"weight_of_map": weight, MAPS_TRIED: tried}
        say(f"ensemble's map: {in_words(parts, ensemble.map_weights)}; pixel_AUPRO {gain(tried)}")
    write_json(run.path / "second_opinion.json", told)
    return ensemble


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


def second_detector(job: Job[DetectorRun], name: str, autoencoder: FrozenAutoencoder, eyes: Eyes) -> Detector:
    """A detector that was fitted to the normal images."""
    if name == RECONSTRUCTION:
        channels, size = job.dataset.channels, job.dataset.size
        return fit_reconstruction(ReconstructionDetector(channels, size), autoencoder, eyes)
    return usual_distances(name, eyes, job.config.seed)
