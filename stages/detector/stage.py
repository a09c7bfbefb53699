"""TODO: stages/detector/stage.py."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from conf.schema.detectors import (
    EnsembleConfig,
    RdnaConfig,
    TrainedConfig,
)
from conf.schema.runs import DetectorRun
from detectors.base import IMAGE, LATENT
from detectors.blocks.tokens import grid_of
from detectors.ensemble import EnsembleDetector
from latent_common.errors import UserError
from latent_common.machine import check_writable
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.training.evaluation import (
    evaluate_test,
    log_curves,
    log_evaluation,
    save_scores,
)
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.run_folder import Run
from latent_env.worlds.artifacts import load_detector, save_autoencoder, save_detector
from latent_env.worlds.labelled_anomalies import (
    LabelledAnomalies,
    load_labelled_anomalies,
    save_labelled_anomalies,
)
from latent_env.worlds.reference_set import load_reference_set, save_reference_set
from latent_env.worlds.reward_ensemble import save_reward_ensemble
from latent_env.worlds.store import save_images
from latent_env.worlds.world import World
from stages.context import Job, say
from stages.detector.baselines import check_baselines, evaluate_baselines
from stages.detector.ensemble import member_names
from stages.detector.latent_training import (
    check_latent_synthesis,
    check_validation,
    make_synthesis,
)
from stages.detector.rdna_training import check_rdna
from stages.detector.training import new_detector, starting_points, train_one_detector
from stages.detector.validation_sets import labelled_anomalies, labelled_split, reference_set, training_steps
from stages.job_of import autoencoder_plan


def detector_settings(job: Job[DetectorRun]) -> dict[str, Any]:
    """All that decides what the detector becomes."""
    config = job.config
    own: dict[str, Any] = {"detector": asdict(config.detector), "synthesis": asdict(config.synthesis)}
    if job.dataset.valid.labels.any():
        own["labelled"] = asdict(config.labelled)
    if job.textures_digest is not None:
        own["textures"] = job.textures_digest
    return {**autoencoder_plan(job).settings(), **own}


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
        check_baselines(config.baselines)
        if isinstance(config, EnsembleConfig):
            member_names(config)
            check_validation(job)
        if config.input == LATENT:
            check_latent_synthesis(job)
        else:
            make_synthesis(job)
    known = labelled_split(job).known
    images = job.train_images[:4]
    frozen = FrozenAutoencoder(autoencoder_plan(job).untrained()).calibrate(images)
    world = World.build(frozen, new_detector(job, frozen).eval(), images, job.device)
    if len(known) and frozen.is_spatial:  # any latents will do: they say which actions there are
        unknown = torch.zeros(1, len(images), 1, *grid_of(frozen.latent_shape), dtype=torch.bool)
        world = world.with_labelled_anomalies(
            LabelledAnomalies.of(world.latents[None], unknown, world.latents)
        )
    return world


def save_world(folder: Path, world: World) -> None:
    """Write all that ``gym.make("LatentAug-v0", artifacts=folder)`` needs."""
    save_autoencoder(folder, world.autoencoder)
    slow_to_encode = world.autoencoder.whitens_itself
    save_images(folder, world.images, world.latents if slow_to_encode else None)
    save_detector(folder, world.detector)
    if world.reference_set is not None:
        save_reference_set(folder, world.reference_set)
    if world.labelled_anomalies is not None:
        save_labelled_anomalies(folder, world.labelled_anomalies)
    if world.reward_ensemble:
        save_reward_ensemble(folder, world.reward_ensemble, world.held_out_detector)


def autoencoder_and_features(job: Job[DetectorRun]) -> tuple[FrozenAutoencoder, FeatureCache]:
    """The frozen autoencoder, and the latents that its encoder makes."""
    plan = autoencoder_plan(job)
    return plan.train().model, plan.features()


def detector_stage(job: Job[DetectorRun]) -> tuple[World, Run, FeatureCache]:
    """The world with its detector: loaded if an earlier command made it, else trained now."""
    config = job.config.detector
    assert isinstance(config, TrainedConfig)
    run = job.run("detector", config.name, detector_settings(job))
    autoencoder, features = autoencoder_and_features(job)
    starts, latents = starting_points(job, autoencoder, features)
    if run.complete:
        say(f"detector: using {run.path}")
        world = World.build(autoencoder, load_detector(run.path), starts, job.device, latents)
        return (
            world.with_reference_set(load_reference_set(run.path)).with_labelled_anomalies(
                load_labelled_anomalies(run.path)
            ),
            run,
            features,
        )

    run.begin()
    if (run.path / "detector.json").is_file():  # trained by a command that was stopped after that
        detector = load_detector(run.path)
    else:
        detector = train_one_detector(job, run, autoencoder, features, "detector")
    world = World.build(autoencoder, detector, starts, job.device, latents)
    world = world.with_reference_set(reference_set(job, features, config.input))
    world = world.with_labelled_anomalies(labelled_anomalies(job, features, config.input, world.latents))
    save_world(run.path, world)
    evaluation = evaluate_test(world, features)
    others, weights = {}, {}
    if isinstance(world.detector, EnsembleDetector):
        parts = world.detector.named_members()
        others = {name: evaluate_test(world.with_detector(part), features) for name, part in parts.items()}
        given = {"weight": world.detector.weights, "weight_of_map": world.detector.map_weights}
        weights = {
            f"{what}_{name}": weight
            for what, each in given.items()
            for name, weight in zip(parts, each, strict=True)
        }
    baselines = [name for name in config.baselines if name not in others]
    if baselines and job.dataset.valid.labels.all():
        say(f"without {', '.join(baselines)}: the valid split has no normal images that say what is usual")
        baselines = []
    others |= evaluate_baselines(baselines, world, features, job.config.seed)
    steps = training_steps(job)
    log_evaluation(run, evaluation, world.detect_and_reconstruct, job.device, steps)
    save_scores(run.path, evaluation.split.labels, scores=evaluation.scores)
    log_curves(run, {config.name: evaluation, **others}, steps)
    opinions = {f"{name}_{key}": value for name, e in others.items() for key, value in e.metrics.items()}
    run.finish(evaluation.metrics | opinions | weights)
    return world, run, features
