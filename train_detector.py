"""Stage 2: train a detector on normal images and image-space pseudo-anomalies."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from conf.schema.detectors import (
    ReconstructionConfig,
    TrainedConfig,
)
from conf.schema.runs import DetectorRun
from latent_env.training.evaluation import (
    metrics_table,
)
from latent_env.worlds.store import copy_world
from stages.cli.launch import run_script
from stages.context import start_job
from stages.detector.stage import detector_stage, rehearse_detector
from stages.detector.untrained_stage import distance_stage, reconstruction_stage, rehearse_distances


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
    print(metrics_table(job.config.detector.name, run.metrics))
    if job.config.export:
        copy_world(run.path, Path(job.config.export))
        print(f"exported:    {job.config.export}")
    print(f"pictures:    {run.path / 'pictures'}")
    if trained:
        print(f"environment: gym.make('LatentAug-v0', artifacts='{run.path}')")
    print(f"look further: tensorboard --logdir {cfg.runs}")


if __name__ == "__main__":
    run_script(main, "train_detector", __doc__)
