"""Stage 2: train a detector on normal images and image-space pseudo-anomalies."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from conf.job import Job, say, start_job
from conf.launch import run_script
from conf.schema import DetectorRun
from detectors.images import at_once, spread_over
from detectors.synthesis import ImageSynthesis
from detectors.training import Diet, Samples, train_detector
from detectors.training_state import TrainingState
from detectors.transformer import TransformerDetector
from latent_env.artifacts import load_detector, save_autoencoder, save_detector
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.evaluation import evaluate, log_curves, log_evaluation, validation_split
from latent_env.runs import Run
from latent_env.supervision import follow
from latent_env.worlds import World, check_writable, copy_world, save_images
from train_ae import autoencoder_settings, autoencoder_stage, new_autoencoder

CALIBRATION_IMAGES, CALIBRATION_BYTES = 2048, 2**28
"""So many normal images say well enough what is usual, and they fit in memory as floats."""


def detector_settings(job: Job[DetectorRun]) -> dict[str, Any]:
    """All that decides what the detector becomes."""
    config = job.config
    own: dict[str, Any] = {"detector": asdict(config.detector), "synthesis": asdict(config.synthesis)}
    if job.textures is not None:
        own["textures"] = job.textures.facts["digest"]
    return {**autoencoder_settings(job), **own}


def new_detector(job: Job[DetectorRun]) -> TransformerDetector:
    """The detector before it has learned anything; the same weights for the same seed."""
    config = job.config.detector
    channels, size = job.dataset.channels, job.dataset.size
    return job.build(
        lambda: TransformerDetector(channels, size, config.patch, config.width, config.depth, config.heads)
    ).to(job.device)


def rehearse_detector(job: Job[DetectorRun]) -> World:
    """An untrained world: whatever can't work together shows here, before anything is trained."""
    if job.config.export:
        check_writable(job.config.export, "export")
    make_synthesis(job)
    images = job.train_images[:4]
    frozen = FrozenAutoencoder(new_autoencoder(job)).calibrate(images)
    return World.build(frozen, new_detector(job).eval(), images, job.device)


def make_synthesis(job: Job[DetectorRun]) -> ImageSynthesis:
    """Image-space pseudo-anomalies, with the user's textures if there are any."""
    return ImageSynthesis(job.config.synthesis.weights, job.texture_images)


def learn_to_detect(
    job: Job[DetectorRun],
    run: Run,
    autoencoder: FrozenAutoencoder,
    label: str,
    samples: Samples | None = None,
    share: float = 0.0,
) -> TransformerDetector:
    """A detector trained from scratch, on an agent's ``samples`` too if there are any.

    Whatever the samples, it begins with the same weights and takes the same number of steps.
    """
    config = job.config.detector
    detector = new_detector(job)
    channels, size = job.dataset.channels, job.dataset.size
    fitting = CALIBRATION_BYTES // (channels * size**2 * 4)
    known = spread_over(job.train_images, min(CALIBRATION_IMAGES, fitting)).float() / 255
    with torch.inference_mode():
        parts = known.split(at_once(size))
        detector.calibrate(known, torch.cat([autoencoder(part) for part in parts]))
    synthesis = make_synthesis(job)
    diet = Diet(job.train_images, synthesis, samples, share, job.augmentation.with_masks)
    state = TrainingState(detector, config.learning_rate, config.steps, job.config.seed)
    world = World.build(autoencoder, detector, job.train_images[:1], job.device)
    valid = validation_split(job.dataset.valid, synthesis, job.config.seed)

    def validate() -> dict[str, float]:
        detector.eval()
        metrics = evaluate(world, valid).metrics
        detector.train()
        return {f"valid/{name}": value for name, value in metrics.items()}

    training = train_detector(state, detector, diet, autoencoder, config.batch_size)
    follow(run, label, training, state, validate)
    return detector.requires_grad_(False).eval()


def save_world(folder: Path, world: World) -> None:
    """Write all that ``gym.make("LatentAug-v0", artifacts=folder)`` needs."""
    save_autoencoder(folder, world.autoencoder)
    save_images(folder, world.images)
    assert isinstance(world.detector, TransformerDetector)
    save_detector(folder, world.detector)


def detector_stage(job: Job[DetectorRun]) -> tuple[World, Run]:
    """The world with its detector: loaded if an earlier command made it, else trained now."""
    run = job.run("detector", "transformer", detector_settings(job))
    autoencoder, _ = autoencoder_stage(job)
    starts = spread_over(job.train_images, job.config.detector.starts)
    if run.complete:
        say(f"detector: using {run.path}")
        return World.build(autoencoder, load_detector(run.path), starts, job.device), run

    run.begin()
    detector = learn_to_detect(job, run, autoencoder, "detector")
    world = World.build(autoencoder, detector, starts, job.device)
    save_world(run.path, world)
    evaluation = evaluate(world, job.dataset.test)
    log_evaluation(run, evaluation, world, job.config.detector.steps)
    log_curves(run, {"transformer": evaluation}, job.config.detector.steps)
    run.finish(evaluation.metrics)
    return world, run


def main(cfg: DictConfig) -> None:
    """Train, or find, the detector and say how good it is."""
    job = start_job(cfg, DetectorRun)
    rehearse_detector(job)
    _, run = detector_stage(job)
    for name, value in run.metrics.items():
        print(f"{name:12} {value:.4f}")
    if job.config.export:
        copy_world(run.path, Path(job.config.export))
        print(f"exported:    {job.config.export}")
    print(
        f"pictures:    {run.path / 'pictures'}\n"
        f"environment: gym.make('LatentAug-v0', artifacts='{run.path}')\n"
        f"look further: tensorboard --logdir {cfg.runs}"
    )


if __name__ == "__main__":
    run_script(main, "train_detector", __doc__)
