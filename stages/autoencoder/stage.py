"""TODO: stages/autoencoder/stage.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from conf.schema.autoencoders import ConvConfig, MemoryAutoencoderConfig, PretrainedConfig
from conf.schema.runs import AutoencoderRun
from detectors.metrics.ssim import structural_similarity
from latent_common.image_source import ImageSource, at_once
from latent_common.training_state import TrainingState
from latent_env.autoencoders import (
    ConvAutoencoder,
    FrozenAutoencoder,
    MemoryAutoencoder,
    PretrainedAutoencoder,
)
from latent_env.autoencoders.pretrained import PretrainedEncoder
from latent_env.autoencoders.training import (
    peak_signal_to_noise,
    train_autoencoder,
    train_decoder,
)
from latent_env.data import Split
from latent_env.rendering import side_by_side, stack, to_rgb
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.loop import follow, validation_interval
from latent_env.training.run_folder import Run
from latent_env.visibility import measure_visibility
from latent_env.worlds.artifacts import load_autoencoder, save_autoencoder
from stages.autoencoder.memory_autoencoders import (
    epoch_reports,
    form_state,
    form_training,
    new_form,
    show_form,
    steps_between_reports,
)
from stages.autoencoder.pretrained_encoder import pretrained_features, unfitted_encoder
from stages.context import Job, say

VALIDATION_IMAGES = 256


def first_normal(split: Split, most: int) -> NDArray[np.uint8]:
    """The first normal images of a split, ``(N, C, H, W)`` uint8, in memory."""
    return split.subset(np.flatnonzero(split.labels == 0)[:most]).images


def autoencoder_settings(job: Job[AutoencoderRun]) -> dict[str, Any]:
    """All that decides what the autoencoder becomes."""
    shared, config = job.shared_settings(), job.config.autoencoder
    if isinstance(config, PretrainedConfig):
        shared["features"] = {"weights": job.backbone_digest}
    return {**shared, "autoencoder": config.settings()}


def new_autoencoder(job: Job[AutoencoderRun]) -> ConvAutoencoder | PretrainedAutoencoder:
    """The autoencoder before it has learned anything."""
    config = job.config.autoencoder
    if isinstance(config, PretrainedConfig):
        encoder = unfitted_encoder(job, config)
        return job.build(lambda: PretrainedAutoencoder(encoder, config.width)).to(job.device)
    if isinstance(config, MemoryAutoencoderConfig):
        return new_form(job, config)
    assert isinstance(config, ConvConfig)
    channels, size = job.dataset.channels, job.dataset.size
    return job.build(
        lambda: ConvAutoencoder(channels, size, config.latent, config.latent_size, config.width)
    ).to(job.device)


def autoencoder_stage(job: Job[AutoencoderRun]) -> tuple[FrozenAutoencoder, Run]:
    """The frozen autoencoder: loaded if an earlier command made it, else trained now."""
    config, images = job.config.autoencoder, job.train_images
    run = job.run("autoencoder", config.name, autoencoder_settings(job))
    if run.complete:
        say(f"autoencoder: using {run.path}")
        return load_autoencoder(run.path).to(job.device), run
    if isinstance(config, MemoryAutoencoderConfig):
        return train_form(job, config, run), run

    latents = None
    if isinstance(config, PretrainedConfig):
        features = pretrained_features(job, config)
        encoder, latents = features.encoder, features.latents("train")
        assert isinstance(encoder, PretrainedEncoder)
        decoding = job.build(lambda: PretrainedAutoencoder(encoder, config.width)).to(job.device)
        state = TrainingState(decoding.decoder, config.learning_rate, config.steps, job.config.seed)
        training = train_decoder(state, decoding, images, latents, config.batch_size)
        model: ConvAutoencoder | PretrainedAutoencoder = decoding
    else:
        model = new_autoencoder(job)
        assert isinstance(model, ConvAutoencoder)
        learning = (config.learning_rate, config.steps, job.config.seed, job.config.precision)
        state = TrainingState(model, *learning)
        training = train_autoencoder(state, model, images, config.batch_size, job.augmentation)
    run.begin()
    valid = job.tensor(first_normal(job.dataset.valid, VALIDATION_IMAGES))

    @torch.inference_mode()
    def validate() -> dict[str, float]:
        pairs = [(part.float() / 255, model(part.float() / 255)) for part in valid.split(at_once(model.size))]
        psnr = torch.cat([peak_signal_to_noise(*pair) for pair in pairs])
        ssim = torch.cat([structural_similarity(*pair) for pair in pairs])
        return {"valid/psnr": float(psnr.mean()), "valid/ssim": float(ssim.mean())}

    every = validation_interval(config.steps, config.batch_size, len(valid))
    follow(run, "autoencoder", training, state, validate, every)
    frozen = measure_visibility(FrozenAutoencoder(model).calibrate(images, latents), images)
    save_autoencoder(run.path, frozen)
    show_reconstructions(run, frozen, images, valid)
    run.finish({name.replace("/", "_"): value for name, value in validate().items()})
    return frozen, run


def train_form(job: Job[AutoencoderRun], config: MemoryAutoencoderConfig, run: Run) -> FrozenAutoencoder:
    """One of the four forms, trained and looked at after every epoch, then frozen and shown at length."""
    model = new_autoencoder(job)
    assert isinstance(model, MemoryAutoencoder)
    state = form_state(job, config, model)
    looks = epoch_reports(job, config, run, model)
    run.begin()
    training = form_training(job, config, state, model)
    every = steps_between_reports(job, config)
    follow(run, "autoencoder", training, state, lambda: looks.inputs_of(state.step), every)
    last = looks.finish(state.step)
    frozen = measure_visibility(FrozenAutoencoder(model).calibrate(job.train_images), job.train_images)
    save_autoencoder(run.path, frozen)
    figures = show_form(job, config, run, frozen, looks.watched)
    run.finish({**{name.replace("/", "_"): value for name, value in last.items()}, **figures})
    return frozen


def feature_stage(job: Job[AutoencoderRun]) -> FeatureCache:
    """What makes latents of images: a pretrained encoder, or that of the trained autoencoder."""
    if isinstance(job.config.autoencoder, PretrainedConfig):
        return pretrained_features(job, job.config.autoencoder)
    frozen, run = autoencoder_stage(job)
    return job.features(frozen, run)


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


def of_form(metrics: Mapping[str, float]) -> str:
    """Lines on what only the four forms report; none for other autoencoders."""
    lines = []
    if "valid_image_AUROC" in metrics:
        lines.append(f"validation:  AUROC {metrics['valid_image_AUROC']:.4f} of the reconstruction error")
    if "memory_items" in metrics:
        items, dead = metrics["memory_items"], metrics["memory_dead"]
        lines.append(
            f"memory:      {items - dead:.0f} of {items:.0f} prototypes ever matter, {dead:.0f} are dead"
        )
    if "sample_frechet" in metrics:
        lines.append(
            f"samples:     Fréchet distance {metrics['sample_frechet']:.3f} (real images "
            f"{metrics['sample_frechet_real']:.3f}), precision {metrics['sample_precision']:.2f}, recall "
            f"{metrics['sample_recall']:.2f}, {metrics['sample_copies']:.0%} as close as a copy"
        )
    return "".join(f"{line}\n" for line in lines)
