"""Stage 2: train a detector on normal images and image-space pseudo-anomalies."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from conf.autoencoder_types import PretrainedConfig
from conf.detector_learning import learn_to_detect, new_detector, starting_points
from conf.detector_types import (
    DetectorConfig,
    EnsembleConfig,
    RdnaConfig,
    ReconstructionConfig,
    TrainedConfig,
)
from conf.eyes import eyes_settings, pretrained_eyes, unfitted_encoder
from conf.job import Job, say, start_job
from conf.latent_learning import (
    check_latent_synthesis,
    check_validation,
    make_latent_synthesis,
    make_synthesis,
)
from conf.launch import run_script
from conf.rdna_learning import check_rdna
from conf.schema import DetectorRun
from conf.second_opinion import second_names
from conf.validation import examples, roles, training_steps, trial
from detectors.base import IMAGE, LATENT, Detection
from detectors.distance import DistanceDetector
from detectors.ensemble import EnsembleDetector
from detectors.errors import UserError
from detectors.kinds import DISTANCES
from detectors.reconstruction import ReconstructionDetector
from detectors.tokens import grid_of
from latent_env.artifacts import load_detector, save_autoencoder, save_detector
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.evaluation import (
    evaluate_latents,
    evaluate_test,
    log_curves,
    log_evaluation,
    opinions_table,
)
from latent_env.examples import Examples, load_examples, save_examples
from latent_env.judges import save_judges
from latent_env.latents import Eyes
from latent_env.rivals import check_rivals, fit_distances, fit_reconstruction, judge_rivals
from latent_env.runs import Run
from latent_env.trial import load_trial, save_trial
from latent_env.worlds import World, check_writable, copy_world, save_images
from train_ae import autoencoder_settings, autoencoder_stage, eyes_stage, new_autoencoder


def detector_settings(job: Job[DetectorRun]) -> dict[str, Any]:
    """All that decides what the detector becomes."""
    config = job.config
    own: dict[str, Any] = {"detector": asdict(config.detector), "synthesis": asdict(config.synthesis)}
    if job.dataset.valid.labels.any():
        own["labelled"] = asdict(config.labelled)
    if config.curves:
        own["curves"] = True
    if job.textures is not None:
        own["textures"] = job.textures.facts["digest"]
    return {**autoencoder_settings(job), **own}


def rehearse_detector(job: Job[DetectorRun]) -> World:
    """An untrained world: whatever can't work together shows here, before anything is trained."""
    config = job.config.detector
    if job.config.export:
        check_writable(job.config.export, "export")
    if isinstance(config, TrainedConfig):
        if isinstance(config, RdnaConfig):
            check_rdna(config)
        if config.input not in (IMAGE, LATENT):
            raise UserError(f"detector.input={config.input} is unknown: choose one of {IMAGE}, {LATENT}")
        check_rivals(config.rivals)
        if isinstance(config, EnsembleConfig):
            second_names(config)
            check_validation(job)
        if config.input == LATENT:
            check_latent_synthesis(job)
        else:
            make_synthesis(job)
    known = roles(job).known
    images = job.train_images[:4]
    frozen = FrozenAutoencoder(new_autoencoder(job)).calibrate(images)
    world = World.build(frozen, new_detector(job, frozen).eval(), images, job.device)
    if world.judges_latents and (synthesis := make_latent_synthesis(job)):
        synthesis(world.latents, torch.Generator())
    if len(known) and frozen.is_spatial:  # any latents will do: they say which actions there are
        unknown = torch.zeros(1, len(images), 1, *grid_of(frozen.latent_shape), dtype=torch.bool)
        world = world.with_examples(Examples.of(world.latents[None], unknown, world.latents))
    return world


def rehearse_distances(job: Job[DetectorRun]) -> None:
    """The same for a detector that is not trained; it makes no world."""
    if job.config.export:
        raise UserError(
            f"export={job.config.export}: detector={job.config.detector.name} makes no environment to "
            "export; leave it out, or choose detector=transformer"
        )
    config = job.config.detector
    if not isinstance(config, ReconstructionConfig) and config.name not in DISTANCES:
        raise UserError(f"detector.name={config.name} is unknown: choose among {', '.join(DISTANCES)}")
    check_validation(job)
    if without_decoder(job):
        assert isinstance(job.config.autoencoder, PretrainedConfig)
        unfitted_encoder(job, job.config.autoencoder)
    else:
        new_autoencoder(job)
    if isinstance(config, ReconstructionConfig):
        new_error(job)


def save_world(folder: Path, world: World) -> None:
    """Write all that ``gym.make("LatentAug-v0", artifacts=folder)`` needs."""
    save_autoencoder(folder, world.autoencoder)
    slow_to_encode = world.autoencoder.whitens_itself
    save_images(folder, world.images, world.latents if slow_to_encode else None)
    save_detector(folder, world.detector)
    if world.trial is not None:
        save_trial(folder, world.trial)
    if world.examples is not None:
        save_examples(folder, world.examples)
    if world.judges:
        save_judges(folder, world.judges, world.unseen)


def autoencoder_and_eyes(job: Job[DetectorRun]) -> tuple[FrozenAutoencoder, Eyes]:
    """The frozen autoencoder, and the latents that its encoder makes."""
    autoencoder, made = autoencoder_stage(job)
    if isinstance(job.config.autoencoder, PretrainedConfig):
        return autoencoder, pretrained_eyes(job, job.config.autoencoder)  # whatever the decoder
    return autoencoder, job.known_eyes or job.keep_eyes(job.eyes(autoencoder, made))


def detector_stage(job: Job[DetectorRun]) -> tuple[World, Run, Eyes]:
    """The world with its detector: loaded if an earlier command made it, else trained now."""
    config = job.config.detector
    assert isinstance(config, TrainedConfig)
    run = job.run("detector", config.name, detector_settings(job))
    autoencoder, eyes = autoencoder_and_eyes(job)
    starts, latents = starting_points(job, autoencoder, eyes)
    if run.complete:
        say(f"detector: using {run.path}")
        world = World.build(autoencoder, load_detector(run.path), starts, job.device, latents)
        return world.with_trial(load_trial(run.path)).with_examples(load_examples(run.path)), run, eyes

    run.begin()
    if (run.path / "detector.json").is_file():  # trained by a command that was stopped after that
        detector = load_detector(run.path)
    else:
        detector = learn_to_detect(job, run, autoencoder, eyes, "detector")
    world = World.build(autoencoder, detector, starts, job.device, latents)
    world = world.with_trial(trial(job, eyes, config.input))
    world = world.with_examples(examples(job, eyes, config.input, world.latents))
    save_world(run.path, world)
    evaluation = evaluate_test(world, eyes)
    others, weights = {}, {}
    if isinstance(world.detector, EnsembleDetector):
        parts = world.detector.named_parts()
        others = {name: evaluate_test(world.with_detector(part), eyes) for name, part in parts.items()}
        given = {"weight": world.detector.weights, "weight_of_map": world.detector.map_weights}
        weights = {
            f"{what}_{name}": weight
            for what, each in given.items()
            for name, weight in zip(parts, each, strict=True)
        }
    rivals = [name for name in config.rivals if name not in others]
    if rivals and job.dataset.valid.labels.all():
        say(f"without {', '.join(rivals)}: the valid split has no normal images that say what is usual")
        rivals = []
    others |= judge_rivals(rivals, world, eyes, job.config.seed)
    steps = training_steps(job)
    log_evaluation(run, evaluation, world.show, job.device, steps)
    log_curves(run, {config.name: evaluation, **others}, steps)
    opinions = {f"{name}_{key}": value for name, e in others.items() for key, value in e.metrics.items()}
    run.finish(evaluation.metrics | opinions | weights)
    return world, run, eyes


def without_decoder(job: Job[DetectorRun]) -> bool:
    """Whether a detector that measures distances needs no autoencoder to be trained first."""
    pretrained = isinstance(job.config.autoencoder, PretrainedConfig)
    return pretrained and not isinstance(job.config.detector, ReconstructionConfig)


def distance_settings(job: Job[DetectorRun]) -> dict[str, Any]:
    """All that decides what such a detector becomes: nothing of a decoder that it doesn't need."""
    config = job.config.autoencoder
    if without_decoder(job):
        assert isinstance(config, PretrainedConfig)
        before = {**eyes_settings(job, config), "seed": job.config.seed}
    else:
        before = autoencoder_settings(job)
    return {**before, "detector": asdict(job.config.detector)}


def new_distances(config: DetectorConfig, eyes: Eyes) -> DistanceDetector:
    """The detector before it has seen anything."""
    shared = {field.name for field in fields(DetectorConfig)}
    own = {key: value for key, value in asdict(config).items() if key not in shared}
    return DISTANCES[config.name](eyes.encoder.latent_shape, **own)


def distance_stage(job: Job[DetectorRun]) -> Run:
    """A detector that needs no training and no decoder, on the latents of the eyes alone."""
    config = job.config.detector
    eyes = eyes_stage(job)
    run = job.run("detector", config.name, distance_settings(job))
    if run.complete:
        say(f"detector: using {run.path}")
        return run
    run.begin()
    detector = fit_distances(new_distances(config, eyes), eyes, job.config.seed)
    save_detector(run.path, detector)
    evaluation = evaluate_latents(detector, eyes.latents("test"), job.dataset.test, "test")

    def show(images: Tensor) -> tuple[Detection, None]:
        return detector(eyes.encoder.encode(images)), None

    log_evaluation(run, evaluation, show, job.device, 0)
    log_curves(run, {config.name: evaluation}, 0)
    run.finish(evaluation.metrics)
    return run


def new_error(job: Job[DetectorRun]) -> ReconstructionDetector:
    """The judge of an autoencoder's error, before it knows what error is usual."""
    config = job.config.detector
    assert isinstance(config, ReconstructionConfig)
    channels, size = job.dataset.channels, job.dataset.size
    return ReconstructionDetector(channels, size, config.by_place, config.pooled)


def reconstruction_stage(job: Job[DetectorRun]) -> Run:
    """The same for the autoencoder's own error, which takes an encoder and a decoder."""
    config = job.config.detector
    run = job.run("detector", config.name, distance_settings(job))
    if run.complete:
        say(f"detector: using {run.path}")
        return run
    autoencoder, eyes = autoencoder_and_eyes(job)
    run.begin()
    detector = new_error(job)
    fit_reconstruction(detector, autoencoder, eyes)
    save_detector(run.path, detector)
    world = World.build(autoencoder, detector, job.train_images[:1], job.device)
    evaluation = evaluate_test(world, eyes)
    log_evaluation(run, evaluation, world.show, job.device, 0)
    log_curves(run, {config.name: evaluation}, 0)
    run.finish(evaluation.metrics)
    return run


def main(cfg: DictConfig) -> None:
    """Train, or find, the detector and say how good it is."""
    job = start_job(cfg, DetectorRun)
    trained = isinstance(job.config.detector, TrainedConfig)
    if trained:
        rehearse_detector(job)
        _, run, _ = detector_stage(job)
    else:
        rehearse_distances(job)
        of_images = isinstance(job.config.detector, ReconstructionConfig)
        run = reconstruction_stage(job) if of_images else distance_stage(job)
    print(opinions_table(job.config.detector.name, run.metrics))
    if job.config.export:
        copy_world(run.path, Path(job.config.export))
        print(f"exported:    {job.config.export}")
    print(f"pictures:    {run.path / 'pictures'}")
    if trained:
        print(f"environment: gym.make('LatentAug-v0', artifacts='{run.path}')")
    print(f"look further: tensorboard --logdir {cfg.runs}")


if __name__ == "__main__":
    run_script(main, "train_detector", __doc__)
