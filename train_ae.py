"""Stage 1: train an autoencoder on normal images and freeze it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from conf.job import Job, say, start_job
from conf.launch import run_script
from conf.schema import AutoencoderRun
from detectors.images import ImageSource
from detectors.training_state import TrainingState
from latent_env.artifacts import load_autoencoder, save_autoencoder
from latent_env.autoencoders import ConvAutoencoder, FrozenAutoencoder
from latent_env.autoencoders.training import peak_signal_to_noise, train_autoencoder
from latent_env.data import Split
from latent_env.rendering import side_by_side, stack, to_rgb
from latent_env.runs import Run
from latent_env.supervision import follow

VALIDATION_IMAGES = 256


def first_normal(split: Split, most: int) -> NDArray[np.uint8]:
    """The first normal images of a split, ``(N, C, H, W)`` uint8, in memory."""
    return split.subset(np.flatnonzero(split.labels == 0)[:most]).images


def autoencoder_settings(job: Job[AutoencoderRun]) -> dict[str, Any]:
    """All that decides what the autoencoder becomes."""
    return {**job.shared_settings(), "autoencoder": asdict(job.config.autoencoder)}


def new_autoencoder(job: Job[AutoencoderRun]) -> ConvAutoencoder:
    """The autoencoder before it has learned anything."""
    config = job.config.autoencoder
    channels, size = job.dataset.channels, job.dataset.size
    return job.build(
        lambda: ConvAutoencoder(channels, size, config.latent, config.latent_size, config.width)
    ).to(job.device)


def autoencoder_stage(job: Job[AutoencoderRun]) -> tuple[FrozenAutoencoder, Run]:
    """The frozen autoencoder: loaded if an earlier command made it, else trained now."""
    run = job.run("autoencoder", "conv", autoencoder_settings(job))
    if run.complete:
        say(f"autoencoder: using {run.path}")
        return load_autoencoder(run.path).to(job.device), run

    config, images = job.config.autoencoder, job.train_images
    model = new_autoencoder(job)
    run.begin()
    state = TrainingState(model, config.learning_rate, config.steps, job.config.seed)
    valid = job.tensor(first_normal(job.dataset.valid, VALIDATION_IMAGES))

    @torch.inference_mode()
    def validate() -> dict[str, float]:
        batch = valid.float() / 255
        return {"valid/psnr": float(peak_signal_to_noise(batch, model(batch)).mean())}

    training = train_autoencoder(state, model, images, config.batch_size, job.augmentation)
    follow(run, "autoencoder", training, state, validate)
    frozen = FrozenAutoencoder(model).calibrate(images)
    save_autoencoder(run.path, frozen)
    show_reconstructions(run, frozen, images, valid)
    run.finish({"valid_psnr": validate()["valid/psnr"]})
    return frozen, run


@torch.inference_mode()
def show_reconstructions(
    run: Run, frozen: FrozenAutoencoder, train: ImageSource, valid: torch.Tensor
) -> None:
    """Normal images, known and unknown, above what the autoencoder makes of them."""
    rows = []
    for name, images in (("train", train[:6]), ("valid", valid[:6])):
        floats = images.float() / 255
        decoded = frozen(floats)
        psnr = peak_signal_to_noise(floats, decoded)
        rows.append(side_by_side([to_rgb(image) for image in images], [name] * len(images)))
        captions = [f"decoded, {float(value):.1f} dB" for value in psnr]
        rows.append(side_by_side([to_rgb(image) for image in decoded], captions))
    widest = max(row.shape[1] for row in rows)
    run.picture("reconstructions", stack([row for row in rows if row.shape[1] == widest]))


def main(cfg: DictConfig) -> None:
    """Train, or find, the autoencoder and say how good it is."""
    frozen, run = autoencoder_stage(start_job(cfg, AutoencoderRun))
    print(
        f"autoencoder: {run.metrics['valid_psnr']:.1f} dB on normal validation images, "
        f"latent {'x'.join(map(str, frozen.latent_shape))}\n"
        f"pictures:    {run.path / 'pictures'}\n"
        f"look further: tensorboard --logdir {cfg.runs}"
    )


if __name__ == "__main__":
    run_script(main, "train_ae", __doc__)
